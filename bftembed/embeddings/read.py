"""Gene vectors that others made, for benchmarks: one reader for the formats they come in."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings.table import GeneEmbeddings
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import sha256_file

if TYPE_CHECKING:
    import os

    import h5py

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"(d.", b"}q\x00", b"}r", b"}.")
_FORMATS = {".safetensors": "bftembed", ".h5ad": "anndata", ".npz": "npz"}
_FORMATS |= dict.fromkeys((".pkl", ".pickle", ".p"), "pickle")
_IDS, _MATRICES = ("ids", "genes", "symbols"), ("matrix", "vectors", "embeddings")
_COUNTS = re.compile(r"\d+ +\d+ *")
_MISSING = {"", "na", "nan", "n/a", "null", "none", "-", "inf", "-inf", "+inf", "infinity", "-infinity"}
_FIRST_COLUMN = re.compile(r"|index|ids?|names?|genes?([_ .-]?(names?|ids?|symbols?))?|symbols?|unnamed: 0", re.I)
#: What a file may unpack to: so many bytes in any case, or so many times its own size.
_FREE_BYTES, _MAX_RATIO = 256 * 2**20, 20
_MAX_LINE = 32 * 2**20

_Read = tuple[list[str], np.ndarray, dict[str, Any]]  # ids, matrix, provenance


def read_vectors(path: str | os.PathLike[str], *, allow_pickle: bool = False, key: str | None = None) -> GeneEmbeddings:
    """Read gene vectors, whatever of the known formats they are in; the content decides, then the suffix.

    Parameters
    ----------
    path
        One of:

        - ``.safetensors`` as `GeneEmbeddings.save` writes it;
        - a table of text (TSV, CSV; a gene and its numbers per row, with or without header; plain or in gzip);
        - word2vec's or gene2vec's text (separated by spaces);
        - ``.npz`` with the arrays ``ids``, ``genes`` or ``symbols`` (the first of these counts) and ``matrix``,
          ``vectors`` or ``embeddings``;
        - a h5ad whose obs names are the genes and whose ``X`` holds the vectors;
        - a pickled dict of gene → list of numbers or flat NumPy array, as GenePT's.
    allow_pickle
        Read pickles, by Python's restricted unpickler: numbers, lists and arrays in one dict, and nothing that runs.
    key
        Of npz the array of vectors. Of h5ad the entry of ``.obsm``; or of ``.varm``, and the var names are the genes.

    Returns
    -------
    GeneEmbeddings
        As published: genes spelt and ordered as in the file, zero rows kept (not all may be zero), float32 or float64
        as stored (float16 and integers become float32, decimal text and lists of Python numbers float64). But for our
        own files, ``provenance`` holds ``file`` (its name), ``sha256``, ``format`` (``pickle``, ``table``,
        ``word2vec``, ``anndata`` or ``npz``), ``duplicates`` (repeats of a gene and its vector, left out), and
        ``header``, ``arrays`` or ``matrix`` where the format has such.

    Raises
    ------
    BftembedError
        When the file is missing, damaged, of an unknown format, or a pickle that was not allowed; when a gene occurs
        twice with different vectors, a value is no finite number, rows differ in length, or all vectors are zero.
    """
    file = Path(path)
    if not file.is_file():
        raise BftembedError(f"No such file: {str(file)!r}. Check the path.")
    try:
        with file.open("rb") as handle:
            kind = _format(file, handle.read(16))
        if kind == "bftembed":
            return GeneEmbeddings.load(file)
        if key is not None and kind not in ("anndata", "npz"):
            raise BftembedError(f"{file} holds one matrix; a key ({key!r}) chooses in h5ad and npz only.")
        if kind == "npz":
            ids, matrix, found = _read_npz(file, key)
        elif kind == "anndata":
            ids, matrix, found = _read_anndata(file, key)
        elif kind == "pickle":
            if not allow_pickle:
                raise BftembedError(
                    f"{file} is a pickle, which can run any code. --allow-pickle (allow_pickle) reads a dict of "
                    f"gene → numbers out of it and runs nothing."
                )
            from bftembed.embeddings.pickled import pickled_vectors

            ids, matrix, found = *pickled_vectors(file), {}
        else:
            ids, matrix, found = _read_text(file)
        kept = _without_repeats(file, ids, matrix)
    except BftembedError:
        raise
    except Exception as err:  # whatever the readers of a damaged file raise
        raise BftembedError(f"{file} cannot be read as gene vectors ({type(err).__name__}: {err}).") from err
    provenance = {"file": file.name, "sha256": sha256_file(file), "format": kind, "duplicates": len(ids) - len(kept)}
    ids, matrix = ([ids[row] for row in kept], matrix[kept]) if len(kept) < len(ids) else (ids, matrix)
    try:
        return GeneEmbeddings(ids, matrix, provenance | found, as_published=True)
    except BftembedError as err:
        raise BftembedError(f"{file}: {err}") from err


def _format(file: Path, start: bytes) -> str:
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "anndata"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if start.startswith(_PICKLES):
        return "pickle"
    if start[8:9] == b"{" and start[6:8] == b"\0\0":
        return "bftembed"
    return _FORMATS.get(file.suffix.lower(), "text")


def _without_repeats(file: Path, ids: list[str], matrix: np.ndarray) -> list[int]:
    """Return the rows to keep: of a gene that occurs twice with the same vector the first."""
    first: dict[str, int] = {}
    for row, gene in enumerate(ids):
        before = first.setdefault(gene, row)
        if before != row and not np.array_equal(matrix[before], matrix[row]):
            raise BftembedError(f"{file}: {gene!r} has two different vectors (rows {before} and {row}). Keep one.")
    return list(first.values())


def _read_npz(file: Path, key: str | None) -> _Read:
    with zipfile.ZipFile(file) as archive:
        # The zip module reads no more of a member than this.
        _check_size(file, sum(member.file_size for member in archive.infolist()))
    with np.load(file, allow_pickle=False) as arrays:
        if key is not None and key not in arrays.files:
            raise unknown_name("array", key, arrays.files, where=str(file))
        vectors = [name for name in arrays.files if name == key or (key is None and name in _MATRICES)]
        names = [name for name in _IDS if name in arrays.files and name != key]
        if len(vectors) != 1 or not names:
            raise BftembedError(
                f"{file}: expected one array of vectors ({', '.join(_MATRICES)}; choose with key=) and one of names "
                f"({', '.join(_IDS)}), found {examples(arrays.files) or 'none'}."
            )
        matrix, ids = arrays[vectors[0]], arrays[names[0]]
    if ids.dtype.kind not in "US" or ids.ndim != 1:
        raise BftembedError(f"{file}: {names[0]} has the type {ids.dtype}; names of genes are a list of text.")
    return (
        [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in ids.tolist()],
        matrix,
        {"arrays": [names[0], vectors[0]]},
    )


def _check_size(file: Path, n_bytes: int) -> None:
    """Reject what unpacks to far more than its file, before memory is asked for."""
    if n_bytes > max(_FREE_BYTES, _MAX_RATIO * file.stat().st_size):
        raise BftembedError(f"{file} of {file.stat().st_size:,} bytes claims {n_bytes:,} bytes of vectors: not read.")


def _read_anndata(file: Path, key: str | None) -> _Read:
    from anndata.io import read_elem

    from bftembed.entities.var_names import names_in, read_table
    from bftembed.hdf5 import check_declared_size, open_h5ad

    with open_h5ad(file) as handle:
        place = _place(file, handle, key)
        table = "var" if place.startswith("varm") else "obs"
        check_declared_size(handle[place], str(file))
        found, names = read_elem(handle[place]), read_table(handle, table)
    if hasattr(found, "toarray"):
        _check_size(file, math.prod(found.shape) * found.dtype.itemsize)
        found.check_format(full_check=True)  # indices beyond the shape would be written to memory
        found = found.toarray()
    remedy = "Set the names of the genes, or, where the genes are the var names, name an entry of .varm."
    return names_in(names, None, f"{file}: {table}", remedy), np.asarray(found), {"matrix": place}


def _place(file: Path, handle: h5py.File, key: str | None) -> str:
    if key is None:
        if "X" not in handle:
            raise BftembedError(f"{file} has no X. Name an entry of .obsm or .varm with key=.")
        return "X"
    known = {part: list(handle[part]) for part in ("obsm", "varm") if part in handle}
    there = [part for part, entries in known.items() if key in entries]
    if len(there) == 2:
        raise BftembedError(f"{file}: {key!r} is in obsm and in varm. Rename one.")
    if not there:
        raise unknown_name("key", key, [one for entries in known.values() for one in entries], where=f"{file}")
    return f"{there[0]}/{key}"


def _read_text(file: Path) -> _Read:
    """Read one gene per line: its name, then its numbers, separated by tabs, commas or spaces.

    A header is found by itself, and so is word2vec's first line ``n d``. Lines that start with ``#`` before the first
    row are comments.
    """
    import pandas as pd

    types: defaultdict[Any, Any] = defaultdict(lambda: float, {0: str})
    with file.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        stream = _unpacked(file, handle) if packed else handle
        start, places = _start(file, stream)
        counts = start[0].split() if _COUNTS.fullmatch(start[0]) else None
        separator = " " if counts else _separator(start[-1])
        rows = [line.split() if separator == " " else next(csv.reader([line], delimiter=separator)) for line in start]
        header = None if counts else _header(rows)
        if (counts or header) and len(start) < 2:
            raise BftembedError(f"{file} has a header and no rows: there are no genes in it.")
        stream.seek(places[1 if counts or header else 0])
        frame = pd.read_csv(
            stream,
            sep=r"\s+" if separator == " " else separator,
            header=None,
            dtype=types,
            na_filter=False,
            # Every decimal as Python reads it, which is the default from pandas 3 on.
            float_precision="round_trip" if int(pd.__version__.split(".")[0]) < 3 else None,
            quoting=csv.QUOTE_NONE if separator == " " else csv.QUOTE_MINIMAL,
            encoding="utf-8-sig",
            low_memory=False,
        )
    if counts and [len(frame), frame.shape[1] - 1] != [int(n) for n in counts]:
        raise BftembedError(f"{file} announces {' × '.join(counts)}, but holds {len(frame)} × {frame.shape[1] - 1}.")
    names = frame[0].str.strip().str.replace(r'^"(.+)"$', r"\1", regex=True).tolist()
    provenance = {"format": "word2vec" if separator == " " else "table"} | ({"header": header[:8]} if header else {})
    return names, frame.iloc[:, 1:].to_numpy(), provenance


def _unpacked(file: Path, handle: Any) -> io.BytesIO:
    """Unpack gzip piece by piece, as far as it may be unpacked."""
    whole, stream = io.BytesIO(), gzip.GzipFile(fileobj=handle)
    while piece := stream.read(2**20):
        whole.write(piece)
        _check_size(file, whole.tell())
    whole.seek(0)
    return whole


def _start(file: Path, stream: Any) -> tuple[list[str], list[int]]:
    """Return the first two lines that are neither blank nor comments, and where they begin."""
    found: list[str] = []
    places: list[int] = []
    while len(found) < 2:
        place = stream.tell()
        line = stream.readline(_MAX_LINE)
        if b"\0" in line or len(line) == _MAX_LINE:
            raise BftembedError(f"{file} is binary, and no format that is known.")
        if not line:
            break
        text = line.decode("utf-8-sig").rstrip("\r\n")
        if text.strip() and (found or not text.lstrip().startswith("#")):
            found.append(text)
            places.append(place)
    if not found:
        raise BftembedError(f"{file} is empty: there are no gene vectors in it.")
    return found, places


def _separator(row: str) -> str:
    if "\t" in row:
        _, _, rest = row.partition("\t")  # gene2vec has a tab after the gene, then spaces
        return " " if "\t" not in rest and len(rest.split()) > 1 and "," not in rest else "\t"
    return "," if "," in row else " "


def _header(rows: list[list[str]]) -> list[str] | None:
    """Return the first row if it names columns: no cell after the gene's is a number or a gap, or they count up."""
    cells = [cell.strip().strip('"') for cell in rows[0]]
    rest = cells[1:]
    if not rest:  # one column of names, and numbers beneath: a header as R writes it, one cell short
        return rows[0] if len(rows) == 2 and len(rows[1]) == 2 and not _is_number(cells[0]) else None
    if not any(_is_number(cell) or cell.lower() in _MISSING for cell in rest):
        return rows[0]
    counting = any(rest == [str(i) for i in range(start, start + len(rest))] for start in (0, 1))
    return rows[0] if counting and _FIRST_COLUMN.fullmatch(cells[0]) else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
