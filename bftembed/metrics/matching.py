"""How well two modalities of the same cells lie on each other: FOSCTTM, and the share of matches that are right.

Distances are Euclidean. Of vectors of length 1 these rank as cosine distances do.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# Numbers of a block of distances, or of differences: 32 MB.
_BLOCK = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class TrueRanks:
    """Where the true partner of each cell stands among the cells of the other modality.

    Attributes
    ----------
    closer, tied
        int64, shape ``(2, n_cells)``: how many others are closer to the cell than its partner, and how many exactly as
        close. The first row looks from X to Y, the second from Y to X.
    """

    closer: NDArray[np.int64]
    tied: NDArray[np.int64]


def true_ranks(X: ArrayLike, Y: ArrayLike) -> TrueRanks:
    """Count for every cell what is closer to it than its own partner; row i of `X` and of `Y` are one cell.

    Distances come from float64 matrix products by blocks, 32 MB at a time; where two are within the rounding error of
    these they are computed again as sums of squared differences. So equal vectors tie on every machine.

    Parameters
    ----------
    X, Y
        Vectors of the same cells in the two modalities, both ``(n_cells, d)``, finite, without all-zero rows.

    Returns
    -------
    TrueRanks
        For `foscttm` and `matching_accuracy`, which would compute the same again.

    Raises
    ------
    ValueError
        For matrices that are broken or of different shapes; `Undefined` for one cell.
    """
    both = _checked(X, Y)
    counts = [_standing(*both), _standing(*both[::-1])]
    return TrueRanks(*(np.stack(found) for found in zip(*counts, strict=True)))


def foscttm(X: ArrayLike, Y: ArrayLike, *, ranks: TrueRanks | None = None) -> float:
    """Return the fraction of samples closer than the true match, the mean over cells and both directions.

    Of the n - 1 cells of the other modality that are not the partner; one as close as the partner counts half. Liu et
    al. 2019 (MMD-MA), by this name in Singh et al. 2020 (SCOT).

    Parameters
    ----------
    X, Y
        As `true_ranks`.
    ranks
        Of `true_ranks`, where they are known.

    Returns
    -------
    float
        0 (every partner is the closest) to 1; .5 by chance.

    Raises
    ------
    ValueError
        As `true_ranks`.
    """
    known = true_ranks(X, Y) if ranks is None else ranks
    return float((known.closer + known.tied / 2).mean() / (known.closer.shape[1] - 1))


def matching_accuracy(X: ArrayLike, Y: ArrayLike, k: int = 1, *, ranks: TrueRanks | None = None) -> float:
    """Return the share of cells whose partner is among the `k` nearest of the other modality; both directions.

    Where the partner ties with others over the k-th place, its chance of a place among them counts.

    Parameters
    ----------
    X, Y, ranks
        As `foscttm`.
    k
        1 to n_cells.

    Returns
    -------
    float
        0 to 1; k / n_cells by chance.

    Raises
    ------
    ValueError
        As `true_ranks`, and for k < 1; `Undefined` for fewer cells than k.
    """
    known = true_ranks(X, Y) if ranks is None else ranks
    n = known.closer.shape[1]
    if k < 1:
        raise ValueError(f"k = {k}: the partner is looked for among at least 1 cell.")
    if k > n:
        raise Undefined(f"{n} cells are fewer than the {k} among which a partner is looked for")
    return float(np.clip((k - known.closer) / (known.tied + 1), 0, 1).mean())


def label_matching_accuracy(X: ArrayLike, Y: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of cells whose nearest cell of the other modality has their label; both directions.

    As MaxFuse (Chen et al. 2023) reports it, for matches that are the nearest cells. Where several are nearest, the
    share of those with the label counts.

    Parameters
    ----------
    X, Y
        As `true_ranks`; one cell is enough.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.

    Returns
    -------
    float
        0 to 1; by chance the sum of the squared shares of the labels, 1 for a single label.

    Raises
    ------
    ValueError
        As `true_ranks`, and for broken labels.
    """
    both = _checked(X, Y, fewest=1)
    codes = checked_codes(labels, n_cells=len(both[0]))
    return float(np.mean([_same_label(*both, codes), _same_label(*both[::-1], codes)]))


