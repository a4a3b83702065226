"""Pickles of others: numbers are read, nothing is run, and one that crashes or fills the memory is an error."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bftembed.embeddings import pickled, read_vectors
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS = range(6)
rng = np.random.default_rng(0)
VALUES = {
    "floats": [rng.normal(size=1536).tolist() for _ in range(3)],
    "mixed": [[0] * 40, rng.normal(size=40).tolist(), [0.5, 2**62] * 20],
    "scalars": [list(rng.normal(size=20)), list(rng.normal(size=20).astype(np.float32)), [0.0] * 20],
    "float64": list(rng.normal(size=(3, 40))),
    "big endian": list(rng.normal(size=(3, 40)).astype(">f4")),
    "float32": list(rng.normal(size=(3, 40)).astype(np.float32)),
    "float16": list(rng.normal(size=(3, 40)).astype(np.float16)),
    "int8": list(rng.integers(1, 100, (3, 400)).astype(np.int8)),
    "strided": [row[::2] for row in rng.normal(size=(3, 40))],
}
WIDE = {"floats", "mixed", "scalars", "float64", "strided"}


def put(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "genes.pickle"
    path.write_bytes(content)
    return path


def refused(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(BftembedError, match=match) as caught:
        read_vectors(put(tmp_path, content), allow_pickle=True)
    assert "genes.pickle" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def here(content: bytes) -> tuple[list[str], np.ndarray]:
    """Read a pickle in this process, which is quicker; for such as do no harm."""
    import io

    table = pickled._Restricted(io.BytesIO(content), encoding="latin-1").load()
    return pickled._vectors(table, len(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", VALUES)
def test_every_protocol_gives_what_pickle_gives(case: str, protocol: int) -> None:
    table = dict(zip(["TP53", "NA", "é\n\\"], VALUES[case], strict=True))
    ids, matrix = here(pickle.dumps(table, protocol))
    assert ids == list(table)
    assert matrix.dtype == (np.float64 if case in WIDE else np.float32)
    np.testing.assert_array_equal(matrix, np.array(VALUES[case]).astype(matrix.dtype))


def test_a_file_is_read_with_its_zero_vectors(tmp_path: Path) -> None:
    table = {"A": [0.0, 0.0], "NA": [1.0, 2.0], "é": [0.1, 1e300]}
    made = read_vectors(put(tmp_path, pickle.dumps(table)), allow_pickle=True)
    assert (made.ids, made.provenance["format"]) == (list(table), "pickle")
    np.testing.assert_array_equal(made.matrix, list(table.values()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_numpy_1_and_2_are_both_known(protocol: int) -> None:
    content = pickle.dumps({"A": np.arange(1.0, 4), "B": np.ones(3)}, protocol)
    assert b"numpy._core" in content
    if protocol >= 4:  # each name has its length before it, and all are in a frame, which has its own
        n_names = content.count(b"numpy._core")
        old = content.replace(bytes([len(b"numpy._core.numeric")]) + b"numpy._core.numeric", b"\x12numpy.core.numeric")
        old = old.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
        old = old[:3] + struct.pack("<Q", struct.unpack("<Q", content[3:11])[0] - n_names) + old[11:]
    else:
        old = content.replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(here(old)[1], [[1, 2, 3], [1, 1, 1]])


def test_pickles_of_python_2_are_read() -> None:
    old = b"\x80\x02}q\x00(U\x04TP53q\x01]q\x02(G?\xf0\x00\x00\x00\x00\x00\x00K\x02eU\x04EGFRq\x03]q\x04(K\x00K\x05eu."
    np.testing.assert_array_equal(here(old)[1], [[1, 2], [0, 5]])
    ids, matrix = here(b"(dp0\nS'TP53'\np1\n(lp2\nF0.5\naI2\nasS'A\\'B'\np3\n(lp4\nF1.5\naL3L\nas.")
    assert ids == ["TP53", "A'B"]
    np.testing.assert_array_equal(matrix, [[0.5, 2], [1.5, 3]])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_the_option_none_is_read(tmp_path: Path, protocol: int) -> None:
    for name in ("genes.pkl", "genes.txt"):
        (tmp_path / name).write_bytes(pickle.dumps({"A": [1.0, 2.0]}, protocol))
        with pytest.raises(BftembedError, match="--allow-pickle"):
            read_vectors(tmp_path / name)


class Call:
    """Pickles as a call: what a hostile pickle does."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call


