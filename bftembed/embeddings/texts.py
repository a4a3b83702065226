"""Gene vectors out of text: TSV and CSV tables, word2vec, gene2vec; plain or in gzip. One row at a time."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import re
import zlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings.raw import MOST_BYTES, RawVectors
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GZIP = b"\x1f\x8b"
#: A row of a million numbers; a longer line is no row.
_LONGEST_LINE = 32 * 2**20
_COUNTS = re.compile(r"[0-9]+ +[0-9]+ *")
_MISSING = {"", "na", "nan", "n/a", "null", "none", "-", "inf", "-inf", "+inf", "infinity", "-infinity"}
_FIRST_COLUMN = re.compile(r"|index|ids?|names?|genes?([_ .-]?(names?|ids?|symbols?))?|symbols?|unnamed: 0", re.I)


@dataclass
class _Rows:
    """The rows read so far, as packed numbers."""

    file: Path
    dim: int = 0
    ids: list[str] = field(default_factory=list)
    numbers: array[float] = field(default_factory=lambda: array("d"))
    lines: array[int] = field(default_factory=lambda: array("q"))

    def add(self, line: int, cells: list[str], text: str) -> None:
        gene, numbers = cells[0].strip(), cells[1:]
        place = f"{self.file}, line {line}"
        if not gene:
            raise BftembedError(f"{place}: the first column has no gene name. Fill it, or remove the row.")
        self.dim = self.dim or len(numbers)
        if len(numbers) != self.dim:
            where = f"the rows before have {self.dim}" if self.ids else f"{self.dim} were announced"
            raise BftembedError(
                f"{place}: {gene!r} has {len(numbers)} numbers, but {where}. Is the row cut, or a separator missing?"
            )
        try:
            # float() takes 1_000 and the digits of other scripts for numbers.
            odd = text.count("_") != cells[0].count("_") or not text.isascii()
            if odd and not all(map(_is_number, numbers)):
                raise ValueError
            self.numbers.extend(map(float, numbers))
        except ValueError:
            at, cell = next((i, c) for i, c in enumerate(numbers, 2) if not _is_number(c))
            raise BftembedError(
                f"{place}: {gene!r} has {cell[:40]!r} in column {at}, which is no number. Vectors have no gaps and no "
                "text: leave the gene out, or the column."
            ) from None
        if len(self.numbers) * 8 > MOST_BYTES:
            raise BftembedError(f"{place}: more than {MOST_BYTES:,} bytes of numbers, too many for gene vectors.")
        self.ids.append(gene)
        self.lines.append(line)

    def matrix(self) -> np.ndarray:
        return np.frombuffer(self.numbers, dtype=np.float64).reshape(len(self.ids), self.dim)


def read_text(file: Path) -> tuple[str, RawVectors]:
    """Read one gene per line: its name, then its numbers.

    Parameters
    ----------
    file
        UTF-8, or that in gzip. Separated by tabs or commas (a header is found by itself), or by spaces: with word2vec's
        first line ``n d`` or without it. gene2vec's tab after the gene and spaces after it is read too. A gene called
        NA or NaN is a gene. Lines that start with ``#`` before the first row are comments.

    Returns
    -------
    str
        ``"table"`` or ``"word2vec"`` (separated by spaces).
    RawVectors
        float64, as written. Its provenance holds ``header``, the first names of the columns, where there is a header.

    Raises
    ------
    BftembedError
        With line and gene, for a row that is short or long, a cell that is no number, a count that does not fit; for
        text that is not UTF-8, binary content, a gzip file that is cut, and a list of names without numbers.
    """
    lines = _lines(file)
    start = list(itertools.islice(lines, 2))
    if not start:
        raise BftembedError(f"{file} is empty: there are no gene vectors in it.")
    kept = itertools.chain(start, lines)
    separator = _separator(start)
    if separator == " ":
        counts = start[0][1].split() if _COUNTS.fullmatch(start[0][1]) else None
        return "word2vec", _read_spaced(file, kept, counts)
    return "table", _read_table(file, kept, separator)


def _separator(start: list[tuple[int, str]]) -> str:
    if _COUNTS.fullmatch(start[0][1]):
        return " "
    text = start[-1][1]
    if "\t" in text:
        _, _, rest = text.partition("\t")
        return " " if "\t" not in rest and len(rest.split()) > 1 and "," not in rest else "\t"
    return "," if "," in text else " "


def _read_spaced(file: Path, lines: Iterator[tuple[int, str]], counts: list[str] | None) -> RawVectors:
    rows = _Rows(file)
    n, provenance = None, {}
    if counts is not None:
        next(lines)
        if len(counts[0]) > 18 or len(counts[1]) > 18 or not int(counts[1]):
            raise BftembedError(f"{file}, line 1: {' '.join(counts)[:60]!r} is no count of rows and numbers.")
        n, rows.dim = int(counts[0]), int(counts[1])
    for i, (line, text) in enumerate(lines):
        cells = text.split()
        if i == 0 and counts is None and _is_header(cells, None):
            provenance["header"] = cells[:8]
            continue
        if len(cells[0]) > 1 and cells[0][0] == cells[0][-1] == '"':
            cells[0] = cells[0][1:-1]
        _refuse_names_alone(file, line, cells)
        rows.add(line, cells, text)
    if n is not None and len(rows.ids) != n:
        raise BftembedError(
            f"{file}: the first line announces {n} rows, but there are {len(rows.ids)}. Is the file complete?"
        )
    return _result(rows, provenance)


def _read_table(file: Path, lines: Iterator[tuple[int, str]], separator: str) -> RawVectors:
    rows, provenance = _Rows(file), {}
    cells_of = ((line, text, _cells(file, line, text, separator)) for line, text in lines)
    start = list(itertools.islice(cells_of, 2))
    first, second = start[0][2], start[1][2] if len(start) == 2 else None
    if _is_header(first, second):
        provenance["header"] = start.pop(0)[2][:8]
        if second is not None and len(second) not in (len(first), len(first) + 1):
            raise BftembedError(
                f"{file}, line {start[0][0]}: {len(second)} cells under a header of {len(first)}. A missing separator?"
            )
    for line, text, cells in itertools.chain(start, cells_of):
        _refuse_names_alone(file, line, cells)
        rows.add(line, cells, text)
    return _result(rows, provenance)


def _cells(file: Path, line: int, text: str, separator: str) -> list[str]:
    if '"' not in text:
        return text.split(separator)
    try:
        return next(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as err:
        raise BftembedError(f"{file}, line {line}: {err}. Is a quotation mark left open?") from err


def _result(rows: _Rows, provenance: dict[str, Any]) -> RawVectors:
    if not rows.ids:
        raise BftembedError(f"{rows.file} has a header and no rows: there are no genes in it.")
    return RawVectors(rows.ids, rows.matrix(), provenance, rows.lines)


def _refuse_names_alone(file: Path, line: int, cells: list[str]) -> None:
    if len(cells) < 2:
        raise BftembedError(
            f"{file}, line {line}: {cells[0][:40]!r} stands alone, with no numbers after it. A row is a gene and its "
            "numbers, separated by tabs, commas or spaces."
        )


def _is_header(first: list[str], second: list[str] | None) -> bool:
    """Return whether the first row names columns: no cell after the gene's is a number or a gap, or they count up."""
    cells = [cell.strip().strip('"') for cell in first]
    rest = cells[1:]
    if not rest:
        # One column of names, and numbers beneath: a header as R writes it, one cell short.
        return second is not None and len(second) == 2 and not _is_number(cells[0])
    if not any(_is_number(cell) or cell.lower() in _MISSING for cell in rest):
        return True
    counting = any(rest == [str(i) for i in range(start, start + len(rest))] for start in (0, 1))
    return counting and _FIRST_COLUMN.fullmatch(cells[0]) is not None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.isascii()


