"""Runs of a stored vector: read past HDF5 or through it, they are what h5py reads."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.cells.slices import Slices
from bftembed.errors import BftembedError

N = 50_000
VALUES = np.random.default_rng(0).poisson(2, N)
WAYS = {
    "contiguous": ("_from_place", {}),
    "gzip": ("_from_chunks", {"chunks": (8_192,), "compression": "gzip"}),
    "gzip of one chunk": ("_from_chunks", {"chunks": (N,), "compression": "gzip"}),
    "gzip of small chunks": ("_from_chunks", {"chunks": (1_000,), "compression": "gzip"}),
    "gzip and shuffle": ("_through_hdf5", {"chunks": (8_192,), "compression": "gzip", "shuffle": True}),
    "gzip and checksum": ("_through_hdf5", {"chunks": (8_192,), "compression": "gzip", "fletcher32": True}),
    "lzf": ("_through_hdf5", {"chunks": (8_192,), "compression": "lzf"}),
    "chunked": ("_through_hdf5", {"chunks": (8_192,)}),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("slices") / "x.h5"
    with h5py.File(path, "w") as handle:
        for name, (_, options) in WAYS.items():
            for dtype in ("<i4", ">i4", "<f8", "u1"):
                # one byte per value makes chunks of the same length smaller
                handle.create_dataset(f"{name} {dtype}", data=VALUES.astype(dtype), **options)
        handle.create_dataset("compact", data=VALUES[:10])
        part = handle.create_dataset("half", shape=(N,), chunks=(8_192,), compression="gzip", dtype="<i4", fillvalue=7)
        part[8_192 * 2 : 8_192 * 4] = VALUES[8_192 * 2 : 8_192 * 4]
    with h5py.File(path) as handle:
        yield handle


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<f8", "u1"])
@pytest.mark.parametrize("name", list(WAYS))
@given(ends=st.tuples(st.integers(0, N), st.integers(0, N)))
def test_every_storage_gives_what_was_written(file, name, dtype, ends):
    start, stop = sorted(ends)
    found = Slices(file[f"{name} {dtype}"]).read(start, stop)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, VALUES[start:stop])


@pytest.mark.parametrize("name", list(WAYS))
def test_the_way_is_the_one_meant(file, name):
    assert Slices(file[f"{name} <i4"])._way.__name__ == WAYS[name][0]


def test_a_file_in_memory_goes_through_hdf5(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", driver="core", backing_store=False) as handle:
        vector = handle.create_dataset("v", data=VALUES)
        np.testing.assert_array_equal(Slices(vector).read(5, 99), VALUES[5:99])


def test_chunks_that_were_never_written_hold_the_fill_value(file):
    found = Slices(file["half"]).read(100, N)
    np.testing.assert_array_equal(found, file["half"][100:])
    assert (found[:50] == 7).all()


def damaged(tmp_path, change):
    """Give a vector whose second chunk holds what `change` makes of it."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as handle:
        handle.create_dataset("v", data=VALUES.astype("<i4"), chunks=(8_192,), compression="gzip")
    with h5py.File(path, "r+") as handle:
        packed = handle["v"].id.read_direct_chunk((8_192,))[1]
        handle["v"].id.write_direct_chunk((8_192,), change(packed))
    return h5py.File(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: packed[:50] + b"\x99" * 50 + packed[100:], "cannot be decompressed|holds"),
        (lambda packed: b"not deflate at all", "cannot be decompressed"),
        (lambda packed: zlib.compress(zlib.decompress(packed)[:-4]), "holds 32764 bytes, not 32768"),
        (lambda packed: zlib.compress(bytes(2**31 // 16)), "holds 32769 bytes, not 32768"),
    ],
)
def test_a_damaged_or_exploding_chunk_is_an_error(tmp_path, change, message):
    with damaged(tmp_path, change) as handle:
        np.testing.assert_array_equal(Slices(handle["v"]).read(0, 8_192), VALUES[:8_192])
        with pytest.raises(BftembedError, match=message):
            Slices(handle["v"]).read(0, N)


def test_a_file_cut_short_under_our_hands_is_an_error(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as handle:
        handle.create_dataset("v", data=VALUES)
    with h5py.File(path) as handle:
        path.open("r+b").truncate(path.stat().st_size - 1000)
        with pytest.raises(OSError, match="ends before /v does"):
            Slices(handle["v"]).read(0, N)


def test_a_block_for_the_user_before_the_file_is_passed_over(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=1024) as handle:
        handle.create_dataset("v", data=VALUES)
    with h5py.File(tmp_path / "x.h5") as handle:
        assert Slices(handle["v"])._way.__name__ == "_from_place"
        np.testing.assert_array_equal(Slices(handle["v"]).read(3, N), VALUES[3:])
