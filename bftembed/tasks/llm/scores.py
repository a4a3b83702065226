"""Scores of graded answers: a row of results per subject, metric and group, with intervals and paired differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.intervals import bootstrap_counts, percentile_interval
from bftembed.tasks.base import Metric, Result, score_table
from bftembed.tasks.llm.base import mean_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.report.table import Table
    from bftembed.tasks.llm.base import Evaluation

#: Resamples of the questions.
N_RESAMPLES = 1000
#: What an answer costs: tokens of all its requests, prompts included.
TOKENS = Metric("tokens", "tokens per question", better="", limits=None, concludes=False)

#: Wall time of a model's answers divided by their number, on the machine where they were asked.
SECONDS = Metric("seconds", "seconds per request", better="", limits=None, concludes=False)


def score_rows(evaluation: Evaluation, run: str, graded: Mapping[tuple[str, str], pd.DataFrame]) -> list[Result]:
    """Return the rows of one evaluation.

    Parameters
    ----------
    evaluation
        Gives the statistics.
    run
        Name of the data, in the results' column of that name.
    graded
        (kind, subject) → graded questions: index the ids, columns ``group``, ``cluster`` and the metrics. All have the
        same index. The first of kind ``"subject"`` is the reference of the other models.

    Returns
    -------
    list of Result
        The split ``"all"`` over all questions, and a split for each part and each group. Intervals are percentiles of a
        bootstrap over clusters; differences are paired: to the best baseline, and to the first model.
    """
    frames = dict(graded)
    first = next((key for key in frames if key[0] == "subject"), None)
    some = next(iter(frames.values()))
    groups = [g for g in dict.fromkeys(some["group"]) if g]
    splits = {"all": np.ones(len(some), dtype=bool)}
    for part, members in evaluation.parts.items():
        inside = some["group"].isin(members).to_numpy()
        splits |= {part: inside} if inside.any() and not inside.all() else {}
    splits |= {g: (some["group"] == g).to_numpy() for g in groups} if len(groups) > 1 else {}
    rows: list[Result] = []
    main = evaluation.metrics[0].name
    for split, inside in splits.items():
        of_split = {key: frame[inside] for key, frame in frames.items()}
        weights = _resamples(some["cluster"][inside])
        for name, statistic in {**evaluation.statistics(), TOKENS.name: mean_of(TOKENS.name)}.items():
            # A statistic of another column, such as a macro average, counts what the main metric does.
            column = name if name == TOKENS.name or any(name in frame for frame in of_split.values()) else main
            scored = {key: frame for key, frame in of_split.items() if column in frame}
            scores = {key: statistic(frame, weights) for key, frame in scored.items()}
            counts = {key: int(frame[column].notna().sum()) for key, frame in scored.items()}
            note = evaluation.notes().get(name, "")
            base = Result(run, "", evaluation.name, evaluation.protocol, name, split, reason="undefined", note=note)
            rows += _rows(base, scores, counts, int(inside.sum()), first)
    return rows


def _resamples(clusters: pd.Series) -> NDArray[np.float64]:
    """Return weights of the questions: one row of ones, then `N_RESAMPLES` of a bootstrap over clusters."""
    codes = clusters.factorize()[0]
    counts = bootstrap_counts(int(codes.max()) + 1, N_RESAMPLES, seed=0).astype(np.float64)
    return np.vstack([np.ones(len(codes)), counts[:, codes]])


def _rows(
    base: Result,
    scores: Mapping[tuple[str, str], NDArray[np.float64]],
    counts: Mapping[tuple[str, str], int],
    total: int,
    first: tuple[str, str] | None,
) -> Iterator[Result]:
    baselines = [key for key in scores if key[0] != "subject" and math.isfinite(scores[key][0])]
    best = max(baselines, key=lambda key: scores[key][0], default=None)
    for (kind, subject), values in scores.items():
        n = counts[kind, subject]
        row = replace(base, subject=subject, kind=kind, n=n, n_missing=total - n)
        if not math.isfinite(values[0]):
            if kind == "subject":
                yield replace(row, note="not defined on these questions")
            continue
        low, high = percentile_interval(values[1:])
        row = replace(row, value=float(values[0]), low=low, high=high, reason="")
        references = dict.fromkeys([best, first]) if kind == "subject" else {}
        compared = [r for r in references if r is not None and r in scores and r != (kind, subject)]
        for reference in compared:
            difference = values - scores[reference]  # on the same resamples of the same questions
            low, high = percentile_interval(difference[1:])
            by = float(difference[0])
            yield replace(row, reference=reference[1], difference=by, difference_low=low, difference_high=high)
        if not compared:
            yield row


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return a table per evaluation and run: models and baselines, a column per metric."""
    from bftembed.tasks.llm.base import load_evaluation

    found = []
    for (run, task, protocol), rows in frame.groupby(["run", "task", "protocol"], sort=False):
        evaluation = load_evaluation(task)
        main = evaluation.metrics[0]
        notes = [
            f"{protocol}. Intervals: bootstrap over questions.",
            *filter(None, rows.loc[rows["reason"] == "", "note"].unique()),
        ]
        models = rows.loc[rows["kind"] == "subject", "subject"].unique()
        pairs = rows[(rows["split"] == "all") & (rows["metric"] == main.name) & rows["reference"].isin(models)]
        told = [_compared(row._asdict(), main.title) for row in pairs.itertuples(index=False)]
        table = score_table(
            rows, (*evaluation.metrics, TOKENS, SECONDS), title=f"{evaluation.title} · {run}", footnotes=notes
        )
        found.append(replace(table, conclusions=(*told, *table.conclusions)))
    return found


def _compared(row: Mapping[str, Any], title: str) -> str:
    low, high = row["difference_low"], row["difference_high"]
    side = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
    return (
        f"{row['subject']} is {side} {row['reference']} in {title}: {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]."
    )
