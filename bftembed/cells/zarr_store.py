"""A zarr store that may be damaged or hostile, opened read-only so that it answers like a HDF5 file.

The folder is walked and its metadata judged before zarr sees any of it. Groups are read here, from the very files that
were judged and never from consolidated copies of them; zarr reads the arrays.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.blosc import check_blosc
from bftembed.errors import BftembedError
from bftembed.hdf5 import check_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Codecs that turn bytes into numbers or text and nothing else. "pickle" runs what the store says; a codec that a
#: package brings along may do anything.
_COMPRESSORS = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
_FILTERS = (
    *("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
    *("vlen-array", "vlen-bytes", "vlen-utf8"),
)
_HARMLESS = {
    *(*_COMPRESSORS, *_FILTERS, *(f"numcodecs.{name}" for name in (*_COMPRESSORS, *_FILTERS))),
    *("bytes", "endian", "sharding_indexed", "transpose"),
}
#: The name of a chunk's file: "0", "0.1", "c.0.1", "c". Others are metadata, or of the system (".DS_Store").
_CHUNK = re.compile(r"c|(?:c\.)?[0-9]+(?:\.[0-9]+)*")


@contextlib.contextmanager
def open_zarr(path: str | os.PathLike[str]) -> Iterator[ZarrGroup]:
    """Open a zarr store (format 2 or 3) for reading, after refusing links, foreign codecs and damaged metadata.

    Parameters
    ----------
    path
        The folder.

    Yields
    ------
    ZarrGroup
        The root.

    Raises
    ------
    BftembedError
        When it is no folder or no store, holds a symbolic link or a special file, names a codec that could run code,
        or its metadata cannot be read. Inside the context: when an array declares far more than its chunks store, or
        a chunk is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BftembedError(f"{folder} is no folder, so no zarr store. Check the path; unpack it if it is an archive.")
    store = _Store(folder)
    try:
        store.scan(folder, "", None)
    except (OSError, RecursionError) as err:
        raise BftembedError(f"{folder} cannot be read: {err}. Check its permissions, or copy it again.") from err
    root = store.nodes.get("")
    if root is None:
        raise BftembedError(
            f"{folder} is a folder, but no zarr store (no .zgroup or zarr.json in it). Give a h5ad file, or the folder "
            f"that AnnData.write_zarr wrote."
        )
    if root.is_array:
        raise BftembedError(f"{folder} is a zarr store with one array alone. Give one that AnnData.write_zarr wrote.")
    yield ZarrGroup(store, "")


@dataclass
class _Node:
    """A group or an array: its metadata, the format, its attributes, and its chunk files with their bytes."""

    is_array: bool
    zarr_format: int
    attrs: dict[str, Any]
    described: dict[str, Any]
    chunks: list[Path] = field(default_factory=list)
    stored: int = 0


@dataclass
class _Store:
    """What the walk through the folder found, and the members asked for, by path inside (``""`` for the root)."""

    folder: Path
    nodes: dict[str, _Node] = field(default_factory=dict)
    members: dict[str, ZarrGroup | ZarrArray] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        """The folder, as a HDF5 file would call it."""
        return str(self.folder)

    @cached_property
    def opened(self) -> Any:
        """The folder as zarr opens it, read-only."""
        try:
            from zarr.storage import LocalStore
        except ImportError as err:
            raise BftembedError(
                f"{self.folder} is a zarr store: reading it needs the package zarr 3. Install it: pip install 'zarr>=3'"
            ) from err
        return LocalStore(self.folder, read_only=True)

    def member(self, path: str) -> ZarrGroup | ZarrArray:
        """Return the group or the array at `path`, one and the same each time: an array is opened and judged once."""
        if path not in self.members:
            self.members[path] = (ZarrArray if self.nodes[path].is_array else ZarrGroup)(self, path)
        return self.members[path]

    def scan(self, folder: Path, path: str, array: _Node | None) -> None:
        """Note the members of `folder`; files with the name of a chunk are chunks of the array around them."""
        node = self._node(folder, path)
        if node is not None:
            self.nodes[path] = node
            array = node if node.is_array else None
        with os.scandir(folder) as listed:
            members = list(listed)
        for member in members:
            where = f"{path}/{member.name}".lstrip("/")
            if member.is_symlink():
                raise BftembedError(
                    f"{self.folder}: {where} is a symbolic link ({Path(member).readlink()}). Refused: bftembed reads "
                    f"nothing outside of the store. Copy the store with its links resolved (cp -rL), if you trust them."
                )
            if member.is_dir():
                self.scan(Path(member), where, array)
            elif not member.is_file():
                raise BftembedError(f"{self.folder}: {where} is no ordinary file. Refused: copy or write it again.")
            elif array is not None and _CHUNK.fullmatch(member.name):
                array.chunks.append(Path(member))
                array.stored += member.stat().st_size

    def _node(self, folder: Path, path: str) -> _Node | None:
        if (folder / "zarr.json").exists():
            found = self._json(folder / "zarr.json")
            if found.get("zarr_format") != 3 or found.get("node_type") not in ("group", "array"):
                raise self._damaged(f"{path}/zarr.json", "neither a group nor an array of format 3")
            attributes = found.get("attributes")
            node = _Node(found["node_type"] == "array", 3, attributes if isinstance(attributes, dict) else {}, found)
        elif (folder / ".zarray").exists() or (folder / ".zgroup").exists():
            name = ".zarray" if (folder / ".zarray").exists() else ".zgroup"
            found, attributes = self._json(folder / name), folder / ".zattrs"
            node = _Node(name == ".zarray", 2, self._json(attributes) if attributes.exists() else {}, found)
        else:
            return None
        if node.is_array:
            self._check_codecs(found, path)
        return node

    def _json(self, file: Path) -> dict[str, Any]:
        where = file.relative_to(self.folder)
        if file.is_symlink() or not file.is_file():
            raise BftembedError(f"{self.folder}: {where} is a symbolic link or no file. Refused: copy the store again.")
        try:
            found = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as err:
            raise self._damaged(str(where), str(err) or type(err).__name__) from err
        if not isinstance(found, dict):
            raise self._damaged(str(where), "not a JSON object")
        return found

    def _damaged(self, where: str, why: str) -> BftembedError:
        return BftembedError(
            f"{self.folder}: {where.lstrip('/')} cannot be read: it is damaged ({why}). Copy or write the store again."
        )

    def _check_codecs(self, described: dict[str, Any], path: str) -> None:
        """Refuse a codec that is not known to be harmless, in an array's metadata or inside of another codec."""
        for key in ("filters", "compressor", "codecs", "index_codecs", "storage_transformers"):
            value = described.get(key)
            for entry in value if isinstance(value, list) else [value]:
                codec = entry if isinstance(entry, dict) else {"name": entry}
                name = codec.get("id", codec.get("name"))
                if name is not None and name not in _HARMLESS:
                    raise BftembedError(
                        f"{self.folder}: {path} is packed with the codec {name!r}, which may run code of the store. "
                        f"Refused: only the known codecs of zarr are decoded. Write the store with anndata."
                    )
                inner = codec.get("configuration")
                if isinstance(inner, dict):
                    self._check_codecs(inner, path)


