"""`bench.clustering`: what it reads from an AnnData or a file, and what it refuses."""

from __future__ import annotations

import functools
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from bftembed import bench
from bftembed.errors import BftembedError
from bftembed.results import read_results

standard = functools.partial(bench.clustering, protocol="standard")


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


def test_file_and_anndata_give_the_same_rows(h5ad, tmp_path):
    out = tmp_path / "r.parquet"
    from_file = standard(h5ad, ["X_a", "X_b"], "cell_type", seeds=2, out=out)
    from_memory = standard(cells(), ["X_a", "X_b"], "cell_type", seeds=2)
    assert set(from_file["run"]) == {"cells/cell_type"}
    pd.testing.assert_frame_equal(from_file, from_memory)
    pd.testing.assert_frame_equal(read_results(out), from_file)


def test_the_expression_is_never_read(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["X"]
    assert len(standard(h5ad, "X_a", "cell_type", seeds=1, floors=False)) == 5


@pytest.mark.parametrize("label", ["cell_type", "patient", "cluster"])
def test_categories_text_and_few_whole_numbers_are_labels(h5ad, label):
    frame = standard(h5ad, ["X_a"], label, seeds=[5], run="mine")
    assert set(frame["run"]) == {"mine"}
    assert set(frame["n_used"]) == {40}
    pd.testing.assert_frame_equal(frame, standard(cells(), ["X_a"], label, seeds=[5], run="mine"))


@pytest.mark.parametrize("missing", [None, "cluster"])
def test_missing_labels_are_counted(tmp_path, missing):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(40) > 2)
    adata.obs["cluster"] = adata.obs["cluster"].where(np.arange(40) > 2)  # becomes float with NaN
    adata.write_h5ad(tmp_path / "c.h5ad")
    for data in (adata, tmp_path / "c.h5ad"):
        frame = standard(data, "X_a", missing or "cell_type", seeds=1)
        assert set(frame["n_missing"]) == {3}
        assert set(frame["note"]) == {"3 cells left out: 3 without a label"}


def test_data_frame_and_sparse_embeddings_are_converted(tmp_path):
    adata = cells()
    expected = standard(adata, "X_a", "cell_type", seeds=1)["value"].tolist()
    dense = adata.obsm["X_a"]
    adata.obsm["X_a"] = pd.DataFrame(dense, index=adata.obs_names, columns=["p", "q", "r"])
    adata.obsm["X_s"] = scipy.sparse.csr_matrix(dense)
    adata.write_h5ad(tmp_path / "c.h5ad")
    for data in (adata, tmp_path / "c.h5ad"):
        for key in ("X_a", "X_s"):
            assert standard(data, key, "cell_type", seeds=1)["value"].tolist() == expected


def test_the_old_file_format_of_the_packaged_cells_is_read(pbmc_path):
    import scanpy

    frame = standard(pbmc_path, ["X_pca"], "bulk_labels", seeds=1, run="r")
    adata = scanpy.datasets.pbmc68k_reduced()
    pd.testing.assert_frame_equal(frame, standard(adata, ["X_pca"], "bulk_labels", seeds=1, run="r"))
    silhouette = frame[(frame["metric"] == "silhouette") & (frame["split"] == "all") & frame["seed"].isna()]
    # scib's .541847 for the same labels on another embedding is (s + 1) / 2; the raw value lies in [-1, 1]
    assert -1 < float(silhouette["value"].iloc[0]) < 0.5
    with pytest.raises(BftembedError, match="Unknown obs column 'bulk_label'.*Did you mean 'bulk_labels'"):
        standard(pbmc_path, ["X_pca"], "bulk_label")
    with pytest.raises(BftembedError, match="Known: X_pca, X_umap"):
        standard(pbmc_path, ["X_bft"], "bulk_labels")


def test_shared_cells_are_scored(shared_data):
    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    frame = standard(path, ["ADT"], "hto_top", seeds=1)
    assert set(frame["n_used"] + frame["n_missing"]) == {500}
    assert frame["value"].notna().all()


