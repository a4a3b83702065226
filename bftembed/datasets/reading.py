"""Reading small public files strictly: plain or gzipped UTF-8 text, its lines, its tables. Cells stay strings."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

#: More than any file here has; a small gzip file that unpacks to more is a bomb.
_MOST_BYTES = 2**30
_AGAIN = "Copy or download the file again, or give the right one."
#: What a damaged gzip file raises, early or late.
DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def open_content(path: Path) -> BinaryIO:
    """Open the uncompressed content of a file: what is in it, or in the gzip file of a ``.gz``."""
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a whole text file, plain or ``.gz``; a byte-order mark is dropped.

    Raises
    ------
    BftembedError
        For a file that is missing, unreadable, empty, binary, not UTF-8, a damaged gzip, or over 1 GiB.
    """
    file = Path(path)
    try:
        with open_content(file) as handle:
            data = handle.read(_MOST_BYTES + 1)
    except FileNotFoundError as err:
        raise BftembedError(f"No such data file: {file}. Check the path.") from err
    except DAMAGED_GZIP as err:
        raise BftembedError(f"{file} is a damaged gzip file ({err}). {_AGAIN}") from err
    except OSError as err:
        raise BftembedError(f"{file} cannot be read: {err.strerror or err}.") from err
    if len(data) > _MOST_BYTES:
        raise BftembedError(
            f"{file} holds more than {_MOST_BYTES:,} bytes unpacked; no file of its kind does. {_AGAIN}"
        )
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise BftembedError(f"{file}, line {line}: a zero byte; this is a binary file, not a text. {_AGAIN}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise BftembedError(
            f"{file}, line {line}: not UTF-8; the file is binary or in another encoding. {_AGAIN}"
        ) from err
    if not text.strip():
        raise BftembedError(f"{file} is empty. {_AGAIN}")
    return text


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Give number (from 1) and text of every line that is not blank, without the white space at its ends."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str], *, tabs: bool = False, ragged: bool = False
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Give the line (from 1) and the cells of `columns`, stripped, of every row below the header.

    Parameters
    ----------
    path
        CSV, or TSV without quoting; plain or ``.gz``.
    columns
        Names of the header. ``""`` stands for the first column, whatever it is called.
    tabs
        Whether it is a TSV.
    ragged
        Whether a row may be shorter than the header; what is missing is empty.

    Raises
    ------
    BftembedError
        As `read_text`, and for a column that is missing or there twice, a row of another width than the header's,
        broken quoting, and a table without rows.
    """
    file = Path(path)
    lines = io.StringIO(read_text(file), newline="")
    if tabs:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, strict=True)
    line, rows = 1, 0
    try:
        header = [cell.strip() for cell in next(reader)]
        places = [0 if column == "" else _place(header, column, file) for column in columns]
        line = reader.line_num + 1
        for row in reader:
            here, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header) or (len(row) < len(header) and not ragged):
                raise BftembedError(
                    f"{file}, line {here}: {len(row)} cells, but the header has {len(header)}. The file is damaged or "
                    f"cut off. {_AGAIN}"
                )
            rows += 1
            yield here, tuple(row[place].strip() if place < len(row) else "" for place in places)
    except csv.Error as err:
        raise BftembedError(f"{file}, line {line}: not a table ({err}). {_AGAIN}") from err
    if not rows:
        raise BftembedError(f"{file} has a header and no rows. {_AGAIN}")


def _place(header: list[str], column: str, file: Path) -> int:
    if header.count(column) == 1:
        return header.index(column)
    problem = "no column" if column not in header else "more than one column"
    raise BftembedError(f"{file}, line 1: {problem} {column!r}; it has {examples(header, 9)}. {_AGAIN}")


def refuse(path: str | os.PathLike[str], line: int, problem: str) -> BftembedError:
    """Build the error for one line of a file, with what to do."""
    return BftembedError(f"{Path(path)}, line {line}: {problem} {_AGAIN}")


def flag(path: str | os.PathLike[str], line: int, value: str) -> bool:
    """Return a cell that must be ``0`` or ``1``."""
    if value not in ("0", "1"):
        raise refuse(path, line, f"the label {value[:40]!r} is neither 0 nor 1.")
    return value == "1"
