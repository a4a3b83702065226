"""Header of a GGUF file: settings, and whether the file holds all of its tensors.

The reader of the package ``gguf`` takes seconds, since it makes an array of every token of the vocabulary.
"""

from __future__ import annotations

import math
import re
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

from bftembed.errors import BftembedError, require

if TYPE_CHECKING:
    from pathlib import Path

#: Type number of a value → struct format; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def gguf_parts(path: Path) -> list[Path]:
    """Return the files of a model: one, or all of a split one (``NAME-00001-of-00003.gguf``)."""
    parts = [path]
    if split := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name):
        parts = [path.with_name(f"{split[1]}-{i:05d}-of-{split[2]}.gguf") for i in range(1, int(split[2]) + 1)]
    for part in parts:
        if not part.is_file():
            raise BftembedError(f"No such GGUF file: {part}. Give the file itself; of a split model, all parts.")
    return parts


def read_gguf_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a GGUF file by their keys in it; arrays, such as the vocabulary, are left out.

    Raises
    ------
    BftembedError
        For a file that is not a GGUF file, a damaged header, or a file that is shorter than its tensors need.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BftembedError(f"{path} is not a GGUF file. Take 'transformers' for a folder of safetensors.")
        try:
            settings, end = _read(file)
        except (struct.error, ValueError, LookupError, ArithmeticError, MemoryError, OSError) as err:
            raise BftembedError(f"The header of {path} is damaged or cut: {err}. Fetch the file again.") from err
    if end > size:
        raise BftembedError(f"{path} is cut: its tensors end at byte {end}, the file at {size}. Fetch the file again.")
    return settings


def quantization_name(file_type: int | None) -> str:
    """Return the name of a file type (the setting ``general.file_type``), for example ``"Q4_1"``."""
    if file_type is None:
        return ""
    known = {int(t): t.name for t in require("gguf", "llamacpp").LlamaFileType}
    return known.get(file_type, f"type {file_type}").removeprefix("MOSTLY_").removeprefix("ALL_")


def _read(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the settings and the byte at which the last tensor ends; whatever is cut is a struct.error."""

    def number(code: str) -> Any:
        return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]

    def text() -> str:
        return file.read(number("Q")).decode("utf-8", errors="replace")

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        if kind != _ARRAY:
            return number(_SCALARS[kind])
        inner, n = number("I"), number("Q")
        if inner in _SCALARS:
            file.seek(n * struct.calcsize(_SCALARS[inner]), 1)
        else:
            for _ in range(n):
                value(inner)
        return None

    if (version := number("I")) not in (2, 3):
        raise ValueError(f"it has GGUF version {version}, known are 2 and 3")
    n_tensors, n_settings = number("Q"), number("Q")
    settings = {text(): value(number("I")) for _ in range(n_settings)}
    sizes = require("gguf", "llamacpp").GGML_QUANT_SIZES
    last = 0
    for _ in range(n_tensors):
        text()
        elements = math.prod([number("Q") for _ in range(number("I"))])
        kind, offset = number("I"), number("Q")
        # A type that the package does not know yet: llama.cpp must judge.
        block, n_bytes = sizes.get(kind, (1, 0))
        last = max(last, offset + elements // block * n_bytes)
    alignment = int(settings.get("general.alignment", 32))
    start = -(-file.tell() // alignment) * alignment
    return {name: found for name, found in settings.items() if found is not None}, start + last
