"""Random vectors depend on the seed and the string alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bftembed.encoders.base import encoder_from_spec
from bftembed.encoders.random import RandomEncoder

strings = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1)


@given(strings=strings, seed=st.integers(0, 3))
def test_a_vector_does_not_depend_on_its_list(strings: list[str], seed: int) -> None:
    together = RandomEncoder(dim=3, seed=seed).encode(strings)
    alone = [RandomEncoder(dim=3, seed=seed).encode([s])[0] for s in strings]
    np.testing.assert_array_equal(together, alone)


def test_values_are_standard_normal() -> None:
    vectors = RandomEncoder(dim=200).encode([f"g{i}" for i in range(200)])
    assert vectors.dtype == np.float32
    assert abs(vectors.mean()) < 0.02
    assert abs(vectors.std() - 1) < 0.02
    correlations = np.corrcoef(vectors)[np.triu_indices(200, 1)]
    assert abs(correlations).max() < 0.4


def test_seeds_differ_and_are_recorded() -> None:
    one, two = encoder_from_spec("random:dim=8,seed=1"), encoder_from_spec("random:dim=8,seed=2")
    assert not np.allclose(one.encode(["a"]), two.encode(["a"]))
    assert (one.spec.options, one.spec.dim, one.spec.uses_ids) == ({"seed": 1}, 8, True)


def test_known_vector_is_the_same_on_every_machine() -> None:
    # numpy may change its streams between versions; the control of old results must not change unseen.
    vector = encoder_from_spec("random:dim=3,seed=0").encode(["TP53"])[0]
    np.testing.assert_allclose(vector, [0.68167359, 0.87889808, 0.03707628], rtol=1e-6)
