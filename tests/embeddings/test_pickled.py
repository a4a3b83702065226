"""Pickles of others: numbers are read, nothing is run, and no pickle gets out of the machine."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bftembed.embeddings import read_vectors
from bftembed.errors import BftembedError

PROTOCOLS = range(6)
rng = np.random.default_rng(0)
VALUES = {
    "floats": [rng.normal(size=40).tolist() for _ in range(3)],
    "short": [[0.5], [-1.0], [1e300]],
    "ints": [[0] * 40, [1, -2, 300, 70_000] * 10, [2**62] * 40],
    "mixed": [[0] * 40, rng.normal(size=40).tolist(), [0.5, 1] * 20],
    "scalars": [list(rng.normal(size=20)), list(rng.normal(size=20).astype(np.float32)), [0.0] * 20],
    "float64": list(rng.normal(size=(3, 40))),
    "big endian": list(rng.normal(size=(3, 40)).astype(">f4")),
    "float32": list(rng.normal(size=(3, 40)).astype(np.float32)),
    "float16": list(rng.normal(size=(3, 40)).astype(np.float16)),
    "int8": list(rng.integers(1, 100, (3, 400)).astype(np.int8)),
    "strided": [row[::2] for row in rng.normal(size=(3, 40))],
}
WIDE = {"floats", "short", "ints", "mixed", "scalars", "float64", "strided"}


def put(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "genes.pickle"
    path.write_bytes(content)
    return path


def refused(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(BftembedError, match=match) as caught:
        read_vectors(put(tmp_path, content), allow_pickle=True)
    assert "genes.pickle" in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", VALUES)
def test_every_protocol_gives_what_pickle_gives(tmp_path: Path, case: str, protocol: int) -> None:
    table = dict(zip(["TP53", "NA", "é\n\\"], VALUES[case], strict=True))
    made = read_vectors(put(tmp_path, pickle.dumps(table, protocol)), allow_pickle=True)
    assert made.ids == tuple(table)
    assert made.format == "pickle"
    assert made.matrix.dtype == (np.float64 if case in WIDE else np.float32)
    np.testing.assert_array_equal(made.matrix, np.array(VALUES[case]).astype(made.matrix.dtype))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_numpy_1_and_2_are_both_known(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"A": np.arange(1.0, 4), "B": np.ones(3)}, protocol)
    assert b"numpy._core" in content
    if protocol >= 4:  # each name has its length before it, and all are in a frame, which has its own
        n_names = content.count(b"numpy._core")
        old = content.replace(bytes([len(b"numpy._core.numeric")]) + b"numpy._core.numeric", b"\x12numpy.core.numeric")
        old = old.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
        old = old[:3] + struct.pack("<Q", struct.unpack("<Q", content[3:11])[0] - n_names) + old[11:]
    else:
        old = content.replace(b"numpy._core", b"numpy.core")
    made = read_vectors(put(tmp_path, old), allow_pickle=True)
    np.testing.assert_array_equal(made.matrix, [[1, 2, 3], [1, 1, 1]])


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    old = b"\x80\x02}q\x00(U\x04TP53q\x01]q\x02(G?\xf0\x00\x00\x00\x00\x00\x00K\x02eU\x04EGFRq\x03]q\x04(K\x00K\x05eu."
    np.testing.assert_array_equal(read_vectors(put(tmp_path, old), allow_pickle=True).matrix, [[1, 2], [0, 5]])
    oldest = b"(dp0\nS'TP53'\np1\n(lp2\nF0.5\naI2\nasS'A\\'B'\np3\n(lp4\nF1.5\naL3L\nas."
    made = read_vectors(put(tmp_path, oldest), allow_pickle=True)
    assert made.ids == ("TP53", "A'B")
    np.testing.assert_array_equal(made.matrix, [[0.5, 2], [1.5, 3]])


@given(
    table=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip),
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=5,
    ).filter(lambda table: any(any(v) for v in table.values())),
    protocol=st.integers(0, 5),
)
def test_any_table_of_lists_comes_back(tmp_path_factory: pytest.TempPathFactory, table: dict, protocol: int) -> None:
    made = read_vectors(put(tmp_path_factory.getbasetemp(), pickle.dumps(table, protocol)), allow_pickle=True)
    assert made.ids == tuple(table)
    np.testing.assert_array_equal(made.matrix, np.array([[float(x) for x in v] for v in table.values()]))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 999, 1000, 1001, 1536, 3072])
def test_long_lists_are_read_in_batches(tmp_path: Path, n: int) -> None:
    values = rng.normal(size=(2, n)).tolist()
    mixed = [*values[1][:-1], 0]
    content = pickle.dumps({"A": values[0], "B": values[1], "C": mixed, "D": [0, *mixed[1:]]})
    made = read_vectors(put(tmp_path, content), allow_pickle=True)
    np.testing.assert_array_equal(made.matrix, [values[0], values[1], mixed, [0, *mixed[1:]]])


def test_floats_that_stand_at_the_end_of_the_file_are_a_cut_file(tmp_path: Path) -> None:
    content = pickle.dumps({"A": rng.normal(size=40).tolist()})
    for end in range(1, len(content)):
        refused(tmp_path, content[:end], "truncated|not read|empty")


def test_zero_vectors_are_kept(tmp_path: Path) -> None:
    made = read_vectors(put(tmp_path, pickle.dumps({"A": [0.0, 0.0], "B": [1.0, 2.0]})), allow_pickle=True)
    assert (made.ids, made.n_zero) == (("A", "B"), 1)
    assert made.to_embeddings().ids == ["B"]


@pytest.mark.parametrize("name", ["genes.pickle", "genes.pkl", "genes.txt", "genes.safetensors", "genes"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_the_option_none_is_read(tmp_path: Path, name: str, protocol: int) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"A": [1.0, 2.0]}, protocol))
    with pytest.raises(BftembedError, match=r"is a pickle.*run any code.*--allow-pickle"):
        read_vectors(path)


class Call:
    """Pickles as a call: what a hostile pickle does."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call


