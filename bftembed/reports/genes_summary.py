"""The gene-level results in short: one row per score, with its interval and how it stands to the best floor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.reports.published import TASKS
from bftembed.results import ENDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

#: How the names of floors and ceilings begin.
FLOOR, CEILING = "floor: ", "ceiling: "
#: How the names of embeddings of changed texts end, after the name of the embedding.
LEAK_ENDINGS = (", label words masked", ", without texts that state the label")
#: Run of all embeddings on the genes that all have; other runs are called `OWN` and the name of an embedding.
#: That on every gene of a task, with or without a vector, is called `ALL_GENES`.
SHARED, OWN, ALL_GENES = "shared", "own: ", "all genes"
#: The probe follows after a slash; an embedding that failed before any probe has none.
PROTOCOLS = ("strict", "genept")
_OF_CELLS = ("clustering", "integration")
ABOVE_FLOOR = "_above_floor"
#: Metric of the share of texts that state the label; its splits are the labels.
STATED = "label_stated_in_text"
_MOST_LABELS = 6
METRIC_NAMES = {"roc_auc": "ROC-AUC", "accuracy": "accuracy"}
EMBEDDING_KIND, LEAK_KIND, FLOOR_KIND, CEILING_KIND = KINDS = ("embedding", "leak", "floor", "ceiling")
ABOVE, NOT_ABOVE, BELOW = "above the floor", "not above the floor", "below the floor"
FAILED, NOT_COMPARED = "failed", "not compared"
_BEST = "best floor: "
_KEYS = ["run", "task", "protocol", "embedding", "metric"]
_COLUMNS = (
    *("run", "task", "protocol", "embedding", "kind", "metric", "mean", "sd", "fold_sd", "low", "high"),
    *("n_folds", "n_seeds", "n_failed", "n_used", "n_missing"),
    *("above_floor", "above_low", "above_high", "best_floor", "verdict", "stated", "note"),
)


def is_gene_table(frame: pd.DataFrame) -> bool:
    """Return whether every row of a results table is of a gene-level protocol; False for an empty table."""
    return bool(len(frame)) and bool(_of_genes(frame).all())


def gene_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the results of gene-level tasks to one row per run, task, protocol, embedding and metric.

    Parameters
    ----------
    frame
        Results, as from `bftembed.results.read_results`; rows of other protocols are passed over.

    Returns
    -------
    pandas.DataFrame
        Columns run, task, protocol, embedding, ``kind`` (of `KINDS`), metric; ``mean`` over folds and seeds of the
        values that are not NaN; ``sd``, the standard deviation of the seeds' means (NaN for one seed), and
        ``fold_sd``, the population one of the folds; ``low`` and ``high``, the recorded 95 % interval; ``n_folds``
        values of ``n_seeds`` seeds, ``n_failed`` without a value; ``n_used`` and ``n_missing``, the largest of the
        rows; ``above_floor``, the recorded difference to ``best_floor``, with its interval ``above_low`` to
        ``above_high``; ``verdict``; ``stated``, how many of the texts behind it state each label, in words (``""``:
        not looked at, or none); ``note``, the notes joined. A failure before any probe stands under every probe.

        The verdict is `ABOVE` when the whole interval of the difference is above 0, `BELOW` when it is below,
        `NOT_ABOVE` else; `NOT_COMPARED` where no such interval was recorded; ``"floor"``, ``"ceiling"``; `FAILED`
        without any value. Rows come as they are read: ``shared`` first, the paper's tasks first, protocol strict
        first; embeddings by their mean with their leak checks below them, then floors, then the ceiling.
    """
    import pandas as pd

    known = _with_probe(frame[_of_genes(frame)])
    groups = dict(iter(known.groupby(_KEYS, sort=True)))
    rows = []
    for key, group in groups.items():
        if key[-1] == STATED:
            continue
        if key[-1].endswith(ABOVE_FLOOR) and (*key[:-1], key[-1].removesuffix(ABOVE_FLOOR)) in groups:
            continue
        row = dict(zip(_KEYS, key, strict=True)) | {"kind": kind_of(key[3])} | _score(group)
        floors = {k[3] for k in groups if k[:3] == key[:3] and k[3].startswith(FLOOR)}
        row |= _standing(groups.get((*key[:-1], f"{key[-1]}{ABOVE_FLOOR}")), floors)
        rows.append(row | {"verdict": _verdict(row), "stated": _stated(groups.get((*key[:-1], STATED)))})
    summary = pd.DataFrame(rows, columns=list(_COLUMNS))
    best = {tuple(r[k] for k in _KEYS): r["mean"] for r in rows}
    return summary.iloc[sorted(range(len(rows)), key=lambda i: _order(rows[i], best))].reset_index(drop=True)


