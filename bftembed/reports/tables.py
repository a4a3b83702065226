"""Views of the results table: means with intervals, plain text for the terminal, and what the numbers say in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bftembed.reports.integration import NAMES as INTEGRATION_NAMES
from bftembed.reports.numbers import with_ends
from bftembed.results import BASELINE, ENDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

#: Baselines that know less than a text does; the others (PCA, Harmony, …) are references.
_FLOORS = ("random", "shuffled", "tfidf")
#: Protocol of the labels dealt at random: the floor of ``"standard"``. That of another is ``"PROTOCOL/…"``.
PERMUTED, STANDARD = "permuted-labels", "standard"
_OF_ANOTHER = f"/{PERMUTED}"
#: Leiden at the one of ten resolutions that agrees best with the labels: a choice that flatters.
OPTIMISTIC = (
    {"leiden_best_ari": "Leiden ARI (best)"}
    | {"leiden_best_ami": "Leiden AMI (best)"}
    | {"leiden_best_nmi": "Leiden NMI (best)"}
)
#: Metric → the name that readers know. Of each of these, higher is better.
METRIC_NAMES = (
    {"ari": "ARI", "ami": "AMI", "nmi": "NMI"}
    | {"leiden_k_ari": "Leiden ARI (k)", "leiden_k_ami": "Leiden AMI (k)", "leiden_k_nmi": "Leiden NMI (k)"}
    | OPTIMISTIC
    | {"silhouette": "silhouette", "silhouette_cosine": "silhouette (cosine)", "knn_accuracy": "kNN accuracy"}
)
#: The same, with the metrics of integration; no sentences are made of these, most have no interval.
SHOWN_NAMES = METRIC_NAMES | INTEGRATION_NAMES
OVER_SEEDS, OVER_CELLS = "seeds", "cells"


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the long results table to one row per run, task, protocol, embedding and metric.

    Parameters
    ----------
    frame
        Results, as from `bftembed.results.read_results`.

    Returns
    -------
    pandas.DataFrame
        Columns run, task, protocol, embedding, metric; ``mean`` of the values that are not NaN; ``low`` and ``high``,
        its 95 % interval, and ``interval``, where that comes from: ``"cells"`` (recorded as the splits ``ci95-low``
        and ``ci95-high``), ``"seeds"`` (t interval over at least two values), or ``""`` (none; NaN). ``n`` values were
        used, ``n_failed`` are NaN; ``n_used`` and ``n_missing`` are the largest of the rows; ``note`` joins the notes.
    """
    import pandas as pd

    keys = ["run", "task", "protocol", "embedding", "metric"]
    rows = []
    for key, group in frame.groupby(keys, sort=True, dropna=False):
        main = group[~group["split"].isin(ENDS)]
        values = main["value"].dropna().to_numpy(dtype=float)
        recorded = [group.loc[group["split"] == end, "value"].dropna() for end in ENDS]
        if all(len(end) for end in recorded):
            low, high, interval = float(recorded[0].mean()), float(recorded[1].mean()), OVER_CELLS
        else:
            low, high, interval = (*t_interval(values), OVER_SEEDS if len(values) > 1 else "")
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "mean": float(values.mean()) if len(values) else math.nan,
                "low": low,
                "high": high,
                "interval": interval,
            }
            | {"n": len(values), "n_failed": int(main["value"].isna().sum())}
            | {"n_used": int(group["n_used"].max()), "n_missing": int(group["n_missing"].max())}
            | {"note": " | ".join(dict.fromkeys(n for n in group["note"] if n))}
        )
    columns = [*keys, "mean", "low", "high", "interval", "n", "n_failed", "n_used", "n_missing", "note"]
    return pd.DataFrame(rows, columns=columns)


def kind_of_name(embedding: str) -> str:
    """Return what the name of an embedding says that it is: ``"floor"``, ``"reference"``, or ``""``."""
    if not embedding.startswith(BASELINE):
        return ""
    return "floor" if embedding.removeprefix(BASELINE).split(" ")[0] in _FLOORS else "reference"


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of the mean of `values`, shape ``(n,)``; NaN for fewer than two."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def is_floor(protocol: str) -> bool:
    """Return whether a protocol scores labels that were dealt at random."""
    return protocol == PERMUTED or protocol.endswith(_OF_ANOTHER)


