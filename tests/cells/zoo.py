"""A zoo of damaged and hostile files, one for each kind of damage: how it is made, and what must come of it.

Files are written by h5py and zarr alone, so that they are the same under every version of anndata.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp
from cell_toys import GENES, counts_of, replaced

COUNTS = counts_of()
CSR, CSC = sp.csr_matrix(COUNTS), sp.csc_matrix(COUNTS)
CELLS = [f"cell{i}" for i in range(30)]
#: Instead of a word of the error: the vectors of the unharmed file, or any finite ones.
SAME, WELL = "same vectors", "finite vectors"
#: name → (function that makes the file at a path, what is expected, options).
CASES = {}


def made(name, expected, **options):
    """Add a case whose function makes the file at a path."""

    def add(make):
        assert name not in CASES
        CASES[name] = (make, expected, options)
        return make

    return add


# h5ad


def put_sparse(parent, name, values, **storage):
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": f"{values.format}_matrix", "encoding-version": "0.1.0", "shape": values.shape})
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(values, part), **storage)


def write_good(path, form="csr", **storage):
    with h5py.File(path, "w") as handle:
        if form == "dense":
            handle.create_dataset("X", data=COUNTS, **storage)
            handle["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            put_sparse(handle, "X", CSR if form == "csr" else CSC, **storage)
        for name, names in (("obs", CELLS), ("var", GENES)):
            table = handle.create_group(name)
            table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            table.attrs["column-order"] = np.array([], dtype=h5py.string_dtype())
            table["_index"] = np.array(names, dtype=object)
            table["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        for name in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            handle.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def edited(name, expected, form="csr", **options):
    """Add a case whose function spoils a good, open h5ad."""

    def add(edit):
        def make(path):
            write_good(path, form)
            with h5py.File(path, "r+") as handle:
                edit(handle)

        return made(name, expected, **options)(make)

    return add


def swapped(name, expected, member, values, form="csr", **options):
    """Add a case in which a member of the file has other values."""
    edited(name, expected, form, **options)(lambda handle: replaced(handle, member, values))


def _with(values, at, value):
    values = values.astype(np.int64)
    values[at] = value
    return values


def overwrite(path, offset, content):
    spoilt = bytearray(path.read_bytes())
    spoilt[offset : offset + len(content)] = content
    path.write_bytes(spoilt)


made("missing", "No such file")(lambda path: None)
made("folder", "folder")(lambda path: path.mkdir())
made("empty", "HDF5")(lambda path: path.write_bytes(b""))
made("text", "HDF5")(lambda path: path.write_text("cell\tgene\n" * 999))
made("signature and garbage", "")(lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 40))
made("link to itself", "", place="out")(lambda path: path.symlink_to(path))
made("named pipe", "")(lambda path: os.mkfifo(path))
made("dropping cells of a sound file", SAME, empty_cells="drop", place="out")(write_good)

for _share in (0.01, 0.5, 0.95, 0.999):

    @made(f"truncated to {_share:.1%}", "truncated|damaged|HDF5")
    def _(path, share=_share):
        write_good(path, compression="gzip")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


for _member in ("X", "X/data", "var"):

    @made(f"garbage over {_member}", "damaged")
    def _(path, member=_member):
        write_good(path)
        with h5py.File(path) as handle:
            at = h5py.h5o.get_info(handle[member].id).addr
        overwrite(path, at, b"\xff" * 16)


for _name, _link in (("external", h5py.ExternalLink("other.h5ad", "/X/data")), ("soft", h5py.SoftLink("/uns/data"))):

    @edited(f"{_name} link", "link")
    def _(handle, link=_link):
        handle.move("X/data", "uns/data")
        handle["X/data"] = link


@edited("external storage", "another file")
def _(handle):
    CSR.data.tofile(Path(handle.filename).parent / "values.bin")
    external = [(str(Path(handle.filename).parent / "values.bin"), 0, CSR.data.nbytes)]
    replaced(handle, "X/data", shape=CSR.data.shape, dtype="f4", external=external)


HUGE = {"shape": (10**10,), "chunks": (1000,)}
NAMES = {"shape": (10**9,), "dtype": h5py.string_dtype(), "chunks": (1000,)}
edited("dense bomb", "GiB", "dense")(lambda h: replaced(h, "X", shape=(30, 10**9), dtype="f8", chunks=(1, 1000)))
edited("bomb in values", "GiB|fit")(lambda h: replaced(h, "X/data", dtype="f4", **HUGE))
edited("bomb in indptr", "GiB")(lambda h: replaced(h, "X/indptr", dtype="i8", **HUGE))
edited("bomb in the names of cells", "GiB|rows")(lambda h: replaced(h, "obs/_index", **NAMES))
edited("bomb in the names of genes", "GiB|rows|shape")(lambda h: replaced(h, "var/_index", **NAMES))


@edited("bomb in values and indices", "GiB")
def _(handle):
    for name, kind in (("data", "f4"), ("indices", "i4")):
        replaced(handle, f"X/{name}", dtype=kind, **HUGE)


@edited("bomb in obsm where cells are dropped", "GiB", empty_cells="drop", place="out")
def _(handle):
    handle["obsm"].create_dataset("big", shape=(30, 10**9), dtype="f8", chunks=(1, 1000))


for _name, _filters, _pack in (
    ("deflated chunk that is cut", {"compression": "gzip"}, lambda raw: zlib.compress(raw)[:-20]),
    ("deflated chunk that explodes", {"compression": "gzip"}, lambda raw: zlib.compress(raw + bytes(2**26))),
    ("checksum that does not fit", {"fletcher32": True}, lambda raw: raw + b"\1\2\3\4"),
):

    @edited(_name, "damaged")
    def _(handle, filters=_filters, pack=_pack):
        kept = np.resize(CSR.data, 8192)
        replaced(handle, "X/data", shape=CSR.data.shape, maxshape=(None,), dtype="f4", chunks=(8192,), **filters)
        handle["X/data"].id.write_direct_chunk((0,), pack(kept.tobytes()))


@edited("filter that is not installed", "")
def _(handle):
    del handle["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((512,))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 0, 0))
    space = h5py.h5s.create_simple(CSR.data.shape, (h5py.h5s.UNLIMITED,))
    data = h5py.h5d.create(handle["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, properties)
    data.write_direct_chunk((0,), np.resize(CSR.data, 512).tobytes())


swapped("indptr decreasing", "indptr|damaged", "X/indptr", _with(CSR.indptr, 3, 10**6))
swapped("indptr negative", "indptr|damaged", "X/indptr", _with(CSR.indptr, 3, -1))
swapped("indptr not starting at 0", "indptr", "X/indptr", _with(CSR.indptr, 0, 1))
swapped("indptr too short", "indptr", "X/indptr", CSR.indptr[:-1])
swapped("indptr of floats", "indptr", "X/indptr", CSR.indptr.astype("f8"))
swapped("indptr wrapping around", "indptr|damaged", "X/indptr", _with(CSR.indptr, 3, -1).astype("u8"))
swapped("indptr big endian", SAME, "X/indptr", CSR.indptr.astype(">i8"))
for _form, _matrix in (("csr", CSR), ("csc", CSC)):
    for _name, _value in (("out of range", 6_000_000), ("negative", -1), ("wrapping at 32 bits", 2**32)):
        swapped(f"index {_name}, {_form}", "out of range", "X/indices", _with(_matrix.indices, 5, _value), _form)
    _huge = _with(_matrix.indices, 5, 0).astype("u8") + np.uint64(2**64 - 3)
    swapped(f"indices huge, {_form}", "out of range", "X/indices", _huge, _form)
    swapped(f"indices of floats, {_form}", "indices", "X/indices", _matrix.indices.astype("f4"), _form)
    swapped(f"indices too few, {_form}", "fit", "X/indices", _matrix.indices[:-1], _form)
    swapped(f"indices of 8 bits, {_form}", SAME, "X/indices", _matrix.indices.astype("u1"), _form)
for _part in ("data", "indices", "indptr"):
    edited(f"no {_part}", _part)(lambda handle, part=_part: handle["X"].pop(part))
for _name, _value, _expected in (
    ("negative", [30, -6], ""),
    ("text", "30 x 6", "shape"),
    ("of too many genes", [30, 7], "genes"),
    ("of a trillion cells", [10**12, 6], "indptr"),
    ("of more than 63 bits", np.array([30, 2**64 - 1], dtype="u8"), ""),
):
    edited(f"shape {_name}", _expected)(lambda handle, value=_value: handle["X"].attrs.create("shape", value))
edited("shape absent", "shape")(lambda handle: handle["X"].attrs.__delitem__("shape"))
edited("encoding unknown", "awkward")(lambda handle: handle["X"].attrs.create("encoding-type", "awkward-array"))
edited("encoding of the other format", "indptr")(lambda handle: handle["X"].attrs.create("encoding-type", "csc_matrix"))


@edited("index out of range where cells are dropped", "out of range", empty_cells="drop", place="out")
def _(handle):
    put_sparse(handle["obsp"], "other", CSR)
    handle["obsp/other/indices"][3] = 9_000_000


for _name, _values, _expected in (
    ("text", COUNTS.astype("S3"), "X"),
    ("strings", COUNTS.astype(str).astype(object), "X"),
    ("complex", COUNTS.astype(complex), "X"),
    ("with one dimension", COUNTS[:, 0], "X"),
    ("with three dimensions", COUNTS[..., None], "X"),
    ("without a shape", h5py.Empty("f4"), "X"),
    ("without cells", COUNTS[:0], "0 cells"),
    ("without genes", COUNTS[:, :0], "0 genes"),
    ("with too few cells", COUNTS[:29], "30"),
    ("with too few genes", COUNTS[:, :5], "6"),
    ("float16", COUNTS.astype("f2"), SAME),
    ("long double", COUNTS.astype(np.longdouble), SAME),
    ("beyond float32", np.where(COUNTS > 3, 1e39, COUNTS.astype("f8")), "float32"),
    ("of the largest integers", np.where(COUNTS > 3, 2**63 - 1, COUNTS.astype("i8")), WELL),
    ("all zero", COUNTS * 0, "30 of 30 cells"),
):
    swapped(f"X {_name}", _expected, "X", _values, "dense")
edited("X missing", "X")(lambda handle: handle.pop("X"))
edited("raw without X", "raw", use_raw=True)(lambda handle: handle.create_group("raw"))


for _table in ("obs", "var"):
    edited(f"{_table} missing", _table)(lambda handle, table=_table: handle.pop(table))
    edited(f"names of {_table} missing", "")(lambda handle, table=_table: handle[table].pop("_index"))
for _name, _values, _expected in (
    ("too few", GENES[:5], "5"),
    ("blank", [""] * 6, ""),
    ("no UTF-8", np.array([b"\xff\xfe" + x.encode() for x in GENES]), "var"),
    ("with paths and other scripts", [*GENES[:5], "../../etc/passwd 基因\u202e𝔊"], SAME),
    ("a hundred kilobytes long", [*GENES[:5], "x" * 100_000], SAME),
    ("without a shape", h5py.Empty("i4"), ""),
):
    swapped(f"names of genes {_name}", _expected, "var/_index", _values)
swapped("names of cells too few", "29", "obs/_index", CELLS[:29])
for _value in ("../uns", "/X/indptr", "nowhere", 3):
    edited(f"index of obs is {_value}", "")(lambda handle, value=_value: handle["obs"].attrs.create("_index", value))
swapped("no cell that could be kept", "30 of 30 cells", "X", COUNTS * 0, "dense", empty_cells="drop", place="out")


# zarr


def write_store(path, version):
    """Write the good cells as a zarr store; every array is one chunk, those of X packed by Blosc."""
    import numcodecs
    import zarr

    pack = numcodecs.Blosc(cname="lz4") if version == 2 else zarr.codecs.BloscCodec(cname="lz4", typesize=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(path, mode="w", zarr_format=version)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = root.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [30, 6]})
        for part in ("data", "indices", "indptr"):
            values = getattr(CSR, part)
            x.create_array(part, data=values, chunks=values.shape, compressors=pack)
        for name, names in (("obs", CELLS), ("var", GENES)):
            table = root.create_group(name)
            table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            table.attrs["column-order"] = []
            for place in ("_index", "grouped/values"):  # as arrays, and as pandas 3 has them
                array = table.create_array(place, shape=(len(names),), dtype=str, chunks=(len(names),))
                array[:] = np.array(names, dtype=object if version == 2 else str)
            table["grouped"].attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
            table["grouped"].create_array("mask", data=np.zeros(len(names), dtype=bool))
    return root


def metadata(path, array):
    return next(file for name in ("zarr.json", ".zarray") if (file := path / array / name).exists())


def chunk(path, array):
    return next(file for name in ("c/0", "0") if (file := path / array / name).exists())


def changed(path, array, change):
    """Let a function change the metadata of an array, given as a dictionary."""
    found = json.loads(metadata(path, array).read_text())
    change(found)
    metadata(path, array).write_text(json.dumps(found))


def stored(name, expected, **options):
    """Add a case for each version of zarr, whose function spoils a good store."""

    def add(edit):
        for version in (2, 3):

            def make(path, version=version):
                write_store(path, version)
                edit(path)

            made(f"zarr {version}: {name}", expected, container="zarr", **options)(make)
        return edit

    return add


stored("sound", SAME)(lambda path: None)
for _array, _expected in (("X/data", "chunk"), ("X/indptr", "indptr"), ("obs/_index", "chunk"), ("var/_index", "var")):
    stored(f"missing chunk of {_array}", _expected)(lambda path, array=_array: chunk(path, array).unlink())
for _part in ("obs", "var"):

    @stored(f"missing chunk of a column of {_part}", "values.*chunk" if _part == "obs" else "var|values",
            **({"gene_column": "grouped"} if _part == "var" else {}))  # fmt: skip
    def _(path, part=_part):
        import zarr

        if part == "obs":
            zarr.open_group(path, mode="r+", use_consolidated=False)["obs"].attrs["_index"] = "grouped"
        chunk(path, f"{part}/grouped/values").unlink()


for _array in ("X/data", "var/_index"):

    @stored(f"chunk of {_array} that is garbage", _array[:3])
    def _(path, array=_array):
        chunk(path, array).write_bytes(b"\xff" * chunk(path, array).stat().st_size)

    @stored(f"chunk of {_array} that is cut", _array[:3])
    def _(path, array=_array):
        chunk(path, array).write_bytes(chunk(path, array).read_bytes()[:-7])

    @stored(f"declared size of {_array}", f"{_array}.*GiB|rows|fit")
    def _(path, array=_array):
        changed(path, array, lambda found: found.update(shape=[10**12]))

    @stored(f"declared chunk of {_array}", f"{_array}.*GiB")
    def _(path, array=_array):
        def change(found):
            if "chunks" in found:
                found["chunks"] = [10**12]
            else:
                found["chunk_grid"]["configuration"]["chunk_shape"] = [10**12]

        changed(path, array, change)


@stored("Blosc header that declares a longer chunk", "X/data")
def _(path):
    packed = bytearray(chunk(path, "X/data").read_bytes())
    packed[12:16] = (len(packed) + 1).to_bytes(4, "little")
    chunk(path, "X/data").write_bytes(packed)


class _Boom:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


@stored("pickled names", "pickle")
def _(path):
    def change(found):
        if "filters" in found:
            found.update(filters=[{"id": "pickle"}], compressor=None)
        else:
            found["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]

    changed(path, "var/_index", change)
    chunk(path, "var/_index").write_bytes(pickle.dumps(np.array([_Boom()] * 6, dtype=object)))


@stored("unknown codec where it is not used", "evil")
def _(path):
    def change(found):
        if "filters" in found:
            found["filters"] = [{"id": "evil"}]
        else:
            inner = {"chunk_shape": [1], "codecs": [{"name": "evil"}], "index_codecs": [{"name": "bytes"}]}
            found["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]

    changed(path, "obs/grouped/values", change)


for _text in ("{", "[" * 100_000, '{"zarr_format": 7}'):
    stored(f"metadata {_text[:9]}", "X")(lambda path, text=_text: metadata(path, "X/data").write_text(text))


@stored("link out of the store", "link")
def _(path):
    place = chunk(path, "X/data")
    place.rename(path.parent / "secret")
    place.symlink_to(path.parent / "secret")


@stored("named pipe", "")
def _(path):
    place = chunk(path, "X/data")
    place.unlink()
    os.mkfifo(place)


@stored("index out of range", "out of range")
def _(path):
    import zarr

    zarr.open_group(path, mode="r+", use_consolidated=False)["X/indices"][5] = 6_000_000


stored("layer out of its group", "layer", layer="../X")(lambda path: None)
made("folder that is no store", "", container="zarr")(lambda path: path.mkdir())
