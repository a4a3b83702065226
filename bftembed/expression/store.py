"""Opening a HDF5 file or a zarr store that may be damaged or hostile, and the tables in it.

Before zarr sees a store, the folder is walked: links, special files and codecs that could run code are rejected. Arrays
are judged before they are read (`guard`): declared sizes, and for Blosc the length that each chunk's header declares,
since the decoder reads past the end of a chunk that was cut short (numcodecs issue 228).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.hdf5 import (
    as_text,
    check_declared_size,
    check_size,
    damage_reported,
    is_array,
    is_group,
    open_h5ad,
    place,
    strings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Codecs that turn bytes into numbers or text and nothing else. "pickle" runs what the store says; a codec that a
#: package brings along may do anything.
_CODECS = (
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
    *("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
    *("vlen-array", "vlen-bytes", "vlen-utf8"),
)
_HARMLESS = {*_CODECS, *(f"numcodecs.{name}" for name in _CODECS)}
_HARMLESS |= {"bytes", "endian", "sharding_indexed", "transpose"}
#: The name of a chunk's file: "0", "0.1", "c.0.1", "c". Others are metadata, or of the system (".DS_Store").
_CHUNK = re.compile(r"c|(?:c\.)?[0-9]+(?:\.[0-9]+)*")
#: Metadata of an array, of formats 3 and 2.
_METADATA = ("zarr.json", ".zarray")
#: Bytes of a Blosc header, and of a checksum after a chunk or after the index of a shard.
_HEADER, _CHECKSUM = 16, 4


@contextlib.contextmanager
def open_store(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a HDF5 file, or a zarr store (a folder, format 2 or 3), read-only.

    Yields
    ------
    h5py.File or zarr.Group
        The root. Pass members to `guard` before they are read.

    Raises
    ------
    BftembedError
        When it is missing, damaged, leads out of itself by links or external storage, or names a codec that could run
        code; inside the context also for damage that shows while values are read.
    """
    folder = Path(path)
    if not folder.is_dir():
        with open_h5ad(path) as handle:
            yield handle
        return
    if not any((folder / name).exists() for name in ("zarr.json", ".zgroup")):
        raise BftembedError(f"{folder} is a folder, but no zarr store. Give a h5ad, or what AnnData.write_zarr wrote.")
    import zarr
    from zarr.storage import LocalStore

    try:
        _check_folder(folder, folder)
    except (OSError, RecursionError) as err:
        raise BftembedError(f"{folder} cannot be read: {err}. Check its permissions, or copy it again.") from err
    with damage_reported(folder, "zarr", "numcodecs"):
        yield zarr.open_group(LocalStore(folder, read_only=True), mode="r", use_consolidated=False)


def guard(member: Any, where: str) -> None:
    """Check an array, or all arrays of a group, before they are read.

    Raises
    ------
    BftembedError
        When one declares far more bytes than are stored, or a chunk does not hold what its header declares.
    """
    if not hasattr(member, "store_path"):
        check_declared_size(member, where)
    elif is_group(member):
        for name in member:
            guard(member[name], where)
    else:
        what, stored = place(member), _chunk_files(member)
        n_bytes, size = sum(file.stat().st_size for file in stored), max(1, np.dtype(member.dtype).itemsize)
        check_size(member.shape, size, n_bytes, what)
        check_size(member.shards or member.chunks, size, n_bytes, f"{what}, in its chunks,")
        try:
            _check_blosc(stored, _json(_folder(member) / _METADATA[member.metadata.zarr_format == 2], what))
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            raise BftembedError(f"{what} cannot be read: it is truncated or damaged ({err}).") from err