def kind_of(embedding: str) -> str:
    """Return which of `KINDS` a name in the column ``embedding`` is."""
    if embedding.startswith(FLOOR):
        return FLOOR_KIND
    if embedding.startswith(CEILING):
        return CEILING_KIND
    return LEAK_KIND if embedding.endswith(LEAK_ENDINGS) else EMBEDDING_KIND


def base_of(embedding: str) -> str:
    """Return the name of the embedding that a leak check is of; the name itself for everything else."""
    for ending in LEAK_ENDINGS:
        embedding = embedding.removesuffix(ending)
    return embedding


def run_title(run: str) -> str:
    """Return what a run is, for a heading."""
    if run == SHARED:
        return "All embeddings, on the genes that all have"
    if run == ALL_GENES:
        return "What having a vector at all tells, on all genes of a task"
    return f"{run.removeprefix(OWN)}, on all genes that it has" if run.startswith(OWN) else run


def spread(row: Any) -> tuple[float, str]:
    """Return the deviation to show beside a mean, and over what it is: ``"seeds"``, ``"folds"`` or ``""`` (NaN)."""
    if not math.isnan(row["sd"]):
        return float(row["sd"]), "seeds"
    return (float(row["fold_sd"]), "folds") if row["n_folds"] > 1 else (math.nan, "")


def text_lines(summary: pd.DataFrame) -> list[str]:
    """Format a summary for a terminal: one aligned table per run, task, protocol and metric.

    Parameters
    ----------
    summary
        From `gene_summary`.

    Returns
    -------
    list of str
        Lines, an empty one between tables. Names are shown without control characters.
    """
    lines: list[str] = []
    for (run, task, protocol, metric), group in summary.groupby(["run", "task", "protocol", "metric"], sort=False):
        rows = group.to_dict("records")
        over = next((over for row in rows if (over := spread(row)[1])), "")
        head = ["", METRIC_NAMES.get(metric, metric), "95 % interval", "to the best floor", "", "used", "missing"]
        cells = [head, *(_cells(row) for row in rows)]
        keep = [i for i in range(len(head)) if i == 0 or any(line[i] for line in cells[1:])]
        widths = [max(len(line[i]) for line in cells) for i in keep]
        title = " · ".join(_plain(x) for x in (task, protocol, run)) + (f" (± over {over})" if over else "")
        lines += ["", title] if lines else [title]
        lines += ["  ".join(line[i].ljust(w) for i, w in zip(keep, widths, strict=True)).rstrip() for line in cells]
        lines += [_plain(f"{row['embedding']}: {row['stated']}") for row in rows if row["stated"]]
        lines += [_plain(f"{row['embedding']} failed: {row['note']}") for row in rows if row["verdict"] == FAILED]
    return lines


def _cells(row: Any) -> list[str]:
    name = ("  " if row["kind"] == LEAK_KIND else "") + _plain(row["embedding"])
    numbers = [str(row["n_used"]), str(row["n_missing"])]
    if row["verdict"] == FAILED:
        return [name, FAILED, "", "", "", *numbers]
    deviation, _ = spread(row)
    score = f"{row['mean']:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")
    interval = "" if math.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
    difference = "" if math.isnan(row["above_floor"]) else f"{row['above_floor']:+.3f}"
    if difference and not math.isnan(row["above_low"]):
        difference += f" ({row['above_low']:+.3f} to {row['above_high']:+.3f})"
    verdict = row["verdict"] if row["kind"] in (EMBEDDING_KIND, LEAK_KIND) else ""
    failed = f"{row['n_failed']} failed" if row["n_failed"] else ""
    return [name, score, interval, difference, ", ".join(x for x in (verdict, failed) if x), *numbers]


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _of_genes(frame: pd.DataFrame) -> NDArray[np.bool_]:
    # The clustering of cells has protocols of the same names.
    known = [str(p).partition("/")[0] in PROTOCOLS for p in frame["protocol"]]
    return np.array(known, dtype=bool) & ~frame["task"].isin(_OF_CELLS).to_numpy(dtype=bool)


