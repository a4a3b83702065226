"""scIB's scores in short: one row per embedding, the best total first, and the paper's table apart from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bftembed.reports.numbers import decimal, with_ends
from bftembed.reports.published import INTEGRATION_METRICS, TABLE_2
from bftembed.results import ENDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

TASK, PAPER_PROFILE = "integration", "paper"
BIO_AGGREGATE, BATCH_AGGREGATE, TOTAL = AGGREGATES = ("bio_conservation", "batch_correction", "total")
#: Metric → header, in the order and with the words of scib-metrics; those of the profile ``scib`` beside their kin.
BIO = {
    "isolated_labels": "Isolated labels",
    "isolated_labels_f1": "Isolated F1",
    "isolated_labels_asw": "Isolated ASW",
    "nmi_ari_cluster_labels_kmeans_nmi": "KMeans NMI",
    "nmi_ari_cluster_labels_kmeans_ari": "KMeans ARI",
    "nmi_leiden_best": "Leiden NMI",
    "ari_leiden_best": "Leiden ARI",
    "silhouette_label": "Silhouette label",
    "clisi_knn": "cLISI",
    "clisi_graph": "cLISI graph",
}
BATCH = {
    "bras": "BRAS",
    "silhouette_batch": "Silhouette batch",
    "ilisi_knn": "iLISI",
    "ilisi_graph": "iLISI graph",
    "kbet_per_label": "KBET",
    "kbet": "KBET (R)",
    "graph_connectivity": "Graph connectivity",
    "pcr_comparison": "PCR comparison",
}
SCORES = {BATCH_AGGREGATE: "Batch correction", BIO_AGGREGATE: "Bio conservation", TOTAL: "Total"}
NAMES = BIO | BATCH | SCORES
PAPER_TITLE = "Table 2 of the BFT paper: RNA and protein cells of another data set, not comparable with the above"
_KEYS = ["run", "protocol", "embedding"]
#: How columns call the ends of an interval.
_ENDS = ("low", "high")
_REASONS = ("undefined: ", "error: ")
#: Begins the part of a note that tells how a baseline was made.
_MADE_OF = "made of: "
# What a note tells of the cells, rather than of how one metric was made.
_OF_THE_CELLS = ("cells left out: ", "no batch score can be read")


def integration_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the results of the integration task to one row per run, profile and embedding.

    Parameters
    ----------
    frame
        Results, as from `bftembed.results.read_results`; rows of other tasks are passed over.

    Returns
    -------
    pandas.DataFrame
        Columns run, protocol (the profile), embedding; a column per metric that occurs, in the order of `NAMES`, with
        the mean over seeds (NaN: no value); ``n_seeds`` and ``sd``, how many seeds k-means had and the larger of the
        standard deviations of NMI and ARI over them (NaN for one); ``total_low`` and ``total_high``, the 95 % interval
        of the total over halves of the cells (NaN: not computed); ``n_used`` and ``n_missing`` cells; ``lacking``,
        the metrics without a value, by name, and ``reasons``, with why; ``told``, what the notes tell of the cells.
        The highest total comes first within a run and profile, those without a total last.
    """
    import pandas as pd

    ends = frame[(frame["task"] == TASK) & (frame["metric"] == TOTAL) & frame["split"].isin(ENDS)]
    interval = ends.set_index([*_KEYS, "split"])["value"].to_dict()
    own = frame[(frame["task"] == TASK) & ~frame["split"].isin(ENDS)]
    metrics = [m for m in NAMES if (own["metric"] == m).any()]
    rows = []
    for key, group in own.groupby(_KEYS, sort=True):
        of_metric = dict(iter(group.groupby("metric", sort=False)))
        # As in the aggregates, a seed without a value is not passed over.
        values = {m: float(of_metric[m]["value"].mean(skipna=False)) if m in of_metric else math.nan for m in metrics}
        seeded = [rows["value"] for m, rows in of_metric.items() if m in NAMES and rows["seed"].notna().any()]
        failed = group[group["value"].isna() & ~group["metric"].isin(AGGREGATES)]
        rows.append(
            dict(zip(_KEYS, key, strict=True))
            | values
            | {"n_seeds": max((len(x) for x in seeded), default=0)}
            | {"sd": max((float(x.std(ddof=1)) for x in seeded if len(x) > 1), default=math.nan)}
            | {f"total_{name}": interval.get((*key, end), math.nan) for name, end in zip(_ENDS, ENDS, strict=True)}
            | {"n_used": int(group["n_used"].max()), "n_missing": int(group["n_missing"].max())}
            | {"lacking": ", ".join(NAMES[m] for m in metrics if m in set(failed["metric"]))}
            | {"reasons": _reasons(failed, metrics), "told": "; ".join(cells_told(group["note"]))}
        )
    columns = [
        *_KEYS,
        *metrics,
        "n_seeds",
        "sd",
        "total_low",
        "total_high",
        "n_used",
        "n_missing",
        "lacking",
        "reasons",
        "told",
    ]
    summary = pd.DataFrame(rows, columns=columns)
    total = summary[TOTAL] if TOTAL in metrics else pd.Series(math.nan, summary.index)
    summary = summary.assign(_total=-total).sort_values(
        ["run", "protocol", "_total", "embedding"], na_position="last", kind="stable"
    )
    return summary.drop(columns="_total").reset_index(drop=True)


def cells_told(notes: Iterable[str]) -> list[str]:
    """Return what notes tell of the cells, each once: how many are left out, and a batch that is a label."""
    parts = (part for note in notes for part in note.split("; "))
    return list(dict.fromkeys(p for p in parts if any(words in p for words in _OF_THE_CELLS)))