class Slots:
    __slots__ = ("inside",)


def hostile(marker: str) -> dict[str, object]:
    reconstruct, arguments, _ = np.ones(2).__reduce__()
    return {
        "system": Call(os.system, f"touch {marker}"),
        "mkdir": Call(os.mkdir, marker),
        "eval": Call(eval, f"open({marker!r}, 'w')"),
        "exec": Call(exec, f"open({marker!r}, 'w')"),
        "open": Call(open, marker, "w"),
        "getattr": Call(getattr, "x", "upper"),
        "import": Call(__import__, "this"),
        "numpy.load": Call(np.load, marker, None, True),
        "numpy.memmap": Call(np.memmap, marker, "u1", "w+", 0, 10),
        "numpy.fromfile": Call(np.fromfile, marker),
        "numpy.save": Call(np.save, marker, 1),
        "numpy.savetxt": Call(np.savetxt, marker, "1"),
        "a class": Slots(),
        "ordered": OrderedDict(A=[1.0]),
        "path": Path(marker),
        "array of objects": np.array([Call(os.mkdir, marker), 1], dtype=object),
        "state": Call(reconstruct, *arguments, state=(1, (1,), np.dtype(object), False, [Call(os.mkdir, marker)])),
        "subclass": Call(reconstruct, np.matrix, (0,), b"b"),
        "complex": np.ones(2, complex),
        "text": np.array(["a", "b"]),
        "dates": np.ones(2, "M8[s]"),
        "fields": np.ones(2, "f4,f4"),
        "bools": np.ones(2, bool),
        "matrix": np.ones((2, 2)),
        "codec": Call(__import__("_codecs").encode, "x", "rot13"),
        "set": {1.0},
        "nested": [[1.0]],
        "dict": {"x": [1.0]},
        "string": "1.0",
        "none": None,
        "float": 1.0,
        "list of None": [None],
        "list of bools": [True],
        "list of text": ["1"],
        "array in list": [np.ones(2)],
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", hostile(""))
def test_anything_but_numbers_is_refused_and_not_run(tmp_path: Path, case: str, protocol: int) -> None:
    value = hostile(str(tmp_path / "ran"))[case]
    try:
        content = pickle.dumps({"A": [1.0, 2.0], "B": value}, protocol)
    except TypeError:
        pytest.skip("this protocol has no form for it")
    refused(tmp_path, content, "Nothing of it was run")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_name_that_is_asked_for_is_named(tmp_path: Path, protocol: int) -> None:
    refused(tmp_path, pickle.dumps(Call(os.system, "touch x"), protocol), "asks for '(posix|nt).system'")


WRITTEN_BY_HAND = {
    "system": (b"cos\nsystem\n(S'touch ran'\ntR.", "asks for 'os.system'"),
    "inst": (b"(S'touch ran'\nios\nsystem\n.", "asks for 'os.system'"),
    "obj": (b"(cnumpy\nndarray\nI5\no.", "object of a class"),
    "newobj": (b"\x80\x02cnumpy\nndarray\n)\x81.", "object of a class"),
    "newobj_ex": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "object of a class"),
    "persistent": (b"\x80\x02}X\x01\x00\x00\x00AX\x01\x00\x00\x00xQs.", "persistent id"),
    "persistent text": (b"}X\x01\x00\x00\x00APx\ns.", "persistent id"),
    "registered": (b"\x80\x02\x82\x01.", "registered object"),
    "out of band": (b"\x80\x05\x97.", "out-of-band"),
    "protocol 6": (b"\x80\x06}.", "protocol 6"),
    "set a name's inside": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x08\x00\x00\x00__code__K\x01sb.",
        "no list",
    ),
    "build on a name": (b"\x80\x02cnumpy\ndtype\n(NNtb.", "inside of an object"),
    "build on a dict": (b"\x80\x02}}b.", "inside of an object"),
    "build on a list": (b"\x80\x02](K\x01tb.", "inside of an object"),
    "call a dict": (b"\x80\x02})R.", "no function"),
    "call a text": (b"\x80\x02X\x01\x00\x00\x00x)R.", "no function"),
    "call ndarray": (b"\x80\x02cnumpy\nndarray\n(I1000000000000\ntR.", "no table needs"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.compile\x93.", "asks for 'numpy.f2py.compile'"),
    "dotted ndarray": (b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile.\x93.", "asks for"),
    "scalar of objects": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(U\x02O8K\x00K\x01tRU\x08abcdefgh\x86R.",
        "O8",
    ),
    "scalar of objects, later": (
        b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8\x85R(K\x03U\x01|U\x01ONNJ\xff\xff\xff\xffJ\xff\xff"
        b"\xff\xffK\x3ftbU\x08abcdefgh\x86R.",
        "no plain type",
    ),
    "two pickles": (b"\x80\x02}.\x80\x02}.", "more follows"),
    "a list": (b"\x80\x02].", "no dict"),
    "a number": (b"\x80\x02K\x01.", "no dict"),
    "nothing": (b"\x80\x02.", "nothing"),
    "empty dict": (b"\x80\x02}.", "no genes"),
    "number as a key": (b"\x80\x02}K\x01](K\x01es.", "no gene's name"),
    "bytes as a key": (b"\x80\x03}C\x01A](K\x01es.", "no gene's name"),
    "a dict in itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00Ah\x00s.", "no list and no array"),
    "a list in itself": (b"\x80\x02}X\x01\x00\x00\x00A]q\x00h\x00as.", "list with a list"),
    "deep lists": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "list with a list"),
    "deep tuples as a key": (b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.", "no gene's name"),
    "deep marks": (b"\x80\x02" + b"(" * 300_000 + b"t" * 300_000 + b".", "no dict"),
    "a mark as a value": (b"\x80\x02}X\x01\x00\x00\x00A(s.", "damaged"),
    "memo far away": (b"\x80\x02}r\xff\xff\xff\xff.", "no genes"),
    "memo not there": (b"\x80\x02j\xff\xff\xff\xff.", "damaged"),
    "long text": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "ends too early"),
    "long bytes": (b"\x80\x05\x96" + b"\xff" * 6 + b"\x00\x00.", "ends too early"),
    "negative text": (b"\x80\x02T\xff\xff\xff\xffabc.", "negative"),
    "negative number": (b"\x80\x02\x8b\xff\xff\xff\xffabc.", "negative"),
    "long number": (b"L" + b"9" * 100_000 + b"L\n.", "40 digits"),
    "long binary number": (b"\x80\x02\x8b\x00\x01\x00\x00" + b"\x01" * 256 + b".", "16 bytes"),
    "large array": (
        b"\x80\x02}X\x01\x00\x00\x00Acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85cnumpy\ndtype\nU\x02f8\x85R\x89U\x08abcdefghtbs.",
        "differ in size",
    ),
    "array without content": (
        b"\x80\x02}X\x01\x00\x00\x00Acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs.",
        "no content",
    ),
}