def _with_probe(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each row without a probe every probe and metric that its run and task have under the protocol."""
    probes: dict[tuple[str, str, str], dict[tuple[str, str], None]] = {}
    columns = ["run", "task", "protocol", "metric"]
    for run, task, protocol, metric in frame[columns].drop_duplicates().itertuples(index=False):
        if protocol not in PROTOCOLS and metric in METRIC_NAMES:
            probes.setdefault((run, task, protocol.partition("/")[0]), {})[protocol, metric] = None
    at: list[int] = []
    given: list[tuple[str, str]] = []
    for i, (run, task, protocol, metric) in enumerate(frame[columns].itertuples(index=False)):
        found = list(probes.get((run, task, protocol), ())) if protocol in PROTOCOLS else []
        given += found or [(protocol, metric)]
        at += [i] * max(1, len(found))
    return frame.iloc[at].assign(protocol=[p for p, _ in given], metric=[m for _, m in given])


def _stated(rows: pd.DataFrame | None) -> str:
    """Say how often the texts state the label, for each label; empty where none does."""
    if rows is None or not (rows["value"] > 0).any():
        return ""
    most = rows.sort_values("value", ascending=False, kind="stable")
    told = ", ".join(
        f"{value:.1%} of {label}"
        for label, value in zip(most["split"][:_MOST_LABELS], most["value"][:_MOST_LABELS], strict=True)
    )
    rest = f" … ({len(most)} labels)" if len(most) > _MOST_LABELS else ""
    words = next((f"; {note}" for note in rows["note"] if note), "")
    return f"the text states the label: {told}{rest}, {rows['n_used'].max():,} checked{words}"


def _score(group: pd.DataFrame) -> dict[str, Any]:
    main = group[~group["split"].isin(ENDS)]
    scored = main[main["value"].notna()]
    folds = scored[scored["split"] != "all"]
    scored = folds if len(folds) else scored
    of_seeds = scored.groupby("seed", dropna=False)["value"].mean()
    low, high = (_one(group, end) for end in ENDS)
    return {
        "mean": float(scored["value"].mean()) if len(scored) else math.nan,
        "sd": float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else math.nan,
        "fold_sd": float(scored["value"].std(ddof=0)) if len(scored) else math.nan,
        "low": low if not math.isnan(high) else math.nan,
        "high": high if not math.isnan(low) else math.nan,
        "n_folds": len(scored),
        "n_seeds": len(of_seeds),
        "n_failed": int(main["value"].isna().sum()),
        "n_used": int(group["n_used"].max()),
        "n_missing": int(group["n_missing"].max()),
        "note": " | ".join(dict.fromkeys(n for n in group["note"] if n)),
    }


def _one(rows: pd.DataFrame, split: str) -> float:
    values = rows.loc[rows["split"] == split, "value"].dropna()
    return float(values.mean()) if len(values) else math.nan


def _standing(rows: pd.DataFrame | None, floors: set[str]) -> dict[str, Any]:
    nothing = {"above_floor": math.nan, "above_low": math.nan, "above_high": math.nan, "best_floor": ""}
    if rows is None:
        return nothing
    low, high = (_one(rows, end) for end in ENDS)
    told = next((n.removeprefix(_BEST) for n in rows["note"] if n.startswith(_BEST)), "")
    # More may follow the name in the note, and one floor's name may be the beginning of another's.
    named = max((f for f in floors if told.startswith(f)), key=len, default=told)
    ends = {"above_low": low, "above_high": high} if not math.isnan(low + high) else {}
    return nothing | {"above_floor": _one(rows, "all"), "best_floor": named} | ends


def _verdict(row: dict[str, Any]) -> str:
    if math.isnan(row["mean"]):
        return FAILED
    if row["kind"] in (FLOOR_KIND, CEILING_KIND):
        return str(row["kind"])
    if math.isnan(row["above_low"]):
        return NOT_COMPARED
    return ABOVE if row["above_low"] > 0 else BELOW if row["above_high"] < 0 else NOT_ABOVE


def _order(row: dict[str, Any], best: dict[tuple[str, ...], float]) -> tuple[Any, ...]:
    def down(value: float) -> float:
        return math.inf if math.isnan(value) else -value

    own = base_of(row["embedding"])
    base = best.get((row["run"], row["task"], row["protocol"], own, row["metric"]), row["mean"])
    kind = KINDS.index(EMBEDDING_KIND if row["kind"] == LEAK_KIND else row["kind"])
    task = TASKS.index(row["task"]) if row["task"] in TASKS else len(TASKS)
    return (
        *(row["run"] != SHARED, row["run"] == ALL_GENES, row["run"], task, row["task"]),
        *(not row["protocol"].startswith(PROTOCOLS[0]), not row["protocol"].endswith("/logistic")),
        *(row["protocol"], row["metric"]),
        *(kind, down(base), own, row["kind"] == LEAK_KIND, row["embedding"]),
    )


def parts(summary: pd.DataFrame, names: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Return the summary in parts of equal values in the columns `names`, in the order of their first rows."""
    grouped = summary.groupby(list(names), sort=False)
    return [(key if isinstance(key, tuple) else (key,), group) for key, group in grouped]
