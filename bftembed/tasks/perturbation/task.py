"""Benchmark of perturbation prediction: scores of linear predictors, their differences with intervals, and tables.

The interval of a difference covers the genes that happened to be perturbed and the seeds, which are resampled
(`pigeonhole_interval`). That of a difference to random or shuffled vectors is at each end the wider of this and of
`prediction_half_width`: any one set of meaningless vectors is better or worse than others for all perturbations alike,
which no resampling shows. It is exact where text vectors are exchangeable with these and their scores normal.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics import perturbation as metrics
from bftembed.metrics.intervals import pigeonhole_interval, prediction_half_width
from bftembed.progress import Progress, silent
from bftembed.report.table import Cell, Column, Row, Table
from bftembed.tasks.base import Metric, Result, named_files, score_table, to_frame
from bftembed.tasks.data import listed
from bftembed.tasks.perturbation import _predictors as predictors
from bftembed.tasks.perturbation import data as screens
from bftembed.tasks.perturbation._predictors import PCA_DIM, PERTURBATION_MEAN, PERTURBED_MEAN, RIDGE
from bftembed.tasks.perturbation.data import (
    HELD_OUT_BY_STATE,
    UNSEEN_CELL_TYPE,
    UNSEEN_GENE,
    Predictions,
    Screen,
    Split,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

    Source: TypeAlias = "anndata.AnnData | str | os.PathLike[str]"

#: Decides: vectors of the target can raise it, knowledge of what perturbations share cannot.
MAIN_METRIC = "pds_l1"
METRICS = (
    Metric("pds_l1", "PDS (L1)", concludes=False),
    Metric("pds_cosine", "PDS (cosine)", concludes=False),
    Metric("mae", "MAE", better="lower", limits=None, concludes=False),
    Metric("pearson_delta", "Pearson delta", limits=None, concludes=False),
    Metric("de_overlap", "DE overlap", concludes=False),
)
SPLITS = (UNSEEN_GENE, UNSEEN_CELL_TYPE)
#: With fewer test perturbations in a cell type, perturbation discrimination has too few ranks for a conclusion.
MIN_PERTURBATIONS = 5
#: What text has to exceed; the last where the perturbation is known from other cell types.
_DECISIVE = ("random", "shuffled", PERTURBATION_MEAN)
_REFERENCES = ("random", "shuffled", PERTURBED_MEAN, PERTURBATION_MEAN)
_DISCRIMINATION = ("pds_l1", "pds_cosine")
_UNDEFINED = dict.fromkeys((m.name for m in METRICS), "no test condition has a score") | {
    "pearson_delta": "the predicted change is the same for every gene",
    "de_overlap": "no test condition has a significantly changed gene",
}


def perturbation(
    data: Source | Sequence[Source],
    genes: Mapping[str, GeneEmbeddings | str | os.PathLike[str]] | Sequence[str],
    *,
    pert_col: str = "gene",
    cell_type_key: str = "cell_type",
    control: str = "non-targeting",
    split: str | Iterable[str] = SPLITS,
    seeds: int | Iterable[int] = 5,
    state: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
    layer: str | None = None,
    draws: int = 4,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score linear predictors of perturbation effects with and without embeddings of the perturbed genes.

    Parameters
    ----------
    data
        AnnData or h5ad files, one screen together.
    genes
        Gene embeddings: name → embeddings, ``NAME=FILE``, or files named by their stem.
    pert_col
        Column of ``.obs`` with the perturbed gene (``A+B`` for two).
    cell_type_key
        Column of ``.obs`` with the cell type.
    control
        Label of control cells.
    split
        ``unseen-gene``, ``unseen-cell-type``, or both separated by commas.
    seeds
        Number of seeds (0, 1, …), or the seeds themselves.
    state
        ``adata_pred.h5ad`` of ``state tx predict`` on these data. Adds the protocol ``held-out-by-state``, in which the
        predictors are trained on all conditions that it does not hold.
    allow_missing
        Leave out perturbations without a vector; else they are an error.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    layer
        Layer with the expression; default ``.X``.
    draws
        Draws of random and of shuffled vectors per seed, at least 2.
    run
        Name of the run in the table; default the name of the first file, ``simulated: NAME`` for simulated data.
    progress
        Progress callback, called for every block of cells, then for every seed.

    Returns
    -------
    pandas.DataFrame
        Rows of each predictor and metric: per seed, over all seeds with a 95 % interval, and for an embedding over all
        seeds once more per reference with the paired difference. The reason is ``too-few`` where the data allow no
        split, and for differences of discrimination scores with fewer than five test perturbations in a cell type,
        which have no interval.

    Raises
    ------
    BftembedError
        For data without controls, labels, expression or shared genes, perturbations without a vector (unless
        `allow_missing`), and predictions that do not fit.
    """
    sources: list[Any] = list(data) if isinstance(data, (list, tuple)) else [data]
    named, protocols = named_files(genes), listed(split)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    for name in protocols:
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
    if not (sources and named and seed_list and protocols) or draws < 2:
        raise BftembedError(
            "At least one file, one gene embedding (--genes), one seed, one split and 2 draws are needed."
        )
    refuse_input_as_output(out, *sources, state, *named.values())
    embeddings = {name: GeneEmbeddings.of(one) for name, one in named.items()}
    known = {name: set(predictors.rows_of(one)) for name, one in embeddings.items()}
    columns = (cell_type_key, pert_col)
    choice: dict[str, Any] = {"layer": layer, "known": known, "allow_missing": allow_missing}
    screen = screens.read_screen(sources, columns, control, progress=progress, **choice)
    told = [screens.about(source) for source in sources]
    simulated = any(one for one, _ in told) or any(x.provenance.get("simulated") for x in embeddings.values())
    left = len(screen.left_out)
    notes = [
        *(["simulated data"] if simulated else []),
        *screen.notes,
        f"{PCA_DIM} dimensions, ridge {RIDGE:g}, {draws} draws of random and shuffled vectors per seed",
        *([f"{left} perturbations left out, without a vector: {examples(screen.left_out)}"] if left else []),
    ]
    spaces: list[tuple[str, Screen, Predictions | None]] = [(name, screen, None) for name in protocols]
    if state is not None:
        predictions = screens.read_predictions(state, told[0][1], columns, screen)
        spaces.append((HELD_OUT_BY_STATE, predictions.screen, predictions))
    run = run or (f"simulated: {screen.name}" if simulated else screen.name)
    done, total = itertools.count(1), len(spaces) * len(seed_list)
    results = []
    for protocol, space, other in spaces:
        row = functools.partial(Result, run=run, task="perturbation", protocol=protocol, n_missing=left)
        tick = functools.partial(lambda of, seed: progress(next(done), total, f"{of}, seed {seed}"), protocol)
        results += _score(row, protocol, space, embeddings, seed_list, draws, "; ".join(notes), other, tick)
    return to_frame(results, out)


