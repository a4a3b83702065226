"""`bftembed bench …`: a command per benchmark of `bftembed.tasks.base.TASKS`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, group
from bftembed.tasks.base import TASKS

if TYPE_CHECKING:
    import pandas as pd

#: Parameters that are for Python alone, and defaults of the command line.
_HIDDEN = ("run", "draws", "cache", "jobs", "permuted", "progress")
_HIDDEN_OF = {
    "genes": ("probes", "key"),
    "multimodal": ("seeds", "rna", "adt", "obsm_names", "layer", "use_raw", "gene_column", "normalize"),
    "perturbation": ("pca_dim", "ridge", "top", "layer"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clustering": {"keys": ""},
    "integration": {"keys": ""},
    "genes": {"tasks": "dosage"},
    "multimodal": {"baselines": "linked,random"},
}


def _check(given: dict[str, Any]) -> None:
    """Raise for a figure of another format, or in the place of an input, before anything is scored."""
    if "figure" not in given:
        return
    from bftembed.io import refuse_input_as_output
    from bftembed.report.figure import figure_suffix

    figure_suffix(given["figure"])
    values = [x for key, x in given.items() if key not in ("figure", "out")]
    flat = [y for x in values for y in (x.values() if isinstance(x, dict) else x if isinstance(x, list) else [x])]
    refuse_input_as_output(given["figure"], *(x.rpartition("=")[2] for x in flat if isinstance(x, str)))


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


def _before(name: str) -> Any:
    def before(given: dict[str, Any]) -> None:
        from bftembed.llm.models import cache_folder
        from bftembed.machine import free_cores

        _check(given)
        if name == "genes":
            given.update(jobs=free_cores(), cache=cache_folder() / "gene-scores")
        elif name in ("integration", "multimodal"):
            given["cache"] = cache_folder() / "jax"

    return before


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
            hide=(*_HIDDEN, *_HIDDEN_OF.get(name, ())),
            defaults=_DEFAULTS.get(name),
            extra={"figure": "Figure of the scores to write: .png or .svg."},
            before=_before(name),
        )
        for name, module in TASKS.items()
    },
    tasks=command("bftembed.tasks.genes.builtin:list_tasks", _tasks),
)