def floor_of(protocol: str) -> str:
    """Return the protocol of the floor of another: ``"permuted-labels"``, ``"strict/permuted-labels"``."""
    return PERMUTED if protocol == STANDARD else f"{protocol}{_OF_ANOTHER}"


def metric_order(summary: pd.DataFrame) -> list[str]:
    """Return the metrics of `summary`, the known ones first and in their usual order."""
    present = list(dict.fromkeys(summary["metric"]))
    return [m for m in SHOWN_NAMES if m in present] + sorted(m for m in present if m not in SHOWN_NAMES)


def text_table(summary: pd.DataFrame) -> list[str]:
    """Format `summary` for a terminal: one aligned line per embedding and protocol, one column per metric."""
    metrics = metric_order(summary)
    lines = [["embedding", *(METRIC_NAMES.get(m, m) for m in metrics)]]
    # The permuted labels stand below the scores: they are their floor.
    order = summary.assign(floor=[is_floor(p) for p in summary["protocol"]])
    several = order.loc[~order["floor"], "protocol"].nunique() > 1
    for (_, floor, protocol, embedding), group in order.groupby(["run", "floor", "protocol", "embedding"], sort=True):
        by_metric = group.set_index("metric")
        cells = [_cell(by_metric.loc[m]) if m in by_metric.index else "" for m in metrics]
        # A floor is named by its protocol, with the one that it is the floor of where there are several.
        word = f" / {protocol if several else PERMUTED}" if floor else f" / {protocol}" if several else ""
        lines.append([f"{embedding}{word}", *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cell(row: Any) -> str:
    if math.isnan(row["mean"]):
        return "failed"
    return with_ends(row["mean"], row["low"], row["high"])


def verdicts(summary: pd.DataFrame, kinds: Mapping[str, str]) -> list[str]:
    """Say for each metric how the best embedding made from profiles stands to every floor.

    Parameters
    ----------
    summary
        From `summarise`, one run and one task, without the permuted labels.
    kinds
        Embedding → ``"profile"``, ``"floor"`` or ``"reference"``.

    Returns
    -------
    list of str
        First the count over the metrics, then a sentence per metric; the optimistic ones are passed over. Above and
        below mean that both have a 95 % interval and these do not touch. Empty where there is no embedding from
        profiles or no floor.
    """
    rows = summary.assign(kind=[kinds.get(e, "") for e in summary["embedding"]])
    sentences: list[str] = []
    beaten: list[str] = []
    for metric in [m for m in metric_order(rows) if m in METRIC_NAMES and m not in OPTIMISTIC]:
        here = rows[rows["metric"] == metric]
        ours, floors = here[(here["kind"] == "profile") & here["mean"].notna()], here[here["kind"] == "floor"]
        if ours.empty or floors.empty:
            continue
        best = ours.loc[ours["mean"].idxmax()]
        groups: dict[str, list[str]] = {"above": [], "not told apart from": [], "below": []}
        for _, floor in floors.sort_values("mean").iterrows():
            value = "no value" if math.isnan(floor["mean"]) else f"{floor['mean']:.3f}"
            groups[_standing(best, floor)].append(f"{floor['embedding']} ({value})")
        if len(groups["above"]) == len(floors):
            beaten.append(METRIC_NAMES[metric])
        told = "; ".join(f"{word} {', '.join(names)}" for word, names in groups.items() if names)
        best_of = f"the best from profiles, {best['embedding']} ({best['mean']:.3f})"
        sentences.append(f"{METRIC_NAMES[metric]}: {best_of}, is {told}.")
    if not sentences:
        return []
    count = f"An embedding made from profiles is above every floor on {len(beaten)} of {len(sentences)} metrics"
    if not beaten:
        return ["No embedding made from profiles is above every floor on any metric.", *sentences]
    return [f"{count}: {', '.join(beaten)}.", *sentences]


def _standing(best: Any, floor: Any) -> str:
    # Without an interval (a single seed, a failure) the comparisons with NaN are false, and nothing is claimed.
    if best["low"] > floor["high"]:
        return "above"
    return "below" if best["high"] < floor["low"] else "not told apart from"
