"""How the zoo of h5ad files is written down: a good file, ways to spoil it, and what each must come to."""

from __future__ import annotations

import h5py
import numpy as np
import scipy.sparse as sp

GENES = ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A"]
COUNTS = np.random.default_rng(0).poisson(1.2, size=(30, 6)).astype(np.float32)
COUNTS[:, 1] += 1
CSR, CSC = sp.csr_matrix(COUNTS), sp.csc_matrix(COUNTS)

#: What is expected beside words of an error: the vectors of the unharmed file, or any finite ones.
SAME, WELL = "same vectors", "finite vectors"
CASES = {}
#: Why cases fail, to be taken away with the fault.


def made(name, *expected, **options):
    """Add a case whose function makes the file at a path."""

    def add(make):
        assert name not in CASES
        CASES[name] = (make, expected, options)
        return make

    return add


def edited(name, *expected, broken=None, form="csr", compression=None, **options):
    """Add a case whose function spoils a good, open file."""

    def add(edit):
        def make(path):
            write_good(path, form, compression)
            with h5py.File(path, "r+") as handle:
                edit(handle)

        made(name, *expected, **options)(make)
        return edit

    return add


def write_good(path, form="csr", compression=None, **opening):
    with h5py.File(path, "w", **opening) as handle:
        if form == "dense":
            x = handle.create_dataset("X", data=COUNTS, compression=compression)
            x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            put_sparse(handle, "X", CSR if form == "csr" else CSC, compression)
        put_table(handle, "obs", [f"cell{i}" for i in range(30)])
        put_table(handle, "var", GENES)
        for name in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            handle.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def put_sparse(parent, name, values, compression=None):
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": f"{values.format}_matrix", "encoding-version": "0.1.0", "shape": values.shape})
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(values, part), compression=compression)


def put_table(parent, name, names):
    table = parent.create_group(name)
    table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    table.attrs["column-order"] = np.array([], dtype=h5py.string_dtype())
    table["_index"] = np.array(names, dtype=object)
    table["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def replace(handle, name, values=None, **how):
    kept = dict(handle[name].attrs)
    del handle[name]
    handle.create_dataset(name, data=values, **how).attrs.update(kept)


def damaged(path, offset, content):
    spoilt = bytearray(path.read_bytes())
    spoilt[offset : offset + len(content)] = content
    path.write_bytes(spoilt)
