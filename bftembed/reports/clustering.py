"""The clustering of cells in short: metrics in groups, a row per embedding, floors below, the paper's table apart."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from bftembed.reports.integration import plain
from bftembed.reports.layout import middle
from bftembed.reports.numbers import decimal
from bftembed.reports.published import CELL_LABELS, CELL_METRICS, TABLE_5
from bftembed.reports.tables import OPTIMISTIC, OVER_CELLS, OVER_SEEDS, SHOWN_NAMES, floor_of, is_floor, metric_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

TASK, MAIN_METRIC, GENEPT = "clustering", "ari", "genept"
#: Protocols that are shown in groups, each in a table of its own.
GROUPED = ("strict", GENEPT)
#: Group → metric → its name within the group.
GROUPS: dict[str, dict[str, str]] = {
    "k-means": {"ari": "ARI", "ami": "AMI", "nmi": "NMI"},
    "Leiden, k matched": {"leiden_k_ari": "ARI", "leiden_k_ami": "AMI", "leiden_k_nmi": "NMI"},
    "Leiden, best (optimistic)": {"leiden_best_ari": "ARI", "leiden_best_ami": "AMI", "leiden_best_nmi": "NMI"},
    "silhouette": {"silhouette": "raw", "silhouette_cosine": "cosine"},
    "kNN": {"knn_accuracy": "accuracy"},
}
PAPER_TITLE = "Table 5 of the BFT paper: other data, not comparable with the above"
PAPER_NOTE = (
    "The paper does not name its data set; its row of GenePT is within .01 of the aorta table of the GenePT paper "
    "(GenePT-s), so it is likely that one (inferred). Single values; ASW is the raw silhouette."
)
#: What is to be known of the metrics in `bftembed.reports.tables.OPTIMISTIC`.
FLATTERS = "the labels themselves choose among ten resolutions, which flatters every embedding."
WIDTH = 140
_NARROWEST_NAME, _LONGEST_NAME = 14, 40
# Ends what is told of the best resolution, once per seed; the footnote tells it of all.
_CHOSEN = ": chosen by the labels"
_REASONS = ("undefined: ", "error: ")


def block_of(task: str, protocol: str) -> str:
    """Return which table a protocol of a task belongs to: one of `GROUPED`, its floor with it, or ``""``."""
    return next((p for p in GROUPED if task == TASK and protocol in (p, floor_of(p))), "")


def grouped_metrics(present: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return the groups of the metrics that are present, each with these; metrics without a group come last."""
    known = list(present)
    groups = [(name, [m for m in metrics if m in known]) for name, metrics in GROUPS.items()]
    placed = {m for metrics in GROUPS.values() for m in metrics}
    return [(name, metrics) for name, metrics in [*groups, ("other", [m for m in known if m not in placed])] if metrics]


def short_name(metric: str) -> str:
    """Return the name of a metric within its group."""
    return next((metrics[metric] for metrics in GROUPS.values() if metric in metrics), metric)


def by_main_metric(summary: pd.DataFrame, main: str = MAIN_METRIC) -> list[str]:
    """Return the embeddings of a summary, the highest mean of the main metric first, those without one last."""
    means = summary[summary["metric"] == main].groupby("embedding")["mean"].mean().to_dict()
    value = {e: means.get(e, math.nan) for e in summary["embedding"].unique()}
    return sorted(value, key=lambda e: (math.isnan(value[e]), -value[e] if value[e] == value[e] else 0.0, e))


def published_cell_rows() -> list[tuple[str, list[float]]]:
    """Return the rows of the paper's table 5: a name, and its scores of the phenotypes and of the cell types."""
    return [
        (profiles if encoder == "–" else f"{encoder}, profiles by {profiles}", list(values))
        for (encoder, profiles), values in TABLE_5.items()
    ]


