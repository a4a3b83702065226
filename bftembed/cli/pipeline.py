"""`bftembed demo` and `bftembed report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import Shown, command

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path


def write_page(
    results: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Write results tables, and the run.json beside them, as one HTML file without outside parts.

    Parameters
    ----------
    results
        Results tables (.parquet). Those of gene-level tasks get a page of their own kind.
    out
        HTML file to write.

    Other Parameters
    ----------------
    title
        Title of the page. By default that of the run record.
    """
    from bftembed.reports.genes import is_gene_table, write_gene_report
    from bftembed.reports.html import write_report
    from bftembed.results import read_results

    of_genes = [is_gene_table(read_results(path)) for path in results]
    return (write_gene_report if any(of_genes) else write_report)(results, out, title=title)


def _demo(page: Path, _: Any) -> Shown:
    from bftembed.reports.tables import summarise, text_table
    from bftembed.results import read_results

    results = page.parent / "results.parquet"
    lines = [*text_table(summarise(read_results(results))), "", f"results: {results}"]
    lines.append(f"report:  {page}   (open it in a browser)")
    return Shown(lines, {"report": str(page), "results": str(results)})


demo = command("bftembed.demo.pipeline:run_demo", _demo, positional=0)
report = command(
    "bftembed.cli.pipeline:write_page", lambda page, _: Shown([str(page)], {"out": str(page)}), positional=1
)
