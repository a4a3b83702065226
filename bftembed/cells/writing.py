"""Putting cell embeddings beside the cells: into an AnnData, or into a copy of a h5ad file that is whole or absent."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.cells.blocks import Compressed, compressed_format
from bftembed.cells.preflight import check_declared_size, check_indices
from bftembed.errors import BftembedError
from bftembed.hdf5 import open_h5ad
from bftembed.io import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

#: The entry of ``.uns`` that holds one provenance per key of ``.obsm``.
UNS = "bftembed"


def check_free(key: str, taken: bool, overwrite: bool, where: str) -> None:
    """Refuse to replace an embedding that is there already, unless `overwrite`."""
    if taken and not overwrite:
        raise BftembedError(
            f"{where} has .obsm[{key!r}] already. Give another key (--key), or overwrite=True (--overwrite)."
        )


def has_key(handle: h5py.File, key: str) -> bool:
    """Return whether an open h5ad file has ``.obsm[key]``, in the layout of any anndata version."""
    obsm = handle.get("obsm")
    if isinstance(obsm, h5py.Dataset):
        return key in (obsm.dtype.names or ())
    return obsm is not None and key in obsm


def put(adata: AnnData, key: str, vectors: np.ndarray, provenance: dict[str, Any]) -> None:
    """Set ``.obsm[key]`` and ``.uns["bftembed"][key]``; other keys are kept. A view becomes a copy of its own.

    Raises
    ------
    BftembedError
        When ``.uns["bftembed"]`` holds something else than one entry per key.
    """
    others = adata.uns.get(UNS, {})
    if not isinstance(others, Mapping):
        raise _occupied(type(others).__name__, "the AnnData")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*view.*")
        adata.obsm[key] = vectors
        adata.uns[UNS] = {**others, key: provenance}


def write_copy(
    source: Path,
    out: Path,
    key: str,
    vectors: np.ndarray,
    provenance: dict[str, Any],
    *,
    keep: np.ndarray | None = None,
) -> None:
    """Write a copy of `source` with the embedding in it. `source` is only read; `out` is whole or untouched.

    The bytes of `source` are copied and two elements added, so memory does not grow with the file. Two cases are
    read into memory and rewritten as a whole: cells to be left out, and the layout of anndata before 0.7.

    Parameters
    ----------
    source, out
        Two different files.
    key
        Key of ``.obsm``, replaced when it is there.
    vectors
        float32 (n_cells, d).
    provenance
        What goes to ``.uns["bftembed"][key]``: text, numbers, booleans, arrays of text.
    keep
        bool (n_cells,): cells to write; None for all.

    Raises
    ------
    BftembedError
        When the disk is full or the folder cannot be written.
    """
    with open_h5ad(source) as handle:
        slots = [handle.get(name) for name in ("obsm", "uns")]
        old_layout = any(isinstance(slot, h5py.Dataset) for slot in slots) or isinstance(handle["obs"], h5py.Dataset)
        occupied = handle.get(f"uns/{UNS}")
        if occupied is not None and not isinstance(occupied, h5py.Group):
            raise _occupied("a value", str(source))
        if keep is not None or old_layout:
            check_whole_file(handle, source)
    with atomic_path(out) as temporary:
        try:
            if keep is not None or old_layout:
                _rewrite(source, temporary, key, vectors, provenance, keep)
            else:
                shutil.copyfile(source, temporary)
                with h5py.File(temporary, "r+", locking=False) as copy:
                    _append(copy, key, vectors, provenance)
        except (RuntimeError, KeyError) as err:
            # HDF5 reports a failed flush as RuntimeError; for the user it is a failed write.
            raise OSError(str(err)) from err


def _append(copy: h5py.File, key: str, vectors: np.ndarray, provenance: dict[str, Any]) -> None:
    from anndata.io import write_elem

    for name in ("obsm", "uns", f"uns/{UNS}"):
        if name not in copy:
            write_elem(copy, name, {})
    write_elem(copy["obsm"], key, vectors)
    write_elem(copy[f"uns/{UNS}"], key, provenance)


def _rewrite(
    source: Path,
    temporary: Path,
    key: str,
    vectors: np.ndarray,
    provenance: dict[str, Any],
    keep: np.ndarray | None,
) -> None:
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's remarks on old layouts and duplicate names: not news here
        adata = anndata.read_h5ad(source)
        if keep is not None:
            adata = adata[keep].copy()
            vectors = vectors[keep]
        put(adata, key, vectors, provenance)
        adata.write_h5ad(temporary)


def check_whole_file(handle: h5py.File, path: Path) -> None:
    """Check every sparse matrix and every declared size of a file, before anndata reads it as a whole.

    Row slicing of a damaged matrix in any slot crashes the interpreter.

    Raises
    ------
    BftembedError
        Naming the file and the member.
    """

    def check(name: str, member: Any) -> None:
        check_declared_size(member, str(path))
        if isinstance(member, h5py.Group) and compressed_format(member):
            where = f"{path}: /{name}"
            matrix = Compressed.from_hdf5(member, where)
            for start in range(0, matrix.n_values, 2**22):
                check_indices(np.asarray(matrix.indices[start : start + 2**22]), matrix.n_minor, where)

    handle.visititems(check)


def _occupied(kind: str, where: str) -> BftembedError:
    return BftembedError(f"{where}: .uns[{UNS!r}] is {kind}, not one entry per embedding. Rename or delete it first.")
