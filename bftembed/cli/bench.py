"""`bftembed bench …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, group

if TYPE_CHECKING:
    import pandas as pd


def _check(given: dict[str, Any]) -> None:
    """Refuse a figure of another format, or in the place of an input, before anything is scored."""
    from pathlib import Path

    from bftembed.io import refuse_input_as_output
    from bftembed.reports.drawing import figure_suffix

    for name in ("figure", "dots"):
        if name in given:
            figure_suffix(Path(given[name]))
            inputs = [x for key, x in given.items() if key not in ("figure", "dots", "out")]
            flat = [
                y for x in inputs for y in (x.values() if isinstance(x, dict) else x if isinstance(x, list) else [x])
            ]
            refuse_input_as_output(given[name], *(x.rpartition("=")[2] for x in flat if isinstance(x, str)))


def _before_genes(given: dict[str, Any]) -> None:
    from bftembed.machine import free_cores
    from bftembed.models import cache_folder

    _check(given)
    given.update(jobs=free_cores(), cache=cache_folder() / "gene-scores")


def _before_scib(given: dict[str, Any]) -> None:
    from bftembed.models import cache_folder

    _check(given)
    given["cache"] = cache_folder() / "jax"


def _shown(frame: pd.DataFrame, summary: pd.DataFrame, lines: list[str], given: dict[str, Any], failed: int) -> Shown:
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    data = {"out": given["out"], "rows": len(frame), "failed": failed, "summary": rows}
    files = [given[name] for name in ("figure", "dots", "out") if name in given]
    return Shown([*lines, *files], data, FAILED_ITEMS if failed else 0)


def _clustering(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.reports.cell_scores import draw_cell_scores
    from bftembed.reports.clustering import clustering_lines
    from bftembed.reports.tables import summarise

    summary = summarise(frame)
    lines: list[str] = []
    for protocol in given.get("protocol", "strict").split(","):
        lines += [*([""] if lines else []), *clustering_lines(summary, protocol.strip())]
    if "figure" in given:
        draw_cell_scores(given["figure"], frame)
    return _shown(frame, summary, lines, given, int(frame["value"].isna().sum()))


def _genes(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.reports.genes import draw_gene_scores, gene_summary, text_lines

    summary = gene_summary(frame)
    if "figure" in given:
        draw_gene_scores(given["figure"], summary)
    return _shown(frame, summary, text_lines(summary), given, int(frame["value"].isna().sum()))


def _integration(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.reports.cell_scores import draw_cell_scores
    from bftembed.reports.integration import integration_summary, text_lines
    from bftembed.reports.integration_figure import draw_integration

    summary = integration_summary(frame)
    if "figure" in given:
        draw_integration(given["figure"], summary)
    if "dots" in given:
        draw_cell_scores(given["dots"], frame)
    return _shown(frame, summary, text_lines(summary), given, int(frame["value"].isna().sum()))


def _multimodal(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.reports.integration import integration_summary, text_lines
    from bftembed.reports.integration_figure import draw_integration
    from bftembed.reports.matching import matching_lines, matching_summary, with_matching

    summary, matched = integration_summary(frame), matching_summary(frame)
    if "figure" in given:
        draw_integration(given["figure"], summary)
    lines = [*text_lines(summary), "", *matching_lines(matched)]
    return _shown(frame, with_matching(summary, matched), lines, given, int(frame["value"].isna().sum()))


def _perturbation(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.reports.perturbation import draw_perturbation, perturbation_summary, text_lines

    summary = perturbation_summary(frame)
    if "figure" in given:
        draw_perturbation(given["figure"], summary)
    # What is undefined by its nature (the correlation of a constant) is no failure.
    failed = int((frame["value"].isna() & frame["note"].str.contains("error: ", regex=False)).sum())
    return _shown(frame, summary, text_lines(summary), given, failed)


def _tasks(tasks: list[dict[str, Any]], _: Any) -> Shown:
    width = max(len(t["name"]) for t in tasks)
    lines = [f"{t['name']:<{width}}  {t['kind']:<10}  {t['description']}" for t in tasks]
    lines += ["", *(f"{t['name']}: data not at hand; see bftembed data list" for t in tasks if not t["here"])]
    return Shown(lines, {"tasks": tasks})


def _bench(present: Any, name: str, hide: str = "", before: Any = _check, **more: Any) -> Any:
    """Make the command of a benchmark; what these have in common is for Python alone until its signature says so."""
    hidden = ("run", "draws", "cache", "jobs", "floors", *hide.split())
    extra = {"figure": "Figure of the scores to write: .png or .svg."} | more.pop("extra", {})
    verb, common = f"bftembed.bench.{name}:{name}", {"bar": name, "required": ("out",), "before": before}
    return command(verb, present, hide=hidden, extra=extra, **common, **more)


app = group(
    "bench",
    clustering=_bench(_clustering, "clustering", "encoder seeds layer", defaults={"keys": ""}),
    genes=_bench(_genes, "genes", "probes key", _before_genes, defaults={"tasks": "dosage"}),
    integration=_bench(
        _integration,
        "integration",
        "encoder seeds",
        _before_scib,
        defaults={"keys": ""},
        extra={"dots": "Figure of each metric as dots with intervals to write: .png or .svg."},
    ),
    multimodal=_bench(
        _multimodal,
        "multimodal",
        "seeds weights rna adt obsm_names layer use_raw gene_column normalize protein_normalize",
        _before_scib,
        defaults={"baselines": "linked,random"},
    ),
    perturbation=_bench(_perturbation, "perturbation", "pca_dim ridge top layer use_raw gene_column"),
    tasks=command("bftembed.tasks.genes.builtin:list_tasks", _tasks),
)
