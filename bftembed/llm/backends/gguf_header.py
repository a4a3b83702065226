"""Header of a GGUF file: settings, and whether the file holds all of its tensors.

The reader of the package ``gguf`` takes seconds, since it visits every token of the vocabulary as an array.
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


@dataclass(frozen=True)
class GgufHeader:
    """Settings of a model, without lists; quantization (``"Q4_1"``), trained context and template, where they are."""

    settings: dict[str, Any]
    quantization: str
    context: int
    chat_template: str


def gguf_parts(path: Path) -> list[Path]:
    """Return the files of a model: one, or all of a split one (``NAME-00001-of-00003.gguf``)."""
    parts = [path]
    if split := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name):
        parts = [path.with_name(f"{split[1]}-{i:05d}-of-{split[2]}.gguf") for i in range(1, int(split[2]) + 1)]
    for part in parts:
        if not part.is_file():
            raise BftembedError(f"No such GGUF file: {part}. Give the file itself; of a split model, all parts.")
    return parts


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header.

    Raises
    ------
    BftembedError
        For a file that is not a GGUF file, a damaged header, or a file that is shorter than its tensors need.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BftembedError(f"{path} is not a GGUF file. Take 'transformers' for a folder of safetensors.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                settings, end = _read(_Cursor(data))
            except (struct.error, ValueError, LookupError, ArithmeticError) as err:
                raise BftembedError(
                    f"The header of {path} ({size} bytes) is damaged or cut: {err}. Fetch the file again."
                ) from err
    if end > size:
        raise BftembedError(f"{path} is cut: its tensors end at byte {end}, the file at {size}. Fetch the file again.")
    return GgufHeader(
        settings,
        _quantization(settings.get("general.file_type")),
        int(settings.get(f"{settings.get('general.architecture')}.context_length", 0)),
        str(settings.get("tokenizer.chat_template") or ""),
    )


def _read(cursor: _Cursor) -> tuple[dict[str, Any], int]:
    """Return the settings and the byte at which the last tensor ends."""
    if (version := cursor.number("I")) not in (2, 3):
        raise ValueError(f"it has GGUF version {version}, known are 2 and 3")
    n_tensors, n_settings = cursor.number("Q"), cursor.number("Q")
    found = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(n_settings)}
    settings = {name: value for name, value in found.items() if value is not None}
    sizes = require("gguf", "llamacpp").GGML_QUANT_SIZES
    last = 0
    for _ in range(n_tensors):
        cursor.text()
        elements = math.prod([cursor.number("Q") for _ in range(cursor.number("I"))])
        kind, offset = cursor.number("I"), cursor.number("Q")
        # A type that the package does not know yet: llama.cpp must judge.
        block, n_bytes = sizes.get(kind, (1, 0))
        last = max(last, offset + elements // block * n_bytes)
    alignment = int(settings.get("general.alignment", 32))
    return settings, -(-cursor.at // alignment) * alignment + last


def _quantization(file_type: Any) -> str:
    if file_type is None:
        return ""
    known = {int(t): t.name for t in require("gguf", "llamacpp").LlamaFileType}
    return known.get(int(file_type), f"type {file_type}").removeprefix("MOSTLY_").removeprefix("ALL_")


class _Cursor:
    """Reads little-endian values one after another; past the end is an error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        begin = self.at + 8
        self.at = begin + self.number("Q")
        if self.at > len(self.data):
            raise ValueError("a text ends beyond the file")
        return self.data[begin : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """Return a value; None for an array, which is skipped."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, n = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            self.at += n * struct.calcsize(_SCALARS[inner])
        else:
            for _ in range(n):
                self.value(inner)
        return None
