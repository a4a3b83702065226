"""Animals of the zoo that are odd as h5ad: indices, shapes, values, names, slots."""

from __future__ import annotations

import h5py
import numpy as np
from zoo import (
    COUNTS,
    CSC,
    CSR,
    GENES,
    SAME,
    WELL,
    edited,
    made,
    put_sparse,
    replace,
    write_good,
)

# indptr.


def _indptr(name, change, *expected, **how):
    edited(f"indptr {name}", *expected, **how)(lambda handle: replace(handle, "X/indptr", change(CSR.indptr.copy())))


def _with(values, at, value):
    values = values.astype(np.int64)
    values[at] = value
    return values


_indptr("decreasing", lambda p: _with(p, 3, 10**6), "does not start at 0 and rise")
_indptr("negative", lambda p: _with(p, 3, -1), "does not start at 0 and rise")
_indptr("not starting at 0", lambda p: _with(p, 0, 1), "does not start at 0")
_indptr("ending too high", lambda p: _with(p, 30, CSR.nnz + 1), "indptr ends at")
_indptr("ending too low", lambda p: _with(p, 30, CSR.nnz - 1), "indptr ends at")
_indptr("too short", lambda p: p[:-1], "indptr has shape (30,)")
_indptr("too long", lambda p: np.append(p, p[-1]), "indptr has shape (32,)")
_indptr("empty", lambda p: p[:0], "indptr has shape (0,)")
_indptr("of floats", lambda p: p.astype("f8"), "indptr has type float64")
_indptr("of booleans", lambda p: p.astype(bool), "indptr has type bool")
_indptr("of text", lambda p: p.astype("S5"), "indptr has type")
_indptr("in two dimensions", lambda p: p[None], "lacks indptr")
_indptr("a single number", lambda p: np.int64(3), "lacks indptr")
_indptr("of huge unsigned", lambda p: _with(p, 3, 0).astype("u8") | np.uint64(2**63), "damaged")
_indptr("wrapping around", lambda p: np.where(np.arange(31) == 3, 2**64 - 1, p.astype("u8")).astype("u8"), "damaged")
_indptr("big endian", lambda p: p.astype(">i8"), SAME)
_indptr("unsigned", lambda p: p.astype("u4"), SAME)
_indptr("of 16 bits", lambda p: p.astype("i2"), SAME)

# Indices.


def _indices(name, change, *expected, form="csr", **how):
    values = CSR if form == "csr" else CSC
    spoil = edited(f"indices {name}, {form}", *expected, form=form, **how)
    spoil(lambda handle: replace(handle, "X/indices", change(values.indices.copy())))


for _form in ("csr", "csc"):
    _indices("out of range", lambda i: _with(i, 5, 6_000_000), "out of range", "6000000", form=_form)
    _indices("just out of range", lambda i: _with(i, 5, 30), "out of range", form=_form)
    _indices("negative", lambda i: _with(i, 5, -1), "out of range", form=_form)
    _indices("most negative", lambda i: _with(i, 5, -(2**63)), "out of range", form=_form)
    _indices("huge", lambda i: _with(i, 5, 0).astype("u8") + np.uint64(2**64 - 3), "out of range", form=_form)
    _indices("wrapping at 32 bits", lambda i: _with(i, 5, 2**32), "out of range", form=_form)
    _indices("of floats", lambda i: i.astype("f4"), "indices have type float32", form=_form)
    _indices("of text", lambda i: i.astype("S3"), "indices have type", form=_form)
    _indices("of booleans", lambda i: i.astype(bool), "indices have type bool", form=_form)
    _indices("too few", lambda i: i[:-1], "do not fit together", form=_form)
    _indices("in two dimensions", lambda i: i[None], "lacks indices", form=_form)
    _indices("of 8 bits", lambda i: i.astype("i1"), SAME, form=_form)
    _indices("unsigned 64 bits", lambda i: i.astype("u8"), SAME, form=_form)
    _indices("big endian", lambda i: i.astype(">i4"), SAME, form=_form)
_indices("all the same", np.zeros_like, WELL)


@edited("indices falling", SAME)
def _(handle):
    for a, b in zip(CSR.indptr, CSR.indptr[1:], strict=False):
        for part in ("indices", "data"):
            handle[f"X/{part}"][a:b] = getattr(CSR, part)[a:b][::-1]


@edited("values split over duplicate entries", SAME)
def _(handle):
    replace(handle, "X/data", np.repeat(CSR.data, 2) * np.tile([-1, 2], CSR.nnz).astype("f4"))
    replace(handle, "X/indices", np.repeat(CSR.indices, 2))
    replace(handle, "X/indptr", CSR.indptr * 2)


