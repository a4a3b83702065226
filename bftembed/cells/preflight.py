"""Checks before a value is read: impossible structures, indices out of range, bad names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.errors import BftembedError
from bftembed.hdf5 import check_declared_size

if TYPE_CHECKING:
    import os


def check_slots(handle: h5py.File) -> None:
    """Refuse a h5ad file whose tables and slots are of a kind that no anndata wrote, or declare impossible sizes.

    Raises
    ------
    BftembedError
        Naming the slot.
    """
    for name in ("obs", "var", "obsm", "uns"):
        slot = handle.get(name)
        # Before anndata 0.7 tables were compound data sets.
        if slot is None or isinstance(slot, h5py.Group) or (isinstance(slot, h5py.Dataset) and slot.dtype.names):
            continue
        kind = f"an array of {slot.dtype}" if isinstance(slot, h5py.Dataset) else "a named type"
        raise BftembedError(
            f"{handle.filename}: {name} is {kind}, not a group. The file is damaged, or no h5ad of anndata: write it "
            f"again with anndata."
        )
    if "var" in handle:
        check_declared_size(handle["var"], handle.filename)


def check_kind(dtype: Any, where: str) -> None:
    """Refuse expression values that are not real numbers (object, text, complex, records)."""
    if np.dtype(dtype).kind not in "biuf":
        raise BftembedError(
            f"{where} holds values of type {np.dtype(dtype)}; expected real numbers. Convert the matrix, for example "
            f"adata.X = adata.X.astype('float32'), and write the file again."
        )


def checked_indptr(indptr: Any, n_major: int, n_values: int, where: str) -> np.ndarray:
    """Return `indptr` as int64 (n_major + 1,) after checking it against the declared shape and the stored values.

    Raises
    ------
    BftembedError
        When its length, its start, its order or its end does not fit.
    """
    if len(indptr.shape) != 1 or indptr.shape[0] != n_major + 1:
        raise BftembedError(
            f"{where}: indptr has shape {tuple(indptr.shape)}, but the declared matrix needs {n_major + 1} entries. "
            f"The file is damaged; write it again from its source."
        )
    if np.dtype(indptr.dtype).kind not in "iu":
        raise BftembedError(f"{where}: indptr has type {indptr.dtype}, expected integers. The file is damaged.")
    bounds = np.asarray(indptr[:]).astype(np.int64)
    steps = np.diff(bounds)
    if bounds[0] != 0 or (steps < 0).any():
        row = int(np.argmax(steps < 0)) if (steps < 0).any() else 0
        raise BftembedError(
            f"{where}: indptr does not start at 0 and rise (entry {row}: {bounds[row : row + 2].tolist()}). "
            f"The file is damaged; write it again from its source."
        )
    if bounds[-1] != n_values:
        raise BftembedError(
            f"{where}: indptr ends at {bounds[-1]}, but {n_values} values are stored. "
            f"The file is damaged or truncated; write it again from its source."
        )
    return bounds


def check_indices(indices: np.ndarray, n_minor: int, where: str) -> None:
    """Refuse an index outside ``[0, n_minor)``: SciPy does not check, and reads or writes foreign memory.

    Raises
    ------
    BftembedError
        With the first such index.
    """
    if indices.dtype.kind not in "iu":
        raise BftembedError(f"{where}: indices have type {indices.dtype}, expected integers. The file is damaged.")
    if not indices.size or (indices.min() >= 0 and indices.max() < n_minor):
        return
    bad = (indices < 0) | (indices >= n_minor)
    raise BftembedError(
        f"{where}: {int(bad.sum())} stored indices are out of range, the first is {int(indices[np.argmax(bad)])} where "
        f"0 to {n_minor - 1} are possible. The file is damaged; write it again from its source."
    )


def check_key(key: str) -> None:
    """Refuse an ``.obsm`` key that cannot be written: empty, ``.``, ``..``, or with ``/`` or NUL in it."""
    if not isinstance(key, str) or not key.strip() or key.strip() in (".", "..") or "/" in key or "\0" in key:
        raise BftembedError(f"{key!r} cannot be a key of .obsm: give a name without '/', for example 'X_bft'.")


def check_destination(data: Path, out: str | os.PathLike[str] | None) -> Path:
    """Return `out` as a path, after making sure that writing it cannot touch `data`.

    Raises
    ------
    BftembedError
        When it is missing, a folder, or the input itself (by any name: relative, symbolic or hard link).
    """
    if out is None:
        raise BftembedError(
            f"{data} is read from disk and never modified: give out=PATH (--out) for the copy with the embedding."
        )
    target = Path(out)
    if target.is_dir():
        raise BftembedError(f"{target} is a folder: give the path of the h5ad file to write.")
    if target.exists() and data.exists() and target.samefile(data):
        raise BftembedError(
            f"{target} is the input file {data} itself, which is never modified. Choose another path for the output."
        )
    return target