def check_complete(member: Any, where: str) -> None:
    """Check that all chunks of an array of a zarr store are there: zarr reads missing ones as zeros or empty text.

    Of a group, the column that it holds: its ``values``, or its ``categories`` and ``codes``. Not for dense matrices,
    nor for a ``mask``: of those zarr leaves out chunks of zeros. HDF5 finds such damage itself.

    Raises
    ------
    BftembedError
        With the number of missing chunks.
    """
    if not hasattr(member, "store_path"):
        return
    if is_group(member):
        for name in ("values", "categories", "codes"):
            if name in member:
                check_complete(member[name], where)
        return
    blocks = member.shards or member.chunks
    expected = math.prod(-(-n // size) for n, size in zip(member.shape, blocks, strict=True))
    if (found := len(_chunk_files(member))) < expected:
        raise BftembedError(f"{place(member)}: {expected - found} of {expected} chunks are missing. Copy it again.")


def n_rows(table: Any) -> int:
    """Return the number of rows of ``.obs`` or ``.var``, which is the length of the index.

    Raises
    ------
    BftembedError
        When there is no index, or a part of it is missing.
    """
    column = table if is_array(table) else table.get(index_of(table))
    if column is not None:
        guard(column, place(table))
        check_complete(column, place(table))
    if is_group(column):
        column = column.get("codes", column.get("values"))
    if column is None or not column.shape:
        raise BftembedError(f"{place(table)} has no index. Write the file again with anndata.")
    return int(column.shape[0])


def row_names(table: Any, rows: slice) -> list[str]:
    """Read the names of some rows of ``.obs`` or ``.var``, in steps of 1."""
    name = index_of(table)
    return as_text(table[rows][name]) if is_array(table) else strings(table[name], rows)


def index_of(table: Any) -> str:
    """Return which column of ``.obs`` or ``.var`` is the index."""
    if is_array(table):  # the layout before anndata 0.7
        fields = list(table.dtype.names or ("",))
        return "index" if "index" in fields else fields[0]
    return as_text([table.attrs.get("_index", "_index")])[0]


def _check_folder(root: Path, folder: Path) -> None:
    with os.scandir(folder) as listed:
        for member in listed:
            path = Path(member)
            where = f"{root}: {path.relative_to(root)}"
            if member.is_symlink():
                raise BftembedError(
                    f"{where} is a symbolic link ({path.readlink()}), which is not followed. Copy the store with its "
                    f"links resolved (cp -rL), if you trust them."
                )
            if member.is_dir():
                _check_folder(root, path)
            elif not member.is_file():
                raise BftembedError(f"{where} is not an ordinary file. Copy or write the store again.")
            elif member.name in (*_METADATA, ".zgroup", ".zattrs"):
                found = _json(path, where)
                if member.name != ".zattrs" and found.get("zarr_format") not in (2, 3):
                    raise BftembedError(f"{where} is damaged: not of zarr format 2 or 3. Copy the store again.")
                _check_codecs(found, where)


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as err:
        raise BftembedError(f"{where} is damaged ({str(err) or type(err).__name__}). Copy the store again.") from err
    return found


def _check_codecs(metadata: dict[str, Any], where: str) -> None:
    """Reject a codec that is not known to be harmless, in an array's metadata or inside of another codec."""
    for key in ("filters", "compressor", "codecs", "index_codecs", "storage_transformers"):
        value = metadata.get(key)
        for entry in value if isinstance(value, list) else [value]:
            codec = entry if isinstance(entry, dict) else {"name": entry}
            name = codec.get("id", codec.get("name"))
            if name is not None and name not in _HARMLESS:
                raise BftembedError(f"{where} names the codec {name!r}, which may run code of the store: not read.")
            inner = codec.get("configuration")
            if isinstance(inner, dict):
                _check_codecs(inner, where)


def _folder(array: Any) -> Path:
    return Path(array.store.root) / array.path


def _chunk_files(array: Any) -> list[Path]:
    found = (Path(base) / name for base, _, names in os.walk(_folder(array)) for name in names)
    return [file for file in found if _CHUNK.fullmatch(file.name)]


def _check_blosc(files: Sequence[Path], metadata: dict[str, Any]) -> None:
    """Check that every Blosc frame has as many bytes as its header declares; a shard's frames are as its index says."""
    codecs = metadata.get("codecs") or [*(metadata.get("filters") or []), metadata.get("compressor")]
    if "blosc" not in repr(codecs):
        return
    n_inner, at_start, after_index = 0, False, 0
    if codecs[0] and codecs[0].get("name") == "sharding_indexed" and len(codecs) == 1:
        shard = codecs[0]["configuration"]
        codecs, at_start = shard["codecs"], shard.get("index_location") == "start"
        outer = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        n_inner = math.prod(whole // part for whole, part in zip(outer, shard["chunk_shape"], strict=True))
        after_index = _n_checksums([{"name": "blosc"}, *shard["index_codecs"][1:]])
    trailing = _n_checksums(codecs)
    for file in files:
        size = file.stat().st_size
        frames = [(0, size)]
        with file.open("rb") as handle:
            if n_inner:
                handle.seek(0 if at_start else max(0, size - 16 * n_inner - after_index))
                listed = np.frombuffer(handle.read(16 * n_inner), dtype="<u8").reshape(n_inner, 2)
                frames = [(a, n) for a, n in listed.tolist() if (a, n) != (2**64 - 1, 2**64 - 1)]
            for offset, held in frames:
                handle.seek(min(offset, size))
                header = handle.read(_HEADER)
                declared = int.from_bytes(header[12:16], "little")
                if offset + held > size or len(header) < _HEADER or not _HEADER <= declared <= held - trailing:
                    raise ValueError(f"its chunk {file.name} holds {held:,} bytes, and Blosc declares {declared:,}")


def _n_checksums(codecs: Sequence[Any]) -> int:
    """Return how many bytes follow a Blosc frame in its chunk."""
    names = [str(one.get("id", one.get("name"))).removeprefix("numcodecs.") for one in codecs if one]
    after = names[names.index("blosc") + 1 :] if "blosc" in names else ["nothing"]
    if after not in ([], ["crc32c"]):
        raise ValueError(f"Blosc before {', '.join(after)} is not read")
    return _CHECKSUM * len(after)