@dataclass(frozen=True, eq=False)
class _Member:
    file: _Store
    path: str

    @property
    def name(self) -> str:
        """Path inside the store, from its root, as h5py writes it."""
        return f"/{self.path}"

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes."""
        return self.file.nodes[self.path].attrs


class ZarrGroup(_Member):
    """A group of a zarr store, with what is used of a h5py group."""

    @property
    def filename(self) -> str:
        """The folder of the store."""
        return self.file.filename

    def _inner(self, key: str) -> str:
        return f"{self.path}/{key}".strip("/")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(key) and self._inner(key) in self.file.nodes

    def __getitem__(self, key: str) -> ZarrGroup | ZarrArray:
        if key not in self:
            raise KeyError(f"{self.filename}: {self.path or 'the root'} has no member {key!r}")
        return self.file.member(self._inner(key))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a member, or `default` where there is none."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> list[str]:
        """Return the names of the members, sorted."""
        start = f"{self.path}/" if self.path else ""
        inner = (path[len(start) :] for path in self.file.nodes if path.startswith(start) and path != self.path)
        return sorted(name for name in inner if "/" not in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def values(self) -> list[ZarrGroup | ZarrArray]:
        """Return the members."""
        return [self[key] for key in self.keys()]


class ZarrArray(_Member):
    """An array of a zarr store, with what is used of a h5py data set. Opened, and its size checked, at first use."""

    @cached_property
    def _array(self) -> Any:
        node = self.file.nodes[self.path]
        with self._damage_named():
            import zarr

            array = zarr.open_array(store=self.file.opened, path=self.path, mode="r", zarr_format=node.zarr_format)  # type: ignore[arg-type]
            blocks, size = (array.shards or array.chunks), max(1, np.dtype(array.dtype).itemsize)
        what = f"{self.file.filename}: {self.path}"
        check_size(array.shape, size, node.stored, what)
        check_size(blocks, size, node.stored, f"{what}, in its chunks,")
        with self._damage_named():
            check_blosc(node.chunks, node.described)
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(int(n) for n in self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(self._array.dtype)

    def check_whole(self) -> None:
        """Refuse an array whose chunk files are not all there: zarr reads those as zeros or empty text.

        Not for dense matrices: of those, zarr leaves out chunks that hold zeros alone.

        Raises
        ------
        BftembedError
            With the number of chunks that lack.
        """
        blocks = self._array.shards or self._array.chunks
        expected = int(np.prod([-(-n // size) for n, size in zip(self.shape, blocks, strict=True)], dtype=object))
        found = len(self.file.nodes[self.path].chunks)
        if found < expected:
            raise BftembedError(
                f"{self.file.filename}: {self.path} lacks {expected - found} of its {expected} chunks. "
                f"Was the store copied as a whole? Copy or write it again."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        array = self._array
        with self._damage_named():
            return np.asarray(array[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except BftembedError:
            raise
        except Exception as err:  # every codec has errors of its own
            why = (str(err).splitlines() or [""])[0] or type(err).__name__
            raise BftembedError(
                f"{self.file.filename}: {self.path} cannot be read: it is truncated or damaged ({why}). "
                f"Copy or write the store again."
            ) from err
