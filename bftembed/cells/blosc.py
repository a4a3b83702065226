"""Chunks of a zarr store that Blosc packed, judged by their headers before they are decoded.

The decoder believes the length that a chunk's header declares and reads on behind a chunk that was cut short. What lies
there in memory passes for values, or ends the process (numcodecs issue 228).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_NAMES = ("blosc", "numcodecs.blosc")
_HEADER = 16
#: Bytes of a checksum behind what was packed; as a codec after Blosc, and in the index of a shard.
_CHECKSUM = 4
#: Offset and length of a chunk that a shard does not hold.
_ABSENT = 2**64 - 1


def check_blosc(files: Iterable[Path], described: dict[str, Any]) -> None:
    """Check that every chunk of an array holds as many bytes as its Blosc header declares.

    Parameters
    ----------
    files
        The array's chunk files.
    described
        The array's metadata (``.zarray`` or ``zarr.json``), of known codecs.

    Raises
    ------
    ValueError
        For a chunk that does not, with its name, and where Blosc stands at a place at which its chunks cannot be
        judged.
    """
    layout = _layout(described)
    if layout is not None:
        for file in files:
            _check_file(file, layout)


@dataclass(frozen=True)
class _Layout:
    """Where the Blosc frames of a file are: the whole file, or as the index of a shard says.

    Attributes
    ----------
    behind
        Bytes between the end of a frame and that of its chunk.
    n_inner
        Chunks of a shard, None where a file is one chunk.
    index_first, index_checksum
        Whether the index of a shard is at its start, and bytes of a checksum behind it.
    """

    behind: int
    n_inner: int | None = None
    index_first: bool = False
    index_checksum: int = 0


def _layout(described: dict[str, Any]) -> _Layout | None:
    if described.get("zarr_format") != 3:
        return _frames([*(_codecs(described.get("filters"))), *_codecs([described.get("compressor")])])
    codecs = _codecs(described.get("codecs"))
    shard = next((config for name, config in codecs if name == "sharding_indexed"), None)
    if shard is None:
        return _frames(codecs)
    inner = _codecs(shard.get("codecs"))
    if "blosc" not in repr(inner):
        return _frames(codecs)
    frames, index = _frames(inner), [name for name, _ in _codecs(shard.get("index_codecs"))]
    if frames is None or codecs[-1][0] != "sharding_indexed" or index not in (["bytes"], ["bytes", "crc32c"]):
        raise ValueError("it is packed by Blosc inside of shards that are packed once more, which is not read")
    outer = described["chunk_grid"]["configuration"]["chunk_shape"]
    return _Layout(
        frames.behind,
        math.prod(whole // part for whole, part in zip(outer, shard["chunk_shape"], strict=True)),
        shard.get("index_location") == "start",
        _CHECKSUM * (len(index) - 1),
    )


def _codecs(listed: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and configurations, in the order in which they were applied."""
    entries = [entry if isinstance(entry, dict) else {"name": entry} for entry in listed or [] if entry is not None]
    return [(str(e.get("id", e.get("name"))), e.get("configuration") or {}) for e in entries]


def _frames(codecs: Sequence[tuple[str, dict[str, Any]]]) -> _Layout | None:
    """Where the frame of a chunk is that these codecs made; None without Blosc."""
    names = [name for name, _ in codecs]
    places = [i for i, name in enumerate(names) if name in _NAMES]
    if not places:
        return None
    after = names[places[0] + 1 :]
    if after not in ([], ["crc32c"]):
        raise ValueError(f"it is packed by Blosc and then by {', '.join(after)}, which is not read")
    return _Layout(_CHECKSUM * len(after))


def _check_file(file: Path, layout: _Layout) -> None:
    size, what = file.stat().st_size, f"its chunk {file.name}"
    with file.open("rb") as handle:
        for offset, held in [(0, size)] if layout.n_inner is None else _in_shard(handle, size, layout, what):
            handle.seek(offset)
            header, held = handle.read(_HEADER), held - layout.behind
            declared = int.from_bytes(header[12:16], "little")
            if len(header) < _HEADER or not _HEADER <= declared <= held:
                raise ValueError(f"{what} holds {max(0, held):,} bytes for Blosc, and its header declares {declared:,}")


def _in_shard(handle: BinaryIO, size: int, layout: _Layout, what: str) -> list[tuple[int, int]]:
    """Return offset and length of the chunks that a shard of `size` bytes holds, as its index says."""
    assert layout.n_inner is not None
    length = 16 * layout.n_inner
    start = 0 if layout.index_first else size - length - layout.index_checksum
    handle.seek(max(0, start))
    index = handle.read(length) if start >= 0 else b""
    if len(index) < length:
        raise ValueError(f"{what} has {size:,} bytes, fewer than its index")
    listed = np.frombuffer(index, dtype="<u8").reshape(-1, 2).tolist()
    held = [(offset, n) for offset, n in listed if (offset, n) != (_ABSENT, _ABSENT)]
    end = max((offset + n for offset, n in held), default=0)
    if end > size:
        raise ValueError(f"{what} has {size:,} bytes, and its index says {end:,}")
    return held
