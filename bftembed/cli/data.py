"""`bftembed data …`: public files by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar, say

if TYPE_CHECKING:
    from bftembed.datasets import DataFile
    from bftembed.errors import BftembedError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Public files of labels, pairs and texts by name.")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the known files: name, where it lies, licence, what it is. Nothing is downloaded."""
    from bftembed.datasets import FILES, find_files

    found = find_files()
    rows = [_row(entry, found[name]) for name, entry in FILES.items()]
    cells = [("NAME", "WHERE", "LICENCE", "WHAT")]
    for row, entry in zip(rows, FILES.values(), strict=True):
        cells.append(
            (
                entry.name,
                row["path"] or row["status"],
                entry.licence,
                f"{entry.description.partition('. ')[0].rstrip('.')}.",
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[3]]) for line in cells]
    finish({"files": rows}, lines, as_json=as_json)


@app.command("get")
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names that `bftembed data list` shows.")],
    as_json: JsonOption = False,
) -> None:
    """Download files that are not on this machine; the content is checked. Exit code 3 when some of them failed."""
    from bftembed.datasets import FILES, fetch_file
    from bftembed.errors import BftembedError, unknown_name

    for name in names:
        if name not in FILES:
            raise unknown_name("data file", name, FILES)
    rows, lines = [], []
    for name in dict.fromkeys(names):
        result: Path | BftembedError
        try:
            with progress_bar(name) as progress:
                result = fetch_file(name, progress)
        except BftembedError as err:
            if len(set(names)) == 1:
                raise
            say(f"error: {err}")
            result = err
        row = _row(FILES[name], result)
        rows.append(row)
        if row["path"] is not None:
            lines += [str(row["path"]), *(f"  {key}: {row[key]}" for key in ("sha256", "licence", "citation"))]
    finish({"files": rows}, lines, as_json=as_json, failed=any(row["path"] is None for row in rows))


@app.command("path")
def path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `bftembed data list` shows.")],
    as_json: JsonOption = False,
) -> None:
    """Print where a file lies on this machine, and nothing else; an error when it is not there."""
    from bftembed.datasets import FILES, find_file

    found = find_file(name)
    finish(_row(FILES[name], found), [str(found)], as_json=as_json)


def _row(entry: DataFile, found: Path | BftembedError) -> dict[str, Any]:
    from bftembed.datasets import DataNotFoundError, content_sha256

    row: dict[str, Any] = {"name": entry.name, "status": "here", "path": None, "sha256": None, "error": None}
    if isinstance(found, Path):
        row |= {"path": str(found), "sha256": content_sha256(found)}
    else:
        row |= {"status": "not here" if isinstance(found, DataNotFoundError) else "failed", "error": str(found)}
    about = {"url": entry.url, "licence": entry.licence, "citation": entry.citation, "description": entry.description}
    return row | about