def _reasons(failed: pd.DataFrame, metrics: list[str]) -> str:
    """Say why metrics have no value, those with the same reason together."""
    of_reason: dict[str, list[str]] = {}
    for metric in [m for m in metrics if (failed["metric"] == m).any()]:
        for note in dict.fromkeys(failed.loc[failed["metric"] == metric, "note"]):
            told = "; ".join(p for p in note.split("; ") if p not in cells_told([note]) and not p.startswith(_MADE_OF))
            reason = next((told.removeprefix(word) for word in _REASONS if told.startswith(word)), told)
            of_reason.setdefault(reason, []).append(NAMES[metric])
    return "; ".join(f"{', '.join(names)}: {reason.rstrip('.')}" for reason, names in of_reason.items())


def shown_metrics(rows: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Return the metrics of a summary, in three groups: of labels, of batches, and aggregates."""
    bio, batch, scores = ([m for m in group if m in rows and rows[m].notna().any()] for group in (BIO, BATCH, SCORES))
    lacking = {name for told in rows["lacking"] for name in told.split(", ")}
    # A metric without a value for any embedding keeps its column where it was asked for.
    bio = [m for m in BIO if m in bio or NAMES[m] in lacking]
    batch = [m for m in BATCH if m in batch or NAMES[m] in lacking]
    return bio, batch, scores


def footnotes(rows: pd.DataFrame) -> list[str]:
    """Say what a table of one run and profile does not show: seeds, missing metrics and why, cells left out."""
    lines = ["Total: 0.6 bio conservation + 0.4 batch correction, the means of the metrics that have a value."]
    if rows["total_low"].notna().any():
        lines.append("Beside the total its 95 % interval, from random halves of the cells.")
    most = int(rows["n_seeds"].max())
    if most > 1:
        deviation = f"; standard deviation at most {rows['sd'].max():.3f}" if rows["sd"].notna().any() else ""
        lines.append(f"KMeans: mean of {most} seeds{deviation}.")
    same = rows["reasons"].nunique() == 1 and len(rows) > 1
    for row in rows.drop_duplicates("reasons").to_dict("records") if same else rows.to_dict("records"):
        if row["reasons"]:
            lines.append(f"* {'all' if same else plain(row['embedding'])} without {plain(row['reasons'])}.")
    lines += [f"{plain(told)[:1].upper()}{plain(told)[1:]}." for told in dict.fromkeys(rows["told"]) if told]
    return lines


def heading(rows: pd.DataFrame) -> str:
    """Return the title of a table of one run and profile."""
    first = rows.iloc[0]
    used = sorted(set(rows["n_used"]))
    cells = f"{used[-1]:,}" if len(used) == 1 else f"{used[0]:,} to {used[-1]:,}"
    return plain(f"{first['run']} · profile {first['protocol']} · {cells} cells")


def published_rows(metrics: Iterable[str]) -> list[tuple[str, list[float]]]:
    """Return the methods of the paper's table 2 by total, with their scores in `metrics`; NaN where it hides one."""
    found = []
    for method, scores in sorted(TABLE_2.items(), key=lambda item: -item[1][INTEGRATION_METRICS.index(TOTAL)]):
        by_metric = dict(zip(INTEGRATION_METRICS, scores, strict=True))
        found.append((method, [by_metric.get(m, math.nan) for m in metrics]))
    return found


def text_lines(summary: pd.DataFrame) -> list[str]:
    """Format a summary for a terminal: a table per run and profile; below those of profile ``paper`` its table 2.

    Parameters
    ----------
    summary
        From `integration_summary`.

    Returns
    -------
    list of str
        Lines, an empty one between tables. Names are shown without control characters.
    """
    lines: list[str] = []
    for (_, profile), rows in summary.groupby(["run", "protocol"], sort=False):
        groups = shown_metrics(rows)
        metrics = [m for group in groups for m in group]
        cells = [
            [plain(row["embedding"]) + ("*" if row["lacking"] else ""), *(_shown(row, m) for m in metrics)]
            for row in rows.to_dict("records")
        ]
        lines += ["", heading(rows)] if lines else [heading(rows)]
        theirs = [[name, *(decimal(value, 2) for value in values)] for name, values in published_rows(metrics)]
        shown = _table([*cells, *(theirs if profile == PAPER_PROFILE else [])], groups)
        split = len(shown) - (len(theirs) if profile == PAPER_PROFILE else 0)
        lines += [*shown[:split], *footnotes(rows)]
        if profile == PAPER_PROFILE:
            lines += ["", PAPER_TITLE, *shown[:2], *shown[split:]]
            lines.append("–: not shown in it, but in its aggregates.")
    return lines


def _table(cells: list[list[str]], groups: tuple[list[str], ...]) -> list[str]:
    heads = [("", ""), *(_two_lines(NAMES[m]) for group in groups for m in group)]
    ends = {sum(map(len, groups[:i])) for i in range(len(groups))}  # a bar after these columns
    rows = [[upper for upper, _ in heads], [lower for _, lower in heads], *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = []
    for row in rows:
        padded = [
            (cell.ljust if i == 0 else cell.rjust)(widths[i]) + (" |" if i in ends and i else "")
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _two_lines(name: str) -> tuple[str, str]:
    first, _, second = name.partition(" ")
    return (first, second) if second else ("", first)


def _shown(row: dict[str, Any], metric: str) -> str:
    if metric != TOTAL:
        return decimal(row[metric])
    return with_ends(row[metric], row["total_low"], row["total_high"])


def plain(text: str) -> str:
    """Return a text without control characters."""
    return text if text.isprintable() else ascii(text)[1:-1]
