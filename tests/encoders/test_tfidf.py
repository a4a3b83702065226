"""TF-IDF + SVD: equal to an independent computation, deterministic, honest about texts it cannot place."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError

WORDS = ["kinase", "receptor", "membrane", "nucleus", "apoptosis", "signal", "ligand", "ribosome"]


def some_texts(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(n)]


def test_full_rank_keeps_the_cosines_of_hand_computed_tfidf() -> None:
    texts = some_texts(60)
    vectors = encoder_from_spec("tfidf").encode(texts)
    counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=float)
    idf = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_dimension_is_clipped_to_the_rank_and_recorded() -> None:
    encoder = encoder_from_spec("tfidf:dim=100")
    assert encoder.spec.dim == 100
    assert encoder.encode(some_texts(60)).shape == (60, len(WORDS))
    assert encoder.spec.dim == len(WORDS)
    assert encoder.encode(["cell kinase", "cell kinase", "cell kinase"]).shape == (3, 1)


def test_repeat_gives_equal_bits_and_order_only_permutes() -> None:
    texts = some_texts(60)
    first = encoder_from_spec("tfidf:dim=4").encode(texts)
    np.testing.assert_array_equal(first, encoder_from_spec("tfidf:dim=4").encode(texts))
    order = np.random.default_rng(1).permutation(60)
    permuted = encoder_from_spec("tfidf:dim=4").encode([texts[i] for i in order])
    np.testing.assert_allclose(permuted, first[order], atol=1e-4)


def test_text_without_a_shared_word_is_a_zero_row_not_noise() -> None:
    texts = [*some_texts(60), "zzyzx quux"]
    vectors = encoder_from_spec("tfidf").encode(texts)
    assert not vectors[-1].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:-1], axis=1), 1, atol=1e-6)


def test_one_word_is_possible() -> None:
    np.testing.assert_allclose(encoder_from_spec("tfidf").encode(["kinase", "kinase kinase"]), [[1], [1]])


def test_nothing_but_stop_words_is_refused() -> None:
    with pytest.raises(BftembedError, match="no shared word in the 2 texts"):
        encoder_from_spec("tfidf").encode(["the of", "and with"])
