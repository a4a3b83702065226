"""Lists of names from wherever people keep them: text, CSV, TSV, a h5ad, or typed."""

from __future__ import annotations

import csv
import io
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.entities.var_names import read_var_names
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NameList", "read_names", "read_var_names"]

#: A list of every human transcript has 10 MB; more than this is an expression matrix or a bomb.
_MOST_BYTES = 256 * 2**20
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_OTHER_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or zip archive: save the sheet as CSV",
    b"PAR1": "a Parquet file: write the column as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    _HDF5: "a compressed h5ad: unpack it with gunzip first",
}
_FILE_SUFFIX = re.compile(
    r"\.(txt|text|list|lst|csv|tsv|tab|h5ad|h5|hdf5|gz|zip|bz2|xz|parquet|xlsx?|json|ya?ml|gmt|zarr|pkl)", re.IGNORECASE
)
_HEADER = re.compile(
    r"genes?|((gene|hgnc|approved)_)?symbols?|(external_)?gene_?names?|gene_short_name|features?|feature_names?"
    r"|ensembl(_gene)?|ensg|entrez(_?gene)?|uniprot|(gene|hgnc|ensembl(_gene)?|entrez(_?gene)?|ncbi_gene|uniprot)_?ids?"
    r"|accessions?|proteins?|protein_(names?|ids?)|antibod(y|ies)|adt"
)
#: Words that head a single column, but beside others may mean anything.
_LONE_HEADER = re.compile(rf"{_HEADER.pattern}|names?|ids?|x|markers?|targets?")


@dataclass(frozen=True)
class NameList:
    """Names in the order of their first occurrence.

    Attributes
    ----------
    names
        Without duplicates and without surrounding spaces.
    n_read
        Names read, duplicates counted: ``len(names) + sum(duplicates.values())``.
    duplicates
        Name → how many further times it was read (and dropped).
    blank
        Empty lines or cells, dropped.
    source
        The file, or ``"list"``.
    column
        The column that was read, ``""`` where there are no columns.
    """

    names: tuple[str, ...]
    n_read: int
    duplicates: dict[str, int]
    blank: int
    source: str
    column: str = ""


def read_names(source: str | os.PathLike[str] | Iterable[object], *, column: str | None = None) -> NameList:
    """Read names of genes or proteins.

    Parameters
    ----------
    source
        One of: a path to text (one name per line; lines that start with ``#`` are comments), to CSV or TSV, to
        any of these in gzip, or to a h5ad (its var names); names as a list; names as one string, separated by
        commas (``"TP53,EGFR"``), where no file is called so and nothing about it looks like a file.
    column
        Column of the table or of the h5ad's var. A table of one column, or with one well-known column (``gene``,
        ``symbol``, ``ensembl_id`` …), needs none.

    Returns
    -------
    NameList
        At least one name.

    Raises
    ------
    BftembedError
        For a file that is missing, empty, binary, not UTF-8 or no well-formed table, for a column that is
        unknown or has to be chosen, and for a list without names.
    """
    if isinstance(source, os.PathLike):
        return _read_file(Path(source), column)
    if isinstance(source, str):
        if source.strip() and _is_file(source):
            return _read_file(Path(source), column)
        source = source.split(",")
    if column is not None:
        raise BftembedError(f"A column ({column!r}) can be chosen in a table or a h5ad only, not in a list of names.")
    return _name_list([_as_text(item) for item in source], "list")


def _as_text(item: object) -> str:
    is_gap = item is None or (isinstance(item, float) and item != item)
    return "" if is_gap else str(item)


def _is_file(text: str) -> bool:
    try:
        if Path(text).exists():
            return True
    except OSError:  # longer than a path can be
        pass
    return "/" in text or "\\" in text or _FILE_SUFFIX.fullmatch(Path(text).suffix) is not None


def _read_file(path: Path, column: str | None) -> NameList:
    try:
        with path.open("rb") as file:
            data = file.read(len(_HDF5))
            is_h5ad = path.suffix.lower() == ".h5ad" or data == _HDF5
            if not is_h5ad:
                data += file.read(_MOST_BYTES)
    except FileNotFoundError as err:
        raise BftembedError(f"No such file: {path}. Check the path, or give names separated by commas.") from err
    except IsADirectoryError as err:
        raise BftembedError(f"{path} is a folder, not a list of names. Name a file in it.") from err
    except (OSError, ValueError) as err:
        raise BftembedError(f"{str(path)!r} cannot be read: {getattr(err, 'strerror', None) or err}.") from err
    if is_h5ad:
        return _name_list(read_var_names(path, column), str(path), column or "")
    text = _decode(_unpack(data, path), path)
    if not text.strip():
        raise BftembedError(f"{path} is empty: a list needs at least one name.")
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    delimiter = _delimiter(suffix.lower(), text, column)
    return _from_table(text, delimiter, path, column) if delimiter else _from_lines(text, path, column)