def chance_of_a_label(labels: ArrayLike) -> float:
    """Return what `label_matching_accuracy` is when cells are matched at random: the sum of squared shares."""
    shares = np.bincount(checked_codes(labels)) / len(np.asarray(labels))
    return float(shares @ shares)


def _checked(X: ArrayLike, Y: ArrayLike, fewest: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64, divided by one power of two: no square of theirs leaves the range of float64."""
    one, other = checked_matrix(X), checked_matrix(Y)
    if one.shape != other.shape:
        raise ValueError(
            f"The modalities have shapes {one.shape} and {other.shape}: row i of both must be one cell, in one space."
        )
    if len(one) < fewest:
        raise Undefined(f"{len(one)} cell: a match needs at least {fewest} to choose from")
    largest = max(float(np.abs(one).max()), float(np.abs(other).max()))
    scale = 2.0 ** -int(np.ceil(np.log2(largest)))
    return one.astype(np.float64) * scale, other.astype(np.float64) * scale


def _blocks(
    X: NDArray[np.float64], Y: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield runs of rows of `X`, their squared distances to all of `Y`, and how far each row of these may be off."""
    centre = Y.mean(axis=0)
    ours, theirs = X - centre, Y - centre
    squares, their_squares = (np.einsum("ij,ij->i", m, m) for m in (ours, theirs))
    farthest = np.sqrt(their_squares.max())
    # Of the product, and of the centre that was taken off.
    error = 1e-15 * (X.shape[1] + 8) * (np.sqrt(squares) + farthest + np.linalg.norm(centre)) ** 2
    step = max(1, _BLOCK // len(Y))
    for start in range(0, len(X), step):
        rows = np.arange(start, min(start + step, len(X)))
        distances = ours[rows] @ theirs.T
        distances *= -2
        distances += squares[rows, None]
        distances += their_squares
        yield rows, distances, error[rows]


def _squared(X: NDArray[np.float64], Y: NDArray[np.float64], i: NDArray[Any], j: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared distances of pairs of rows, as sums of squared differences."""
    found = np.empty(len(i))
    step = max(1, _BLOCK // X.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        difference = X[i[part]] - Y[j[part]]
        found[part] = np.square(difference, out=difference).sum(axis=1)
    return found


def _standing(X: NDArray[np.float64], Y: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many rows of `Y` are closer to each row of `X` than its partner, and how many others tie with it."""
    n = len(X)
    every = np.arange(n)
    true = _squared(X, Y, every, every)
    closer, tied = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.int64)  # the partner ties with itself
    for rows, distances, error in _blocks(X, Y):
        distances -= true[rows, None]
        closer[rows] += (distances < -error[:, None]).sum(axis=1)
        near, j = np.nonzero(np.abs(distances) <= error[:, None])
        i = rows[near]
        exact = _squared(X, Y, i, j)
        np.add.at(closer, i[exact < true[i]], 1)
        np.add.at(tied, i[exact == true[i]], 1)
    return closer, tied


def _same_label(X: NDArray[np.float64], Y: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the share of rows of `X` whose nearest row of `Y` has their label."""
    total = 0.0
    for rows, distances, error in _blocks(X, Y):
        bound = distances.min(axis=1) + 2 * error
        near, j = np.nonzero(distances <= bound[:, None])
        exact = _squared(X, Y, rows[near], j)
        least = np.full(len(rows), np.inf)
        np.minimum.at(least, near, exact)
        nearest = exact == least[near]
        n = np.bincount(near[nearest], minlength=len(rows))
        right = codes[rows[near]] == codes[j]
        total += float((np.bincount(near[nearest & right], minlength=len(rows)) / n).sum())
    return total / len(X)
