"""Gene vectors that others made, for benchmarks: one reader for the formats they come in.

Unlike `GeneEmbeddings` these may hold zero rows: GenePT gives a zero vector to a gene without text, and a benchmark
has to score what was published.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings.raw import RawVectors
from bftembed.embeddings.table import GeneEmbeddings, checked_ids
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    import os

_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".p")
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"(d.", b"}q\x00", b"}r", b"}.")
_OTHERS = {
    b"PAR1": "a Parquet file: write it as TSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\x93NUMPY": "a NumPy array without names: save ids and matrix together with numpy.savez",
    b"BZh": "packed by bzip2: unpack it first",
    b"\xfd7zXZ\0": "packed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
}


@dataclass(frozen=True, eq=False)
class GeneVectors:
    """One vector per gene, as a file of others holds them.

    Attributes
    ----------
    ids
        n names, unique, in the order of the file, spelt as there.
    matrix
        (n, d), float32 or float64 as stored (float16 and whole numbers become float32, decimal text and lists of Python
        numbers float64); finite; zero rows allowed, but not all.
    source
        The path.
    format
        ``"bftembed"``, ``"pickle"``, ``"table"``, ``"word2vec"``, ``"anndata"`` or ``"npz"``.
    provenance
        Of our own files their provenance; else ``file`` (its name), ``sha256`` of its bytes, ``format``,
        ``duplicates`` (rows left out because they repeat a gene and its vector), and what the format tells besides.
    """

    ids: tuple[str, ...]
    matrix: np.ndarray
    source: str
    format: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.matrix.shape[1])

    @property
    def n_zero(self) -> int:
        """Number of genes whose vector is zero."""
        return int((~self.matrix.any(axis=1)).sum())

    def fingerprint(self) -> str:
        """Return the sha256 of ids, dtype, shape and values (not of the provenance), the same on every machine."""
        digest = hashlib.sha256(json.dumps([self.ids, self.matrix.dtype.name, list(self.matrix.shape)]).encode())
        digest.update(np.ascontiguousarray(self.matrix, self.matrix.dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    def to_embeddings(self) -> GeneEmbeddings:
        """Return the vectors that are not zero, in float32.

        Returns
        -------
        GeneEmbeddings
            With the same provenance; where genes were left out it names them in ``left_out["zero vector"]``.

        Raises
        ------
        BftembedError
            When a value is too large for float32.
        """
        with np.errstate(over="ignore", under="ignore"):
            values = self.matrix.astype(np.float32)
        filled = np.asarray(values.any(axis=1))
        provenance = dict(self.provenance)
        if not filled.all():
            absent = [name for name, has in zip(self.ids, filled, strict=True) if not has]
            provenance["left_out"] = {"zero vector": absent}
        kept = [name for name, has in zip(self.ids, filled, strict=True) if has]
        try:
            return GeneEmbeddings(kept, values[filled], provenance)
        except BftembedError as err:
            raise BftembedError(f"{self.source}, in float32: {err}") from err


def read_vectors(path: str | os.PathLike[str], *, allow_pickle: bool = False, key: str | None = None) -> GeneVectors:
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
        Read pickles, by a reader that runs nothing of them: it knows numbers, lists, arrays and one dict.
    key
        Of npz the array of vectors. Of h5ad the entry of ``.obsm``; or of ``.varm``, and the var names are the genes.

    Returns
    -------
    GeneVectors
        At least one gene with a vector that is not zero.

    Raises
    ------
    BftembedError
        Names the file, the place in it and the remedy: when the file is missing, a folder, empty, damaged, of an
        unknown format, a pickle without `allow_pickle`, or one that holds anything but numbers; when a gene occurs
        twice with different vectors, a value is NaN or infinite, rows differ in length, or all vectors are zero.
    """
    file = Path(path)
    start = _start(file)
    if key is not None and _format(file, start) not in ("anndata", "npz"):
        raise BftembedError(f"{file} holds one matrix; a key ({key!r}) chooses in h5ad and npz only. Leave it away.")
    try:
        name, raw = _read(file, start, allow_pickle, key)
    except OSError as err:
        raise BftembedError(f"{file} cannot be read: {err.strerror or err}.") from err
    except MemoryError as err:
        raise BftembedError(f"{file} needs more memory than there is.") from err
    return _checked(file, name, raw)


