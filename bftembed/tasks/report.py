"""The report of results of any mix of tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.io import refuse_input_as_output
from bftembed.report.manifest import FILE_NAME, Manifest
from bftembed.tasks.base import read_results, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterable


def report(
    results: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> Path:
    """Write the tables of one or several results files, in the format of the suffix of `out`.

    Parameters
    ----------
    results
        Results tables (Parquet) of any tasks. The ``run.json`` in the folder of one adds to an HTML page what ran,
        coverage, profiles, maps, settings and versions.
    out
        File to write: ``.html`` (one page that needs nothing else), ``.png`` or ``.svg`` (dots with intervals),
        ``.csv``, ``.tex`` or ``.md``.
    title
        Title of the page or figure; default that of the run.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    BftembedError
        For an unknown suffix, results that cannot be read, or rows that contradict each other.
    """
    from bftembed.errors import unknown_name

    paths = [Path(results)] if isinstance(results, (str, os.PathLike)) else [Path(p) for p in results]
    file, suffix = Path(out), Path(out).suffix.lower()
    formats = (".html", ".png", ".svg", ".csv", ".tex", ".md")
    if suffix not in formats:
        raise unknown_name("suffix", suffix, formats, where=str(file))
    folders = dict.fromkeys(p.parent for p in paths)
    refuse_input_as_output(file, *paths, *(f / FILE_NAME for f in folders))
    sections = tables_of(read_results(paths))
    if suffix == ".html":
        from bftembed.report.html import write_page

        manifests = {f: Manifest.load(f) for f in folders if (f / FILE_NAME).is_file()}
        return write_page(file, sections, title=title or "", manifests=manifests, sources=[p.name for p in paths])
    tables = [table for found in sections.values() for table in found]
    if suffix in (".png", ".svg"):
        from bftembed.report.figure import draw_tables

        draw_tables(file, tables, title or "")
    else:
        from bftembed.report.table import write_tables

        write_tables(tables, file)
    return file
