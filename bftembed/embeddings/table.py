"""The table of gene embeddings: ids × matrix × provenance, as one `.safetensors` file. No pickle is read or written.

The file holds one float32 tensor, ``matrix`` (n_genes, d), and one metadata entry, ``bftembed``: a JSON object
with ``format``, ``schema``, ``ids`` (n_genes strings, in the order of the rows) and ``provenance``. Any
safetensors reader can open it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, UnknownNameError, examples
from bftembed.io import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

FORMAT = "bftembed-gene-embeddings"
SCHEMA = 1
_HEADER = "bftembed"
_TENSOR = "matrix"


@dataclass(frozen=True, eq=False, repr=False)
class GeneEmbeddings:
    """One vector per gene (or other entity), with where they come from.

    Parameters
    ----------
    ids
        Entity ids, unique, one per row of `matrix`; for genes the HGNC symbol.
    matrix
        (n_genes, d) real numbers, finite, no zero rows; kept as C-contiguous float32.
    provenance
        How the vectors were made: anything that JSON holds, kept as a copy.
    as_published
        Keep float64, and zero rows unless all are zero, as a benchmark of published vectors needs them (GenePT gives a
        zero vector to a gene without text). `usable` makes embeddings for all else of them.

    Raises
    ------
    BftembedError
        For a shape or type that does not fit, a duplicate or empty id, NaN or infinite values, a zero row (a gene
        without a vector is to be left out, not faked), provenance that is not JSON. Names the id.
    """

    ids: list[str]
    matrix: np.ndarray
    provenance: dict[str, Any]
    as_published: bool
    _row: dict[str, int] = field(init=False)

    def __init__(
        self, ids: Sequence[str], matrix: Any, provenance: dict[str, Any] | None = None, *, as_published: bool = False
    ) -> None:
        names = checked_ids(ids)
        object.__setattr__(self, "ids", names)
        object.__setattr__(self, "matrix", _checked_matrix(matrix, names, as_published))
        object.__setattr__(self, "provenance", _json_copy(provenance or {}))
        object.__setattr__(self, "as_published", as_published)
        object.__setattr__(self, "_row", {name: i for i, name in enumerate(names)})

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, entity: object) -> bool:
        return entity in self._row

    def __repr__(self) -> str:
        return f"GeneEmbeddings({len(self)} ids × {self.dim} dimensions: {examples(self.ids, 3)})"

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Return the row numbers of `ids`, int64 (n,), in their order, or raise `UnknownNameError`."""
        wanted = list(ids)
        if absent := [name for name in wanted if name not in self._row]:
            raise UnknownNameError(
                f"No vector for {examples(absent)}. The {len(self)} embeddings begin with {examples(self.ids)}."
            )
        return np.array([self._row[name] for name in wanted], dtype=np.int64)

    def vector(self, entity: str) -> np.ndarray:
        """Return the vector of one entity, (d,)."""
        return self.matrix[self.rows([entity])[0]]

    def subset(self, ids: Iterable[str]) -> GeneEmbeddings:
        """Return the embeddings of `ids` alone, in their order, with the same provenance."""
        wanted = list(ids)
        return GeneEmbeddings(wanted, self.matrix[self.rows(wanted)], self.provenance, as_published=self.as_published)

    def usable(self) -> GeneEmbeddings:
        """Return the vectors that are not zero, in float32; ``left_out["zero vector"]`` of the provenance names others.

        Raises
        ------
        BftembedError
            When a value is too large for float32.
        """
        with np.errstate(over="ignore", under="ignore"):
            values = self.matrix.astype(np.float32)
        filled = np.asarray(values.any(axis=1))
        names = np.array(self.ids, dtype=object)
        left_out = {} if filled.all() else {"left_out": {"zero vector": names[~filled].tolist()}}
        return GeneEmbeddings(names[filled].tolist(), values[filled], self.provenance | left_out)

    def resolved(self) -> GeneEmbeddings:
        """Return the embeddings with approved symbols in place of Ensembl ids, HGNC ids and earlier symbols.

        An id stays as it is where two would become one symbol, where the symbol has a vector already, and where it
        is the name of an antibody for something else than the gene's product. ``resolved_ids`` of the provenance counts
        the ids that changed by what they were (``ensembl``, ``hgnc``, ``previous``). Without any, `self` is returned.
        """
        from bftembed.entities.genes import GeneIndex
        from bftembed.entities.proteins import ProteinIndex

        index = GeneIndex.default()
        unknown = [name for name in self.ids if name not in index]
        found = [r for r in index.resolve(unknown) if r.symbol and r.via in ("ensembl", "hgnc", "previous")]
        times = Counter(r.symbol for r in found)
        found = [r for r in found if r.symbol not in self and times[r.symbol] == 1]
        as_protein = ProteinIndex.default().resolve([r.name for r in found]) if found else []
        found = [gene for gene, protein in zip(found, as_protein, strict=True) if gene.entity == protein.entity]
        if not found:
            return self
        symbols = {r.name: r.entity for r in found}
        provenance = self.provenance | {"resolved_ids": dict(Counter(r.via for r in found))}
        ids = [symbols.get(name, name) for name in self.ids]
        return GeneEmbeddings(ids, self.matrix, provenance, as_published=self.as_published)

    def fingerprint(self) -> str:
        """Return the sha256 of ids and matrix (not of the provenance), the same on every machine."""
        digest = hashlib.sha256(json.dumps([self.ids, list(self.matrix.shape)]).encode())
        digest.update(self.matrix.astype(self.matrix.dtype.newbyteorder("<"), copy=False).data)
        return digest.hexdigest()

    def to_anndata(self) -> AnnData:
        """Return an AnnData of genes × dimensions (a copy), with the provenance as JSON text in ``uns["bftembed"]``."""
        from anndata import AnnData
        from pandas import DataFrame

        obs, var = DataFrame(index=self.ids), DataFrame(index=[str(i) for i in range(self.dim)])
        return AnnData(X=self.matrix.copy(), obs=obs, var=var, uns={"bftembed": _json(self.provenance)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.safetensors` file atomically; equal embeddings give equal bytes.

        Raises
        ------
        BftembedError
            When `path` cannot be written, and for vectors as published (save those of `usable`).
        """
        from safetensors.numpy import save

        if self.as_published:
            raise BftembedError(f"{path}: a file holds float32 without zero rows. Save the embeddings of usable().")
        header = {"format": FORMAT, "schema": SCHEMA, "ids": self.ids, "provenance": self.provenance}
        # One metadata entry: safetensors writes several in any order.
        content = save({_TENSOR: self.matrix}, metadata={_HEADER: _json(header)})
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def of(cls, given: GeneEmbeddings | str | os.PathLike[str]) -> GeneEmbeddings:
        """Return embeddings, or those of a file, with their ids `resolved`; raises as `load`."""
        if isinstance(given, str | os.PathLike):
            return cls.load(given).resolved()
        if not isinstance(given, GeneEmbeddings):
            kind = type(given).__name__
            raise BftembedError(f"embeddings is a {kind}; give GeneEmbeddings(ids, matrix) or a .safetensors path.")
        return (given.usable() if given.as_published else given).resolved()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GeneEmbeddings:
        """Read what `save` wrote, bit for bit.

        Raises
        ------
        BftembedError
            When the file is missing, damaged, not one of ours (a pickle is never loaded), or of a newer schema.
        """
        from safetensors import SafetensorError, safe_open

        file = Path(path)
        if not file.is_file():
            raise BftembedError(f"No such file: {file}. Make one with: bftembed genes embed DIR --out {file.name}")
        try:
            with safe_open(file, framework="numpy") as opened:
                metadata, tensors = opened.metadata() or {}, sorted(opened.keys())
                if _HEADER not in metadata or _TENSOR not in tensors:
                    raise BftembedError(f"{file} holds no gene embeddings of bftembed, but {examples(tensors)}.")
                header = _parse_header(file, metadata[_HEADER])
                kind = opened.get_slice(_TENSOR).get_dtype()
                if kind != "F32":
                    raise BftembedError(f"{file}: the tensor {_TENSOR!r} is {kind}, expected F32.")
                matrix = opened.get_tensor(_TENSOR)
        except (SafetensorError, OSError) as err:
            raise BftembedError(f"{file} is no whole .safetensors file of gene embeddings ({err}).") from err
        try:
            return cls(header["ids"], matrix, header["provenance"])
        except BftembedError as err:
            raise BftembedError(f"{file} is damaged: {err}") from err


def _parse_header(file: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
        if header["format"] != FORMAT or header["schema"] > SCHEMA:
            raise BftembedError(
                f"{file} holds {header['format']!r} of schema {header['schema']}; expected {FORMAT!r} of "
                f"schema {SCHEMA} or earlier."
            )
        if not isinstance(header["ids"], list) or not isinstance(header["provenance"], dict):
            raise TypeError("ids or provenance of the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise BftembedError(f"{file} is damaged: its header cannot be read ({type(err).__name__}: {err}).") from err
    return header


def checked_ids(ids: Sequence[str]) -> list[str]:
    """Return `ids` as a list of str, or raise for one that is empty, repeated, not text or not valid Unicode."""
    if isinstance(ids, str):
        raise BftembedError(f"ids is one string ({ids[:40]!r}); give a list of ids.")
    names = [str(name) if isinstance(name, np.str_) else name for name in ids]
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise BftembedError(f"Row {i} has the id {name!r}: ids are non-empty strings.")
        if name in seen:
            raise BftembedError(f"The id {name!r} occurs twice (again in row {i}); one vector per id.")
        seen.add(name)
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise BftembedError(f"Row {i} has the id {name!r}, which is not valid Unicode text.")
    return names


def _checked_matrix(matrix: Any, names: list[str], as_published: bool) -> np.ndarray:
    given = np.asarray(matrix)
    if given.dtype.kind not in "fiu":
        raise BftembedError(f"The matrix has dtype {given.dtype}; expected real numbers (float32).")
    if given.ndim != 2 or 0 in given.shape:
        raise BftembedError(f"The matrix has shape {given.shape}; expected two axes, (n_genes, d), and vectors in it.")
    if len(given) != len(names):
        raise BftembedError(f"{len(names)} ids, but {len(given)} rows in the matrix.")
    wide = as_published and given.dtype.kind == "f" and given.dtype.itemsize > 4
    with np.errstate(over="ignore", under="ignore"):
        values = np.ascontiguousarray(given, np.float64 if wide else np.float32)
    finite, filled = np.isfinite(values).all(axis=1), np.asarray(values.any(axis=1))
    if as_published and filled.any():
        filled[:] = True
    for good, what in ((finite, "have NaN or infinite values"), (filled, "are zero")):
        if not good.all():
            first, n = int(np.argmin(good)), int((~good).sum())
            raise BftembedError(
                f"{n} of {len(names)} vectors {what}; the first is that of {names[first]!r} (row {first}). A gene "
                "without a vector is to be left out."
            )
    return values


def _json(value: Any) -> str:
    # ASCII escapes carry any string, even a path with undecodable bytes.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _json_copy(provenance: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(_json(provenance))
    except (TypeError, ValueError) as err:
        raise BftembedError(f"provenance must be what JSON can hold ({err}).") from err
