"""UMAP repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.metrics.projection import umap_coordinates


def test_umap_repeats_itself_and_keeps_far_groups_apart():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 30)
    rows = rng.normal(size=(60, 10)) + 30 * group[:, None]
    placed = umap_coordinates(rows, seed=3)
    assert placed.shape == (60, 2)
    assert placed.dtype == np.float32
    np.testing.assert_array_equal(placed, umap_coordinates(rows, seed=3))
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).all()
    assert np.isfinite(umap_coordinates(np.eye(4))).all()


@pytest.mark.parametrize("rows", [np.ones((2, 3)), np.full((5, 2), np.nan), np.ones(5)])
def test_umap_rejects_what_it_cannot_place(rows):
    with pytest.raises(ValueError):
        umap_coordinates(rows)
