"""`bftembed report`: results tables in, one HTML file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS.parquet…", help="Results tables.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    title: Annotated[str | None, typer.Option("--title", help="Title; default that of the run record.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file, which needs nothing else, from results tables and the run.json beside them."""
    from bftembed.reports.html import write_report

    written = write_report(results, out, title=title)
    finish({"out": str(written)}, [str(written)], as_json=as_json)