def _unpack(data: bytes, path: Path) -> bytes:
    if data.startswith(_GZIP):
        unpacked = bytearray()
        try:
            while data and len(unpacked) <= _MOST_BYTES:
                member = zlib.decompressobj(wbits=31)
                unpacked += member.decompress(data, _MOST_BYTES + 1 - len(unpacked))
                if not member.eof and len(unpacked) <= _MOST_BYTES:
                    raise BftembedError(f"{path} is truncated: its gzip stream does not end. Copy it again.")
                data = member.unused_data
        except zlib.error as err:
            raise BftembedError(f"{path} is a damaged gzip file ({err}). Copy it again.") from err
        data = bytes(unpacked)
    if len(data) > _MOST_BYTES:
        raise BftembedError(f"{path} holds more than {_MOST_BYTES:,} bytes: no list of names. Cut out the column.")
    for magic, what in _OTHER_FORMATS.items():
        if data.startswith(magic):
            raise BftembedError(f"{path} is {what}.")
    return data


def _decode(data: bytes, path: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in data:
        raise BftembedError(f"{path} is a binary file (a zero at byte {data.index(0)}), not a list of names.")
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        line, name = data.count(b"\n", 0, err.start) + 1, encoding.removesuffix("-sig").upper()
        raise BftembedError(f"{path} is not {name} at byte {err.start} (line {line}). Save it as UTF-8.") from err


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _delimiter(suffix: str, text: str, column: str | None) -> str:
    first = next((x for x in text.splitlines() if x.strip() and not _is_comment(x)), "")
    if suffix in (".tsv", ".tab") or "\t" in first:
        return "\t"
    if suffix == ".csv":
        return ";" if ";" in first and "," not in first else ","
    known_header = any(_HEADER.fullmatch(_plain(cell)) for cell in first.split(","))
    return "," if "," in first and (known_header or column is not None) else ""


def _from_lines(text: str, path: Path, column: str | None) -> NameList:
    # Not splitlines(), which would break names at characters that are no line ends (form feed, U+2028).
    lines = re.split(r"\r\n|\r|\n", text)
    if lines[-1] == "":
        del lines[-1]
    names = [_unquoted(line.strip()) for line in lines if not _is_comment(line)]
    first = next((i for i, name in enumerate(names) if name), 0)
    header = names[first] if names else ""
    if header and (header == column or (column is None and _LONE_HEADER.fullmatch(_plain(header)))):
        return _name_list(names[:first] + names[first + 1 :], str(path), header)
    if column is not None:
        raise BftembedError(f"{path} holds one name per line and no column {column!r}; leave the column away.")
    return _name_list(names, str(path))


def _from_table(text: str, delimiter: str, path: Path, column: str | None) -> NameList:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in reader if not (row and _is_comment(row[0]))]
    except csv.Error as err:
        raise BftembedError(f"{path}, line {reader.line_num}: {err}. Is a quotation mark left open?") from err
    while rows and not any(cell.strip() for cell in rows[0]):
        del rows[0]
    if not rows:
        return _name_list([], str(path))
    header = [cell.strip() for cell in rows[0]]
    if len(header) == 1 and column is None and not _LONE_HEADER.fullmatch(_plain(header[0])):
        return _name_list([row[0] if row else "" for row in rows], str(path))
    chosen = _choose_column(header, column, path)
    at = header.index(chosen)
    return _name_list([row[at] if len(row) > at else "" for row in rows[1:]], str(path), chosen)


def _choose_column(header: list[str], column: str | None, path: Path) -> str:
    if column is None and len(header) != 1:
        known = [name for name in header if _HEADER.fullmatch(_plain(name))]
        if len(set(known)) != 1:
            why = f"{examples(known)} all could hold the names" if known else "none is called gene or symbol"
            listed = examples(header, 30)
            raise BftembedError(f"{path} has several columns and {why}. Choose one with --column (column=): {listed}.")
        column = known[0]
    chosen = header[0] if column is None else column
    if chosen not in header:
        raise unknown_name("column", chosen, header, where=str(path))
    if header.count(chosen) > 1:
        raise BftembedError(f"{path} has {header.count(chosen)} columns called {chosen!r}. Rename one.")
    return chosen


def _plain(word: str) -> str:
    return re.sub(r"[\s_.-]+", "_", word.strip().lower())


def _unquoted(text: str) -> str:
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text


def _name_list(cells: Iterable[str], source: str, column: str = "") -> NameList:
    stripped = [cell.strip() for cell in cells]
    counts = Counter(name for name in stripped if name)
    blank = len(stripped) - counts.total()
    if not counts:
        of_column = f" in the column {column!r}" if column else ""
        raise BftembedError(f"{source} holds no names{of_column} ({blank} blank). A list needs at least one.")
    duplicates = {name: count - 1 for name, count in counts.items() if count > 1}
    return NameList(tuple(counts), counts.total(), duplicates, blank, source, column)
