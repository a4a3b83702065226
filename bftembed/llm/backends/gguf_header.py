"""The header of a GGUF file, read in milliseconds: settings, and whether all of its tensors are there.

The reader of the package ``gguf`` takes seconds, since it visits every token of the vocabulary.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require

if TYPE_CHECKING:
    from pathlib import Path

#: Type number of a value → struct format; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes
    ----------
    settings
        Key → value; lists (vocabulary, merges) are left out.
    quantization
        Name of the file type, for example ``"Q4_1"``; ``""`` where the file does not say.
    context
        The context that the model was trained for, in tokens; 0 where the file does not say.
    chat_template
        ``""`` where it brings none.
    """

    settings: dict[str, Any]
    quantization: str
    context: int
    chat_template: str


def gguf_parts(path: Path) -> list[Path]:
    """Return the files of a model: one, or all of a split one (``NAME-00001-of-00003.gguf``).

    Raises
    ------
    BftembedError
        For a path that is no file, a part that is not the first, or a part that is missing.
    """
    if path.is_dir():
        inside = sorted(f.name for f in path.glob("*.gguf"))
        raise BftembedError(f"{path} is a folder. Give the GGUF file itself{_listed(inside)}.")
    if not path.is_file():
        raise BftembedError(f"No such GGUF file: {path}. Check the path.")
    split = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if split is None:
        return [path]
    parts = [path.with_name(f"{split[1]}-{i:05d}-of-{split[3]}.gguf") for i in range(1, int(split[3]) + 1)]
    if int(split[2]) != 1:
        raise BftembedError(f"{path} is a later part of a split model. Give the first: {parts[0].name}.")
    missing = [p.name for p in parts if not p.is_file()]
    if missing:
        raise BftembedError(f"{path} is split into {len(parts)} parts; {missing[0]} is not beside it. Fetch it too.")
    return parts


def _listed(names: list[str]) -> str:
    return f" (inside: {', '.join(names[:3])}{' …' if len(names) > 3 else ''})" if names else ""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header, and check that the file is as long as its tensors need.

    Raises
    ------
    BftembedError
        For a file that is no GGUF file, a damaged header, or a file that was cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise BftembedError(
                f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'. Give a .gguf file, or use the "
                "generator 'transformers' for a folder of safetensors."
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                settings, end = _read(data)
            except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as err:
                raise BftembedError(
                    f"The header of {path} ({size} bytes) is damaged or cut: {err}. Fetch the file again."
                ) from err
    if end > size:
        raise BftembedError(f"{path} is cut: its tensors end at byte {end}, the file at {size}. Fetch the file again.")
    architecture = settings.get("general.architecture", "")
    return GgufHeader(
        settings,
        _quantization(settings.get("general.file_type")),
        int(settings.get(f"{architecture}.context_length", 0)),
        str(settings.get("tokenizer.chat_template") or ""),
    )


def _read(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Return the settings and the byte at which the last tensor ends."""
    cursor = _Cursor(data)
    if not 2 <= (version := cursor.number("I")) <= 3:
        raise ValueError(f"it has GGUF version {version}, known are 2 and 3")
    n_tensors, n_settings = cursor.number("Q"), cursor.number("Q")
    settings = {}
    for _ in range(n_settings):
        key = cursor.text()
        value = cursor.value(cursor.number("I"))
        if value is not None:
            settings[key] = value
    sizes = require("gguf", "llamacpp").GGML_QUANT_SIZES
    last = 0
    for _ in range(n_tensors):
        name = cursor.text()
        shape = [cursor.number("Q") for _ in range(cursor.number("I"))]
        kind, offset = cursor.number("I"), cursor.number("Q")
        # A type that the package does not know yet: llama.cpp must judge.
        block, n_bytes = sizes.get(kind, (1, 0))
        elements = math.prod(shape)
        if elements % block:
            raise ValueError(f"tensor {name!r} has shape {shape}, not a multiple of its block of {block}")
        last = max(last, offset + elements // block * n_bytes)
    alignment = int(settings.get("general.alignment", _DEFAULT_ALIGNMENT))
    if alignment < 1:
        raise ValueError(f"its alignment is {alignment}")
    start = -(-cursor.at // alignment) * alignment
    return settings, start + last


def _quantization(file_type: Any) -> str:
    if file_type is None:
        return ""
    known = {
        int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in require("gguf", "llamacpp").LlamaFileType
    }
    return known.get(int(file_type), f"type {file_type}")


class _Cursor:
    """Reads little-endian values one after another; past the end is an error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self._fits(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """Return a value; None for an array, which is skipped."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, n = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            self._skip(n * struct.calcsize(f"<{_SCALARS[inner]}"))
        else:
            for _ in range(n):
                if inner == _STRING:
                    self._skip(self.number("Q"))
                else:
                    self.value(inner)
        return None

    def _skip(self, n_bytes: int) -> None:
        self._fits(n_bytes)
        self.at += n_bytes

    def _fits(self, n_bytes: int) -> None:
        if self.at + n_bytes > len(self.data):
            raise ValueError(f"a value at byte {self.at} would end {self.at + n_bytes - len(self.data)} bytes too late")
