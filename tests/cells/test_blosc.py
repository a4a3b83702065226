"""Chunks of zarr stores that Blosc packed: cut short, or with a header that declares more than is there."""

from __future__ import annotations

import json

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec

from bftembed.cells.zarr_store import open_zarr
from bftembed.errors import BftembedError

LZ4 = BloscCodec(cname="lz4", typesize=4)
#: Hardly compressible, so that Blosc copies it: the decoder then has nothing that could contradict a short chunk.
NUMBERS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)

WAYS = {
    "format 2": {"compressors": numcodecs.Blosc(cname="lz4"), "zarr_format": 2},
    "format 2, filtered": {
        "compressors": numcodecs.Blosc(),
        "filters": [numcodecs.Shuffle(elementsize=4)],
        "zarr_format": 2,
    },
    "format 3": {"compressors": LZ4},
    "checksum": {"compressors": [LZ4, Crc32cCodec()]},
    "shards": {"compressors": LZ4, "shards": (4, 4)},
    "shards, index first": {
        "serializer": ShardingCodec(chunk_shape=(2, 2), codecs=[BytesCodec(), LZ4], index_location="start"),
        "chunks": (4, 4),
        "compressors": None,
    },
}


def made(folder, way):
    path = folder / "store.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=WAYS[way].get("zarr_format", 3))
    options = {name: value for name, value in WAYS[way].items() if name != "zarr_format"}
    array = group.create_array("x", shape=NUMBERS.shape, dtype="f4", **{"chunks": (2, 2), **options})
    array[...] = NUMBERS
    return path


def chunks(path):
    return sorted(p for p in (path / "x").rglob("*") if p.is_file() and p.name[0].isdigit())


def read(path):
    with open_zarr(path) as root:
        return root["x"][...]


@pytest.mark.parametrize("way", WAYS)
class TestEachWayOfPacking:
    def test_whole_chunks_are_read(self, way, tmp_path):
        path = made(tmp_path, way)
        assert len(chunks(path)) >= 2
        assert np.array_equal(read(path), NUMBERS)

    def test_no_cut_passes_for_values(self, way, tmp_path):
        path = made(tmp_path, way)
        file = chunks(path)[-1]
        whole = file.read_bytes()
        for n in range(len(whole)):
            file.write_bytes(whole[:n])
            with pytest.raises(BftembedError, match=f"x cannot be read: .*its chunk {file.name} h"):
                read(path)

    def test_a_header_that_declares_more_is_refused(self, way, tmp_path):
        path = made(tmp_path, way)
        file = chunks(path)[0]
        whole = file.read_bytes()
        start = whole.index((16).to_bytes(4, "little")) - 4  # the header's second number: bytes of 2 x 2 float32
        for declared in (0, 15, len(whole) + 1, 2**31 - 1):
            file.write_bytes(whole[: start + 12] + declared.to_bytes(4, "little") + whole[start + 16 :])
            with pytest.raises(BftembedError, match=f"its header declares {declared:,}"):
                read(path)


def test_an_array_is_opened_and_judged_once(tmp_path):
    with open_zarr(made(tmp_path, "format 3")) as root:
        assert root["x"] is root["x"]


def test_bytes_behind_a_chunk_are_no_damage(tmp_path):
    path = made(tmp_path, "format 2")
    for file in chunks(path):
        file.write_bytes(file.read_bytes() + b"behind")
    assert np.array_equal(read(path), NUMBERS)


@pytest.mark.parametrize("way", WAYS)
def test_files_of_the_system_are_no_chunks(way, tmp_path):
    path = made(tmp_path, way)
    for folder in {file.parent for file in chunks(path)}:
        for name in (".DS_Store", "._0", "0.tmp", "Thumbs.db"):
            (folder / name).write_bytes(b"junk")
    assert np.array_equal(read(path), NUMBERS)


def test_chunks_that_a_shard_does_not_hold_are_zeros(tmp_path):
    path = made(tmp_path, "shards")
    zarr.open_group(path)["x"][0:2, 0:2] = 0
    assert np.array_equal(read(path)[2:], NUMBERS[2:])
    assert not read(path)[:2, :2].any()


@pytest.mark.parametrize("place", ["start", "end"])
def test_an_index_that_points_out_of_its_shard_is_refused(place, tmp_path):
    path = made(tmp_path, "shards, index first" if place == "start" else "shards")
    file = chunks(path)[0]
    whole = bytearray(file.read_bytes())
    at = 0 if place == "start" else len(whole) - 4 - 16 * 4
    whole[at : at + 8] = (10**9).to_bytes(8, "little")
    file.write_bytes(whole)
    with pytest.raises(BftembedError, match="its index says 1,000,000,0"):
        read(path)


def test_blosc_below_another_codec_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("x", data=NUMBERS, compressors=[LZ4, GzipCodec()])
    with pytest.raises(BftembedError, match="by Blosc and then by gzip, which is not read"):
        read(tmp_path / "a.zarr")

    filters = [numcodecs.Blosc()]
    zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
    zarr.create_array(tmp_path / "b.zarr", name="x", data=NUMBERS, filters=filters, compressors=None, zarr_format=2)
    file = tmp_path / "b.zarr/x/.zarray"
    found = json.loads(file.read_text())
    found["compressor"] = {"id": "zlib", "level": 1}
    file.write_text(json.dumps(found))
    with pytest.raises(BftembedError, match="by Blosc and then by zlib, which is not read"):
        read(tmp_path / "b.zarr")

    group = zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=3)
    shards = ShardingCodec(chunk_shape=(2, 2), codecs=[BytesCodec(), LZ4])
    array = group.create_array("x", shape=(6, 4), chunks=(6, 4), dtype="f4", serializer=shards, compressors=GzipCodec())
    array[...] = NUMBERS
    with pytest.raises(BftembedError, match="inside of shards that are packed once more"):
        read(tmp_path / "c.zarr")