#: (Kind, subject) → metric → scores (n_seeds, n_draws, n_conditions), NaN where there is none.
_Scores = dict[tuple[str, str], dict[str, "NDArray[np.float64]"]]
_CHANCE = ("chance", "chance")


def _score(
    row: Callable[..., Result],
    protocol: str,
    screen: Screen,
    embeddings: Mapping[str, GeneEmbeddings],
    seeds: Sequence[int],
    n_draws: int,
    note: str,
    predictions: Predictions | None,
    tick: Callable[[int], None],
) -> list[Result]:
    """Return the rows of a protocol."""
    try:
        splits = [screens.splits_of(protocol, screen, seed, predictions) for seed in seeds]
    except BftembedError as err:
        every = predictors.predictors_of(screen, embeddings, n_draws, seen=protocol == UNSEEN_CELL_TYPE)
        failed = {"reason": "too-few", "note": str(err)}
        return [row(kind=p.kind, subject=p.subject, metric=m.name, **failed) for p in every for m in METRICS]
    seen = not any(screens.has_unseen_genes(screen, one) for of_seed in splits for one in of_seed)
    found = predictors.predictors_of(screen, embeddings, n_draws, seen=seen)
    if predictions is not None:
        about = "effects from the true controls; genes by position"
        found.append(predictors.Predictor("reference", predictions.name, lambda *_: predictions.delta, about))
    scores: _Scores = {}

    def keep(key: tuple[str, str], values: Mapping[str, NDArray[Any]], at: tuple[Any, ...], draws: int = 1) -> None:
        for metric, of_test in values.items():  # of a condition that is predicted twice for one seed, the last
            empty = np.full((len(seeds), draws, len(screen.label)), np.nan)
            scores.setdefault(key, {}).setdefault(metric, empty)[at] = of_test

    truth = _Truth.of(screen)
    for i, seed in enumerate(seeds):
        for split in splits[i]:
            training = predictors.Training(screen, truth.delta, split)
            for p, draw in ((one, draw) for one in found for draw in range(one.n_draws)):
                values = _scores_of(truth, split, p.predict(training, seed, draw))
                keep((p.kind, p.subject), values, (i, draw, split.test), p.n_draws)
            keep(_CHANCE, _chance_scores(truth, split), (i, 0, split.test))
        tick(seed)
    of_types = (_by_cell_type(screen, np.flatnonzero(x.test)) for own in splits for x in own)
    fewest = min(len(rows) for own in of_types for rows in own)
    few = f"only {fewest} test perturbations in a cell type" if fewest < MIN_PERTURBATIONS else ""
    results = []
    for p in found:
        shown = seeds if p.n_draws > 1 or protocol == UNSEEN_GENE else ()
        own = functools.partial(row, kind=p.kind, subject=p.subject)
        rows = _of_predictor(own, scores[p.kind, p.subject], screen, shown)
        results += [r if r.note else replace(r, note=note if p.kind == "subject" else p.note) for r in rows]
        if p.kind == "subject":
            results += _differences([r for r in rows if r.seed is None], scores, screen, few)
    chance = _of_predictor(functools.partial(row, kind="chance", subject="chance"), scores[_CHANCE], screen, ())
    return results + [replace(r, low=math.nan, high=math.nan) for r in chance]


