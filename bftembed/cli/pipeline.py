"""`bftembed run`, `bftembed demo` and `bftembed report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import Shown, command
from bftembed.errors import BftembedError
from bftembed.progress import duration

if TYPE_CHECKING:
    import os


def run_config(
    config: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    out: str | os.PathLike[str] | None = None,
    n_genes: int | None = None,
    bar: Any = None,
) -> Any:
    """Run a config: the whole job from cells to report, a tuning, or a single command. Resumes where it was stopped.

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
    from bftembed.config import RunConfig, TuneConfig, load_config

    loaded = load_config(config)
    if isinstance(loaded, RunConfig):
        from bftembed.pipeline import plan_pipeline, run_pipeline

        if dry_run:
            return plan_pipeline(loaded, out=out, n_genes=n_genes)
        return run_pipeline(loaded, out=out, n_genes=n_genes, bar=bar)
    if dry_run or out is not None or n_genes is not None:
        raise BftembedError(f"--dry-run, --out and --n-genes are for the recipe 'run'; {config} is another.")
    if isinstance(loaded, TuneConfig):
        from bftembed.tuning.stage import tune

        with bar("tuning") as progress:
            return tune(loaded, progress=progress)
    from bftembed.config.loading import load_verb
    from bftembed.datasets import data_path

    recipe, verb = loaded["recipe"], load_verb(loaded["recipe"])
    options = {key: value for key, value in loaded.items() if key != "recipe"}
    for key in {"data", "genes"} & options.keys():
        options[key] = data_path(options[key]) if isinstance(options[key], str) else options[key]
    with bar(recipe) as progress:
        return verb(**options, **({"progress": progress} if "progress" in verb.__code__.co_varnames else {}))


def run_demo(*, out: str | os.PathLike[str] | None = None, n_genes: int | None = None, bar: Any = None) -> Path:
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
    if isinstance(result, list):
        lines = [f"{'done' if s.done else duration(s.seconds):12}{s.name}: {s.detail}" for s in result]
        total = sum(s.seconds or 0 for s in result)
        more = "" if all(s.seconds is not None for s in result) else ", and the steps whose time is unknown"
        lines.append(f"time: about {duration(total)}{more}")
        return Shown(
            lines, [{"step": s.name, "detail": s.detail, "done": s.done, "seconds": s.seconds} for s in result]
        )
    if not isinstance(result, Path):
        to_dict = getattr(result, "to_dict", None)
        data = to_dict() if callable(to_dict) and not hasattr(result, "columns") else str(result)
        return Shown([f"{given['config']}: done"], data)
    return _page(result, given)


def _page(page: Path, _: Any) -> Shown:
    from bftembed.report.terminal import text
    from bftembed.tasks.base import read_results, tables_of

    results = page.parent / "results.parquet"
    tables = [table for found in tables_of(read_results(results)).values() for table in found]
    lines = [text(tables), "", f"results: {results}", f"report:  {page}   (open it in a browser)"]
    return Shown(lines, {"report": str(page), "results": str(results)})


run = command("bftembed.cli.pipeline:run_config", _ran)
demo = command("bftembed.cli.pipeline:run_demo", _page, positional=0)
report = command("bftembed.tasks.base:report", lambda page, _: Shown([str(page)], {"out": str(page)}))