@contextlib.contextmanager
def _gzip_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as err:
        raise BftembedError(f"{file} is truncated: its gzip stream does not end. Copy it again.") from err
    except (gzip.BadGzipFile, zlib.error) as err:
        raise BftembedError(f"{file} is a damaged gzip file ({err}). Copy it again.") from err


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Give the lines that are not blank, with their numbers from 1, without comments before the first."""
    with file.open("rb") as raw:
        packed = raw.read(2) == GZIP
    read, begun = 0, False
    with _gzip_errors(file), gzip.open(file, "rb") if packed else file.open("rb") as handle:
        for number in itertools.count(1):
            content = handle.readline(_LONGEST_LINE + 1)
            if not content:
                return
            read += len(content)
            if len(content) > _LONGEST_LINE or read > 4 * MOST_BYTES:
                raise BftembedError(f"{file}, line {number}: too long for a row of gene vectors. Refused.")
            text = _decoded(file, number, content)
            if not text.strip() or (not begun and text.lstrip().startswith("#")):
                continue
            begun = True
            yield number, text


def _decoded(file: Path, number: int, content: bytes) -> str:
    if b"\0" in content:
        hint = " word2vec's binary format is not read: save it as text (binary=False)." if number == 2 else ""
        raise BftembedError(f"{file} is binary (a zero byte in line {number}), and no format that is known.{hint}")
    try:
        text = content.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as err:
        raise BftembedError(
            f"{file}, line {number}: not UTF-8 text ({content[:20]!r}). Save it as UTF-8, if it is text at all."
        ) from err
    return text.rstrip("\r\n")
