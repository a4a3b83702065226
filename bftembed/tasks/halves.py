"""How much a score of cells would be another one with other cells: the spread over random halves of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


def half_samples(labels: NDArray[Any], batches: NDArray[Any], n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw halves of the cells, without replacement, within each label and batch.

    All halves have as many cells, so that what is compiled for a shape is compiled once. Half of the groups of an odd
    number, other ones each time, give their larger half, so that a label of one cell is in about every other half.

    Parameters
    ----------
    labels, batches
        Of each cell, shape ``(n_cells,)``.
    n
        Number of halves.
    seed
        Of the draw.

    Yields
    ------
    ndarray of int64
        Rising positions of the cells of a half.
    """
    pairs = np.array([f"{a}\0{b}" for a, b in zip(labels, batches, strict=True)])
    groups = [np.flatnonzero(pairs == pair) for pair in np.unique(pairs)]
    odd = np.flatnonzero([len(g) % 2 for g in groups])
    draw = np.random.default_rng([seed, 4])
    for _ in range(n):
        larger = set(draw.permutation(odd)[: (len(odd) + 1) // 2].tolist())
        chosen = [draw.permutation(g)[: len(g) // 2 + (i in larger)] for i, g in enumerate(groups)]
        yield np.sort(np.concatenate(chosen))


def half_interval(value: float, of_halves: Sequence[float], low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval of a score from its values on halves of the cells.

    The variance over random halves estimates that of the score itself (the delete-half jackknife: Shao and Wu 1989,
    Annals of Statistics 17, where the factor ``(n - d) / d`` is 1 for d = n / 2). The interval is the value plus and
    minus Student's t times that deviation. What is biased by the number of cells, such as a share of k neighbours,
    shifts the halves and not the interval, whose middle is the value of all cells.

    Parameters
    ----------
    value
        Of all cells.
    of_halves
        Of the halves; NaN where a half has none.
    low, high
        Range of the score, which the interval does not leave.

    Returns
    -------
    (float, float)
        Lower and upper end; NaN for a value that is NaN, or fewer than three halves with one.
    """
    from scipy.stats import t

    held = np.asarray([x for x in of_halves if not np.isnan(x)])
    if np.isnan(value) or len(held) < 3:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, len(held) - 1) * held.std(ddof=1))
    return max(low, value - half), min(high, value + half)
