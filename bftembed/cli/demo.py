"""`bftembed demo`: the main job end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar, say


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Folder for everything that is written.")] = None,
    genes: Annotated[int | None, typer.Option("--genes", min=2, help="Only the N most expressed genes.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file; see: bftembed config show demo")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the main job on packaged models and cells: profiles, embeddings, clustering, report."""
    from bftembed.config import DemoConfig, load_config

    base = load_config(config) if config else DemoConfig()
    given = {"out": str(out) if out else None, "genes": genes}
    chosen = base.model_copy(update={name: value for name, value in given.items() if value is not None})
    say("demo: a small language model, a small encoder, 700 cells; all of it runs on this machine.")

    from bftembed.demo.pipeline import run_demo
    from bftembed.reports.tables import summarise, text_table
    from bftembed.results import read_results

    report = run_demo(chosen, bar=progress_bar)
    results = report.parent / "results.parquet"
    summary = summarise(read_results(results))
    lines = [*text_table(summary), "", f"results: {results}", f"report:  {report}   (open it in a browser)"]
    finish({"report": str(report), "results": str(results)}, lines, as_json=as_json)
