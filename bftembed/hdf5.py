"""HDF5 files that may be missing, damaged or hostile: opened read-only, nothing followed out of the file."""

from __future__ import annotations

import contextlib
import math
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

#: Declared bytes that are never questioned, and how much more than this a byte on disk may stand for (deflate packs
#: at most 1,032 bytes into one). A data set beyond both is a few kilobytes that claim to be gigabytes.
_FREE_BYTES, _BYTES_PER_STORED_BYTE = 64 * 2**20, 10_000
#: A filter may add so many bytes to a chunk, and no more than double it; what is larger inflates to more than a chunk.
_MAX_OVERHEAD = 4096
_MAX_DEPTH = 100


@contextlib.contextmanager
def open_h5ad(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a h5ad file read-only, after rejecting links and storage that lead out of the file.

    Raises
    ------
    BftembedError
        When the file is missing, not HDF5, or points to other files; inside the context also for damage that shows
        while values are read.
    """
    file = Path(path)
    if not file.exists():
        raise BftembedError(f"No such file: {file}. Check the path.")
    if file.is_dir():
        raise BftembedError(f"{file} is a folder, not a h5ad file.")
    if not h5py.is_hdf5(file):
        raise BftembedError(f"{file} is not a HDF5 file ({file.stat().st_size} bytes). Was the download complete?")
    try:
        handle = h5py.File(file, "r", locking=False)
    except OSError as err:
        # This process has it open with locks already, as a backed AnnData does: HDF5 wants both to be opened alike.
        if "locking flag" not in str(err):
            raise _damaged(file, err) from err
        handle = h5py.File(file, "r")
    with contextlib.closing(handle), damage_reported(file, "h5py"):
        _reject_foreign_storage(handle, file)
        yield handle


@contextlib.contextmanager
def damage_reported(path: Path, *libraries: str) -> Iterator[None]:
    """Turn an exception that comes out of one of the libraries into an error that names the file; let others pass."""
    try:
        yield
    except BftembedError:
        raise
    except Exception as err:  # the words of h5py and of zarr's codecs for damage are many
        names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(err.__traceback__)]
        # h5py calls functions of ours, whose errors are not its own; zarr reads through other libraries.
        names = names[-1:] if "h5py" in libraries else names
        if not any(name.split(".")[0] in libraries for name in names):
            raise
        raise _damaged(path, err) from err


def _damaged(where: str | Path, err: BaseException) -> BftembedError:
    why = (str(err).splitlines() or [""])[0] or type(err).__name__
    return BftembedError(f"{where} cannot be read: it is truncated or damaged ({why}). Copy or download it again.")


def _reject_foreign_storage(root: h5py.Group, path: Path) -> None:
    """Raise when a member is an external link, external storage or a virtual data set: h5py follows these silently."""
    left, seen = [root], set()  # hard links can lead in circles
    while left:
        group = left.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        if group.name.count("/") > _MAX_DEPTH:
            raise BftembedError(f"{path} has groups nested more than {_MAX_DEPTH} deep: rewrite the file with anndata.")
        for name in group:
            where = f"{path}: {group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise BftembedError(f"{where} is a soft link, or a link to another file, which is not followed.")
            member = group[name]
            if isinstance(member, h5py.Group):
                left.append(member)
            elif isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
                raise BftembedError(f"{where} keeps its values in another file: rewrite it with anndata.")


def check_declared_size(member: Any, where: str) -> None:
    """Reject a HDF5 data set (or a group with one) that declares far more bytes than the file stores.

    Raises
    ------
    BftembedError
        With the declared and the stored size.
    """
    if isinstance(member, h5py.Group):
        member.visititems(lambda name, inner: check_declared_size(inner, where) if hasattr(inner, "shape") else None)
    elif isinstance(member, h5py.Dataset) and member.shape is not None:
        what = f"{where}: {member.name}"
        check_size(member.shape, member.dtype.itemsize, int(member.id.get_storage_size()), what)
        _check_chunks(member, what)


def _check_chunks(member: h5py.Dataset, what: str) -> None:
    """Reject chunks that HDF5 would inflate beyond all bounds, or would fill up with whatever lies in memory."""
    n_filters = member.id.get_create_plist().get_nfilters()
    if member.chunks is None or not n_filters:
        return
    size = math.prod(member.chunks) * int(member.id.get_type().get_size())
    skipped = 2**n_filters - 1

    def wrong(chunk: Any) -> Any:
        none_left = chunk.filter_mask & skipped == skipped
        return chunk if chunk.size > 2 * size + _MAX_OVERHEAD or (none_left and chunk.size != size) else None

    found = member.id.chunk_iter(wrong)
    if found is not None:
        raise BftembedError(f"{what} is damaged: a chunk of {found.size} stored bytes where {size} bytes belong.")


def check_size(shape: tuple[int, ...], itemsize: int, stored: int, what: str) -> None:
    """Reject an array of `shape` of which only `stored` bytes are there.

    Raises
    ------
    BftembedError
        With the declared and the stored size.
    """
    declared = math.prod(int(n) for n in shape) * itemsize
    if declared > _FREE_BYTES and declared > _BYTES_PER_STORED_BYTE * stored:
        raise BftembedError(
            f"{what} declares shape {tuple(shape)}, {declared / 2**30:.1f} GiB, but the file stores only {stored} "
            f"bytes of it: it is damaged, or made to exhaust memory."
        )


def read_values(array: Any, start: int, stop: int | None) -> np.ndarray:
    """Read rows of an array of HDF5, zarr or NumPy.

    HDF5 fills a deflated chunk that holds too little with whatever lies in memory, so vectors with no other filter are
    inflated here.

    Raises
    ------
    BftembedError
        When a chunk is damaged.
    """
    stop = int(array.shape[0]) if stop is None else stop
    try:
        if not isinstance(array, h5py.Dataset) or not _is_deflated_vector(array):
            return np.asarray(array[start:stop])
        out, size = np.empty(max(0, stop - start), array.dtype), array.chunks[0]
        for first in range(start // size * size, stop, size):
            if array.id.get_chunk_info_by_coord((first,)).byte_offset is None:  # never written: the fill value
                chunk = array[first : first + size]
            else:
                skipped, packed = array.id.read_direct_chunk((first,))
                expected = size * array.dtype.itemsize
                raw = packed if skipped else zlib.decompressobj().decompress(packed, expected + 1)
                if len(raw) != expected:
                    raise ValueError(f"a chunk holds {len(raw)} bytes, not {expected}")
                chunk = np.frombuffer(raw, array.dtype)
            a, b = max(start, first), min(stop, first + size)
            out[a - start : b - start] = chunk[a - first : b - first]
        return out
    except BftembedError:
        raise
    except Exception as err:  # the words of h5py, zlib and of zarr's codecs for damage are many
        raise _damaged(place(array), err) from err


def _is_deflated_vector(array: h5py.Dataset) -> bool:
    properties = array.id.get_create_plist()
    deflated = properties.get_nfilters() == 1 and properties.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
    return bool(deflated and array.chunks is not None and array.ndim == 1 and array.dtype.kind in "biuf")


def is_array(member: Any) -> bool:
    """Return whether `member` holds values: a HDF5 data set, or an array of a zarr store."""
    return hasattr(member, "shape") and hasattr(member, "dtype")


def is_group(member: Any) -> bool:
    """Return whether `member` holds other members by name: a HDF5 group or file, or a group of a zarr store."""
    return hasattr(member, "keys") and not is_array(member)


def place(member: Any) -> str:
    """Return the file of a member and, unless it is the root, its name in it, for messages."""
    file = str(member.store.root if hasattr(member, "store_path") else member.file.filename)
    return file if member.name in ("/", None) else f"{file}: {member.name.lstrip('/')}"


def strings(dataset: Any, rows: slice = slice(None)) -> list[str]:
    """Read a column as text, or the part `rows` (in steps of 1): missing values become ``""``, numbers text.

    `dataset` is an array, or the group of a categorical or of nullable strings, of HDF5 or zarr, as anndata writes it.

    Raises
    ------
    BftembedError
        When it is no such column, or a code of a categorical has no category.
    """
    if not is_group(dataset):
        return as_text(read_values(dataset, rows.start or 0, rows.stop))
    if "codes" in dataset:
        categories = [*strings(dataset["categories"]), ""]
        codes = read_values(dataset["codes"], rows.start or 0, rows.stop)
        if codes.size and codes.max() >= len(categories) - 1:
            raise BftembedError(f"{place(dataset)} has the code {codes.max()}, but {len(categories) - 1} categories.")
        return [categories[max(code, -1)] for code in codes]
    if "values" in dataset:
        values = strings(dataset["values"], rows)
        mask = dataset["mask"][rows] if "mask" in dataset else [False] * len(values)
        return ["" if m else v for v, m in zip(values, mask, strict=True)]
    raise BftembedError(f"{place(dataset)} is not a column of strings. Rewrite the file with anndata.")


def as_text(values: Any) -> list[str]:
    """Return the entries of an array as text; bytes are UTF-8, and what is not is replaced."""
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in values]
