"""Outputs: the input is never touched, an output is written atomically, what others wrote is kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cell_toys import EMBEDDINGS, GENES, cells_of, counts_of, embedded, files_in, with_empty_cells, write

import bftembed
from bftembed import BftembedError, GeneEmbeddings, embed_cells
from bftembed.io import sha256_file

#: Processes of a server without threads.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["bftembed.cells.embed"])


# Into an AnnData.


def test_an_anndata_is_filled_in_place(cells):
    before = cells.X.copy()
    assert embed_cells(cells, EMBEDDINGS) is cells
    np.testing.assert_array_equal(cells.X.toarray(), before.toarray())
    np.testing.assert_array_equal(cells.obsm["X_bft"], embedded(cells_of())[0])
    assert cells.obsm["X_bft"].dtype == np.float32
    counts = counts_of()
    coverage = counts[:, :5].sum(axis=1) / counts.sum(axis=1)
    np.testing.assert_allclose(cells.obs["X_bft_coverage"], coverage, rtol=1e-6)
    assert cells.uns["bftembed"]["X_bft"]["coverage"] == pytest.approx(counts[:, :5].sum() / counts.sum())


def test_a_view_becomes_a_copy_without_touching_the_whole(cells):
    view = cells[5:15]
    assert embed_cells(view, EMBEDDINGS) is view
    assert "X_bft" not in cells.obsm
    np.testing.assert_array_equal(view.obsm["X_bft"], embedded(cells)[0][5:15])


# A copy of the file.


def test_a_copy_holds_all_of_the_input_and_the_embedding(cells, tmp_path):
    cells.layers["counts"] = cells.X.copy()
    cells.raw = cells
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(30, 2))
    cells.obs["label"] = pd.Categorical(["a", "b"] * 15)
    cells.uns["note"] = {"a": 1, "b": ["x", "y"]}
    path, out = write(cells, tmp_path)[0], tmp_path / "new" / "folder" / "out.h5ad"
    path.chmod(0o444)
    before = sha256_file(path)
    report = embed_cells(path, EMBEDDINGS, out=out)
    written, was = anndata.read_h5ad(out), anndata.read_h5ad(path)
    assert sha256_file(path) == before
    assert (report.out, report.dim, report.n_cells) == (out, 4, 30)
    np.testing.assert_array_equal(written.obsm["X_bft"], embedded(cells)[0])
    for one, other in ((written.X, was.X), (written.raw.X, was.raw.X), (written.layers["counts"], was.X)):
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    np.testing.assert_array_equal(written.obsm["X_pca"], was.obsm["X_pca"])
    pd.testing.assert_frame_equal(written.obs.drop(columns="X_bft_coverage"), was.obs)
    assert written.uns["note"]["a"] == 1
    assert files_in(out.parent) == ["out.h5ad"]


def test_a_key_that_is_there_is_replaced_only_when_asked(cells, path, tmp_path):
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    embed_cells(path, EMBEDDINGS, out=first)
    wider = GeneEmbeddings(EMBEDDINGS.ids, np.eye(5, 9))
    with pytest.raises(BftembedError, match="X_bft"):
        embed_cells(first, wider, out=second)
    assert not second.exists()
    embed_cells(first, wider, out=second, overwrite=True)
    written = anndata.read_h5ad(second)
    assert (written.obsm["X_bft"].shape, written.uns["bftembed"]["X_bft"]["dim"]) == ((30, 9), 9)
    cells.obs["X_bft_coverage"] = "mine"
    with pytest.raises(BftembedError, match="X_bft_coverage"):
        embed_cells(cells, wider)
    embed_cells(cells, wider, overwrite=True)
    assert (cells.obs["X_bft_coverage"] <= 1).all()


def test_a_second_key_keeps_the_first_and_its_provenance(path, tmp_path):
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    embed_cells(path, EMBEDDINGS, out=first, key="X_one")
    embed_cells(first, EMBEDDINGS, out=second, key="X_two", l2=False)
    written = anndata.read_h5ad(second)
    embed_cells(written, EMBEDDINGS, key="X_three")
    assert set(written.obsm) == {"X_one", "X_two", "X_three"}
    assert [bool(written.uns["bftembed"][key]["l2"]) for key in ("X_one", "X_two", "X_three")] == [True, False, True]


def test_an_entry_of_uns_that_is_not_ours_is_kept(cells, tmp_path):
    cells.uns["bftembed"] = "mine"
    path, _ = write(cells, tmp_path)
    for data, options in ((cells, {}), (path, {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match="bftembed"):
            embed_cells(data, EMBEDDINGS, **options)
    assert (cells.uns["bftembed"], "X_bft" in cells.obsm) == ("mine", False)
    assert files_in(tmp_path) == ["cells.h5ad"]


@pytest.mark.parametrize("policy", ["error", "drop"])
def test_a_file_without_obsm_uns_and_layers_gets_what_it_needs(path, tmp_path, policy):
    with h5py.File(path, "r+") as handle:
        for name in ("obsm", "uns", "layers", "obsp", "varm", "varp"):
            del handle[name]
        if policy == "error":  # the bytes are copied; else anndata has to read the table
            del handle["obs"].attrs["column-order"]
    embed_cells(path, EMBEDDINGS, out=tmp_path / "out.h5ad", empty_cells=policy)
    with h5py.File(tmp_path / "out.h5ad") as written:
        np.testing.assert_array_equal(written["obsm/X_bft"][:], embedded(cells_of())[0])


@pytest.mark.parametrize("place", ["out", "sidecar"])
def test_provenance_says_what_was_done_and_two_runs_write_the_same_bytes(path, genes_file, tmp_path, place):
    options = {"weights": "rank", "top_k": 3, "gene_matrix": "center", "l2": False}
    for name in ("a.h5ad", "b.h5ad"):
        embed_cells(path, genes_file, **{place: tmp_path / name}, **options)
    assert sha256_file(tmp_path / "a.h5ad") == sha256_file(tmp_path / "b.h5ad")
    told = anndata.read_h5ad(tmp_path / "a.h5ad").uns["bftembed"]["X_bft"]
    expected = {"version": bftembed.__version__, "embeddings_sha256": EMBEDDINGS.fingerprint(), "matrix": "X"}
    expected |= {"kind": "gene", "normalize": "log1p-cp10k", "n_cells": 30, "n_genes": 6, "n_used": 5, **options}
    expected |= {"n_no_embedding": 1, "n_duplicates": 0, "empty_policy": "error"}
    assert {name: told[name] for name in expected} == expected
    assert json.loads(told["embeddings"]) == {"encoder": {"name": "random"}}
    assert told["reason"]
    assert told["coverage"] == pytest.approx(counts_of()[:, :5].sum() / counts_of().sum())


# Keys with slashes, and the newest stack (notes of stack, defects 1 to 3).


@pytest.mark.parametrize("policy", ["nan", "drop"])
def test_a_column_with_a_slash_is_kept(policy, tmp_path):
    """Before 0.13 anndata stored the column `CD4/CD8` as a member of a group."""
    path, out = write(with_empty_cells(), tmp_path)[0], tmp_path / "out.h5ad"
    with h5py.File(path, "r+") as handle:
        column = handle["obs"].create_group("CD4").create_dataset("CD8", data=np.arange(30.0))
        column.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        handle["obs"].attrs["column-order"] = np.array(["CD4/CD8"], dtype=h5py.string_dtype())
    embed_cells(path, EMBEDDINGS, out=out, empty_cells=policy)
    written = anndata.read_h5ad(out).obs
    kept = np.arange(30) if policy == "nan" else np.setdiff1d(np.arange(30), [3, 7])
    assert list(written["CD4/CD8"]) == list(kept)
    assert list(written.columns) == ["CD4/CD8", "X_bft_coverage"]


@pytest.mark.parametrize("policy", ["nan", "drop"])
def test_a_file_of_the_newest_stack_is_copied_and_dropped_from(policy, tmp_path):
    cells = with_empty_cells()
    cells.obs["donor"] = pd.array(["a", "b"] * 15, dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        path, _ = write(cells, tmp_path)
        with h5py.File(path, "r+") as handle:  # names as groups of values and mask, as anndata 0.13 writes them
            for table, names in (("obs", cells.obs_names), ("var", cells.var_names)):
                del handle[table]["_index"]
                anndata.io.write_elem(handle[table], "_index", pd.array(list(names), dtype="string"))
    report = embed_cells(path, EMBEDDINGS, out=tmp_path / "out.h5ad", empty_cells=policy)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert report.empty_cells == ("cell3", "cell7")
    assert written.n_obs == (30 if policy == "nan" else 28)
    assert list(written.obs["donor"][:3]) == ["a", "b", "a"]
    assert list(written.obs_names[-2:]) == ["cell28", "cell29"]


# Empty cells.


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("place", ["memory", "out", "sidecar"])
def test_empty_cells_are_an_error_or_nan_or_left_out(form, place, tmp_path):
    cells = with_empty_cells(form=form)
    cells.layers["counts"] = cells.X.copy()
    path, out = write(cells, tmp_path)[0], tmp_path / "out" / "out.h5ad"

    def embed(policy):
        if place == "memory":
            return embed_cells(cells.copy(), EMBEDDINGS, empty_cells=policy)
        report = embed_cells(path, EMBEDDINGS, **{place: out}, empty_cells=policy)
        assert (report.empty_cells, report.n_empty, report.n_cells) == (("cell3", "cell7"), 2, 30)
        return anndata.read_h5ad(out)

    with pytest.raises(BftembedError, match=r"2 of 30 cells.*'cell3', 'cell7'"):
        embed("error")
    assert not out.exists()
    expected = embedded(cells_of(np.delete(cells.to_df().to_numpy(), [3, 7], axis=0)))[0]
    for policy in ("nan", "drop"):
        written = embed(policy)
        vectors = written.obsm["X_bft"]
        kept = np.setdiff1d(np.arange(30), [3, 7])
        if policy == "nan":
            assert np.isnan(vectors[[3, 7]]).all()
            vectors, names = vectors[kept], written.obs_names[kept]
        else:
            names = written.obs_names
        np.testing.assert_array_equal(vectors, expected)
        assert list(names) == [f"cell{i}" for i in kept]
        assert list(written.uns["bftembed"]["X_bft"]["empty_cells"]) == ["cell3", "cell7"]
        coverage = written.obs["X_bft_coverage"]
        assert (np.isfinite(coverage).sum(), (coverage > 0).sum()) == ((29, 28) if policy == "nan" else (28, 28))
        if place != "sidecar":
            assert written.X.shape == written.layers["counts"].shape == (len(names) + 2 * (policy == "nan"), 6)


def test_empty_cells_are_found_before_the_long_part():
    told = []
    with pytest.raises(BftembedError, match="2 of 30 cells"):
        embed_cells(with_empty_cells(), EMBEDDINGS, progress=lambda *args: told.append(args[2]))
    assert "embedding" not in told


# A sidecar.


def test_a_sidecar_holds_names_coverage_vectors_and_no_expression(cells, tmp_path):
    cells.obs_names = [*(f"größe/{i}" for i in range(28)), "", "cell\n"]
    cells.obs["label"] = "a"
    path, out = write(cells, tmp_path)[0], tmp_path / "new" / "e.h5ad"
    report = embed_cells(path, EMBEDDINGS, sidecar=out, block_rows=7)
    written, expected = anndata.read_h5ad(out), embed_cells(cells, EMBEDDINGS)
    assert (written.X, written.n_vars, report.out) == (None, 0, out)
    np.testing.assert_array_equal(written.obsm["X_bft"], expected.obsm["X_bft"])
    assert written.obsm["X_bft"].dtype == np.float32
    assert list(written.obs_names) == list(cells.obs_names)
    assert list(written.obs.columns) == ["X_bft_coverage"]
    np.testing.assert_array_equal(written.obs["X_bft_coverage"], expected.obs["X_bft_coverage"])
    assert set(written.uns["bftembed"]["X_bft"]) == set(expected.uns["bftembed"]["X_bft"])
    assert files_in(out.parent) == ["e.h5ad"]
    embed_cells(path, GeneEmbeddings(EMBEDDINGS.ids, np.eye(5)), sidecar=out)  # an old one is replaced
    assert anndata.read_h5ad(out).obsm["X_bft"].shape == (30, 5)


# Places that make no sense.


@pytest.mark.parametrize("how", ["same", "relative", "symlink", "hardlink"])
@pytest.mark.parametrize("place", ["out", "sidecar"])
def test_an_output_that_is_the_input_is_an_error(path, tmp_path, place, how, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.h5ad"
    if how == "symlink":
        other.symlink_to(path)
    elif how == "hardlink":
        other.hardlink_to(path)
    out = {"same": path, "relative": Path("cells.h5ad")}.get(how, other)
    before = sha256_file(path)
    with pytest.raises(BftembedError, match="input"):
        embed_cells(path, EMBEDDINGS, **{place: out}, overwrite=True)
    assert sha256_file(path) == before


def test_places_that_make_no_sense_are_errors(cells, path, tmp_path):
    out, store = tmp_path / "out.h5ad", write(cells, tmp_path, "zarr3")[0]
    (tmp_path / "mine.h5ad").mkdir()
    for data, options, word in (
        (path, {}, "--out"),
        (cells, {"out": out}, "write_h5ad"),
        (path, {"out": tmp_path}, "folder"),
        (path, {"out": path / "out.h5ad"}, "out.h5ad"),
        (path, {"out": out, "sidecar": out}, "--sidecar"),
        (store, {"out": out}, "--sidecar"),
        (store, {"sidecar": store}, "zarr"),
        (store, {"sidecar": store / "e.h5ad"}, "input"),
        (cells, {"sidecar": out}, "file"),
        ([path], {"sidecar": out}, "list"),
        (path, {"sidecar": tmp_path / "e.csv"}, "csv"),
        (path, {"sidecar": tmp_path / "mine.h5ad"}, "folder"),
        (tmp_path / "gone.h5ad", {"sidecar": out}, "gone.h5ad"),
        (np.ones((2, 2)), {}, "ndarray"),
    ):
        with pytest.raises(BftembedError, match=word):
            embed_cells(data, EMBEDDINGS, **options)
    for genes, word in (({"CD3D": [1, 2]}, "dict"), (tmp_path / "no.safetensors", "no.safetensors")):
        with pytest.raises(BftembedError, match=word):
            embed_cells(cells, genes)
    assert files_in(tmp_path) == ["cells.h5ad", "cells.zarr3", "mine.h5ad"]


def test_a_key_that_cannot_be_written_is_an_error(cells):
    for key in ("", "a/b", ".", "..", " ", "a\0b", 3):
        with pytest.raises(BftembedError, match="key"):
            embed_cells(cells, EMBEDDINGS, key=key)


def test_an_option_without_meaning_is_an_error_that_names_it(cells):
    options = {"denominator": "all", "empty_cells": "dorp", "weights": "ranks", "precision": "exakt", "kind": "genes"}
    for name, value in {**options, "top_k": 0, "block_rows": 0}.items():
        with pytest.raises(BftembedError, match=name):
            embed_cells(cells, EMBEDDINGS, **{name: value})
    assert "X_bft" not in cells.obsm


# Interrupted.

N_CELLS = 6000
WIDE = GeneEmbeddings(GENES, np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Cells whose embedding of 12 MB takes a while to write, and for each place an older output and the new one."""
    folder = tmp_path_factory.mktemp("large")
    path, _ = write(cells_of(counts_of(N_CELLS)), folder)
    for place in ("out", "sidecar"):
        embed_cells(path, GeneEmbeddings(GENES, np.eye(6)), **{place: folder / f"old.{place}.h5ad"})
        embed_cells(path, WIDE, **{place: folder / f"new.{place}.h5ad"})
    return folder


