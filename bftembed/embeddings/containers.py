"""Gene vectors out of files that hold several arrays: NumPy's npz, and h5ad."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings.raw import RawVectors, check_declared, float_type
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from pathlib import Path

_IDS = ("ids", "genes", "symbols")
_MATRICES = ("matrix", "vectors", "embeddings")
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, TypeError, SyntaxError),
    *(KeyError, IndexError, OverflowError, RuntimeError, NotImplementedError, MemoryError, tokenize.TokenError),
)


def read_npz(file: Path, key: str | None = None) -> RawVectors:
    """Read an npz with an array of names (``ids``, ``genes`` or ``symbols``) and one of vectors.

    Parameters
    ----------
    file
        As `numpy.savez` or `numpy.savez_compressed` writes it.
    key
        The array of vectors, (n, d) real numbers; by default ``matrix``, ``vectors`` or ``embeddings``.

    Returns
    -------
    RawVectors
        float64 where the array is, else float32. Its provenance names both arrays.

    Raises
    ------
    BftembedError
        For arrays that are missing, of objects (these are pickles), larger than the file can hold or that do not fit
        each other, and for a file that is cut or no npz.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if not found:
                raise BftembedError(
                    f"{file} is a zip archive without NumPy arrays ({examples(archive.namelist()) or 'empty'}). Torch "
                    "files and workbooks are not read: save ids and matrix with numpy.savez, or as .tsv."
                )
            vectors = _chosen(file, found, (key,) if key is not None else _MATRICES, "vectors")
            names = _chosen(file, [name for name in found if name != vectors], _IDS, "names")
            matrix = _array(file, archive, vectors)
            ids = _array(file, archive, names, n_rows=len(matrix))
    except _DAMAGE as err:
        raise BftembedError(
            f"{file} is a truncated or damaged npz ({type(err).__name__}: {err}). Copy it again."
        ) from err
    kept = np.ascontiguousarray(matrix, float_type(matrix.dtype, f"{file}: {vectors}"))
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in ids.tolist()]
    return RawVectors(texts, kept, {"arrays": [names, vectors]})


def _chosen(file: Path, found: list[str], wanted: tuple[str, ...], what: str) -> str:
    there = [name for name in wanted if name in found]
    if not there and len(wanted) == 1:
        raise unknown_name("array", wanted[0], found, where=str(file))
    if not there or (what == "vectors" and len(there) > 1):
        advice = "Choose with key=." if what == "vectors" else "Save them under one of these names."
        raise BftembedError(
            f"{file}: the array of {what} is {' or '.join(wanted)}; there is {examples(found) or 'none'}. {advice}"
        )
    return there[0]