@pytest.mark.parametrize("case", WRITTEN_BY_HAND)
def test_pickles_that_no_pickler_writes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = WRITTEN_BY_HAND[case]
    refused(tmp_path, content, message)


def test_tricks_with_setstate_change_nothing(tmp_path: Path) -> None:
    """BUILD writes to no dictionary and no slot; what is known stays what it is."""
    before = {name: id(value) for name, value in vars(np.dtype).items()}
    for target in (
        b"cnumpy\ndtype\n",
        b"cnumpy\nndarray\n",
        b"cnumpy.core.multiarray\nscalar\n",
        b"c_codecs\nencode\n",
    ):
        for state in (b"}X\x0c\x00\x00\x00__setstate__", b"N}X\x04\x00\x00\x00what"):
            refused(tmp_path, b"\x80\x02" + target + state + target + b"s" + b"b.", "not read|damaged")
            refused(tmp_path, b"\x80\x02" + target + b"(" + state + b"\x86b.", "not read|damaged")
    assert {name: id(value) for name, value in vars(np.dtype).items()} == before
    made = read_vectors(put(tmp_path, pickle.dumps({"A": np.ones(2)}, 2)), allow_pickle=True)
    np.testing.assert_array_equal(made.matrix, [[1, 1]])


def test_a_vector_that_many_genes_share_is_refused(tmp_path: Path) -> None:
    shared = rng.normal(size=3000).tolist()
    content = pickle.dumps({f"G{i}": shared for i in range(20_000)})
    assert len(content) < 400_000
    tracemalloc.start()
    refused(tmp_path, content, "genes share one vector")
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    shared_array = np.ones(3000)
    refused(tmp_path, pickle.dumps({f"G{i}": shared_array for i in range(20_000)}), "genes share one vector")


