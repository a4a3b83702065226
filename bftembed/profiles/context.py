"""Free text about entities that a prompt passes on, from a table of two columns."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    import os


def read_context(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read name → text from a table without a header: tab-separated, or CSV by its suffix.

    Raises
    ------
    BftembedError
        For a file that is missing or not UTF-8, a row without two columns, or a name with two texts; names the line.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise BftembedError(f"{file} cannot be read as a table of contexts ({err}). Give UTF-8 text.") from err
    found: dict[str, str] = {}
    rows = csv.reader(text.splitlines(), delimiter="," if file.suffix.lower() == ".csv" else "\t")
    for number, row in enumerate(rows, 1):
        if not row or not any(cell.strip() for cell in row):
            continue
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise BftembedError(f"{file}, line {number}: expected a name and a text, found {len(row)} columns.")
        name, context = " ".join(row[0].split()), row[1].strip()
        if found.setdefault(name, context) != context:
            raise BftembedError(f"{file}, line {number}: {name!r} has another context already.")
    return found
