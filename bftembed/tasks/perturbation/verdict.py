"""Intervals of scores and of their differences, made so that vectors without signal are seldom said to help.

What varies. The genes that happened to be perturbed: a text may suit these and not others. They are resampled whole,
with all their cell types and seeds, because the scores of one perturbation in several cell types and seeds are no
independent values; a bootstrap of single conditions is far too narrow. A combination counts as often as all its genes
were drawn together, the product of their counts (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007),
because combinations that share a gene are no independent values either. The seeds, which decide the divisions: these
are resampled too. And the luck of the vectors themselves: a text is one set of vectors, and any one set of meaningless
vectors scores a little better or worse than the mean of others, in the same way for all perturbations and seeds, which
no resampling of either can show. It shows between draws of random and of shuffled vectors, which are therefore drawn
several times for every seed.

So the interval of a difference "text less drawn" is the wider, at each end, of two:

1. The percentile bootstrap over genes and seeds.
2. ``mean ± t * sd * sqrt(1 + 1 / n)``, the interval in which one more draw of meaningless vectors would lie about the
   mean of the n draws that there are; sd is the standard deviation of draws within a seed, t has n - (number of seeds)
   degrees of freedom. It is exact where text vectors are exchangeable with drawn ones and their scores normal.

Measured on simulated data without signal: see `docs/benchmarks.md`.
"""

from __future__ import annotations

import math
import warnings
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEVEL = 0.95
#: Of a bootstrap.
RESAMPLES = 2000
#: With fewer held-out perturbations in a cell type, perturbation discrimination has too few steps for a claim.
FEWEST_FOR_CLAIM = 5


def over_draws(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over draws of scores (n_seeds, n_draws, n_conditions), NaN where there is no score."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(scores, axis=1))


def bootstrap_interval(
    scores: NDArray[Any], labels: NDArray[Any], members: Sequence[Sequence[str]], level: float = LEVEL
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean score, resampling perturbed genes and seeds.

    Parameters
    ----------
    scores
        (n_seeds, n_conditions); NaN where there is none.
    labels
        int (n_conditions,): the perturbation of each condition.
    members
        The genes of each perturbation, at least one: two for ``"A+B"``.
    level
        Of confidence.

    Returns
    -------
    tuple of float
        Low and high end; NaN for fewer than two perturbations or genes with a score.
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
    of_genes = np.ones((RESAMPLES, n + 1))
    of_genes[:, :n] = draw.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    of_labels = np.ones((RESAMPLES, len(targeted)))
    for at in zip_longest(*([number[gene] for gene in genes] for genes in targeted), fillvalue=n):  # first, second, …
        of_labels *= of_genes[:, list(at)]
    of_seeds = draw.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), RESAMPLES).astype(float)
    top, bottom = (((of_labels @ x.T) * of_seeds).sum(axis=1) for x in (sums, counts))
    means = top[bottom > 0] / bottom[bottom > 0]
    if not len(means):  # no resample has all genes of a combination
        return math.nan, math.nan
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draw_half_width(scores: NDArray[Any], level: float = LEVEL) -> float:
    """Return half the width of the interval in which one more draw would lie about the mean of all draws.

    Parameters
    ----------
    scores
        (n_seeds, n_draws, n_conditions) of drawn vectors; NaN where there is none.
    level
        Of confidence.

    Returns
    -------
    float
        0 for no more than one draw per seed: nothing is known of their spread then, see `difference`.
    """
    from scipy.stats import t

    n_seeds, n_draws, _ = scores.shape
    if n_draws < 2:
        return 0.0
    means = np.nanmean(scores, axis=2)
    spread = float(np.sqrt(means.var(axis=1, ddof=1).mean()))
    return float(t.ppf((1 + level) / 2, n_seeds * (n_draws - 1))) * spread * math.sqrt(1 + 1 / (n_seeds * n_draws))


def difference(
    text: NDArray[Any], other: NDArray[Any], labels: NDArray[Any], members: Sequence[Sequence[str]], *, drawn: bool
) -> tuple[float, float, float]:
    """Return the mean paired difference of two predictors and its interval, see the module.

    Parameters
    ----------
    text, other
        (n_seeds, n_draws, n_conditions), where either may have another number of draws.
    labels
        int (n_conditions,): the perturbation of each condition.
    members
        The genes of each perturbation, at least one: two for ``"A+B"``.
    drawn
        Whether `other` is of drawn vectors, whose luck counts.

    Returns
    -------
    tuple of float
        Mean of text less other over seeds and conditions that both score, low and high end; all NaN where there are
        none.
    """
    apart = over_draws(text) - over_draws(other)
    if not np.isfinite(apart).any():
        return math.nan, math.nan, math.nan
    mean = float(np.nanmean(apart))
    low, high = bootstrap_interval(apart, labels, members)
    half = draw_half_width(other) if drawn else 0.0
    return mean, min(low, mean - half), max(high, mean + half)
