"""`bftembed run`, `demo`, `report`, `bench …` and `eval …`: all that ends in tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, columns, command, group, scores_of, text_of
from bftembed.errors import BftembedError
from bftembed.progress import duration
from bftembed.tasks.base import TASKS

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    import pandas as pd


def _run_config(
    config: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    out: str | os.PathLike[str] | None = None,
    n_genes: int | None = None,
    bar: Any = None,
) -> Any:
    """Run a config: the whole job from cells to report, a tuning, or one command. Resumes where it was stopped.

    Parameters
    ----------
    config
        YAML file; see bftembed config init.
    dry_run
        List the steps with counts, tokens, cost and time, and what is done already. Nothing is generated or written.
    out
        Folder to write instead of that of the config (recipe run).
    n_genes
        Number of genes to profile instead of that of the config (recipe run).

    Other Parameters
    ----------------
    bar
        Called with the name of a step; gives its progress callback.
    """
    from bftembed.config import GrpoConfig, RunConfig, TuneConfig, load_config
    from bftembed.config.loading import load_verb

    loaded = load_config(config)
    if isinstance(loaded, RunConfig):
        from bftembed.pipeline import plan_pipeline, run_pipeline

        if dry_run:
            return plan_pipeline(loaded, out=out, n_genes=n_genes)
        return run_pipeline(loaded, out=out, n_genes=n_genes, bar=bar)
    if dry_run or out is not None or n_genes is not None:
        raise BftembedError(f"--dry-run, --out and --n-genes are for the recipe 'run'; {config} is another.")
    if isinstance(loaded, TuneConfig):
        from bftembed.tuning.run import tune

        with bar("tuning") as progress:
            return tune(loaded, progress=progress)
    if isinstance(loaded, GrpoConfig):
        from bftembed.tasks.llm.grpo import grpo

        with bar("grpo") as progress:
            return grpo(loaded, progress=progress)
    from bftembed.datasets import data_path

    recipe, verb = loaded["recipe"], load_verb(loaded["recipe"])
    options = {key: value for key, value in loaded.items() if key != "recipe"}
    for key in {"data", "genes"} & options.keys():
        options[key] = data_path(options[key]) if isinstance(options[key], str) else options[key]
    with bar(recipe) as progress:
        return verb(**options, **({"progress": progress} if "progress" in verb.__code__.co_varnames else {}))


def _run_demo(*, out: str | os.PathLike[str] | None = None, n_genes: int | None = None, bar: Any = None) -> Path:
    """Run the main job on packaged models and cells: tuning, profiles, embeddings, clustering, report.

    Parameters
    ----------
    out
        Folder to write. By default runs/demo.
    n_genes
        Number of genes to profile, those with the highest mean expression. By default all.

    Other Parameters
    ----------------
    bar
        Called with the name of a step; gives its progress callback.
    """
    from bftembed.config import templates
    from bftembed.pipeline import run_pipeline

    return run_pipeline(templates()["demo"], out=out, n_genes=n_genes, bar=bar)


def _ran(result: Any, given: dict[str, Any]) -> Shown:
    if isinstance(result, Path):
        return _page(result, given)
    if isinstance(result, list):
        lines = [f"{'done' if s.done else duration(s.seconds):12}{s.name}: {s.detail}" for s in result]
        total = sum(s.seconds or 0 for s in result)
        more = "" if all(s.seconds is not None for s in result) else ", and the steps whose time is unknown"
        steps = [{"step": s.name, "detail": s.detail, "done": s.done, "seconds": s.seconds} for s in result]
        return Shown([*lines, f"time: about {duration(total)}{more}"], steps)
    data = result.to_dict() if hasattr(result, "to_dict") and not hasattr(result, "columns") else str(result)
    return Shown([f"{given['config']}: done"], data)


def _page(page: Path, _: Any) -> Shown:
    from bftembed.tasks.base import read_results

    results = page.parent / "results.parquet"
    shown = text_of(read_results(results))[1]
    lines = [shown, "", f"results: {results}", f"report:  {page}   (open it in a browser)"]
    return Shown(lines, {"report": str(page), "results": str(results)})


def _scored(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    tables, shown = text_of(frame)
    if "figure" in given:
        from bftembed.report.figure import draw_tables

        draw_tables(given["figure"], tables, Path(given["out"]).stem)
    # What a metric does not define on these data is not a failure.
    failed = int((frame["value"].isna() & frame["reason"].isin(["error", "no-vectors", "too-few"])).sum())
    files = [given[name] for name in ("figure", "out") if name in given]
    data = {"out": given["out"], "rows": len(frame), "failed": failed, "scores": scores_of(frame)}
    return Shown([shown, *files], data, FAILED_ITEMS if failed else 0)


def _before(given: dict[str, Any], takes: Collection[str]) -> None:
    """Check the figure before anything is scored, and choose processes for a verb that takes them."""
    if "figure" in given:
        from bftembed.report.figure import figure_suffix

        figure_suffix(given["figure"])
    if "jobs" in takes:
        from bftembed.machine import free_cores

        given["jobs"] = free_cores()


def _tasks(tasks: list[dict[str, Any]], _: Any) -> Shown:
    width = max(len(t["name"]) for t in tasks)
    lines = [f"{t['name']:<{width}}  {t['kind']:<10}  {t['description']}" for t in tasks]
    lines += ["", *(f"{t['name']}: data not at hand; see bftembed data list" for t in tasks if not t["here"])]
    return Shown(lines, {"tasks": tasks})


def _evaluations(found: list[dict[str, str]], _: Any) -> Shown:
    names = ("name", "protocol", "data")
    return Shown(columns([names, *([one[n] for n in names] for one in found)]), {"evaluations": found})


def _evaluated(frame: pd.DataFrame, given: dict[str, Any]) -> Shown:
    from bftembed.tasks.base import overall

    scores = overall(frame)
    # A metric may be undefined of a question that was answered.
    missing = scores[scores["kind"] == "subject"].groupby(["run", "subject"])["n_missing"].min()
    unanswered = 0 if missing.empty else int(missing.max())
    out = f"{given['out']}/results.parquet"
    hints = [f"{unanswered} questions have no answer: bftembed eval show {given['out']} --failed"] if unanswered else []
    code = FAILED_ITEMS if unanswered else 0
    return Shown([text_of(frame)[1], out], {"out": out, "scores": scores_of(frame)}, code, hints)


def _answers(found: list[dict[str, Any]], _: Any) -> Shown:
    lines = []
    for one in found:
        lines += [f"{one['task']}  {one['id']}  {one['subject']}  {one['scores']}", one["prompt"], ""]
        lines += [f"answer: {one['text'] or one['error'] or one['parsed']}", f"right: {one['right']}", ""]
    return Shown(lines, {"records": found})


def _files(found: list[Path], _: Any) -> Shown:
    return Shown([str(path) for path in found], {"files": [str(path) for path in found]})


#: Defaults of the command line that are not those of the verb.
_DEFAULTS = {
    "clustering": {"keys": ""},
    "integration": {"keys": ""},
    "genes": {"tasks": "dosage"},
    "multimodal": {"baselines": "linked,random"},
}
_FIGURE = {"figure": "Figure of the scores to write: .png or .svg."}


def _benchmark(name: str, module: str) -> Any:
    options: dict[str, Any] = {"bar": name, "required": ("out",), "extra": _FIGURE, "before": _before}
    return command(f"{module}:{name}", _scored, defaults=_DEFAULTS.get(name), **options)


run = command("bftembed.cli.runs:_run_config", _ran)()
demo = command("bftembed.cli.runs:_run_demo", _page, positional=0)()
report = command("bftembed.tasks.base:report", lambda page, _: Shown([str(page)], {"out": str(page)}))()
bench = group(
    "bench",
    **{name: _benchmark(name, module) for name, module in TASKS.items()},
    tasks=command("bftembed.tasks.genes.builtin:list_tasks", _tasks),
)
evaluation = group(
    "eval",
    list=command("bftembed.tasks.llm.run:list_evaluations", _evaluations),
    run=command("bftembed.tasks.llm.run:evaluate", _evaluated, bar="eval"),
    score=command("bftembed.tasks.llm.run:score_evaluation", _evaluated),
    prepare=command("bftembed.tasks.llm.vcworld:prepare_questions"),
    show=command("bftembed.tasks.llm.run:show_evaluation", _answers),
    export=command("bftembed.tasks.llm.export:export_evaluation", _files),
)