def hostile(marker: str) -> dict[str, object]:
    reconstruct, arguments, _ = np.ones(2).__reduce__()
    return {
        "system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, f"open({marker!r}, 'w')"),
        "getattr": Call(getattr, "x", "upper"),
        "numpy.load": Call(np.load, marker, None, True),
        "numpy.memmap": Call(np.memmap, marker, "u1", "w+", 0, 10),
        "a class": OrderedDict(A=[1.0]),
        "array of objects": np.array([Call(os.mkdir, marker), 1], dtype=object),
        "state": Call(reconstruct, *arguments, state=(1, (1,), np.dtype(object), False, [Call(os.mkdir, marker)])),
        "complex": np.ones(2, complex),
        "bools": np.ones(2, bool),
        "matrix": np.ones((2, 2)),
        "codec": Call(__import__("_codecs").encode, "x", "rot13"),
        "nested": [[1.0]],
        "list of bools": [True],
        "array in list": [np.ones(2)],
        "other length": [1.0],
    }


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("case", hostile(""))
def test_anything_but_numbers_is_refused_and_not_run(tmp_path: Path, case: str, protocol: int) -> None:
    content = pickle.dumps({"A": [1.0, 2.0], "B": hostile(str(tmp_path / "ran"))[case]}, protocol)
    with pytest.raises((pickled._Refused, pickle.UnpicklingError, TypeError)):
        here(content)
    assert not (tmp_path / "ran").exists()


SHARED = pickle.dumps(dict.fromkeys((f"G{i}" for i in range(20_000)), rng.normal(size=3000).tolist()))
LAUGHS: list = [1.0]
for _ in range(60):
    LAUGHS = [LAUGHS] * 10
HARMFUL = {
    "system": (b"cos\nsystem\n(S'touch ran'\ntR.", "'os.system'"),
    "persistent": (b"\x80\x02}X\x01\x00\x00\x00AX\x01\x00\x00\x00xQs.", "damaged"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.compile\x93.", "'numpy.f2py.compile'"),
    "inside of a function": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x0c\x00\x00\x00__defaults__K\x01sb.",
        "inside",
    ),
    "setstate": (b"\x80\x02cnumpy\ndtype\n}X\x0c\x00\x00\x00__setstate__cnumpy\ndtype\nsb.", "inside"),
    "scalar of objects": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(U\x02O8K\x00K\x01tRU\x08abcdefgh\x86R.",
        "O8",
    ),
    "two pickles": (b"\x80\x02}.\x80\x02}.", "more follows"),
    "empty": (b"\x80\x02}.", "no dict"),
    "cut": (pickle.dumps({"A": [1.0, 2.0]})[:-3], "damaged"),
    "a mark far off in the memo": (b"\x80\x02}r\xff\xff\xff\xff.", "damaged|no dict"),
    "long bytes": (b"\x80\x05\x96" + b"\xff" * 5 + b"\x00\x00\x00.", "damaged|crashed"),
    "deep tuples as a key": (b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.", "crashed|no dict"),
    "one vector for all": (SHARED, "share"),
    "billion laughs": (pickle.dumps({"A": LAUGHS}), "no list"),
    "large array": (
        b"\x80\x02}X\x01\x00\x00\x00Acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85cnumpy\ndtype\nU\x02f8\x85R\x89U\x08abcdefghtbs.",
        "shape",
    ),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_pickles_made_to_harm_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HARMFUL[case]
    refused(tmp_path, content, message)


def test_mutated_pickles_are_an_error_or_what_python_reads(tmp_path: Path) -> None:
    dice = random.Random(1)
    tables = [{"TP53": [1.0, 2.0], "EGFR": [0, 0]}, {"A": np.ones(3, np.float32), "B": np.arange(3, dtype=np.float32)}]
    for number in range(12):
        data = bytearray(pickle.dumps(tables[number % 2], number % 6))
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            made = read_vectors(put(tmp_path, bytes(data)), allow_pickle=True)
        except BftembedError:
            continue
        table = pickle.loads(bytes(data), encoding="latin-1")
        assert made.ids == list(table)
        np.testing.assert_array_equal(made.matrix, np.array([np.asarray(v, made.matrix.dtype) for v in table.values()]))
