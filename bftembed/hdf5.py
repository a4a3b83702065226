"""Opening a HDF5 file that may be missing, damaged or hostile. Read only, nothing followed out of the file."""

from __future__ import annotations

import contextlib
import math
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

#: Declared bytes that are never questioned, and how much more than this a byte on disk may stand for (deflate packs
#: at most 1,032 bytes into one). A data set beyond both is a few kilobytes that claim to be gigabytes.
FREE_BYTES = 64 * 2**20
BYTES_PER_STORED_BYTE = 10_000
#: A filter may add so many bytes to a chunk, and no more than double it; what is larger inflates to more than a chunk.
MAX_OVERHEAD = 4096


@contextlib.contextmanager
def open_h5ad(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a h5ad file for reading, after refusing links and storage that lead out of the file.

    Yields
    ------
    h5py.File
        Opened with mode ``"r"``; closed on exit.

    Raises
    ------
    BftembedError
        When the file is missing, not HDF5, truncated, or points to other files. Names the path and the remedy.
    """
    file = Path(path)
    if not file.exists():
        raise BftembedError(f"No such file: {file}. Check the path.")
    if file.is_dir():
        raise BftembedError(f"{file} is a folder, not a h5ad file.")
    if not h5py.is_hdf5(file):
        raise BftembedError(
            f"{file} is not a HDF5 file ({file.stat().st_size} bytes). Was the download complete, and is it an .h5ad?"
        )
    try:
        handle = _opened(file)
    except OSError as err:
        raise BftembedError(
            f"{file} cannot be opened: it is truncated or damaged ({_first_line(err)}). Copy or download it again."
        ) from err
    try:
        try:
            refuse_foreign_storage(handle, file)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as err:  # h5py's many words for a damaged tree
            raise _damaged(file, err) from err
        try:
            yield handle
        except (OSError, RuntimeError) as err:  # HDF5's errors come as either, and so do the caller's own
            if not _comes_from_h5py(err):
                raise
            raise _damaged(file, err) from err
    finally:
        handle.close()


def _opened(file: Path) -> h5py.File:
    try:
        return h5py.File(file, "r", locking=False)
    except OSError as err:
        # This process has it open with locks already, as a backed AnnData does: HDF5 wants both to be opened alike.
        if "locking flag" not in str(err):
            raise
        return h5py.File(file, "r")


@contextlib.contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Name what could not be read, for reading inside of writing: an OSError there would speak of the output.

    Raises
    ------
    BftembedError
        For every OSError and RuntimeError inside; HDF5's errors come as either.
    """
    try:
        yield
    except (OSError, RuntimeError) as err:
        raise BftembedError(f"{where} cannot be read: it is truncated or damaged ({_first_line(err)}).") from err


def _damaged(file: Path, err: BaseException) -> BftembedError:
    return BftembedError(f"{file} cannot be read: it is truncated or damaged ({_first_line(err)}).")


def _comes_from_h5py(err: BaseException) -> bool:
    """Return whether `err` was raised inside h5py, and not by what the caller does while the file is open."""
    innermost = None
    for frame, _ in traceback.walk_tb(err.__traceback__):
        innermost = frame
    return innermost is not None and str(innermost.f_globals.get("__name__", "")).split(".")[0] == "h5py"


def _first_line(err: BaseException) -> str:
    return str(err).splitlines()[0] if str(err) else type(err).__name__


def refuse_foreign_storage(group: Any, path: Path, *, seen: set[int] | None = None) -> None:
    """Raise when any member of `group` is an external link, external storage or a virtual data set.

    anndata and h5py follow these silently, so that a crafted file could bring in another file's values. `seen` holds
    the addresses of groups already looked at: hard links can lead in circles.
    """
    seen = set() if seen is None else seen
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return
    seen.add(address)
    for name in group:
        link = group.get(name, getlink=True)
        where = f"{group.name.rstrip('/')}/{name}"
        if isinstance(link, h5py.ExternalLink):
            raise BftembedError(
                f"{path}: {where} is a link to another file ({link.filename}). Refused: bftembed reads one file only."
            )
        if isinstance(link, h5py.SoftLink):
            raise BftembedError(f"{path}: {where} is a soft link. Refused: rewrite the file with anndata.")
        member = group[name]
        if isinstance(member, h5py.Group):
            refuse_foreign_storage(member, path, seen=seen)
        elif isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
            raise BftembedError(f"{path}: {where} keeps its values in another file. Refused: rewrite it with anndata.")


def check_declared_size(member: Any, where: str) -> None:
    """Refuse a HDF5 data set (or a group with one) that declares far more bytes than the file stores, or far fewer.

    Raises
    ------
    BftembedError
        With the declared and the stored size.
    """
    if isinstance(member, h5py.Group):
        member.visititems(lambda name, inner: check_declared_size(inner, where) if hasattr(inner, "shape") else None)
        return
    if not isinstance(member, h5py.Dataset) or member.shape is None:
        return
    check_size(member.shape, member.dtype.itemsize, int(member.id.get_storage_size()), f"{where}: {member.name}")
    _check_chunks(member, f"{where}: {member.name}")


def _check_chunks(member: h5py.Dataset, what: str) -> None:
    """Refuse chunks that HDF5 would inflate beyond all bounds, or would fill up with whatever lies in memory."""
    properties = member.id.get_create_plist()
    n_filters = properties.get_nfilters()
    if member.chunks is None or not n_filters:
        return
    size = math.prod(member.chunks) * int(member.id.get_type().get_size())
    skipped = 2**n_filters - 1

    def wrong(chunk: Any) -> Any:
        none_left = chunk.filter_mask & skipped == skipped
        return chunk if chunk.size > 2 * size + MAX_OVERHEAD or (none_left and chunk.size != size) else None

    found = member.id.chunk_iter(wrong)
    if found is not None:
        raise BftembedError(
            f"{what} has a chunk of {found.size} stored bytes where {size} bytes belong. Refused before reading: the "
            f"file is damaged or made to exhaust memory."
        )


def check_size(shape: tuple[int, ...], itemsize: int, stored: int, what: str) -> None:
    """Refuse an array of `shape` of which only `stored` bytes are there.

    Raises
    ------
    BftembedError
        With the declared and the stored size.
    """
    declared = math.prod(int(n) for n in shape) * itemsize
    if declared > FREE_BYTES and declared > BYTES_PER_STORED_BYTE * stored:
        raise BftembedError(
            f"{what} declares shape {tuple(shape)}, {declared / 2**30:.1f} GiB, but the file stores only {stored} "
            f"bytes of it. Refused before reading: the file is damaged or made to exhaust memory."
        )


def is_array(member: Any) -> bool:
    """Return whether `member` holds values: a HDF5 data set, or an array of a store that answers like HDF5."""
    return hasattr(member, "shape") and hasattr(member, "dtype")


def is_group(member: Any) -> bool:
    """Return whether `member` holds other members by name: a HDF5 group or file, or one that answers like them."""
    return hasattr(member, "keys") and not is_array(member)


def place(member: Any) -> str:
    """Return the file of a member and, unless it is the root, its name in it, for messages."""
    file = str(member.file.filename)
    return file if member.name == "/" else f"{file}: {member.name.lstrip('/')}"


def strings(dataset: Any, rows: slice = slice(None)) -> list[str]:
    """Read a one-dimensional string column as written by anndata (array, categorical or nullable strings).

    Parameters
    ----------
    dataset
        An array, or the group of a categorical (``categories`` and ``codes``) or of a nullable string array
        (``values`` and ``mask``), of HDF5 or of what answers like it.
    rows
        Which part to read, in steps of 1; all by default.

    Returns
    -------
    list of str
        Missing values become ``""``; numbers are written as text.

    Raises
    ------
    BftembedError
        When it is no such column, or a code of a categorical has no category.
    """
    if is_group(dataset):
        if "codes" in dataset:
            categories, codes = strings(dataset["categories"]), dataset["codes"][rows]
            if codes.size and codes.max() >= len(categories):
                raise BftembedError(
                    f"{dataset.file.filename}: {dataset.name} has the code {codes.max()}, but {len(categories)} "
                    "categories. Rewrite the file with anndata."
                )
            return [categories[c] if c >= 0 else "" for c in codes]
        if "values" in dataset:
            values = strings(dataset["values"], rows)
            mask = dataset["mask"][rows] if "mask" in dataset else [False] * len(values)
            return ["" if m else v for v, m in zip(values, mask, strict=True)]
        raise BftembedError(
            f"{dataset.file.filename}: {dataset.name} is not a column of strings. Rewrite the file with anndata."
        )
    return as_text(dataset[rows])


def as_text(values: Any) -> list[str]:
    """Return the entries of an array as text; bytes are UTF-8, and what is not is replaced."""
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in values]