@edited("values split over duplicate entries by genes", SAME, form="csc")
def _(handle):
    replace(handle, "X/data", np.repeat(CSC.data, 2) * np.tile([-1, 2], CSC.nnz).astype("f4"))
    replace(handle, "X/indices", np.repeat(CSC.indices, 2))
    replace(handle, "X/indptr", CSC.indptr * 2)


for _part in ("data", "indices", "indptr"):
    edited(f"sparse without {_part}", f"lacks {_part}")(lambda handle, part=_part: handle["X"].pop(part))

    def _group(handle, part=_part):
        del handle[f"X/{part}"]
        handle.create_group(f"X/{part}")

    edited(f"sparse with a group for {_part}", f"lacks {_part}")(_group)

    def _null(handle, part=_part):
        replace(handle, f"X/{part}", h5py.Empty("i4"))

    edited(f"sparse with no shape for {_part}", f"lacks {_part}")(_null)

# The declared shape and kind.

for _name, _value, *_expected in (
    ("negative", [30, -6], "do not fit together"),
    ("of floats", [30.0, 6.0], "lacks its shape"),
    ("text", "30 x 6", "lacks its shape"),
    ("of three", [30, 6, 1], "lacks its shape"),
    ("a number", 30, "lacks its shape"),
    ("too many genes", [30, 7], "declares 7 genes"),
    ("a trillion genes", [30, 10**12], "genes"),
    ("too many cells", [31, 6], "indptr has shape"),
    ("a trillion cells", [10**12, 6], "indptr has shape"),
    ("most of 64 bits", [30, 2**63 - 1], "genes"),
    ("more than 63 bits", np.array([30, 2**64 - 1], dtype="u8"), "genes"),
    ("zeros", [0, 0], "in.h5ad"),
    ("big endian", np.array([30, 6], dtype=">i4"), SAME),
):
    edited(f"shape {_name}", *_expected)(lambda handle, value=_value: handle["X"].attrs.create("shape", value))
edited("shape absent", "lacks its shape")(lambda handle: handle["X"].attrs.__delitem__("shape"))

for _name, _value, *_expected in (
    ("unknown", "awkward-array", "awkward-array"),
    ("of another slot", "dataframe", "dataframe"),
    ("a number", 3, "CSR, CSC or dense"),
    ("an array", np.arange(3), "CSR, CSC or dense"),
    ("bytes", np.bytes_(b"csr_matrix"), SAME),
    ("swapped", "csc_matrix", "indptr has shape"),
):
    edited(f"encoding {_name}", *_expected)(
        lambda handle, value=_value: handle["X"].attrs.create("encoding-type", value)
    )
edited("encoding absent", "CSR, CSC or dense")(lambda handle: handle["X"].attrs.__delitem__("encoding-type"))


@edited("names of the time before anndata 0.7", SAME)
def _(handle):
    attributes = handle["X"].attrs
    attributes["h5sparse_format"], attributes["h5sparse_shape"] = "csr", [30, 6]
    for name in ("encoding-type", "encoding-version", "shape"):
        del attributes[name]


# X itself.


def _x(name, values, *expected, **options):
    edited(name, *expected, form="dense", **options)(lambda handle: replace(handle, "X", values))


_x("X of text", COUNTS.astype("S3"), "expected real numbers")
_x("X of strings", COUNTS.astype(str).astype(object), "expected real numbers")
_x("X complex", COUNTS.astype(complex), "expected real numbers")
_x("X of records", np.zeros((30, 6), dtype=[("a", "f4"), ("b", "f4")]), "expected real numbers")
_x("X opaque", np.zeros((30, 6), dtype="V4"), "expected real numbers")
_x("X boolean", COUNTS > 0, WELL)
_x("X of 8 bits", COUNTS.astype("i1"), SAME)
_x("X unsigned 64 bits", COUNTS.astype("u8"), SAME)
_x("X float16", COUNTS.astype("f2"), SAME)
_x("X float64", COUNTS.astype("f8"), SAME)
_x("X long double", COUNTS.astype(np.longdouble), SAME)
_x("X big endian", COUNTS.astype(">f4"), SAME)
_x("X with one dimension", COUNTS[:, 0], "expected (cells, genes)")
_x("X with three dimensions", COUNTS[..., None], "expected (cells, genes)")
_x("X a number", np.float32(3), "expected (cells, genes)")
_x("X without a shape", h5py.Empty("f4"), "no expression matrix X")
_x("X without cells", COUNTS[:0], "0 cells")
_x("X without genes", COUNTS[:, :0], "0 genes")
_x("X with too few cells", COUNTS[:29], "obs has 30 rows")
_x("X with too few genes", COUNTS[:, :5], "var has 6 rows")
_x("X with NaN", np.where(COUNTS > 3, np.nan, COUNTS), "values are NaN")
_x("X all NaN", np.full((30, 6), np.nan), "180 values are NaN")
_x("X infinite", np.where(COUNTS > 3, np.inf, COUNTS), "infinite")
_x("X minus infinite", np.where(COUNTS > 3, -np.inf, COUNTS), "infinite")
_x("X negative", COUNTS - 1, "values are negative")
_x("X beyond float32", np.where(COUNTS > 3, 1e39, COUNTS.astype("f8")), "beyond float32")
_x("X of the largest integers", np.where(COUNTS > 3, 2**63 - 1, COUNTS.astype("i8")), WELL)
_x("X all zero", COUNTS * 0, "30 of 30 cells")
_x("X of minus zeros", np.where(COUNTS == 0, -0.0, COUNTS), SAME)
_x("X of subnormals", COUNTS.astype("f8") * 1e-310, "neither counts nor logged")
_x("X of shares", COUNTS / COUNTS.sum(axis=1, keepdims=True) / 10, "neither counts nor logged")
_x("X logged twice", np.log1p(COUNTS), "second logarithm", normalize="log1p-cp10k")

