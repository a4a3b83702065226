"""Animals of the zoo that are odd as HDF5: no file, links, storage, impossible sizes, compression."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
from zoo import COUNTS, CSR, SAME, WELL, damaged, edited, made, replace, write_good

# No HDF5 file at all.

made("missing", "No such file")(lambda path: None)
made("folder", "is a folder")(lambda path: path.mkdir())
made("empty", "not a HDF5 file (0 bytes)")(lambda path: path.write_bytes(b""))
made("text", "not a HDF5 file")(lambda path: path.write_text("cell\tgene\n" * 999))
made("signature alone", "in.h5ad")(lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"))
made("signature and garbage", "in.h5ad")(lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 40))
made("link to itself", "in.h5ad")(lambda path: path.symlink_to(path))
made("dangling symbolic link", "No such file")(lambda path: path.symlink_to(path.parent / "nowhere"))


@made("gzipped", "not a HDF5 file")
def _(path):
    write_good(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


@made("named pipe", "in.h5ad")
def _(path):
    os.mkfifo(path)


@made("symbolic link to a good file", SAME)
def _(path):
    write_good(path.parent / "real.h5ad")
    path.symlink_to("real.h5ad")


def _truncated(share):
    def make(path):
        write_good(path, compression="gzip")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    made(f"truncated to {share:.1%}", "in.h5ad")(make)


for _share in (0.001, 0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999):
    _truncated(_share)


@made("with a user block", SAME)
def _(path):
    write_good(path, userblock_size=512)


@made("with a user block, gzip", SAME)
def _(path):
    write_good(path, compression="gzip", userblock_size=4096)


made("newest HDF5 format", SAME)(lambda path: write_good(path, libver="latest"))
made("oldest HDF5 format", SAME)(lambda path: write_good(path, libver="earliest"))
made("page allocation", SAME)(lambda path: write_good(path, fs_strategy="page", fs_page_size=4096))
made("trailing bytes", SAME)(lambda path: (write_good(path), path.open("ab").write(b"x" * 999)))


def _garbage(member):
    def make(path):
        write_good(path)
        with h5py.File(path) as handle:
            at = h5py.h5o.get_info(handle[member].id).addr
        damaged(path, at, b"\xff" * 16)

    made(f"garbage over {member}", "truncated or damaged")(make)


for _member in ("X", "X/data", "X/indptr", "var", "var/_index", "obs", "uns"):
    _garbage(_member)


# Links and storage outside.


@edited("external link to a group", "link to another file")
def _(handle):
    del handle["layers"]
    handle["layers"] = h5py.ExternalLink("other.h5ad", "/layers")


@edited("external link to values", "link to another file")
def _(handle):
    del handle["X/data"]
    handle["X/data"] = h5py.ExternalLink("other.h5ad", "/X/data")


@edited("soft link within the file", "soft link")
def _(handle):
    handle.move("X/data", "uns/data")
    handle["X/data"] = h5py.SoftLink("/uns/data")


@edited("dangling soft link", "soft link")
def _(handle):
    handle["uns/nothing"] = h5py.SoftLink("/nowhere")


@edited("soft links in a circle", "soft link")
def _(handle):
    handle["uns/a"], handle["uns/b"] = h5py.SoftLink("/uns/b"), h5py.SoftLink("/uns/a")


@edited("root linked into itself", WELL)
def _(handle):
    handle["uns/root"] = handle["/"]


@edited("one matrix under two names", SAME, layer="again")
def _(handle):
    handle["layers/again"] = handle["X"]


@edited("three hundred groups deep", SAME)
def _(handle):
    group = handle["uns"]
    for _ in range(300):
        group = group.create_group("g")


@edited("ten thousand groups deep", "in.h5ad")
def _(handle):
    group = handle["uns"]
    for _ in range(10_000):
        group = group.create_group("g")


@edited("external storage", "keeps its values in another file")
def _(handle):
    folder = Path(handle.filename).parent
    CSR.data.tofile(folder / "values.bin")
    del handle["X/data"]
    external = [(str(folder / "values.bin"), 0, CSR.data.nbytes)]
    handle.create_dataset("X/data", shape=CSR.data.shape, dtype="f4", external=external)


@edited("virtual data set", "keeps its values in another file")
def _(handle):
    layout = h5py.VirtualLayout(shape=CSR.data.shape, dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5ad", "data", shape=CSR.data.shape)
    del handle["X/data"]
    handle.create_virtual_dataset("X/data", layout)


@edited("references", SAME)
def _(handle):
    handle["uns"].create_dataset("refs", data=[handle["X"].ref, handle["obs"].ref], dtype=h5py.ref_dtype)
    handle["X/data"].make_scale("values")
    handle["X/indices"].dims[0].attach_scale(handle["X/data"])


@edited("null references", SAME)
def _(handle):
    handle["uns"].create_dataset("refs", shape=(4,), dtype=h5py.ref_dtype)


# Sizes with nothing behind them.


@edited("dense bomb, chunked", "GiB", "Refused before reading")
def _(handle):
    del handle["X"]
    handle.create_dataset("X", shape=(30, 10**9), dtype="f8", chunks=(1, 1000))


@edited("dense bomb, in one piece", "GiB", "Refused before reading")
def _(handle):
    del handle["X"]
    handle.create_dataset("X", shape=(30, 10**9), dtype="f8")


@edited("bomb in obsm that is only copied", SAME)
def _(handle):
    handle["obsm"].create_dataset("big", shape=(30, 10**9), dtype="f8", chunks=(1, 1000))


@edited("bomb in obsm, read to drop cells", "GiB", empty_cells="drop")
def _(handle):
    handle["obsm"].create_dataset("big", shape=(30, 10**9), dtype="f8", chunks=(1, 1000))


@edited("bomb in values and indices", "GiB")
def _(handle):
    for name, kind in (("data", "f4"), ("indices", "i4")):
        replace(handle, f"X/{name}", shape=(10**10,), dtype=kind, chunks=(1000,))


@edited("bomb in indptr alone", "GiB")
def _(handle):
    replace(handle, "X/indptr", shape=(10**10,), dtype="i8", chunks=(1000,))


@edited("bomb in indptr and shape", "GiB")
def _(handle):
    handle["X"].attrs["shape"] = [10**9, 6]
    replace(handle, "X/indptr", shape=(10**9 + 1,), dtype="i8", chunks=(1000,))


@edited("bomb beyond 64 bits", "Refused before reading")
def _(handle):
    replace(handle, "X/data", shape=(2**62,), dtype="f8", chunks=(1000,))


@edited("fifteen million values that were never written", "express no gene")
def _(handle):
    replace(handle, "X/data", shape=(15_000_000,), dtype="f4", chunks=(10_000,))
    replace(handle, "X/indices", shape=(15_000_000,), dtype="i4", chunks=(10_000,))
    handle["X/indptr"][1:] = 15_000_000


for _table in ("obs", "var"):

    def _bomb(handle, table=_table):
        replace(handle, f"{table}/_index", shape=(10**9,), dtype=h5py.string_dtype(), chunks=(1000,))

    edited(f"bomb in the names of {_table}", "in.h5ad")(_bomb)


@edited("bomb in another column of obs", SAME)
def _(handle):
    handle["obs"].create_dataset("label", shape=(30,), dtype="S1000000")


@edited("compound names of ten kilobytes each", "GiB")
def _(handle):
    del handle["var"]
    handle.create_dataset("var", shape=(4_000_000,), dtype=[("index", "S10000")], chunks=(10,))


# Compression.


def with_chunks(handle, name, count, **how):
    """Give a float32 or int32 vector of `count` entries, one chunk, deflate; with room for direct writing."""
    kind = handle[name].dtype
    kept = handle[name][:]
    padded = np.zeros(count, dtype=kind)
    padded[: len(kept)] = kept
    replace(handle, name, shape=kept.shape, maxshape=(None,), dtype=kind, chunks=(count,), **how)
    return handle[name], padded.tobytes()


@edited("chunk stored without its filter", SAME)
def _(handle):
    data, raw = with_chunks(handle, "X/data", 8192, compression="gzip")
    data.id.write_direct_chunk((0,), raw, filter_mask=1)


@edited("small chunk stored without its filter", SAME)
def _(handle):
    data, raw = with_chunks(handle, "X/data", 512, compression="gzip")
    data.id.write_direct_chunk((0,), raw, filter_mask=1)


for _size in (512, 8192):

    def _mask(handle, size=_size):
        data, raw = with_chunks(handle, "X/data", size, compression="gzip")
        data.id.write_direct_chunk((0,), raw)

    def _short(handle, size=_size):
        data, raw = with_chunks(handle, "X/data", size, compression="gzip")
        data.id.write_direct_chunk((0,), raw[:100], filter_mask=1)

    def _half(handle, size=_size):
        data, raw = with_chunks(handle, "X/data", size, compression="gzip")
        data.id.write_direct_chunk((0,), zlib.compress(raw[:100]))

    def _cut(handle, size=_size):
        data, raw = with_chunks(handle, "X/data", size, compression="gzip")
        data.id.write_direct_chunk((0,), zlib.compress(raw)[:-20])

    def _bomb_chunk(handle, size=_size):
        data, raw = with_chunks(handle, "X/data", size, compression="gzip")
        data.id.write_direct_chunk((0,), zlib.compress(raw + bytes(2**28)))

    edited(f"filter mask says deflate, chunk of {_size} is raw", "damaged")(_mask)
    edited(f"unfiltered chunk of {_size} is too short", "damaged")(_short)
    edited(f"deflated chunk of {_size} holds too little", "damaged")(_half)
    edited(f"deflated chunk of {_size} is cut", "damaged")(_cut)
    edited(f"deflated chunk of {_size} explodes to 256 megabytes", "damaged")(_bomb_chunk)


def _flipped(form, size):
    def make(path):
        write_good(path)
        with h5py.File(path, "r+") as handle:
            if form == "csr":
                data, raw = with_chunks(handle, "X/data", size, compression="gzip")
                data.id.write_direct_chunk((0,), zlib.compress(raw))
            else:
                del handle["X"]
                handle.create_dataset("X", data=COUNTS, compression="gzip")
            info = handle["X/data" if form == "csr" else "X"].id.get_chunk_info(0)
        with path.open("rb") as file:
            file.seek(info.byte_offset)
            packed = file.read(info.size)
        damaged(path, info.byte_offset + 8, bytes(255 - x for x in packed[8:]))

    made(f"overwritten inside a deflated chunk, {form} {size}", "damaged")(make)


_flipped("csr", 512)
_flipped("csr", 8192)
_flipped("dense", 0)


@edited("filter that is not installed", "in.h5ad")
def _(handle):
    kept = handle["X/data"][:]
    attributes = dict(handle["X/data"].attrs)
    del handle["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((512,))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 0, 0))
    space = h5py.h5s.create_simple((len(kept),), (h5py.h5s.UNLIMITED,))
    data = h5py.h5d.create(handle["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, properties)
    data.write_direct_chunk((0,), np.resize(kept, 512).tobytes())
    h5py.Dataset(data).attrs.update(attributes)


for _how in (
    {"compression": "gzip", "shuffle": True},
    {"compression": "lzf"},
    {"fletcher32": True},
    {"compression": "gzip", "fletcher32": True, "chunks": (8192,), "maxshape": (None,)},
    {"scaleoffset": 2},
    {"chunks": (7,)},
    {"chunks": (7,), "compression": "gzip"},
    {"chunks": (10_000,), "compression": "gzip", "maxshape": (None,)},
):

    def _filtered(handle, how=_how):
        replace(handle, "X/data", handle["X/data"][:], **how)

    edited(f"stored with {_how}", SAME)(_filtered)


@edited("checksum that does not fit", "damaged")
def _(handle):
    data, raw = with_chunks(handle, "X/data", 512, fletcher32=True)
    data.id.write_direct_chunk((0,), raw + b"\1\2\3\4")


@edited("names compressed", SAME)
def _(handle):
    for name in ("obs/_index", "var/_index"):
        replace(handle, name, handle[name][:], compression="gzip", shuffle=True)


@edited("compact storage", SAME)
def _(handle):
    kept = handle["X/data"][:]
    del handle["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(kept.shape)
    data = h5py.h5d.create(handle["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, properties)
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, kept)