def clustering_lines(summary: pd.DataFrame, protocol: str, width: int = WIDTH) -> list[str]:
    """Format the scores of one protocol for a terminal: a table per run, metrics in groups, means above intervals.

    Parameters
    ----------
    summary
        From `bftembed.reports.tables.summarise`; rows of other tasks and protocols are passed over.
    protocol
        ``"strict"``, ``"genept"`` or ``"standard"``; the rows of its floor stand below, from the lowest to the highest
        mean over the embeddings. Under ``"genept"`` the paper's table 5 follows.
    width
        Letters in a line. Long names take two lines, and lose their middle where that is not enough.

    Returns
    -------
    list of str
        Lines, an empty one between tables; none without a row of that protocol. Names are shown without control
        characters.
    """
    own = summary[(summary["task"] == TASK) & summary["protocol"].isin([protocol, floor_of(protocol)])]
    lines: list[str] = []
    for run, rows in own.groupby("run", sort=False):
        scored = rows[rows["protocol"] == protocol]
        floors = rows[[is_floor(p) for p in rows["protocol"]]]
        told = scored if len(scored) else floors
        used = sorted(set(told["n_used"]))
        cells = f"{used[0]:,}" if len(used) == 1 else f"{used[0]:,} to {used[-1]:,}"
        lines += ["", ""] if lines else []
        lines.append(plain(f"{run} · protocol {protocol} · {cells} cells"))
        lines += _table(scored, floors, width)
        lines += footnotes(scored)
    if lines and protocol == GENEPT:
        lines += ["", *paper_lines()]
    return lines


def _table(scored: pd.DataFrame, floors: pd.DataFrame, width: int) -> list[str]:
    groups = grouped_metrics(metric_order(scored if len(scored) else floors))
    metrics = [m for _, found in groups for m in found]
    starts = [sum(len(found) for _, found in groups[:i]) for i in range(len(groups))]
    body = [_row(embedding, scored[scored["embedding"] == embedding], metrics) for embedding in by_main_metric(scored)]
    if len(floors):
        body.append(_floor_row(floors, metrics))
    heads = [short_name(m) for m in metrics]
    widths = [max(len(heads[i]), *(len(line[i]) for _, *both in body for line in both)) for i in range(len(metrics))]
    for (name, found), start in zip(groups, starts, strict=True):  # a heading may be wider than its columns
        last = start + len(found) - 1
        widths[last] += max(0, len(name) - sum(widths[start : last + 1]) - 2 * (len(found) - 1))
    bars = {i for i in starts if i}
    for_names = max(_NARROWEST_NAME, width - sum(widths) - 2 * len(metrics) - 2 * len(bars))
    for_names = min(for_names, max(len("permuted labels"), *(len(name) for name, *_ in body)))

    def line(first: str, cells: list[str], sizes: list[int], with_bar: set[int]) -> str:
        padded = ["| " * (i in with_bar) + cell.rjust(sizes[i]) for i, cell in enumerate(cells)]
        return "  ".join([first.ljust(for_names), *padded]).rstrip()

    spans = [sum(widths[s : s + len(f)]) + 2 * (len(f) - 1) for s, (_, f) in zip(starts, groups, strict=True)]
    names = [name.ljust(span) for (name, _), span in zip(groups, spans, strict=True)]
    lines = [line("", names, spans, set(range(1, len(groups)))), line("", heads, widths, bars)]
    for name, means, intervals in body:
        first, second = _in_two(name, for_names)
        lines.append(line(first, means, widths, bars))
        if second or any(intervals):
            lines.append(line(second, intervals, widths, bars))
    return lines


def _row(embedding: str, rows: pd.DataFrame, metrics: list[str]) -> tuple[str, list[str], list[str]]:
    by_metric = {row["metric"]: row for row in rows.to_dict("records")}
    found = [by_metric.get(m) for m in metrics]
    means = ["" if row is None else decimal(row["mean"]) for row in found]
    intervals = [
        "" if row is None or math.isnan(row["low"]) else f"{two(row['low'])}–{two(row['high'])}" for row in found
    ]
    mark = "*" if any(row is not None and row["n_failed"] for row in found) else ""
    return plain(embedding) + mark, means, intervals


def _floor_row(floors: pd.DataFrame, metrics: list[str]) -> tuple[str, list[str], list[str]]:
    cells = []
    for metric in metrics:
        low, high = floor_range(floors, metric)
        ends = list(dict.fromkeys((two(low), two(high))))
        cells.append("" if math.isnan(low) else "–".join(ends))
    return "permuted labels", cells, [""] * len(metrics)


def floor_range(floors: pd.DataFrame, metric: str) -> tuple[float, float]:
    """Return the lowest and the highest mean of the floors of one metric; NaN where there is none."""
    means = floors.loc[floors["metric"] == metric, "mean"].dropna()
    return (float(means.min()), float(means.max())) if len(means) else (math.nan, math.nan)


