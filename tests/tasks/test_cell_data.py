"""Labels and embeddings of cells: read alike from a file and from memory, and no hostile file does harm."""

from __future__ import annotations

import math
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tasks.data import check_groups, check_labels, missing_label, read_cells, valid_cells

KEYS, LABELS = ["X_a", "X_b"], ["cell_type"]


def cells(n=40):
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 4
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["B", "T", "NK", "Mono"])[kind]),
            "patient": [f"p{k % 2}" for k in kind],
            "cluster": kind.astype(np.int64),
            "n_counts": rng.normal(1000, 50, n),
            "depth": np.arange(n) * 7,
            "barcode": [f"cell{i}" for i in range(n)],
            "tissue": "blood",
            "donor": pd.Categorical([None] * n, categories=["a"]),
        },
        index=[f"c{i}" for i in range(n)],
    )
    adata = anndata.AnnData(rng.poisson(1.0, (n, 5)).astype(np.float32), obs=obs)
    adata.obsm["X_a"] = rng.normal(size=(n, 3)).astype(np.float32) + 5 * kind[:, None]
    adata.obsm["X_b"] = rng.normal(size=(n, 2))
    return adata


@pytest.fixture
def h5ad(tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_a_file_and_its_anndata_are_read_alike(tmp_path):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(40) > 2)
    adata.obs["cluster"] = adata.obs["cluster"].where(np.arange(40) > 2)  # becomes float with NaN
    adata.obsm["X_f"] = pd.DataFrame(adata.obsm["X_a"], index=adata.obs_names, columns=["p", "q", "r"])
    keys = [*KEYS, "X_f"]
    for kind in ("csr", "csc"):
        for dtype in (np.float32, np.float64, np.int64):
            keys.append(f"S {kind} {np.dtype(dtype)}")
            adata.obsm[keys[-1]] = scipy.sparse.csr_matrix(np.round(adata.obsm["X_a"]).astype(dtype)).asformat(kind)
    del adata.X
    adata.write_h5ad(tmp_path / "c.h5ad")
    columns = ["cell_type", "patient", "cluster"]
    (labels, matrices, stem), (of_file, from_file, name) = (
        read_cells(data, keys, columns) for data in (adata, tmp_path / "c.h5ad")
    )
    assert (stem, name) == ("cells", "c")
    for column in columns:
        one, two = (pd.Series(x[column], dtype=object).fillna("missing").tolist() for x in (labels, of_file))
        assert one == two
    assert [missing_label(x) for x in labels["cell_type"][:4]] == [True] * 3 + [False]
    for key in keys:
        np.testing.assert_array_equal(matrices[key], from_file[key])
        expected = np.round(adata.obsm["X_a"]) if key.startswith("S") else np.asarray(adata.obsm[key])
        np.testing.assert_array_equal(matrices[key], expected)


def test_the_old_format_of_the_packaged_cells_is_read(pbmc_path):
    import scanpy

    labels, matrices, _ = read_cells(pbmc_path, ["X_pca"], ["bulk_labels"])
    adata = scanpy.datasets.pbmc68k_reduced()
    assert labels["bulk_labels"].tolist() == adata.obs["bulk_labels"].tolist()
    np.testing.assert_array_equal(matrices["X_pca"], adata.obsm["X_pca"])
    for keys, column in (([], "bulk_label"), (["X_bft"], "bulk_labels")):
        with pytest.raises(UnknownNameError):
            read_cells(pbmc_path, keys, [column])


def test_unknown_names_are_answered_with_likely_ones(h5ad):
    for data in (h5ad, cells()):
        with pytest.raises(UnknownNameError, match="cell_type"):
            read_cells(data, KEYS, ["celltype"])
        with pytest.raises(UnknownNameError, match="X_a"):
            read_cells(data, ["X_A"], LABELS)


@pytest.mark.parametrize("column", ["tissue", "donor", "n_counts", "depth", "barcode"])
def test_columns_that_are_not_labels_raise(column):
    values = cells().obs[column].to_numpy(dtype=object)
    with pytest.raises(BftembedError):
        check_labels(values, column, "")
    if column == "tissue":  # one batch is a column of batches
        assert check_groups(values, column, "") == {"blood"}


