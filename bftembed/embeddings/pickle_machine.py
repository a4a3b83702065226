"""A pickle machine that can do nothing but make numbers.

A pickle is a program. Python's unpickler runs it, and even one that is restricted to NumPy's names calls NumPy with
arguments of the file's choice. This machine knows only what a dict of lists or NumPy arrays of numbers is written in
(protocols 0 to 5, Python 2 and 3, NumPy 1 and 2). It imports nothing and calls nothing that the file names. All it
makes is text, numbers, flat lists and arrays of numbers, and one dict: nothing is nested, nothing is larger than the
file.
"""

from __future__ import annotations

import codecs
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings.pickle_values import CALLS, NAMES, Name, NumberList, NumberType, Refused, Vector

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK = object()
#: Shorter runs of floats are read one by one.
_RUN = 16


class Damaged(Exception):
    """Bytes that are no whole pickle."""


def run_pickle(data: bytes) -> dict[str, NumberList | Vector]:
    """Return the dict that a pickle holds.

    Raises
    ------
    Refused
        When it asks for what this machine does not do; the message says what, and at which byte.
    Damaged
        When it is cut or garbled; the message says at which byte.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except Refused as err:
        raise Refused(f"{err} (byte {machine.at})") from err
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, AttributeError, struct.error) as err:
        why = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        raise Damaged(f"at byte {machine.at} of {len(data)}, {why}") from err


class _Machine:
    """Python's pickle machine (PEP 307, 3154, 574) with the few instructions that numbers need."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> dict[str, Any]:
        """Return the dict that the pickle holds: text → `NumberList` or `Vector`."""
        while True:
            code = self.take(1)
            if code == b".":
                break
            do = _INSTRUCTIONS.get(code)
            if do is None:
                raise Refused(_FORBIDDEN.get(code, f"it uses the instruction {code!r}, which no table needs"))
            do(self)
        if self.at != len(self.data):
            raise Refused("more follows after its end")
        if len(self.stack) != 1 or type(self.stack[0]) is not dict:
            what = type(self.stack[-1]).__name__.lstrip("_").lower() if self.stack else "nothing"
            raise Refused(f"it holds one {what}, and no dict of gene → numbers")
        return self.stack[0]

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise ValueError("it ends too early")
        piece = self.data[self.at : self.at + n]
        self.at += n
        return piece

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> bytes:
        n = self.number(layout)
        if n < 0:
            raise ValueError("a negative length")
        return self.take(n)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise ValueError("it ends too early")
        return self.take(end + 1 - self.at)[:-1]

    def pop(self) -> Any:
        item = self.stack.pop()
        if item is _MARK:
            raise ValueError("a mark in the place of a value")
        return item

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def mark(self) -> None:
        """MARK; and a whole batch of floats at once where one follows, as it does in every list of floats."""
        if self.data[self.at : self.at + 1] == b"G" and self.stack and type(self.stack[-1]) is NumberList:
            n = min((len(self.data) - self.at) // 9, 1000)
            records = np.frombuffer(self.data, np.uint8, 9 * n, self.at).reshape(n, 9)
            floats = records[:, 0] == ord("G")
            n = n if floats.all() else int(np.argmin(floats))
            end = self.at + 9 * n
            if n >= _RUN and self.data[end : end + 1] == b"e":
                values = np.frombuffer(records[:n, 1:].tobytes(), ">f8").astype("=f8")
                self.stack[-1].packed.frombytes(values.tobytes())
                self.at = end + 1
                return
        self.stack.append(_MARK)

    def text_number(self) -> None:
        text = self.line().removesuffix(b"L")
        if text in (b"00", b"01"):
            self.stack.append(text == b"01")
            return
        if len(text) > 40:
            raise ValueError("a whole number of more than 40 digits")
        self.stack.append(int(text, 0))

    def long(self, layout: str) -> None:
        raw = self.counted(layout)
        if len(raw) > 16:
            raise ValueError("a whole number of more than 16 bytes")
        self.stack.append(int.from_bytes(raw, "little", signed=True))

    def quoted(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise ValueError("text without quotation marks")
        unescaped, _ = codecs.escape_decode(text[1:-1])
        self.stack.append(str(unescaped, "latin-1"))

    def put(self, place: int) -> None:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark in the place of a value")
        self.memo[place] = self.stack[-1]

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(pairs) % 2:
            raise ValueError("no dict, or a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str:
                raise Refused(f"a key of the dict is {type(key).__name__.lstrip('_')}, and no gene's name")
            if type(value) not in (NumberList, Vector):
                what = type(value).__name__.lstrip("_").lower()
                raise Refused(f"{key!r:.60} has a value ({what}) that is no list and no array of numbers")
            target[key] = value

    def dict_from_mark(self) -> None:
        pairs = self.since_mark()
        self.stack.append({})
        self.set_items(pairs)

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not NumberList:
            raise ValueError("no list to append to")
        self.stack[-1].extend(items)

    def list_from_mark(self) -> None:
        items = self.since_mark()
        self.stack.append(NumberList())
        self.extend(items)

    def tuple_of(self, n: int) -> None:
        items = [self.pop() for _ in range(n)][::-1]
        self.stack.append(tuple(items))

    def name(self, module: object, name: object) -> None:
        known = NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            raise Refused(f"it asks for {f'{module}.{name}'[:120]!r}")
        self.stack.append(known)

    def inst(self) -> None:
        self.name(self.line().decode(), self.line().decode())
        raise Refused("it makes an object of a class")

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.name(module, name)

    def reduce(self) -> None:
        arguments, what = self.pop(), self.pop()
        if type(what) is not Name or type(arguments) is not tuple:
            raise Refused("it calls what is no function")
        self.stack.append(CALLS[what.what](*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) not in (NumberType, Vector):
            raise Refused("it changes the inside of an object")
        target.build(state)


_FORBIDDEN = {
    **dict.fromkeys((b"P", b"Q"), "it asks for an object by a persistent id"),
    **dict.fromkeys((b"o", b"\x81", b"\x92"), "it makes an object of a class"),
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), "it asks for a registered object"),
    **dict.fromkeys((b"\x97", b"\x98"), "its numbers are in another place (out-of-band buffers)"),
}


def _push(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value(m))


def _protocol(m: _Machine) -> None:
    if (version := m.number("<B")) > 5:
        raise Refused(f"it is of protocol {version}")


def _frame(m: _Machine) -> None:
    if m.number("<Q") > len(m.data) - m.at:
        raise ValueError("it ends too early")


def _number(layout: str) -> Callable[[_Machine], None]:
    return _push(lambda m: m.number(layout))


def _text(layout: str, encoding: str, errors: str = "strict") -> Callable[[_Machine], None]:
    return _push(lambda m: m.counted(layout).decode(encoding, errors))


def _bytes(layout: str) -> Callable[[_Machine], None]:
    return _push(lambda m: m.counted(layout))


#: Opcode → what it does. The letters are those of Python's pickletools.
_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    # The frame of a pickle
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": _Machine.mark,
    # Constants and numbers
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"G": _number(">d"),
    b"F": _push(lambda m: float(m.line())),
    b"I": _Machine.text_number,
    b"L": _Machine.text_number,
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"\x8a": lambda m: m.long("<B"),
    b"\x8b": lambda m: m.long("<i"),
    # Text, that of Python 2, bytes
    b"V": _push(lambda m: m.line().decode("raw-unicode-escape")),
    b"X": _text("<I", "utf-8", "surrogatepass"),
    b"\x8c": _text("<B", "utf-8", "surrogatepass"),
    b"\x8d": _text("<Q", "utf-8", "surrogatepass"),
    b"S": _Machine.quoted,
    b"T": _text("<i", "latin-1"),
    b"U": _text("<B", "latin-1"),
    b"B": _bytes("<I"),
    b"C": _bytes("<B"),
    b"\x8e": _bytes("<Q"),
    b"\x96": _bytes("<Q"),
    # Dicts, lists, tuples
    b"}": _push(lambda m: {}),
    b"d": _Machine.dict_from_mark,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"]": _push(lambda m: NumberList()),
    b"l": _Machine.list_from_mark,
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b")": lambda m: m.tuple_of(0),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": _push(lambda m: tuple(m.since_mark())),
    # The memo
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": _push(lambda m: m.memo[int(m.line())]),
    b"h": _push(lambda m: m.memo[m.number("<B")]),
    b"j": _push(lambda m: m.memo[m.number("<I")]),
    # Names and what is made with them
    b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
    b"i": _Machine.inst,
    b"\x93": _Machine.stack_name,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