edited("X missing", "no expression matrix X")(lambda handle: handle.pop("X"))
edited("raw missing", "no .raw", use_raw=True)(lambda handle: None)
edited("raw without X", "no .raw", use_raw=True)(lambda handle: handle.create_group("raw"))


@edited("raw without var", "no raw/var", use_raw=True)
def _(handle):
    put_sparse(handle.create_group("raw"), "X", CSR)


@edited("X a named type", "neither values nor a group")
def _(handle):
    del handle["X"]
    handle["X"] = np.dtype("f4")


@edited("X an enumeration", WELL, form="dense")
def _(handle):
    kind = h5py.enum_dtype({"NONE": 0, "ONE": 1}, basetype="i1")
    replace(handle, "X", (COUNTS > 0).astype("i1"), dtype=kind)


@edited("values of references", "expected real numbers")
def _(handle):
    replace(handle, "X/data", shape=CSR.data.shape, dtype=h5py.ref_dtype)


@edited("values of varying length", "expected real numbers")
def _(handle):
    replace(handle, "X/data", shape=CSR.data.shape, dtype=h5py.vlen_dtype("f4"))


# Names and tables.

edited("var missing", "no var")(lambda handle: handle.pop("var"))
edited("obs missing", "no obs")(lambda handle: handle.pop("obs"))
edited("names of genes missing", "missing")(lambda handle: handle["var"].pop("_index"))
edited("names of cells missing", "has no index")(lambda handle: handle["obs"].pop("_index"))

for _name, _values, *_expected in (
    ("only numbers as text", [str(i) for i in range(6)], "only numbers"),
    ("integers", np.arange(6), "only numbers"),
    ("floats", np.arange(6) / 7, "none of its 6 genes"),
    ("too few", GENES[:5], "var has 5 rows"),
    ("too many", [*GENES, "ACTB"], "var has 7 rows"),
    ("all the same", ["LYZ"] * 6, WELL),
    ("blank", [""] * 6, "missing"),
    ("no UTF-8", np.array([b"\xff\xfe" + x.encode() for x in GENES]), "none of its 6 genes"),
    ("in two dimensions", [[name] for name in GENES], "shape"),
    ("with paths", [*GENES[:5], "../../etc/passwd"], SAME),
    ("in other scripts", [*GENES[:5], "基因\u202e𝔊"], SAME),
    ("a hundred kilobytes long", [*GENES[:5], "x" * 100_000], SAME),
    ("without shape", h5py.Empty("i4"), "in.h5ad"),
):
    edited(f"names of genes {_name}", *_expected)(lambda handle, values=_values: replace(handle, "var/_index", values))

for _name, _values, *_expected in (
    ("too few", [f"c{i}" for i in range(29)], "obs has 29 rows"),
    ("too many", [f"c{i}" for i in range(31)], "obs has 31 rows"),
    ("numbers", np.arange(30), SAME),
    ("all the same", ["c"] * 30, SAME),
    ("with paths", [f"../../c{i}" for i in range(30)], SAME),
    ("in other scripts", [f"細胞\u202e{i}" for i in range(30)], SAME),
    ("without shape", h5py.Empty("i4"), "has no index"),
):
    edited(f"names of cells {_name}", *_expected)(lambda handle, values=_values: replace(handle, "obs/_index", values))


def _coded(handle, codes):
    del handle["var/_index"]
    group = handle["var"].create_group("_index")
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    group["categories"] = np.array(GENES, dtype=object)
    group["codes"] = codes