@pytest.mark.parametrize("where", ["file", "memory"])
@pytest.mark.parametrize(
    ("keys", "label", "reason"),
    [
        (["X_a"], "celltype", "Unknown obs column 'celltype'.*Did you mean 'cell_type'.*Known: cell_type, patient"),
        (["X_A"], "cell_type", "Unknown obsm key 'X_A'.*Did you mean .*'X_a'.*Known: X_a, X_b"),
        (["X_a"], "tissue", "one label only .'blood'."),
        (["X_a"], "donor", "no value for any of the 40 cells"),
        (["X_a"], "n_counts", "a number per cell"),
        (["X_a"], "depth", "identifier, not a label: 40 distinct"),
        (["X_a"], "barcode", "identifier, not a label: 40 distinct values for 40 cells"),
        ([], "cell_type", "No embedding was named"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_remedy(h5ad, where, keys, label, reason):
    with pytest.raises(BftembedError, match=reason):
        standard(h5ad if where == "file" else cells(), keys, label)


def test_numeric_columns_are_not_offered_as_labels(h5ad):
    for data in (h5ad, cells()):
        with pytest.raises(BftembedError) as caught:
            standard(data, ["X_a"], "nothing like it")
        assert "n_counts" not in str(caught.value)
        assert "_index" not in str(caught.value)


def damage(path, kind):
    if kind == "text obsm":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm/X_b"] = np.array([[b"x"]] * 40)
    elif kind == "flat obsm":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm/X_b"] = np.ones(40)
    elif kind == "short obsm":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm/X_b"] = np.ones((39, 2))
    elif kind == "shape bomb":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm"].create_dataset("X_b", shape=(40, 2**40), dtype="f8", chunks=(1, 1024))
    elif kind == "small shape bomb":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm"].create_dataset("X_b", shape=(40, 2**22), dtype="f8", chunks=(1, 1024))[0, :2] = 1
    elif kind in ("old category bomb", "oldest category bomb"):
        with h5py.File(path, "r+") as handle:
            bomb = handle.create_dataset("uns/cell_type_categories", shape=(2**42,), dtype="S4", chunks=(1024,))
            codes = handle["obs/cell_type/codes"][:]
            del handle["obs/cell_type"]
            if kind == "old category bomb":
                handle["obs/cell_type"] = codes
                handle["obs/cell_type"].attrs["categories"] = bomb.ref
            else:
                del handle["obs"]
                handle["obs"] = np.array([(c,) for c in codes], dtype=[("cell_type", "i1")])
    elif kind == "sparse label":
        with h5py.File(path, "r+") as handle:
            del handle["obs/cell_type"]
            anndata.io.write_elem(handle, "obs/cell_type", scipy.sparse.eye(40, format="csr"))
    elif kind == "sparse column":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            anndata.io.write_elem(handle, "obsm/X_b", pd.DataFrame({"a": np.ones(40)}))
            del handle["obsm/X_b/a"]
            anndata.io.write_elem(handle, "obsm/X_b/a", scipy.sparse.eye(40, format="csr"))
    elif kind == "two sparse kinds":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            anndata.io.write_elem(handle, "obsm/X_b", scipy.sparse.eye(40, format="csr"))
            handle["obsm/X_b"].attrs["h5sparse_format"] = "neither"
    elif kind == "sparse bomb":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            anndata.io.write_elem(handle, "obsm/X_b", scipy.sparse.csr_matrix((40, 2**40), dtype=np.float32))
    elif kind == "broken category":
        with h5py.File(path, "r+") as handle:
            handle["obs/cell_type/codes"][0] = 99
    elif kind == "no obsm":
        with h5py.File(path, "r+") as handle:
            del handle["obsm"]
    elif kind == "external link":
        with h5py.File(path, "r+") as handle:
            del handle["obsm/X_b"]
            handle["obsm/X_b"] = h5py.ExternalLink("other.h5", "/X")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "text":
        path.write_text("not a h5ad")
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text obsm", r"obsm\['X_b'\]"),
        ("flat obsm", r"obsm\['X_b'\].*\(40,\)"),
        ("short obsm", r"obsm\['X_b'\].*39 rows for 40 cells"),
        ("shape bomb", r"obsm\['X_b'\].*Refused before reading"),
        ("small shape bomb", r"obsm\['X_b'\].*1.2 GiB.*Refused before reading"),
        ("sparse bomb", r"obsm\['X_b'\].*Refused before reading"),
        ("old category bomb", r"obs\['cell_type'\].*Refused before reading"),
        ("oldest category bomb", r"obs\['cell_type'\].*Refused before reading"),
        ("sparse label", r"obs\['cell_type'\] is a ndarray, not a column of labels"),
        ("sparse column", r"obsm\['X_b'\] holds a of the kind 'csr_matrix'"),
        ("two sparse kinds", r"obsm\['X_b'\] holds values of the kind 'csr_matrix'"),
        ("broken category", r"obs\['cell_type'\]"),
        ("no obsm", "no /obsm"),
        ("external link", "link to another file"),
        ("truncated", "truncated or damaged"),
        ("text", "not a HDF5 file"),
        ("missing", "No such file"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_by_name(h5ad, tmp_path, kind, reason):
    damage(h5ad, kind)
    with pytest.raises(BftembedError, match=f"cells.h5ad.*{reason}|{reason}.*cells.h5ad"):
        standard(h5ad, ["X_a", "X_b"], "cell_type", out=tmp_path / "r.parquet")
    assert not (tmp_path / "r.parquet").exists()


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize(("part", "value"), [("indices", 2_000_000_000), ("indices", -1), ("indptr", 2_000_000_000)])
def test_a_damaged_sparse_embedding_does_not_crash_the_interpreter(tmp_path, kind, part, value):
    adata = cells()
    adata.obsm["S"] = scipy.sparse.csr_matrix(adata.obsm["X_a"]).asformat(kind)
    path = tmp_path / "c.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as handle:
        handle[f"obsm/S/{part}"][1] = value
    code = (
        "import sys, anndata; from bftembed import bench; from bftembed.errors import BftembedError\n"
        "for data in (sys.argv[1], anndata.read_h5ad(sys.argv[1])):\n"
        "    try: bench.clustering(data, 'S', 'cell_type', seeds=1)\n"
        "    except BftembedError as err: print(err)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if part == "indptr":  # SciPy itself refuses to build this one
        assert done.returncode in (0, 1), done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2
        assert "the AnnData: obsm['S']" in done.stdout
    assert f"{path}: obsm['S']" in done.stdout


def test_sparse_embeddings_of_every_kind_are_read(tmp_path):
    adata = cells()
    dense = np.round(adata.obsm["X_a"])
    expected = standard(anndata.AnnData(obs=adata.obs, obsm={"S": dense}), "S", "cell_type", seeds=1)
    for kind in ("csr", "csc"):
        for dtype in (np.float32, np.float64, np.int64):
            adata.obsm["S"] = scipy.sparse.csr_matrix(dense.astype(dtype)).asformat(kind)
            adata.write_h5ad(tmp_path / "c.h5ad")
            for data in (adata, tmp_path / "c.h5ad"):
                assert np.allclose(standard(data, "S", "cell_type", seeds=1)["value"], expected["value"])


def test_embeddings_that_are_not_numbers_are_refused_from_memory():
    adata = cells()
    adata.obsm["X_t"] = pd.DataFrame({"p": ["x"] * 40, "q": [1.0] * 40}, index=adata.obs_names)
    adata.obsm["X_3"] = np.ones((40, 2, 2))
    with pytest.raises(BftembedError, match="columns that are not numbers: 'p'"):
        standard(adata, "X_t", "cell_type")
    with pytest.raises(BftembedError, match=r"\(40, 2, 2\)"):
        standard(adata, "X_3", "cell_type")
    with pytest.raises(BftembedError, match="Expected an AnnData"):
        standard(np.ones((3, 3)), "X_a", "cell_type")  # type: ignore[arg-type]


def test_progress_is_told_once_per_embedding():
    told = []
    standard(cells(), ["X_a", "X_b", "X_a"], "cell_type", seeds=1, progress=lambda *x: told.append(x))
    assert told == [(1, 2, "X_a"), (2, 2, "X_b")]


def test_an_index_out_of_range_is_an_error_and_not_a_crash(tmp_path):
    """SciPy dies by a signal on such a matrix, so this runs in a process of its own."""
    import subprocess
    import sys

    import anndata
    import h5py
    import scipy.sparse

    adata = anndata.AnnData(np.ones((6, 3), dtype=np.float32))
    adata.obs["l"] = list("aabbab")
    adata.obsm["S"] = scipy.sparse.random(6, 5, 0.5, format="csr", dtype=np.float32, random_state=0)
    adata.write_h5ad(tmp_path / "s.h5ad")
    with h5py.File(tmp_path / "s.h5ad", "r+") as handle:
        handle["obsm/S/indices"][0] = 2_000_000_000
    code = "import sys; from bftembed import bench; bench.clustering(sys.argv[1], 'S', 'l')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.h5ad")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "indices are out of range" in done.stderr
