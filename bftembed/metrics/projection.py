"""UMAP, repeatable."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.clustering import connectivities, nearest_neighbors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def umap_coordinates(
    matrix: ArrayLike, seed: int = 0, *, n_neighbors: int = 15, min_dist: float = 0.5
) -> NDArray[np.float32]:
    """Project the rows of `matrix` to two dimensions by UMAP (McInnes, Healy and Melville 2018).

    `matrix` is (n, d), finite, with at least 3 rows. Equal seeds give equal coordinates on one machine, for one thread
    is used. `n_neighbors` are fewer where there are fewer rows; `min_dist` as in scanpy. Returns float32 (n, 2) in
    arbitrary units: distances between far groups mean nothing, this is a picture, not a score.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) < 3:
        raise ValueError(f"UMAP needs a matrix of at least 3 rows, got shape {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError(f"{int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} rows hold NaN or infinity.")
    from sklearn.utils import check_random_state

    neighbors = nearest_neighbors(rows, min(n_neighbors, len(rows) - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import find_ab_params, simplicial_set_embedding

        # From our own graph: compiling umap-learn's neighbors and weights takes longer than thousands of points do.
        a, b = find_ab_params(1.0, min_dist)
        placed, _ = simplicial_set_embedding(
            rows,
            connectivities(neighbors).tocoo(),
            n_components=2,
            initial_alpha=1.0,
            a=a,
            b=b,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=None,
            # The spectral start needs more rows than dimensions to spare.
            init="spectral" if len(rows) > 10 else "random",
            random_state=check_random_state(seed),
            metric="euclidean",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
            parallel=False,
        )
    return np.asarray(placed, dtype=np.float32)
