"""Scores of the benchmark gathered over seeds and draws, and written as rows of the results table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import examples
from bftembed.results import ENDS, Result
from bftembed.tasks.perturbation import candidates as made
from bftembed.tasks.perturbation import verdict
from bftembed.tasks.perturbation.scoring import METRICS
from bftembed.tasks.perturbation.splits import UNSEEN_CELL_TYPE, UNSEEN_GENE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.data import Screen

TASK = "perturbation"
CHANCE = "chance"
#: What a difference is taken to, by the end of its metric's name.
TO_RANDOM, TO_SHUFFLED = "_minus_random", "_minus_shuffled"
TO_MEAN, TO_SAME = "_minus_perturbed_mean", "_minus_perturbation_mean"
_TOO_FEW = "no claim"

_G = "G = training PCA"
_NOTES = {
    made.CONTROL_MEAN: "predicts the controls of the cell type: delta 0",
    made.PERTURBED_MEAN: "mean delta of the training perturbations of the cell type, or of all where it has none",
    made.PERTURBATION_MEAN: "mean delta of the same perturbation in the training cell types",
    made.IDENTITY: f"P = one axis per perturbation, not reduced; {_G}",
    made.TRAINING_PCA: f"P and G = training PCA, P of the mean deltas in the training cell types; {_G}",
}


@dataclass(eq=False)
class Scores:
    """Scores of the predictors of one protocol: predictor → metric → (n_seeds, n_draws, n_conditions)."""

    n_seeds: int
    n_conditions: int
    of: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    seeded: dict[str, bool] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    fewest: int = 10**9

    def add(
        self,
        name: str,
        seed: int,
        draw: int,
        rows: NDArray[np.intp],
        found: Mapping[str, NDArray[Any]],
        n_draws: int = 1,
    ) -> None:
        """Keep the scores of some conditions; of a condition predicted twice for one seed, the last."""
        shape = (self.n_seeds, n_draws, self.n_conditions)
        for metric, values in found.items():
            self.of.setdefault(name, {}).setdefault(metric, np.full(shape, np.nan))[seed, draw, rows] = values


@dataclass(frozen=True)
class Rows:
    """Makes rows of one protocol."""

    run: str
    protocol: str
    note: str
    n_missing: int

    def one(self, embedding: str, metric: str, value: float, n: int, note: str = "", **where: Any) -> Result:
        """Return one row; `where` holds the split or the seed."""
        told = "; ".join(x for x in (self.note, note) if x)
        return Result(
            self.run,
            embedding,
            TASK,
            self.protocol,
            metric,
            value=value,
            n_used=n,
            n_missing=self.n_missing,
            note=told,
            **where,
        )

    def spread(
        self, embedding: str, metric: str, values: tuple[float, float, float], n: int, note: str = ""
    ) -> list[Result]:
        """Return the rows of a value and its interval; of an interval that is NaN, the value alone."""
        value, *ends = values
        found = [self.one(embedding, metric, value, n, note)]
        if not any(math.isnan(end) for end in ends):
            for split, end in zip(ENDS, ends, strict=True):
                found.append(self.one(embedding, metric, end, n, note, split=split))
        return found

    def failed(self, names: Sequence[str], why: str) -> list[Result]:
        """Return a row without a value for every predictor and metric."""
        return [self.one(name, metric, math.nan, 0, f"error: {why}") for name in names for metric in METRICS]


def names_of(vectors: Sequence[made.Vectors], protocol: str) -> list[str]:
    """Return the predictors that a protocol would have, for rows that say why there is none."""
    seen = [made.PERTURBATION_MEAN, made.IDENTITY, made.TRAINING_PCA] if protocol == UNSEEN_CELL_TYPE else []
    found = [made.CONTROL_MEAN, made.PERTURBED_MEAN, *seen]
    for one in vectors:
        found += [made.name_of(kind, one.name) for kind in (made.TEXT, made.RANDOM, made.SHUFFLED)]
        found.append(made.with_text_genes(one.name))
    return found


def rows_of(
    row: Rows,
    scores: Scores,
    screen: Screen,
    vectors: Sequence[made.Vectors],
    seeds: Sequence[int],
    pca_dim: int,
    n_draws: int,
) -> list[Result]:
    """Return all rows of one protocol.

    Parameters
    ----------
    row
        Makes them.
    scores
        Of every predictor.
    screen, vectors
        The data, and the embeddings in their terms.
    seeds, pca_dim, n_draws
        Of the settings.
    """
    results: list[Result] = []
    few = ""
    if scores.fewest < verdict.FEWEST_FOR_CLAIM:
        few = (
            f"{_TOO_FEW}: {scores.fewest} held-out perturbations in a cell type, perturbation discrimination needs "
            f"{verdict.FEWEST_FOR_CLAIM}"
        )
    divided = row.protocol == UNSEEN_GENE
    notes = _NOTES | {
        made.name_of(kind, one.name): _about(kind, one, pca_dim, n_draws) for one in vectors for kind in _ABOUT
    }
    notes |= {made.with_text_genes(one.name): _about_both(one) for one in vectors} | scores.notes
    for name, by_metric in scores.of.items():
        seeded = divided or scores.seeded.get(name, False)
        for metric, values in by_metric.items():
            told = "; ".join(x for x in (notes.get(name, ""), few if metric.startswith("pds") else "") if x)
            if name == CHANCE:
                told = {"de_overlap": "changed genes / genes"}.get(
                    metric, "mean over all ranks among the held-out perturbations"
                )
            results += _of_metric(row, name, metric, values, screen, seeds, seeded and name != CHANCE, told)
    for one in vectors:
        if one.measured is None:
            why = f"error: fewer than {pca_dim + 1} measured genes have a vector in {one.name!r}"
            results += [row.one(made.with_text_genes(one.name), metric, math.nan, 0, why) for metric in METRICS]
        results += _differences(row, scores, screen, one.name, few)
    return results


def _of_metric(
    row: Rows,
    name: str,
    metric: str,
    values: NDArray[Any],
    screen: Screen,
    seeds: Sequence[int],
    seeded: bool,
    note: str,
) -> list[Result]:
    """Return the rows of one metric of one predictor: per seed, and the ends of the interval."""
    means = verdict.over_draws(values)
    used = np.isfinite(means)
    if not used.any():
        return [row.one(name, metric, math.nan, 0, f"{_undefined(metric)}; {note}")]
    tested = int(np.isfinite(means).sum(axis=1).max())
    if name == CHANCE:
        return [row.one(name, metric, float(np.nanmean(means)), tested, note)]
    found = []
    if seeded:
        for i, seed in enumerate(seeds):
            value = float(np.nanmean(means[i])) if used[i].any() else math.nan
            told = note if used[i].any() else f"{_undefined(metric)}; {note}"
            found.append(row.one(name, metric, value, int(used[i].sum()), told, seed=seed))
    low, high = verdict.bootstrap_interval(means, screen.label, screen.members)
    ends = row.spread(name, metric, (float(np.nanmean(means)), low, high), tested, note)
    return found + (ends[1:] if seeded else ends)


def _undefined(metric: str) -> str:
    why = {
        "pearson_delta": "the predicted change is the same for every gene",
        "de_overlap": "no held-out condition has a significantly changed gene",
    }
    return f"undefined: {why.get(metric, 'no held-out condition has a score')}"


def _differences(row: Rows, scores: Scores, screen: Screen, name: str, few: str) -> list[Result]:
    """Return the rows of the differences of an embedding to drawn vectors and to the perturbed mean."""
    own = made.name_of(made.TEXT, name)
    others = (
        (TO_RANDOM, made.name_of(made.RANDOM, name), True),
        (TO_SHUFFLED, made.name_of(made.SHUFFLED, name), True),
        (TO_MEAN, made.PERTURBED_MEAN, False),
        (TO_SAME, made.PERTURBATION_MEAN, False),
    )
    found = []
    for end, other, drawn in (one for one in others if one[1] in scores.of):
        for metric in METRICS:
            text, compared = scores.of[own][metric], scores.of[other][metric]
            values = verdict.difference(text, compared, screen.label, screen.members, drawn=drawn)
            both = int(np.isfinite(verdict.over_draws(text) - verdict.over_draws(compared)).any(axis=0).sum())
            note = f"less {other}, paired by condition"
            if math.isnan(values[0]):
                found.append(row.one(own, metric + end, math.nan, 0, f"{_undefined(metric)}; {note}"))
                continue
            if few and metric.startswith("pds"):
                values, note = (values[0], math.nan, math.nan), f"{few}; {note}"
            found += row.spread(own, metric + end, values, both, note)
    return found


_ABOUT = {
    made.TEXT: "P = vectors of the perturbed genes",
    made.RANDOM: "P = normal vectors",
    made.SHUFFLED: "P = vectors dealt to other genes",
}


def _about(kind: str, one: made.Vectors, pca_dim: int, n_draws: int) -> str:
    d = one.targeted[0].shape[1]
    draws = "" if kind == made.TEXT else f"; mean of {n_draws} draws per seed"
    return f"{_ABOUT[kind]} ({d} dimensions), PCA in training to {pca_dim}; {_G}{draws}"


def _about_both(one: made.Vectors) -> str:
    return f"P and G = vectors of {examples([one.name])}, reduced by PCA"