def _start(file: Path) -> bytes:
    try:
        if not file.exists():
            raise BftembedError(f"No such file: {file}. Check the path.")
        if file.is_dir():
            raise BftembedError(f"{file} is a folder; name a file of gene vectors in it.")
        if not file.is_file():
            raise BftembedError(f"{file} is no regular file; save the vectors in one.")
        with file.open("rb") as handle:
            start = handle.read(16)
    except (OSError, ValueError) as err:
        raise BftembedError(f"{str(file)!r} cannot be read: {getattr(err, 'strerror', None) or err}.") from err
    if not start:
        raise BftembedError(f"{file} is empty: there are no gene vectors in it. Was it copied whole?")
    return start


def _format(file: Path, start: bytes) -> str:
    suffix = file.suffix.lower()
    if start.startswith(_HDF5):
        return "anndata"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if start.startswith(_PICKLE_STARTS) or suffix in _PICKLE_SUFFIXES:
        return "pickle"
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise BftembedError(f"{file} is {what}.")
    if start[8:9] == b"{" and start[6:8] == b"\0\0":
        return "bftembed"
    return {".safetensors": "bftembed", ".h5ad": "anndata", ".npz": "npz"}.get(suffix, "text")


def _read(file: Path, start: bytes, allow_pickle: bool, key: str | None) -> tuple[str, RawVectors]:
    name = _format(file, start)
    if name == "bftembed":
        made = GeneEmbeddings.load(file)
        return name, RawVectors(made.ids, made.matrix, made.provenance)
    if name == "npz":
        from bftembed.embeddings.containers import read_npz

        return name, read_npz(file, key)
    if name == "anndata":
        from bftembed.embeddings.containers import read_anndata

        return name, read_anndata(file, key)
    if name == "pickle":
        if not allow_pickle:
            raise BftembedError(
                f"{file} is a pickle. Loading one can run any code, so none is read unasked. --allow-pickle "
                "(from Python `allow_pickle`) reads a dict of gene → numbers out of it, by a reader that runs nothing."
            )
        from bftembed.embeddings.pickled import pickled_numbers

        return name, pickled_numbers(file)
    from bftembed.embeddings.texts import read_text

    return read_text(file)


def _checked(file: Path, name: str, raw: RawVectors) -> GeneVectors:
    if 0 in raw.matrix.shape:
        raise BftembedError(f"{file} holds {len(raw.ids)} genes and no numbers: the vectors are empty.")
    finite = np.isfinite(raw.matrix).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise BftembedError(
            f"{file}: the vector of {raw.ids[first]!r} ({raw.place(first)}) has NaN or infinite values; "
            f"{int((~finite).sum())} of {len(finite)} do. Leave these genes out, or make their vectors zero."
        )
    kept = _without_repeats(file, raw)
    matrix = raw.matrix if len(kept) == len(raw.ids) else raw.matrix[kept]
    try:
        ids = checked_ids([raw.ids[i] for i in kept])
    except BftembedError as err:
        raise BftembedError(f"{file}: {err}") from err
    if not matrix.any():
        raise BftembedError(f"{file}: all {len(ids)} vectors are zero ({examples(ids)}). Is it the right file or key?")
    provenance = raw.provenance
    if name != "bftembed":
        from bftembed.io import sha256_file

        n_repeats = len(raw.ids) - len(ids)
        provenance = {"file": file.name, "sha256": sha256_file(file), "format": name, "duplicates": n_repeats}
        provenance |= raw.provenance
    return GeneVectors(tuple(ids), matrix, str(file), name, provenance)


def _without_repeats(file: Path, raw: RawVectors) -> list[int]:
    """Return the rows to keep: of a gene that occurs twice with the same vector the first."""
    first: dict[str, int] = {}
    for row, gene in enumerate(raw.ids):
        before = first.setdefault(gene, row)
        if before != row and not np.array_equal(raw.matrix[before], raw.matrix[row]):
            raise BftembedError(
                f"{file}: {gene!r} has two different vectors ({raw.place(before)} and {raw.place(row)}). Keep one; "
                "bftembed does not choose."
            )
    return list(first.values())
