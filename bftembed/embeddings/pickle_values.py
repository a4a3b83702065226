"""What the pickle machine makes: number types, vectors, lists of numbers; and the six names that it knows.

No name of a file becomes an object of Python or NumPy. Each of the six stands for a few lines of this file.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS = frozenset(f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248")) for size in sizes)


class Refused(Exception):
    """The reason for which a pickle is not read; completed with the file's name by `pickled_numbers`."""


@dataclass(frozen=True)
class Name:
    """One of the six names, as a constant. It can be given to REDUCE and to `_reconstruct`, nothing else."""

    what: str


def _names() -> dict[tuple[str, str], Name]:
    names = {("numpy", "ndarray"): Name("ndarray"), ("numpy", "dtype"): Name("dtype")}
    names["_codecs", "encode"] = Name("encode")
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = Name("reconstruct")
        names[f"{core}.multiarray", "scalar"] = Name("scalar")
        names[f"{core}.numeric", "_frombuffer"] = Name("frombuffer")
    return names


NAMES = _names()


class NumberType:
    """A NumPy type of numbers; BUILD gives it its byte order."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name.lstrip("<>=|") not in _NUMBERS:
            shown = repr(name[:20]) if isinstance(name, str) else "what is no text"
            raise Refused(f"it holds NumPy values of the type {shown}, which is no plain type of numbers")
        self.dtype = np.dtype(name)

    def build(self, state: object) -> None:
        """Take the byte order out of the state of a NumPy type."""
        if not isinstance(state, tuple) or len(state) not in (8, 9) or any(x is not None for x in state[2:5]):
            raise Refused("it holds a NumPy type that is no plain type of numbers")
        if state[0] not in (3, 4) or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("the state of a NumPy type")
        self.dtype = self.dtype.newbyteorder(state[1])


class Vector:
    """A NumPy array; it is empty until BUILD gives it its numbers."""

    values: np.ndarray | None = None

    def build(self, state: object) -> None:
        """Take shape, type and bytes out of the state of a NumPy array."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ValueError("the state of a NumPy array")
        if len(state) == 5 and state[0] != 1:
            raise ValueError("the version of a NumPy array")
        shape, kind, fortran, raw = state[-4:]
        self.fill(raw, kind, shape, "F" if fortran is True else "C")

    def fill(self, raw: object, kind: object, shape: object, order: object) -> None:
        """Take the numbers out of `raw`, which must have the very size of `shape`."""
        if isinstance(raw, str):  # of Python 2
            raw = raw.encode("latin-1")
        if not isinstance(kind, NumberType):
            raise ValueError("the type of a NumPy array")
        if not isinstance(raw, bytes):
            raise Refused("it holds a NumPy array of objects")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or order not in ("C", "F"):
            raise ValueError("the shape of a NumPy array")
        if len(shape) != 1:
            raise Refused(f"it holds a NumPy array of {len(shape)} axes; a gene's vector is flat")
        if shape[0] * kind.dtype.itemsize != len(raw):
            raise ValueError("a NumPy array and its bytes differ in size")
        self.values = np.frombuffer(raw, kind.dtype)


class NumberList:
    """A list of numbers, packed: 8 bytes each, not the 32 of a list of Python floats."""

    def __init__(self) -> None:
        self.packed = array("d")

    def extend(self, items: list[Any]) -> None:
        """Append numbers; anything else is refused."""
        for item in items:
            if type(item) not in (int, float):
                what = {NumberList: "a list", dict: "a dict", tuple: "a tuple", Vector: "an array"}
                raise Refused(f"it holds a list with {what.get(type(item), type(item).__name__.lstrip('_'))} in it")
        self.packed.extend(items)


def _encode(text: object, encoding: object = "utf-8") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes something else than the bytes of an array")
    return text.encode("latin-1")


def _reconstruct(kind: object, shape: object, code: object) -> Vector:
    if kind != Name("ndarray"):
        raise Refused("it makes an array of a kind of its own")
    return Vector()


def _frombuffer(raw: object, kind: object, shape: object, order: object) -> Vector:
    made = Vector()
    made.fill(raw, kind, shape, order)
    return made


def _scalar(kind: object, raw: object) -> int | float:
    made = Vector()
    made.fill(raw, kind, (1,), "C")
    assert made.values is not None
    return made.values[0].item()


def _not_called(*arguments: object) -> object:
    raise Refused("it makes an array by a call that no table needs")


CALLS: dict[str, Callable[..., Any]] = {
    "encode": _encode,
    "reconstruct": _reconstruct,
    "frombuffer": _frombuffer,
    "scalar": _scalar,
    "dtype": lambda name, *flags: NumberType(name),
    "ndarray": _not_called,
}
