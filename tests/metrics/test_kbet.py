"""kBET and the graph it is made of; its value is held to scib-metrics in test_integration.py."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.metrics.clustering import connectivities
from bftembed.metrics.integration import kbet
from bftembed.metrics.neighbors import nearest_neighbors


@pytest.mark.parametrize("k", [5, 15, 50])
def test_connectivities_equal_those_of_umap(k):
    from scipy.sparse import coo_matrix
    from umap.umap_ import fuzzy_simplicial_set

    X = np.vstack([np.random.default_rng(0).normal(size=(300, 6)), np.ones((60, 6))])  # and duplicates
    near = nearest_neighbors(X, k)
    found = connectivities(near)
    expected = fuzzy_simplicial_set(
        coo_matrix((len(X), 1)), k, None, None, knn_indices=near.indices, knn_dists=near.distances
    )[0]
    assert abs(found - expected).max() < 1e-6
    assert (found != found.T).nnz == 0


def test_kbet_of_a_label_in_pieces_is_zero_unless_most_of_it_holds_together():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(120, 4))
    batches = draw.integers(0, 2, 120)
    halves = X + 1000 * (np.arange(120) < 20)[:, None]
    whole, pieces = (nearest_neighbors(x, 12) for x in (X, halves))
    assert kbet(whole, np.zeros(120), batches) > 0.5
    assert kbet(pieces, np.zeros(120), batches) > 0.5  # 100 of 120 in one piece
    fifth = nearest_neighbors(X + 1000 * (np.arange(120) % 5)[:, None], 12)
    assert kbet(fifth, np.zeros(120), batches) == 0


def test_kbet_tells_mixed_batches_from_separate_ones():
    draw = np.random.default_rng(0)
    X, batches, labels = draw.normal(size=(240, 4)), draw.integers(0, 2, 240), np.arange(240) % 2
    mixed, apart = (nearest_neighbors(X + step * batches[:, None], 50) for step in (0, 2))
    assert kbet(mixed, labels, batches) > 0.9
    assert kbet(apart, labels, batches) < 0.2
    alike = np.where(np.arange(240) < 235, batches, 0)
    tiny = np.where(np.arange(240) < 235, labels, 2)  # a label of 5 cells does not count
    assert kbet(mixed, tiny, alike) > 0.9


def test_kbet_of_identical_cells_has_a_value():
    near = nearest_neighbors(np.ones((60, 3)), 20)
    assert 0 <= kbet(near, np.zeros(60), np.arange(60) % 2) <= 1
