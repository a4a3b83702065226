"""Two dimensions for the eye: UMAP, made repeatable."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.clustering import connectivities
from bftembed.metrics.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def umap_coordinates(
    matrix: ArrayLike, seed: int = 0, *, n_neighbors: int = 15, min_dist: float = 0.5
) -> NDArray[np.float32]:
    """Lay the rows of `matrix` out in the plane by UMAP (McInnes, Healy and Melville 2018).

    Parameters
    ----------
    matrix
        Shape ``(n, d)``, finite, at least 3 rows.
    seed
        Seed; equal seeds give equal coordinates on one machine (a single thread is used for that).
    n_neighbors
        Neighbors per row; fewer where there are fewer rows.
    min_dist
        How tightly points may lie together, as in scanpy.

    Returns
    -------
    ndarray of float32, shape ``(n, 2)``
        Arbitrary units. Distances between far groups mean nothing; this is a picture, not a score.

    Raises
    ------
    ValueError
        For fewer than 3 rows or values that are not finite.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if rows.ndim != 2 or len(rows) < 3:
        raise ValueError(f"UMAP needs a matrix of at least 3 rows, got shape {rows.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError(f"{int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} rows hold NaN or infinity.")
    from sklearn.utils import check_random_state

    neighbours = nearest_neighbors(rows, min(n_neighbors, len(rows) - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import find_ab_params, simplicial_set_embedding

        # From our own graph: compiling umap-learn's neighbours and weights takes longer than thousands of points do.
        a, b = find_ab_params(1.0, min_dist)
        placed, _ = simplicial_set_embedding(
            rows,
            connectivities(neighbours).tocoo(),
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
