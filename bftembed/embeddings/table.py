"""The table of gene embeddings: ids × matrix × provenance, as one `.safetensors` file. No pickle is read or written.

The file holds one float32 tensor, ``matrix`` (n_genes, d), and one metadata entry, ``bftembed``: a JSON object
with ``format``, ``schema``, ``ids`` (n_genes strings, in the order of the rows) and ``provenance``. Any
safetensors reader can open it.
"""

from __future__ import annotations

import hashlib
import json
import os
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
        (n_genes, d) real numbers, finite, no zero rows; kept as C-contiguous float32 (not copied when it is
        so already).
    provenance
        How the vectors were made: anything that JSON holds. Kept as a deep copy.

    Raises
    ------
    BftembedError
        For a shape or type that does not fit, a duplicate or empty id, NaN or infinite values, a zero row (a gene
        without a vector is to be left out, not faked), provenance that is not JSON. Names the id.
    """

    ids: list[str]
    matrix: np.ndarray
    provenance: dict[str, Any]
    _row: dict[str, int] = field(init=False)

    def __init__(self, ids: Sequence[str], matrix: Any, provenance: dict[str, Any] | None = None) -> None:
        names = checked_ids(ids)
        values = _checked_matrix(matrix, names)
        object.__setattr__(self, "ids", names)
        object.__setattr__(self, "matrix", values)
        object.__setattr__(self, "provenance", _json_copy(provenance or {}))
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
        """Return the row numbers of `ids`, int64 (n,), in their order.

        Raises
        ------
        UnknownNameError
            For ids without a vector; names them.
        """
        wanted = list(ids)
        absent = [name for name in wanted if name not in self._row]
        if absent:
            raise UnknownNameError(
                f"No vector for {examples(absent)}. The {len(self)} embeddings begin with {examples(self.ids)}; "
                f"ask `id in embeddings` first, or embed a profile of the missing ones."
            )
        return np.array([self._row[name] for name in wanted], dtype=np.int64)

    def vector(self, entity: str) -> np.ndarray:
        """Return the vector of one entity, float32 (d,)."""
        return self.matrix[self.rows([entity])[0]]

    def subset(self, ids: Iterable[str]) -> GeneEmbeddings:
        """Return the embeddings of `ids` alone, in their order, with the same provenance."""
        wanted = list(ids)
        return GeneEmbeddings(wanted, self.matrix[self.rows(wanted)], self.provenance)

    def fingerprint(self) -> str:
        """Return the sha256 of ids and matrix (not of the provenance), the same on every machine."""
        digest = hashlib.sha256(json.dumps([self.ids, list(self.matrix.shape)]).encode())
        digest.update(np.ascontiguousarray(self.matrix, dtype="<f4").data)
        return digest.hexdigest()

    def to_anndata(self) -> AnnData:
        """Return an AnnData of genes × dimensions (a copy) that can be written as h5ad.

        Returns
        -------
        AnnData
            ``X`` float32 (n_genes, d), ``obs_names`` the ids, ``uns["bftembed"]`` the provenance; what HDF5 has no
            type for (a list of mixed things, ``None``, an integer beyond 64 bit, text with a NUL) is JSON text there.
        """
        from anndata import AnnData
        from pandas import DataFrame

        data = AnnData(
            X=self.matrix.copy(),
            obs=DataFrame(index=self.ids),
            var=DataFrame(index=[str(i) for i in range(self.dim)]),
        )
        data.uns["bftembed"] = _for_hdf5(self.provenance)
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.safetensors` file, whole or not at all; equal embeddings give equal bytes.

        Raises
        ------
        BftembedError
            When `path` cannot be written.
        """
        from safetensors.numpy import save

        header = {"format": FORMAT, "schema": SCHEMA, "ids": self.ids, "provenance": self.provenance}
        # One metadata entry only: safetensors keeps entries in a hash map, several would come in any order.
        content = save({_TENSOR: self.matrix}, metadata={_HEADER: _json(header)})
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def of(cls, given: GeneEmbeddings | str | os.PathLike[str]) -> GeneEmbeddings:
        """Return embeddings as they are, or those of a file.

        Raises
        ------
        BftembedError
            As `load`; also for anything else.
        """
        if isinstance(given, str | os.PathLike):
            return cls.load(given)
        if not isinstance(given, GeneEmbeddings):
            raise BftembedError(
                f"embeddings is a {type(given).__name__}; give GeneEmbeddings(ids, matrix) or a .safetensors path."
            )
        return given

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GeneEmbeddings:
        """Read what `save` wrote.

        Raises
        ------
        BftembedError
            When the file is missing, truncated, not safetensors (pickle files are refused unread), not one of
            ours, of a newer schema, or its parts do not fit together.
        """
        file = Path(path)
        matrix, header = _read(file)
        try:
            return cls(header["ids"], matrix, header["provenance"])
        except BftembedError as err:
            raise BftembedError(f"{file} is damaged: {err}") from err