def damage(path, kind):
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
        return
    if kind == "missing":
        path.unlink()
        return
    with h5py.File(path, "r+") as handle:
        codes = handle["obs/cell_type/codes"][:]
        matrices = {"text matrix": np.array([[b"x"]] * 40), "short": np.ones((39, 2))}
        if kind in (*matrices, "bomb", "sparse bomb", "link", "sparse column"):
            del handle["obsm/X_b"]
        if kind in matrices:
            handle["obsm/X_b"] = matrices[kind]
        elif kind == "bomb":
            made = handle["obsm"].create_dataset("X_b", shape=(40, 2**40), dtype="f8", chunks=(1, 1024))
            made[0, :2] = 1
        elif kind == "sparse bomb":
            anndata.io.write_elem(handle["obsm"], "X_b", scipy.sparse.csr_matrix((40, 2**40)))
        elif kind == "link":
            handle["obsm/X_b"] = h5py.ExternalLink("other.h5", "/X")
        elif kind == "sparse column":
            anndata.io.write_elem(handle["obsm"], "X_b", pd.DataFrame({"a": np.ones(40)}))
            del handle["obsm/X_b/a"]
            anndata.io.write_elem(handle["obsm/X_b"], "a", scipy.sparse.eye(40, format="csr"))
        elif kind == "broken category":
            handle["obs/cell_type/codes"][0] = 99
        elif kind == "no obsm":
            del handle["obsm"]
        else:
            bomb = handle.create_dataset("uns/cell_type_categories", shape=(2**42,), dtype="S4", chunks=(1024,))
            del handle["obs/cell_type"]
            handle["obs/cell_type"] = codes
            handle["obs/cell_type"].attrs["categories"] = bomb.ref


@pytest.mark.parametrize(
    "kind",
    [
        *("truncated", "missing", "text matrix", "short", "bomb", "sparse bomb", "link", "sparse column"),
        *("broken category", "no obsm", "old category bomb"),
    ],
)
def test_a_damaged_or_hostile_file_raises_by_name(h5ad, kind):
    damage(h5ad, kind)
    with pytest.raises(BftembedError, match=r"cells\.h5ad"):
        read_cells(h5ad, KEYS, LABELS)


def test_a_damaged_sparse_embedding_does_not_crash_the_interpreter(tmp_path):
    """SciPy dies by a signal on such a matrix, so this runs in a process of its own."""
    adata, files = cells(), []
    for kind in ("csr", "csc"):
        adata.obsm["S"] = scipy.sparse.csr_matrix(adata.obsm["X_a"]).asformat(kind)
        for part, value in (("indices", 2_000_000_000), ("indices", -1), ("indptr", 2_000_000_000)):
            files.append(str(tmp_path / f"{len(files)}.h5ad"))
            adata.write_h5ad(files[-1])
            with h5py.File(files[-1], "r+") as handle:
                handle[f"obsm/S/{part}"][1] = value
    code = (
        "import sys, anndata; from bftembed.tasks.data import read_cells\n"
        "from bftembed.errors import BftembedError\n"
        "def caught(read):\n"
        "    try: read()\n"
        "    except (BftembedError, ValueError): return 1\n"  # SciPy itself raises for a broken indptr
        "from_memory = lambda f: read_cells(anndata.read_h5ad(f), ['S'], ['cell_type'])\n"
        "from_file = lambda f: read_cells(f, ['S'], ['cell_type'])\n"
        "print(sum(caught(lambda: read(f)) for f in sys.argv[1:] for read in (from_file, from_memory)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr


def test_embeddings_that_are_not_numbers_raise_from_memory():
    adata = cells()
    adata.obsm["X_t"] = pd.DataFrame({"p": ["x"] * 40, "q": [1.0] * 40}, index=adata.obs_names)
    adata.obsm["X_3"] = np.ones((40, 2, 2))
    for data, key in ((adata, "X_t"), (adata, "X_3"), (np.ones((3, 3)), "X_a")):
        with pytest.raises(BftembedError):
            read_cells(data, [key], LABELS)


def test_cells_without_label_or_vector_are_left_out_of_all_embeddings():
    a, b, c = np.ones((20, 2)), np.ones((20, 3)), np.full((20, 1), np.nan)
    labels = np.array(["x"] * 20, dtype=object)
    labels[:4] = None, np.nan, " ", "nan"
    a[10], b[11, 2], b[12] = 0, np.nan, np.inf
    found = valid_cells({"a": a, "b": b, "c": c}, {"label": labels})
    np.testing.assert_array_equal(np.flatnonzero(~found.mask), [0, 1, 2, 3, 10, 11, 12])
    assert found.labels["label"].tolist() == [""] * 4 + ["x"] * 16
    assert list(found.alone) == ["c"]
    assert not found.alone["c"].any()
    with pytest.raises(BftembedError):
        valid_cells({"a": a[1:]}, {"label": labels})


def test_missing_labels_of_every_kind_are_known():
    assert all(missing_label(x) for x in (None, math.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  ", "NaN"))
    assert not any(missing_label(x) for x in ("T", 0, False, "NA", "none"))
