"""A HDF5 file that is missing, damaged or hostile is refused by name, before any value is read."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.hdf5 import open_h5ad, strings


def make(path, fill):
    with h5py.File(path, "w") as handle:
        fill(handle)
    return path


def opened(path):
    with open_h5ad(path) as handle:
        return sorted(handle)


def test_links_and_storage_out_of_the_file_are_refused(tmp_path):
    make(tmp_path / "secret.h5", lambda f: f.create_dataset("x", data=[42.0]))

    def external_link(f):
        f.create_group("obs")["x"] = h5py.ExternalLink("secret.h5", "/x")

    def soft_link(f):
        f.create_group("obs")["x"] = h5py.SoftLink("/X")

    def external_storage(f):
        f.create_dataset("X", shape=(1,), dtype="f8", external=[(str(tmp_path / "secret.h5"), 0, 8)])

    def virtual(f):
        layout = h5py.VirtualLayout(shape=(1,), dtype="f8")
        layout[0] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(1,))[0]
        f.create_virtual_dataset("X", layout)

    for i, (fill, message) in enumerate(
        [
            (external_link, "/obs/x is .* not followed"),
            (soft_link, "/obs/x is .* not followed"),
            (external_storage, "/X keeps its values in another file"),
            (virtual, "/X keeps its values in another file"),
        ]
    ):
        with pytest.raises(BftembedError, match=message):
            opened(make(tmp_path / f"{i}.h5ad", fill))


def test_damage_that_shows_while_reading_is_named(tmp_path):
    values = np.random.default_rng(0).random(10_000)
    path = make(tmp_path / "a.h5ad", lambda f: f.create_dataset("X", data=values, chunks=(1000,), compression="gzip"))
    with h5py.File(path) as handle:
        start = handle["X"].id.get_chunk_info(5).byte_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 500] = b"\xff" * 500
    path.write_bytes(raw)
    for read in (lambda x: x[:], np.asarray):
        with (
            pytest.raises(BftembedError, match=r"a\.h5ad cannot be read: it is truncated or damaged"),
            open_h5ad(path) as f,
        ):
            read(f["X"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("mine"), BftembedError("mine")])
def test_an_error_of_the_caller_is_not_taken_for_damage(tmp_path, error):
    def tell(name=None, member=None):
        raise error

    path = make(tmp_path / "a.h5ad", lambda f: f.create_dataset("X", data=[1.0]))
    with pytest.raises(type(error)) as caught, open_h5ad(path):
        tell()
    assert caught.value is error
    with pytest.raises(type(error)) as caught, open_h5ad(path) as handle:
        handle.visititems(tell)  # raised through h5py, but not by it
    assert caught.value is error


def test_hard_links_in_a_circle_do_not_hang(tmp_path):
    def circle(f):
        inner = f.create_group("a").create_group("b")
        inner["back"] = f["a"]

    assert opened(make(tmp_path / "a.h5ad", circle)) == ["a"]


def test_string_columns_of_every_form_are_read(tmp_path):
    text = h5py.string_dtype()

    def fill(f):
        f.create_dataset("plain", data=["a", "ä"], dtype=text)
        f.create_dataset("fixed", data=np.array([b"a", b"b"]))
        f.create_dataset("numbers", data=[1, 2])
        categorical = f.create_group("categorical")
        categorical.create_dataset("categories", data=["x", "y"], dtype=text)
        categorical.create_dataset("codes", data=np.array([1, -1, 0], dtype="i1"))
        nullable = f.create_group("nullable")
        nullable.create_dataset("values", data=["x", "y"], dtype=text)
        nullable.create_dataset("mask", data=[False, True])
        wrong = f.create_group("wrong")
        wrong.create_dataset("categories", data=["x"], dtype=text)
        wrong.create_dataset("codes", data=[7])
        f.create_group("empty")

    with open_h5ad(make(tmp_path / "a.h5ad", fill)) as f:
        assert strings(f["plain"]) == ["a", "ä"]
        assert strings(f["fixed"]) == ["a", "b"]
        assert strings(f["numbers"]) == ["1", "2"]
        assert strings(f["categorical"]) == ["y", "", "x"]
        assert strings(f["nullable"]) == ["x", ""]
        assert strings(f["plain"], slice(1, 2)) == ["ä"]
        assert strings(f["categorical"], slice(1, 3)) == ["", "x"]
        assert strings(f["nullable"], slice(1, 2)) == [""]
        assert strings(f["nullable"], slice(1, 1)) == []
        with pytest.raises(BftembedError, match="has the code 7"):
            strings(f["wrong"])
        with pytest.raises(BftembedError, match="empty is not"):
            strings(f["empty"])


def test_a_file_that_this_process_holds_with_locks_opens_too(tmp_path):
    path = make(tmp_path / "a.h5ad", lambda f: f.create_dataset("X", data=[1.0]))
    for mode in ("r", "r+"):
        with h5py.File(path, mode):
            assert opened(path) == ["X"]