def footnotes(scored: pd.DataFrame) -> list[str]:
    """Say what a table of one run and protocol does not show: seeds, intervals, what flatters, what is missing."""
    lines = []
    if not len(scored):
        return ["Labels dealt at random only: no score of an embedding."]
    seeds = int(scored["n"].max())
    words = {OVER_CELLS: "over cells (and seeds)", OVER_SEEDS: f"t interval over {seeds} seeds"}
    origins = [words[o] for o in words if (scored["interval"] == o).any()]
    means = f"means of {seeds} seeds" if seeds > 1 else "values of one seed"
    lines.append(f"First line: {means}" + (f"; second: 95 % interval, {' or '.join(origins)}." if origins else "."))
    if scored["metric"].isin(OPTIMISTIC).any():
        lines.append(
            "Leiden, best: the labels themselves choose among ten resolutions, which flatters every embedding."
        )
    lines += failures(scored)
    return lines + [f"{note}." for note in notes_told(scored)]


def notes_told(scored: pd.DataFrame) -> list[str]:
    """Return what the notes of scores tell: what is true of all embeddings first, then a line per other one."""
    of_note: dict[str, list[str]] = {}
    fine = scored[scored["n_failed"] == 0]
    for embedding, note in zip(fine["embedding"], fine["note"], strict=True):
        for part in (part for some in note.split(" | ") for part in some.split("; ") if part and _CHOSEN not in part):
            found = of_note.setdefault(plain(part).rstrip("."), [])
            found += [embedding] if embedding not in found else []
    n = fine["embedding"].nunique()
    common = [f"{note[:1].upper()}{note[1:]}" for note, found in of_note.items() if len(found) == n]
    apart: dict[str, list[str]] = {}
    for note, found in of_note.items():
        for embedding in found if len(found) < n else []:
            apart.setdefault(embedding, []).append(note)
    return common + [f"{middle(plain(e), _LONGEST_NAME)}: {'; '.join(notes)}" for e, notes in apart.items()]


def failures(scored: pd.DataFrame) -> list[str]:
    """Say which metrics have no value, or not for every seed, and why; embeddings of one reason together."""
    lacking: dict[tuple[str, str], list[str]] = {}
    place = {metric: i for i, metric in enumerate(metric_order(scored))}
    failed = scored[scored["n_failed"] > 0].to_dict("records")
    for row in sorted(failed, key=lambda row: (row["embedding"], place[row["metric"]])):
        some = f" ({row['n_failed']} of {row['n_failed'] + row['n']} seeds)" if row["n"] else ""
        name = SHOWN_NAMES.get(row["metric"], plain(row["metric"]))
        lacking.setdefault((row["embedding"], _reason(row["note"])), []).append(f"{name}{some}")
    alike: dict[tuple[str, str], list[str]] = {}
    for (embedding, reason), names in lacking.items():
        alike.setdefault((", ".join(names), reason), []).append(middle(plain(embedding), _LONGEST_NAME))
    n = scored["embedding"].nunique()
    return [
        f"* {'all' if len(found) == n > 1 else ', '.join(found)} without {names}: {reason.rstrip('.')}."
        for (names, reason), found in alike.items()
    ]


def _reason(note: str) -> str:
    note = plain(note)
    return next((note.removeprefix(word) for word in _REASONS if note.startswith(word)), note)


def paper_lines() -> list[str]:
    """Return the paper's table 5 as lines, under a heading that keeps it apart."""
    rows = published_cell_rows()
    left = max(len(name) for name, _ in rows)
    span = 4 + 1 + 4 + 1 + 4 + 2
    heads = "  ".join(["ARI".rjust(4), "AMI".rjust(4), "ASW".rjust(5)])
    lines = [PAPER_TITLE, "".ljust(left) + "".join(f"  | {name.ljust(span)}" for name in CELL_LABELS)]
    lines.append("".ljust(left) + f"  | {heads}" * len(CELL_LABELS))
    for name, values in rows:
        parts = [values[i : i + len(CELL_METRICS)] for i in range(0, len(values), len(CELL_METRICS))]
        cells = [f"  | {ari:.2f}  {ami:.2f}  {asw:.3f}" for ari, ami, asw in parts]
        lines.append(name.ljust(left) + "".join(cells))
    return [*(line.rstrip() for line in lines), *textwrap.wrap(PAPER_NOTE, WIDTH)]


def _in_two(name: str, width: int) -> tuple[str, str]:
    name = middle(name, 2 * width)
    return name[:width], name[width:]


def two(value: float) -> str:
    """Return a number with two decimals and no zero before them: ``".41"``, ``"-.02"``, ``"1.00"``."""
    text = f"{value:.2f}"
    return ".00" if text in ("0.00", "-0.00") else text.replace("0.", ".", 1) if abs(value) < 0.995 else text
