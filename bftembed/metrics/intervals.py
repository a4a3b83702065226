"""95 % intervals of scores: over seeds, folds, cells and genes."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
#: Resamples of `pigeonhole_interval`.
PIGEONHOLE_RESAMPLES = 2000


def t_interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return Student's t interval of the mean of independent `values`, shape ``(n,)``; NaN for fewer than two."""
    from scipy.stats import t

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + level) / 2, len(sample) - 1)) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return float(sample.mean()) - half, float(sample.mean()) + half


def resampled_t_interval(values: Sequence[float], n_folds: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the corrected resampled t interval of the mean over folds (Nadeau and Bengio 2003); NaN for one fold.

    Its variance is that of the n fold values times 1/n + 1/(k - 1), because the training parts of k folds overlap.
    """
    from scipy.stats import t

    finite = [v for v in values if not np.isnan(v)]
    if len(finite) < 2:
        return math.nan, math.nan
    half = t.ppf((1 + level) / 2, len(finite) - 1) * np.std(finite, ddof=1)
    half *= np.sqrt(1 / len(finite) + 1 / (n_folds - 1))
    return float(np.mean(finite) - half), float(np.mean(finite) + half)


def percentile_interval(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the ends of the percentile interval of bootstrap `replicates`, (n,); NaN without a finite one."""
    values = np.asarray(replicates, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(values: ArrayLike, seed: int, n: int = 1000, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`, shape ``(n_cells,)``, by `n` resamples.

    Cells are resampled as if independent: for a silhouette, whose cells share their neighbors, the interval says how
    much the mean depends on which cells are averaged, and no more. ValueError for no values, or values not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise ValueError(f"A bootstrap needs a non-empty list of finite values, got shape {sample.shape}.")
    rng = np.random.default_rng(seed)
    # One resample at a time: n x n_cells indices at once would be 8 GB for a million cells.
    means = [sample[rng.integers(len(sample), size=len(sample))].mean() for _ in range(n)]
    return percentile_interval(means, level)


def bootstrap_counts(n_units: int, n_replicates: int, seed: int) -> NDArray[np.uint16]:
    """Return how often each unit is drawn in each replicate, uint16 (n_replicates, n_units); rows sum to n_units."""
    draw = np.random.default_rng(seed)
    counts = np.empty((n_replicates, n_units), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(draw.integers(n_units, size=n_units), minlength=n_units)
    return counts


def half_samples(labels: NDArray[Any], batches: NDArray[Any], n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `n` random halves of the cells, within each label and batch ``(n_cells,)``: int64, sorted positions.

    All halves have as many cells, so that what is compiled for a shape is compiled once. Half of the groups of an odd
    number, other ones each time, give their larger half, so that a singleton label is in about every other half.
    """
    pairs = np.array([f"{a}\0{b}" for a, b in zip(labels, batches, strict=True)])
    groups = [np.flatnonzero(pairs == pair) for pair in np.unique(pairs)]
    odd = np.flatnonzero([len(g) % 2 for g in groups])
    draw = np.random.default_rng([seed, 4])
    for _ in range(n):
        larger = set(draw.permutation(odd)[: (len(odd) + 1) // 2].tolist())
        chosen = [draw.permutation(g)[: len(g) // 2 + (i in larger)] for i, g in enumerate(groups)]
        yield np.sort(np.concatenate(chosen))


def half_sample_interval(
    value: float, of_halves: Sequence[float], low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """Return the 95 % interval of a score from its values on halves of the cells (delete-half jackknife).

    ``value ± t · sd`` over the halves, whose variance estimates that of the score itself (Shao and Wu 1989, Annals of
    Statistics 17, where the factor ``(n - d) / d`` is 1 for d = n / 2), clipped to ``[low, high]``. NaN for a value
    that is NaN, or fewer than three halves with a value.
    """
    from scipy.stats import t

    held = np.asarray([x for x in of_halves if not np.isnan(x)])
    if np.isnan(value) or len(held) < 3:
        return math.nan, math.nan
    half = float(t.ppf(0.975, len(held) - 1) * held.std(ddof=1))
    return max(low, value - half), min(high, value + half)


def pigeonhole_interval(
    scores: NDArray[Any], labels: NDArray[Any], members: Sequence[Sequence[str]], level: float = LEVEL
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean score, resampling perturbed genes and seeds.

    A combination counts as often as all its genes were drawn together, the product of their counts (the pigeonhole
    bootstrap: Owen, Annals of Applied Statistics 1, 2007), because combinations that share a gene are not independent.

    `scores` are (n_seeds, n_conditions), NaN where there is none; `labels` int (n_conditions,), the perturbation of
    each condition; `members` the genes of each perturbation, two for ``"A+B"``. NaN for fewer than two perturbations or
    genes.
    """
    there = np.isfinite(scores)
    n_labels = len(members)
    sums = np.stack([np.bincount(labels, row, n_labels) for row in np.where(there, scores, 0.0)])
    counts = np.stack([np.bincount(labels, row, n_labels) for row in there.astype(float)])
    scored = counts.any(axis=0)
    targeted = [members[i] for i in np.flatnonzero(scored).tolist()]
    number = {gene: i for i, gene in enumerate(dict.fromkeys(gene for genes in targeted for gene in genes))}
    n, n_seeds = len(number), len(scores)
    if min(len(targeted), n) < 2:
        return math.nan, math.nan
    sums, counts = sums[:, scored], counts[:, scored]
    draw = np.random.default_rng(0)
    of_genes = np.ones((PIGEONHOLE_RESAMPLES, n + 1))
    of_genes[:, :n] = draw.multinomial(n, np.full(n, 1 / n), PIGEONHOLE_RESAMPLES)
    of_labels = np.ones((PIGEONHOLE_RESAMPLES, len(targeted)))
    for at in zip_longest(*([number[gene] for gene in genes] for genes in targeted), fillvalue=n):  # first, second, …
        of_labels *= of_genes[:, list(at)]
    of_seeds = draw.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), PIGEONHOLE_RESAMPLES).astype(float)
    top, bottom = (((of_labels @ x.T) * of_seeds).sum(axis=1) for x in (sums, counts))
    return percentile_interval(top[bottom > 0] / bottom[bottom > 0], level)


def prediction_half_width(scores: NDArray[Any], level: float = LEVEL) -> float:
    """Return half the width of the interval in which one more random draw would lie about the mean of all draws.

    ``t * sd * sqrt(1 + 1 / n)`` for n draws in all; sd is the standard deviation of draws within a seed, t has
    n - (number of seeds) degrees of freedom. 0 for one draw per seed, whose spread is not known. `scores` are
    (n_seeds, n_draws, n_conditions), of random or shuffled vectors; NaN where there is none.
    """
    from scipy.stats import t

    n_seeds, n_draws, _ = scores.shape
    if n_draws < 2:
        return 0.0
    means = np.nanmean(scores, axis=2)
    spread = float(np.sqrt(means.var(axis=1, ddof=1).mean()))
    return float(t.ppf((1 + level) / 2, n_seeds * (n_draws - 1))) * spread * math.sqrt(1 + 1 / (n_seeds * n_draws))