def _read(file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        raise BftembedError(f"No such file: {file}. Make one with: bftembed genes embed DIR --out {file.name}")
    if file.is_dir():
        raise BftembedError(f"{file} is a folder, not a .safetensors file of gene embeddings.")
    try:
        with safe_open(file, framework="numpy") as opened:
            header = _parse_header(file, opened.metadata() or {}, list(opened.keys()))
            kind = opened.get_slice(_TENSOR).get_dtype()
            if kind != "F32":
                raise BftembedError(f"{file}: the tensor {_TENSOR!r} is {kind}, expected F32. Save it with bftembed.")
            matrix = opened.get_tensor(_TENSOR)
    except (SafetensorError, OSError) as err:
        raise BftembedError(_not_safetensors(file, err)) from err
    if matrix.ndim != 2 or len(matrix) != len(header["ids"]):
        raise BftembedError(
            f"{file} is damaged: {len(header['ids'])} ids in the header, but a matrix of shape {matrix.shape}."
        )
    return matrix, header


def _parse_header(file: Path, metadata: dict[str, str], tensors: list[str]) -> dict[str, Any]:
    if _HEADER not in metadata or _TENSOR not in tensors:
        raise BftembedError(
            f"{file} is a safetensors file, but not gene embeddings of bftembed: its tensors are "
            f"{examples(sorted(tensors))}, its metadata keys {examples(sorted(metadata)) or '(none)'}. Build a "
            f"GeneEmbeddings(ids, matrix) from them and save that."
        )
    try:
        header = json.loads(metadata[_HEADER])
        if header["format"] != FORMAT:
            raise BftembedError(f"{file} holds {header['format']!r}, expected {FORMAT!r}.")
        if not isinstance(header["schema"], int) or header["schema"] > SCHEMA:
            raise BftembedError(
                f"{file} has schema {header['schema']!r}; this bftembed reads up to {SCHEMA}. Upgrade bftembed."
            )
        if not isinstance(header["ids"], list) or not isinstance(header["provenance"], dict):
            raise TypeError("ids or provenance of the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise BftembedError(f"{file} is damaged: its header cannot be read ({type(err).__name__}: {err}).") from err
    return header


def _not_safetensors(file: Path, err: Exception) -> str:
    with file.open("rb") as handle:
        start = handle.read(9)
    pickled = file.suffix.lower() in (".pkl", ".pickle", ".pt", ".pth", ".bin")
    if start[:8] != b"" and start[8:9] == b"{" and not pickled:
        return f"{file} is truncated or damaged ({err}). Copy it again, or embed again."
    if pickled or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return (
            f"{file} is a pickle or torch file. bftembed never reads these: loading one can run any code. "
            f"Build GeneEmbeddings(ids, matrix) from its content in a place you trust and save that as .safetensors."
        )
    return f"{file} is not a .safetensors file of gene embeddings ({file.stat().st_size} bytes; {err})."


def checked_ids(ids: Sequence[str]) -> list[str]:
    """Return `ids` as a list of str, after refusing what is empty, twice there, no text or not valid Unicode.

    Raises
    ------
    BftembedError
        Names the row and the id.
    """
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
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError as err:
                raise BftembedError(f"Row {i} has the id {name!r}, which is not valid Unicode text.") from err
    return names


def _checked_matrix(matrix: Any, names: list[str]) -> np.ndarray:
    given = np.asarray(matrix)
    if given.dtype.kind not in "fiu":
        raise BftembedError(f"The matrix has dtype {given.dtype}; expected real numbers (float32).")
    if given.ndim != 2:
        raise BftembedError(f"The matrix has shape {given.shape}; expected two axes, (n_genes, d).")
    if len(given) != len(names):
        raise BftembedError(f"{len(names)} ids, but {len(given)} rows in the matrix.")
    if 0 in given.shape:
        raise BftembedError(f"The matrix has shape {given.shape}: there is no vector in it.")
    with np.errstate(over="ignore", under="ignore"):
        values = np.ascontiguousarray(given, dtype=np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise BftembedError(
            f"The vector of {names[first]!r} (row {first}) has NaN or infinite values; "
            f"{int((~finite).sum())} of {len(names)} rows do. Leave these genes out, or encode them again."
        )
    filled = values.any(axis=1)
    if not filled.all():
        first = int(np.argmin(filled))
        raise BftembedError(
            f"The vector of {names[first]!r} (row {first}) is zero; {int((~filled).sum())} of {len(names)} rows are. "
            f"A gene without a vector is to be left out."
        )
    return values


def _json(value: Any) -> str:
    # ASCII escapes carry any string, even a path with undecodable bytes.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _json_copy(provenance: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(provenance, dict):
        raise BftembedError(f"provenance is {type(provenance).__name__}, expected a dict.")
    try:
        return json.loads(_json(provenance))
    except (TypeError, ValueError) as err:
        raise BftembedError(f"provenance must be what JSON can hold ({err}).") from err


def _for_hdf5(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).replace("/", "|").replace("\0", "\\0"): _for_hdf5(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | float) and _has_hdf5_type(value):
        return value
    plain = isinstance(value, list) and value and {type(item) for item in value} in ({str}, {int}, {float}, {bool})
    if plain and all(_has_hdf5_type(item) for item in value):
        return np.array(value, dtype=object if isinstance(value[0], str) else None)
    return json.dumps(value)


def _has_hdf5_type(value: str | bool | int | float) -> bool:
    if isinstance(value, str):
        # Neither a NUL nor a lone surrogate (a path with undecodable bytes).
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63