def test_a_vector_that_a_few_genes_share_is_read(tmp_path: Path) -> None:
    shared = rng.normal(size=30).tolist()
    made = read_vectors(put(tmp_path, pickle.dumps({"A": shared, "B": shared, "C": [0.0] * 30})), allow_pickle=True)
    np.testing.assert_array_equal(made.matrix[0], made.matrix[1])


def test_billion_laughs_are_refused_in_little_memory(tmp_path: Path) -> None:
    laughs: list = ["lol"]
    for _ in range(60):
        laughs = [laughs] * 10
    refused(tmp_path, pickle.dumps({"A": laughs}), "list with")
    numbers: list = [1.0]
    for _ in range(60):
        numbers = [numbers] * 10
    refused(tmp_path, pickle.dumps({"A": numbers}), "list with a list")


def test_vectors_of_different_length_are_named(tmp_path: Path) -> None:
    refused(tmp_path, pickle.dumps({"A": [1.0, 2.0], "B": [1.0]}), "'B' has 1 numbers, that of 'A' has 2")
    refused(tmp_path, pickle.dumps({"A": [], "B": []}), "no numbers")
    refused(tmp_path, pickle.dumps({"A": [1.0, float("nan")]}), "'A'.*NaN")
    refused(tmp_path, pickle.dumps({"A": [0.0], "B": [0]}), "all 2 vectors are zero")
    refused(tmp_path, pickle.dumps({"": [1.0]}), "non-empty")
    refused(tmp_path, pickle.dumps({"A": [10**400]}, 2), "damaged")


def valid() -> list[bytes]:
    tables = [
        {"TP53": [1.0, 2.0], "EGFR": [0, 0]},
        {f"G{i}": rng.normal(size=20).tolist() for i in range(3)},
        {"A": np.ones(3, np.float32), "B": np.arange(3, dtype=np.float32)},
        {"A": list(np.ones(2)), "B": [0.5, 1]},
    ]
    return [pickle.dumps(table, protocol) for table in tables for protocol in PROTOCOLS]


VALID = valid()


@given(
    st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), st.integers()
)
@example(VALID[8], [], 0)
def test_mutated_pickles_are_an_error_or_a_table(tmp_path_factory, content, changes, cut) -> None:
    data = bytearray(content)
    for at, byte in changes:
        data[at % len(data)] = byte
    if cut % 3 == 0:
        at = cut % len(data)
        data = data[:at] + data[at + 1 + cut % 7 :]
    read_or_refuse(tmp_path_factory.getbasetemp() / "m.pkl", bytes(data))


@given(st.binary(max_size=300), st.integers(0, 5))
def test_random_bytes_are_an_error_or_a_table(tmp_path_factory, content, protocol) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp() / "m.pkl", bytes([0x80, protocol]) + content)
    read_or_refuse(tmp_path_factory.getbasetemp() / "m.pkl", content)


def test_shuffled_instructions_are_an_error_or_a_table(tmp_path: Path) -> None:
    """Random programs out of valid instructions reach deeper than random bytes."""
    import pickletools

    pieces = []
    for content in VALID:
        starts = [at for _, _, at in pickletools.genops(content)]
        pieces += [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    dice = random.Random(0)
    for _ in range(3000):
        program = b"".join(dice.choices(pieces, k=dice.randrange(1, 25))) + b"."
        read_or_refuse(tmp_path / "m.pkl", program)


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        made = read_vectors(path, allow_pickle=True)
    except BftembedError:
        return
    assert made.matrix.shape == (len(made.ids), made.dim)
    assert np.isfinite(made.matrix).all()


def test_what_the_machine_reads_python_reads_alike(tmp_path: Path) -> None:
    """An oracle: where a mutated pickle is taken for a table, Python's own unpickler gives no other."""
    dice = random.Random(1)
    n = 0
    for content in VALID * 30:
        data = bytearray(content)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            made = read_vectors(put(tmp_path, bytes(data)), allow_pickle=True)
        except BftembedError:
            continue
        try:
            table = pickle._Unpickler(io.BytesIO(bytes(data)), encoding="latin-1").load()
        except (pickle.UnpicklingError, ValueError, TypeError, AttributeError):
            continue  # stricter on the frames, and on flags that say nothing of the numbers
        assert made.ids == tuple(table)
        np.testing.assert_array_equal(made.matrix, np.array([np.asarray(v, made.matrix.dtype) for v in table.values()]))
        n += 1
    assert n > 50