def _array(file: Path, archive: zipfile.ZipFile, name: str, n_rows: int | None = None) -> np.ndarray:
    where = f"{file}: {name}"
    if archive.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BftembedError(f"{where} is packed in a way that NumPy does not write. Save it with numpy.savez.")
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise BftembedError(f"{where} is an array of objects, which is a pickle inside. Refused: save text or numbers.")
    if n_rows is None:
        _check_matrix(where, shape, dtype)
    elif dtype.kind not in "US" or dtype.itemsize == 0:
        raise BftembedError(f"{where} has the type {dtype}; names of genes are text. Save them as an array of str.")
    elif shape != (n_rows,):
        raise BftembedError(f"{where} has the shape {shape}, but there are {n_rows} vectors: one name each is needed.")
    check_declared(file, where, shape, dtype.itemsize)
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _check_matrix(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    float_type(dtype, where)
    if len(shape) != 2:
        raise BftembedError(f"{where} has the shape {shape}; gene vectors have two axes, genes × numbers.")
    if 0 in shape:
        raise BftembedError(f"{where} has the shape {shape}: there are no vectors in it.")


def read_anndata(file: Path, key: str | None = None) -> RawVectors:
    """Read the vectors of a h5ad of genes.

    Parameters
    ----------
    file
        The obs names are the genes.
    key
        Entry of ``.obsm`` to read in place of ``X``; or an entry of ``.varm``, and the var names are the genes.

    Returns
    -------
    RawVectors
        float64 where the matrix is, else float32. Its provenance says which matrix was read.

    Raises
    ------
    BftembedError
        For a key that is in neither or in both, a matrix that is no array of numbers or too large when dense, names
        that are missing or only numbers, and a damaged file.
    """
    from bftembed.hdf5 import open_h5ad

    with open_h5ad(file) as handle:
        try:
            where, names = _place(file, handle, key)
            matrix = _matrix(file, f"{file}: {where}", handle[where])
            ids = _names(file, handle, names)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as err:
            raise BftembedError(
                f"{file} is damaged, or no h5ad of anndata ({type(err).__name__}: {err}). Write it again with anndata."
            ) from err
    if len(ids) != len(matrix):
        raise BftembedError(f"{file} is damaged: {where} has {len(matrix)} rows, {names} has {len(ids)} names.")
    return RawVectors(ids, matrix, {"matrix": where})


def _place(file: Path, handle: Any, key: str | None) -> tuple[str, str]:
    from bftembed.hdf5 import is_group

    if key is None:
        if "X" not in handle:
            raise BftembedError(f"{file} has no X. Name an entry of .obsm or .varm with key=.")
        return "X", "obs"
    entries = {name: list(handle[name]) for name in ("obsm", "varm") if name in handle and is_group(handle[name])}
    there = [name for name, found in entries.items() if key in found]
    if not there:
        known = [entry for found in entries.values() for entry in found]
        raise unknown_name("key", key, known, where=f"obsm and varm of {file}")
    if len(there) == 2:
        raise BftembedError(f"{file}: {key!r} is in obsm and in varm. Rename one.")
    return f"{there[0]}/{key}", there[0].removesuffix("m")


def _matrix(file: Path, where: str, member: Any) -> np.ndarray:
    from bftembed.hdf5 import is_array, is_group

    if is_array(member):
        _check_matrix(where, member.shape, member.dtype)
        check_declared(file, where, member.shape, member.dtype.itemsize)
        return np.ascontiguousarray(member[:], float_type(member.dtype, where))
    if not is_group(member) or not {"data", "indices", "indptr"} <= set(member):
        raise BftembedError(f"{where} is no matrix of numbers. Name an entry of .obsm or .varm with key=.")
    return _dense(file, where, member)


def _dense(file: Path, where: str, member: Any) -> np.ndarray:
    from scipy import sparse

    given = member.attrs["shape"] if "shape" in member.attrs else member.attrs["h5sparse_shape"]
    shape = tuple(int(n) for n in given)
    _check_matrix(where, shape, member["data"].dtype)
    kind = float_type(member["data"].dtype, where)
    check_declared(file, where, shape, kind.itemsize)
    for part in ("data", "indices", "indptr"):
        check_declared(file, f"{where}/{part}", member[part].shape, member[part].dtype.itemsize)
    form = str(member.attrs.get("encoding-type", member.attrs.get("h5sparse_format", "csr")))
    make = sparse.csc_matrix if form.startswith("csc") else sparse.csr_matrix
    parts = tuple(member[part][:] for part in ("data", "indices", "indptr"))
    made = make(parts, shape=shape)
    made.check_format(full_check=True)
    return np.ascontiguousarray(made.toarray(), kind)


def _names(file: Path, handle: Any, table: str) -> list[str]:
    from bftembed.entities.var_names import refuse_numbers
    from bftembed.hdf5 import as_text, is_array, strings

    member = handle[table]
    if is_array(member):  # anndata before 0.7: one table with the index first
        check_declared(file, f"{file}: {table}", member.shape, member.dtype.itemsize)
        index = str(member.dtype.names[0])
        names = as_text(member[index])
    else:
        index = str(member.attrs.get("_index", "_index"))
        column = member[index]
        for part in [column] if is_array(column) else list(column.values()):
            if is_array(part):
                check_declared(file, f"{file}: {table}/{index}", part.shape, part.dtype.itemsize)
        names = strings(column)
    remedy = "Set the names of the genes with anndata, or, where the genes are the var names, name an entry of .varm."
    refuse_numbers(names, f"{file}: the names of {table}", index, lambda: remedy)
    return names
