"""`bftembed cells merge`: the shards of a run, joined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar

if TYPE_CHECKING:
    from bftembed.cells.merge import MergeReport


def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART.h5ad…", help="Sidecars of all shards, in any order.")],
    out: Annotated[Path, typer.Option("--out", help="Sidecar to write: .h5ad, .zarr or .parquet.")],
    key: Annotated[str | None, typer.Option("--key", help="Key of .obsm, where a part has several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Join the shards of a file (embed --shard i/n) in the order of its cells."""
    from bftembed.cells.merge import merge_shards

    with progress_bar("cells", quiet=as_json) as progress:
        report = merge_shards(list(parts), out, key, progress=progress)
    finish(report.as_dict(), merged_lines(report), as_json=as_json)


def merged_lines(report: MergeReport) -> list[str]:
    """Return what people read of a merge."""
    return [
        f"shards     {report.n_shards} joined",
        f"cells      {report.n_cells} × {report.dim} dimensions",
        f"written    {report.out}: .obsm[{report.key!r}]",
    ]
