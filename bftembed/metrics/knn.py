"""Are labels told by the nearest cells? Arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, need_two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Neighbors that vote, and the share of the cells that is held out.
VOTERS, HELD_OUT = 10, 0.2


def knn_hits(X: ArrayLike, labels: ArrayLike, seed: int) -> NDArray[np.float64]:
    """Hold out a fifth of the cells, and let the 10 nearest of the others vote on the label of each.

    Within each label a fifth of its cells, rounded, is held out at random; of a label with one cell none is, of one
    with two at least one. Distances are Euclidean; a tie goes to the label that sorts first.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    seed
        Of the choice of cells.

    Returns
    -------
    ndarray of float64, shape ``(n_cells,)``
        1 where the vote gave the label of a held-out cell, 0 where not, NaN for the cells that voted. The mean of the
        others is the accuracy.

    Raises
    ------
    ValueError
        For a matrix or labels that are broken; `Undefined` for one label, no label of two cells, or fewer than 10
        voters.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    need_two(codes, "label", "a vote of neighbors")
    draw = np.random.default_rng([seed, 3])
    held = np.zeros(len(codes), dtype=bool)
    for code in range(int(codes.max()) + 1):
        cells = np.flatnonzero(codes == code)
        n = max(1, round(HELD_OUT * len(cells))) if len(cells) > 1 else 0
        held[draw.permutation(cells)[:n]] = True
    if not held.any():
        raise Undefined("No label has two cells: none can be held out.")
    if int((~held).sum()) < VOTERS:
        raise Undefined(f"{int((~held).sum())} cells are too few for a vote of {VOTERS}.")
    model = KNeighborsClassifier(VOTERS, algorithm="brute")
    with threadpool_limits(limits=1):
        voted = model.fit(matrix[~held], codes[~held]).predict(matrix[held])
    hits = np.full(len(codes), np.nan)
    hits[held] = voted == codes[held]
    return hits
