"""`bftembed bench …`: a command for each of `bftembed.tasks.base.TASKS`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, group
from bftembed.tasks.base import TASKS

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd

#: Defaults of the command line that are not those of the verb.
_DEFAULTS = {
    "clustering": {"keys": ""},
    "integration": {"keys": ""},
    "genes": {"tasks": "dosage"},
    "multimodal": {"baselines": "linked,random"},
}


def _scored(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.report.terminal import text
    from bftembed.tasks.base import overall, tables_of

    tables = [table for found in tables_of(frame).values() for table in found]
    if "figure" in given:
        from bftembed.report.figure import draw_tables

        draw_tables(given["figure"], tables, Path(given["out"]).stem)
    # What a metric does not define on these data is not a failure.
    failed = int((frame["value"].isna() & frame["reason"].isin(["error", "no-vectors", "too-few"])).sum())
    scores = overall(frame)
    rows = scores.astype(object).where(scores.notna(), None).to_dict("records")
    files = [given[name] for name in ("figure", "out") if name in given]
    data = {"out": given["out"], "rows": len(frame), "failed": failed, "scores": rows}
    return Shown([text(tables), *files], data, FAILED_ITEMS if failed else 0)


def _before(given: dict[str, Any], takes: Collection[str]) -> None:
    """Check the figure before anything is scored, and choose processes and caches for a verb that takes them."""
    from bftembed.llm.models import cache_folder
    from bftembed.machine import free_cores
    from bftembed.report.figure import figure_suffix

    if "figure" in given:
        figure_suffix(given["figure"])
    if "jobs" in takes:
        given["jobs"] = free_cores()
    if "cache" in takes:
        given["cache"] = cache_folder() / ("gene-scores" if "jobs" in takes else "jax")


def _tasks(tasks: list[dict[str, Any]], _: Any) -> Shown:
    width = max(len(t["name"]) for t in tasks)
    lines = [f"{t['name']:<{width}}  {t['kind']:<10}  {t['description']}" for t in tasks]
    lines += ["", *(f"{t['name']}: data not at hand; see bftembed data list" for t in tasks if not t["here"])]
    return Shown(lines, {"tasks": tasks})


app = group(
    "bench",
    **{
        name: command(
            f"{module}:{name}",
            _scored,
            bar=name,
            required=("out",),
            defaults=_DEFAULTS.get(name),
            extra={"figure": "Figure of the scores to write: .png or .svg."},
            before=_before,
        )
        for name, module in TASKS.items()
    },
    tasks=command("bftembed.tasks.genes.builtin:list_tasks", _tasks),
)