edited("names of genes coded", SAME)(lambda handle: _coded(handle, np.arange(6, dtype="i1")))
edited("names of genes coded out of range", "code")(lambda handle: _coded(handle, np.array([0, 1, 2, 3, 4, 99])))
edited("names of genes coded as floats", "in.h5ad")(lambda handle: _coded(handle, np.arange(6) + 0.5))
edited("names of genes coded below -1", WELL)(lambda handle: _coded(handle, np.array([0, 1, 2, 3, 4, -99])))

for _table in ("var", "obs"):
    for _name, _value in (
        ("nowhere", "nowhere"),
        ("a number", 3),
        ("an array", np.arange(3)),
        ("a path", "../uns"),
        ("an absolute path", "/X/indptr"),
        ("the root", "/"),
        ("empty", ""),
    ):
        edited(f"index of {_table} is {_name}", SAME if _table == "var" else "in.h5ad")(
            lambda handle, table=_table, value=_value: handle[table].attrs.create("_index", value)
        )

    def _values_for_table(handle, table=_table):
        del handle[table]
        handle[table] = np.arange(30 if table == "obs" else 6)

    edited(f"{_table} is a vector", "in.h5ad")(_values_for_table)

    def _number_for_table(handle, table=_table):
        del handle[table]
        handle[table] = 3

    edited(f"{_table} is a number", "in.h5ad")(_number_for_table)

    def _type_for_table(handle, table=_table):
        del handle[table]
        handle[table] = np.dtype("f4")

    edited(f"{_table} is a named type", "named type")(_type_for_table)

edited("layer out of its group", "Unknown layer", layer="../X")(lambda handle: None)
edited("layer by absolute path", "Unknown layer", layer="/X")(lambda handle: None)
edited("layer of its own group", "Unknown layer", layer=".")(lambda handle: None)
edited("column out of var", "Unknown column", gene_column="../obs/_index")(lambda handle: None)
edited("key out of obsm", "cannot be a key", key="../X")(lambda handle: None)

# The slots that are written to.

edited("key taken", "already")(lambda handle: handle["obsm"].create_dataset("X_bft", data=np.zeros((30, 2))))
edited("key is a group", "already")(lambda handle: handle["obsm"].create_group("X_bft"))
edited("key is a group, overwritten", SAME, overwrite=True)(lambda handle: handle["obsm"].create_group("X_bft"))
edited("provenance slot is an array", "is a value")(lambda handle: handle["uns"].create_dataset("bftembed", data=[1]))
edited("provenance without its key", SAME)(lambda handle: handle["uns"].create_group("bftembed/X_bft"))
edited("coverage column there", "overwrite=True")(
    lambda h: h["obs"].create_dataset("X_bft_coverage", data=np.zeros(30))
)
edited("coverage column is a group", "overwrite=True")(lambda handle: handle["obs"].create_group("X_bft_coverage"))
edited("column order absent", SAME)(lambda handle: handle["obs"].attrs.__delitem__("column-order"))
edited("column order a number", SAME)(lambda handle: handle["obs"].attrs.create("column-order", 3))
edited("names of an unknown kind, cells dropped", "in.h5ad", empty_cells="drop")(
    lambda handle: handle["var/_index"].attrs.create("encoding-type", "string-aFray")
)
edited("no slots at all", SAME)(
    lambda handle: [handle.pop(n) for n in ("obsm", "uns", "layers", "obsp", "varm", "varp")]
)
for _slot in ("obsm", "uns", "layers"):

    def _array_for_slot(handle, slot=_slot):
        del handle[slot]
        handle[slot] = np.arange(3)

    edited(f"{_slot} is an array", *([SAME] if _slot == "layers" else ["not a group"]))(_array_for_slot)

    def _type_for_slot(handle, slot=_slot):
        del handle[slot]
        handle[slot] = np.dtype("f4")

    edited(f"{_slot} is a named type", *([SAME] if _slot == "layers" else ["named type"]))(_type_for_slot)


@made("attribute of 50 megabytes", SAME)
def _(path):
    write_good(path, libver="latest")
    with h5py.File(path, "r+", libver="latest") as handle:
        handle["uns"].attrs["big"] = np.zeros(50 * 2**17)


@made("ten thousand attributes", SAME)
def _(path):
    write_good(path, libver="latest")
    with h5py.File(path, "r+", libver="latest") as handle:
        for i in range(10_000):
            handle["X"].attrs[f"a{i}"] = i


@edited("indices hostile where they are not used", SAME)
def _(handle):
    put_sparse(handle["layers"], "other", CSR)
    handle["layers/other/indices"][3] = 9_000_000


@edited("indices hostile where cells are dropped", "out of range", empty_cells="drop")
def _(handle):
    put_sparse(handle["layers"], "other", CSR)
    handle["layers/other/indices"][3] = 9_000_000
