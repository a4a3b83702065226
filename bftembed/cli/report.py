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
    """Write one HTML file, which needs nothing else, from results tables and the run.json beside them.

    Results of gene-level tasks get a page of their own kind; they are not mixed with others.
    """
    from bftembed.reports.genes import is_gene_table, write_gene_report
    from bftembed.reports.html import write_report
    from bftembed.results import read_results

    of_genes = [is_gene_table(read_results(path)) for path in results]
    written = (write_gene_report if any(of_genes) else write_report)(results, out, title=title)
    finish({"out": str(written)}, [str(written)], as_json=as_json)
