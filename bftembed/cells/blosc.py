"""Chunks of a zarr store that Blosc packed, judged by their headers before they are decoded.

The decoder believes the length that a chunk's header declares and reads on behind a chunk that was cut short. What lies
there in memory passes for values, or ends the process (numcodecs issue 228).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def blosc_damage(files: Iterable[Path], described: dict[str, Any]) -> str | None:
    """Say which chunk of an array holds fewer bytes than its Blosc header declares.

    Parameters
    ----------
    files
        The array's chunk files.
    described
        The array's metadata (``.zarray`` or ``zarr.json``), of known codecs.

    Returns
    -------
    str or None
        The chunk and what is wrong with it; also when Blosc stands at a place where its chunks cannot be judged.
        None for whole chunks, and for an array without Blosc.
    """
    layout = _layout(described)
    if isinstance(layout, _Layout):
        for file in files:
            damage = _file_damage(file, layout)
            if damage is not None:
                return f"its chunk {file.name} {damage}"
        return None
    return layout


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


def _layout(described: dict[str, Any]) -> _Layout | str | None:
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
    if isinstance(frames, str):
        return frames
    if frames is None or codecs[-1][0] != "sharding_indexed" or index not in (["bytes"], ["bytes", "crc32c"]):
        return "it is packed by Blosc inside of shards that are packed once more, which is not read"
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


def _frames(codecs: Sequence[tuple[str, dict[str, Any]]]) -> _Layout | str | None:
    """Where the frame of a chunk is that these codecs made; a text when that cannot be said."""
    names = [name for name, _ in codecs]
    places = [i for i, name in enumerate(names) if name in _NAMES]
    if not places:
        return None
    after = names[places[0] + 1 :]
    if after in ([], ["crc32c"]):
        return _Layout(_CHECKSUM * len(after))
    return f"it is packed by Blosc and then by {', '.join(after)}, which is not read"


def _file_damage(file: Path, layout: _Layout) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as handle:
        frames = np.array([[0, size]], dtype=np.uint64)
        if layout.n_inner is not None:
            length = 16 * layout.n_inner
            start = 0 if layout.index_first else size - length - layout.index_checksum
            handle.seek(max(0, start))
            index = handle.read(length) if start >= 0 else b""
            if len(index) < length:
                return f"has {size:,} bytes, fewer than its index"
            frames = np.frombuffer(index, dtype="<u8").reshape(-1, 2)
        for offset, held in frames.tolist():
            if (offset, held) == (_ABSENT, _ABSENT):
                continue
            if offset + held > size:
                return f"has {size:,} bytes, and its index says {offset + held:,}"
            handle.seek(offset)
            header, held = handle.read(_HEADER), held - layout.behind
            declared = int.from_bytes(header[12:16], "little")
            if len(header) < _HEADER or not _HEADER <= declared <= held:
                return f"holds {max(0, held):,} bytes for Blosc, and its header declares {declared:,}"
    return None