def killed_at(at, data, place, out):
    """Embed, and die by SIGKILL after `at` cells, when the new output has been begun."""

    def die(done, total, note):
        if done >= at and len(files_in(out.parent)) > 1:
            os.kill(os.getpid(), signal.SIGKILL)

    embed_cells(data, WIDE, **{place: out}, block_rows=500, progress=die)


@pytest.mark.parametrize("place", ["out", "sidecar"])
@pytest.mark.parametrize("at", [500, 3000, N_CELLS])
def test_killed_while_writing_the_old_output_is_there_and_whole(large, tmp_path, place, at):
    out = tmp_path / "out" / "e.h5ad"
    out.parent.mkdir()
    out.write_bytes((large / f"old.{place}.h5ad").read_bytes())
    child = FORKS.Process(target=killed_at, args=(at, large / "cells.h5ad", place, out))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert sha256_file(out) == sha256_file(large / f"old.{place}.h5ad")
    embed_cells(large / "cells.h5ad", WIDE, **{place: out})
    assert sha256_file(out) == sha256_file(large / f"new.{place}.h5ad")


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from bftembed import BftembedError, GeneEmbeddings, embed_cells
place, data, genes, out, warm, *limits = sys.argv[1:]
genes = GeneEmbeddings.load(genes)
embed_cells(data, genes, out=warm)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
out = Path(out)
for policy, limit in [("drop", int(limits[0])), *(("error", int(limit)) for limit in limits)]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        embed_cells(data, genes, empty_cells=policy, **{place: out})
        said = None
    except BftembedError as err:
        said = str(err)
    except Exception as err:
        said = f"UNEXPECTED {type(err).__name__}: {err}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    left = sorted(path.name for path in out.parent.iterdir())
    print(json.dumps([limit, said, out.read_bytes() == b"old", left]), flush=True)
"""


@pytest.mark.parametrize(
    ("place", "shares"),
    [
        ("out", (0.02, 0.3, 0.7, 0.95, 0.985, 0.995)),
        ("sidecar", (0.02, 0.7, 0.985, 0.995)),
    ],
)
def test_a_full_disk_is_an_error_that_leaves_the_old_output(large, tmp_path, place, shares):
    out, final = tmp_path / "out" / "out.h5ad", (large / f"new.{place}.h5ad").stat().st_size
    out.parent.mkdir()
    out.write_bytes(b"old")
    WIDE.save(tmp_path / "genes.safetensors")
    limits = [0, 500, *(int(final * share) for share in shares)]
    words = [place, large / "cells.h5ad", tmp_path / "genes.safetensors", out, tmp_path / "warm.h5ad", *limits]
    command = [sys.executable, "-c", LIMITED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(found)) == (0, len(limits) + 1), done.stderr[-500:]
    for limit, said, kept, left in found:
        assert (kept, left) == (True, ["out.h5ad"]), limit
        assert "full" in (said or ""), (limit, said)
        assert str(out) in said