class _Truth(NamedTuple):
    """The data, true deltas (n_conditions, n_genes), and columns of the changed genes of each condition."""

    screen: Screen
    delta: NDArray[np.float64]
    changed: list[NDArray[np.intp]]

    @classmethod
    def of(cls, screen: Screen) -> _Truth:
        """Compute true deltas and changed genes: Welch's t test, false discovery rate below 5 %."""
        delta = screen.delta
        changed: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)] * len(delta)
        for rows in _by_cell_type(screen, np.arange(len(delta))):
            number = screen.cell_type[rows[0]]
            control = screen.control_mean[number], screen.control_variance[number], int(screen.control_cells[number])
            p = metrics.welch_p_values(screen.mean[rows], screen.variance[rows], screen.cells[rows, None], *control)
            found = metrics.differential_genes(delta[rows], p)
            for row, genes in zip(rows, found, strict=True):
                changed[row] = genes
        return cls(screen, delta, changed)


def _scores_of(truth: _Truth, split: Split, predicted: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return metric → scores of predicted deltas (n_test, n_genes), float64 (n_test,), NaN where undefined.

    Perturbation discrimination is among the test conditions of the same cell type.
    """
    rows = np.flatnonzero(split.test)
    true = truth.delta[rows]
    found = {
        "mae": metrics.mean_absolute_error(predicted, true),
        "pearson_delta": metrics.pearson_delta(predicted, true),
        **{f"pds_{distance}": np.full(len(rows), np.nan) for distance in metrics.DISTANCES},
        "de_overlap": metrics.overlap(predicted, [truth.changed[r] for r in rows]),
    }
    for own in _by_cell_type(truth.screen, rows):
        part = [truth.screen.targets[truth.screen.label[r]] for r in rows[own]]
        for distance in metrics.DISTANCES:
            found[f"pds_{distance}"][own] = metrics.discrimination(predicted[own], true[own], part, distance)
    return found


def _chance_scores(truth: _Truth, split: Split) -> dict[str, NDArray[np.float64]]:
    """Return the exact chance level of each test condition, from the numbers of conditions and changed genes."""
    rows = np.flatnonzero(split.test)
    guessed = np.zeros(len(rows))
    for own in _by_cell_type(truth.screen, rows):
        guessed[own] = metrics.discrimination_chance(len(own))
    n = np.array([len(truth.changed[r]) for r in rows], dtype=float)
    share = np.where(n > 0, n / truth.delta.shape[1], np.nan)
    return {"pds_l1": guessed, "pds_cosine": guessed, "de_overlap": share}


def _by_cell_type(screen: Screen, rows: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the positions in `rows` of the conditions of each cell type that occurs."""
    types = screen.cell_type[rows]
    return [np.flatnonzero(types == t) for t in np.unique(types)]


def _of_predictor(
    row: Callable[..., Result], scores: Mapping[str, NDArray[Any]], screen: Screen, seeds: Sequence[int]
) -> list[Result]:
    """Return the rows of a predictor: per seed, if any are given, and over all seeds with the interval."""
    found = []
    for metric, values in scores.items():
        means = _over_draws(values)
        finite = np.isfinite(means)
        undefined = {"reason": "undefined", "note": _UNDEFINED[metric]}
        if not finite.any():
            found.append(row(metric=metric, **undefined))
            continue
        of_seed = [float(own[has].mean()) if has.any() else math.nan for own, has in zip(means, finite, strict=True)]
        counts = finite.sum(axis=1).tolist()
        for seed, value, n in zip(seeds, of_seed, counts, strict=False):
            found.append(row(metric=metric, seed=seed, value=value, n=n, **({} if n else undefined)))
        low, high = pigeonhole_interval(means, screen.label, screen.members)
        found.append(row(metric=metric, value=float(np.nanmean(of_seed)), low=low, high=high, n=max(counts)))
    return found


def _over_draws(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over draws of scores (n_seeds, n_draws, n_conditions), NaN where there is no score."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(scores, axis=1) / np.isfinite(scores).sum(axis=1))


def _difference(
    scores: NDArray[Any], other: NDArray[Any], labels: NDArray[Any], members: Sequence[Sequence[str]], *, drawn: bool
) -> tuple[float, float, float]:
    """Return the mean paired difference of scores (n_seeds, n_draws, n_conditions) and the ends of its interval.

    `drawn` says whether `other` is of random or shuffled vectors, whose chance counts (see the module).
    """
    apart = _over_draws(scores) - _over_draws(other)
    if not np.isfinite(apart).any():
        return math.nan, math.nan, math.nan
    mean = float(np.nanmean(apart))
    low, high = pigeonhole_interval(apart, labels, members)
    half = prediction_half_width(other) if drawn else 0.0
    return mean, min(low, mean - half), max(high, mean + half)


def _differences(whole: Sequence[Result], scores: _Scores, screen: Screen, few: str) -> list[Result]:
    """Return the rows of a subject over all seeds once more for each reference, with the difference to it."""
    found = []
    for reference in _REFERENCES:
        drawn = reference in _DECISIVE[:2]
        for row in whole:
            key = (reference, row.subject) if drawn else ("baseline", reference)
            if key not in scores:
                continue
            of_subject, of_other = scores["subject", row.subject][row.metric], scores[key][row.metric]
            mean, low, high = _difference(of_subject, of_other, screen.label, screen.members, drawn=drawn)
            reason, note = ("undefined", _UNDEFINED[row.metric]) if math.isnan(mean) else ("", "")
            if few and not reason and row.metric in _DISCRIMINATION:
                low, high, reason, note = math.nan, math.nan, "too-few", few
            ends = {"difference": mean, "difference_low": low, "difference_high": high}
            found.append(replace(row, reference=reference, reason=reason, note=note, **ends))  # type: ignore[arg-type]
    return found


def helps(frame: pd.DataFrame) -> dict[str, bool]:
    """Return subject → whether its vectors help, by the decisive differences of the rows of one run and protocol."""
    decisive = frame[(frame["metric"] == MAIN_METRIC) & frame["reference"].isin(_DECISIVE)]
    return {str(name): bool((rows["difference_low"] > 0).all()) for name, rows in decisive.groupby("subject")}


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return two tables per run and protocol from the rows of this task: scores, and differences of the subjects."""
    found = []
    for (run, protocol), rows in frame.groupby(["run", "protocol"], sort=False):
        title = f"{run} · perturbation, {protocol}"
        plain = rows[rows["reference"] == ""]
        made = plain.loc[(plain["kind"] == "subject") & (plain["reason"] == ""), "note"]
        notes = [_ABOUT, *filter(None, dict.fromkeys(made))]
        # Left out are perturbations, not the conditions that n counts; the notes name them.
        table = score_table(plain.assign(n_missing=0), METRICS, title=title, footnotes=notes)
        columns = tuple(replace(c, drawn=c.key in (*_DISCRIMINATION, "mae")) for c in table.columns)
        found.append(replace(table, columns=columns))
        if (rows["reference"] != "").any():
            found.append(_difference_table(rows[rows["reference"] != ""], f"{title}: differences"))
    return found


_ABOUT = (
    "PDS: perturbation discrimination without the targeted genes; 1 is best, 0.5 chance. Intervals: 95 %, over "
    "perturbed genes and seeds. Random: normal vectors of the same shape. Shuffled: vectors permuted over the genes."
)
_RULE = (
    "An embedding helps where its PDS (L1) exceeds that of random and shuffled vectors and, where it is given, of the "
    "mean of the perturbation: each 95 % interval above 0."
)


def _difference_table(rows: pd.DataFrame, title: str) -> Table:
    columns = (
        Column("pds_l1", "PDS (L1)", better="", signed=True),
        Column("mae", "MAE (lower is better)", better="", signed=True),
    )
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for r in rows[rows["metric"].isin([c.key for c in columns])].to_dict("records"):
        ends = Cell(r["difference"], r["difference_low"], r["difference_high"])
        cells.setdefault((r["subject"], r["reference"]), {})[r["metric"]] = ends
    order = sorted(cells, key=lambda key: (key[0], _REFERENCES.index(key[1])))
    shown = tuple(Row(f"{subject} − {reference}", cells[subject, reference]) for subject, reference in order)
    words = tuple(
        f"{name}: {'helps' if found else 'does not help (not shown to)'}." for name, found in helps(rows).items()
    )
    few = dict.fromkeys(rows.loc[rows["reason"] == "too-few", "note"])
    return Table(title, columns, shown, words, (_RULE, *(f"No interval: {note}." for note in few)))
