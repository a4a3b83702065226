"""Writing: the input is never touched, the output is whole or absent, what others wrote is kept."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.io import sha256_file


def test_input_is_unchanged_and_everything_else_is_in_the_output(cells, embeddings, tmp_path):
    path, out = tmp_path / "cells.h5ad", tmp_path / "new" / "folder" / "out.h5ad"
    cells.layers["counts"] = cells.X.copy()
    cells.raw = cells
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(30, 2))
    cells.uns["note"] = {"a": 1, "b": ["x", "y"]}
    cells.write_h5ad(path)
    path.chmod(0o444)
    before = sha256_file(path)
    report = embed_cells(path, embeddings, out=out)
    assert sha256_file(path) == before
    written = anndata.read_h5ad(out)
    assert report.out == out
    assert written.obsm["X_bft"].shape == (30, report.dim) == (30, 4)
    np.testing.assert_array_equal(written.X.toarray(), cells.X.toarray())
    np.testing.assert_array_equal(written.raw.X.toarray(), cells.X.toarray())
    np.testing.assert_array_equal(written.obsm["X_pca"], cells.obsm["X_pca"])
    assert written.obs.drop(columns="X_bft_coverage").equals(anndata.read_h5ad(path).obs)
    assert written.uns["note"]["a"] == 1
    assert [p.name for p in out.parent.iterdir()] == ["out.h5ad"]


def test_anndata_is_filled_in_place_and_its_expression_stays(cells, embeddings):
    before = cells.X.copy()
    returned = embed_cells(cells, embeddings)
    assert returned is cells
    np.testing.assert_array_equal(cells.X.toarray(), before.toarray())
    np.testing.assert_array_equal(cells.X.indices, before.indices)
    assert cells.obsm["X_bft"].dtype == np.float32


def test_view_becomes_its_own_copy_without_touching_the_whole(cells, embeddings):
    view = cells[5:15]
    returned = embed_cells(view, embeddings)
    assert returned is view
    assert "X_bft" not in cells.obsm
    np.testing.assert_array_equal(view.obsm["X_bft"], embed_cells(cells, embeddings).obsm["X_bft"][5:15])


@pytest.mark.parametrize("how", ["same", "relative", "symlink", "hardlink"])
def test_output_that_is_the_input_is_refused(cells_file, embeddings, tmp_path, how, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.h5ad"
    if how == "symlink":
        other.symlink_to(cells_file)
    elif how == "hardlink":
        other.hardlink_to(cells_file)
    out = {"same": cells_file, "relative": Path("cells.h5ad")}.get(how, other)
    before = sha256_file(cells_file)
    with pytest.raises(BftembedError, match="is the input file"):
        embed_cells(cells_file, embeddings, out=out, overwrite=True)
    assert sha256_file(cells_file) == before


def test_output_is_needed_for_a_file_and_refused_for_an_anndata(cells_file, cells, embeddings, tmp_path):
    with pytest.raises(BftembedError, match="--out"):
        embed_cells(cells_file, embeddings)
    with pytest.raises(BftembedError, match="write_h5ad"):
        embed_cells(cells, embeddings, out=tmp_path / "out.h5ad")
    with pytest.raises(BftembedError, match="folder"):
        embed_cells(cells_file, embeddings, out=tmp_path)


def test_key_that_is_there_is_replaced_only_when_asked(cells_file, embeddings, tmp_path):
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    embed_cells(cells_file, embeddings, out=first)
    with pytest.raises(BftembedError, match=r"first\.h5ad has \.obsm\['X_bft'\] already"):
        embed_cells(first, embeddings, out=second)
    assert not second.exists()
    wider = GeneEmbeddings(embeddings.ids, np.eye(5, 9))
    embed_cells(first, wider, out=second, overwrite=True)
    written = anndata.read_h5ad(second)
    assert written.obsm["X_bft"].shape == (30, 9)
    assert written.uns["bftembed"]["X_bft"]["dim"] == 9
    in_memory = anndata.read_h5ad(first)
    with pytest.raises(BftembedError, match="already"):
        embed_cells(in_memory, wider)
    np.testing.assert_array_equal(embed_cells(in_memory, wider, overwrite=True).obsm["X_bft"], written.obsm["X_bft"])


def test_key_of_the_oldest_layout_counts_as_there(pbmc_path, tmp_path):
    two = GeneEmbeddings(["HES4", "SSU72"], np.eye(2))
    with pytest.raises(BftembedError, match=r"has \.obsm\['X_pca'\] already"):
        embed_cells(pbmc_path, two, out=tmp_path / "out.h5ad", key="X_pca", use_raw=True)


def test_second_key_keeps_the_first_and_its_provenance(cells_file, embeddings, tmp_path):
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    embed_cells(cells_file, embeddings, out=first, key="X_one")
    embed_cells(first, embeddings, out=second, key="X_two", l2=False)
    written = anndata.read_h5ad(second)
    assert set(written.obsm) == {"X_one", "X_two"}
    assert {key: entry["l2"] for key, entry in written.uns["bftembed"].items()} == {"X_one": True, "X_two": False}
    embed_cells(written, embeddings, key="X_three")
    assert set(written.uns["bftembed"]) == {"X_one", "X_two", "X_three"}


def test_foreign_uns_entry_is_not_destroyed(cells, embeddings, tmp_path):
    cells.uns["bftembed"] = "mine"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for data, options in ((cells, {}), (tmp_path / "cells.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match=r"\.uns\['bftembed'\] is"):
            embed_cells(data, embeddings, **options)
    assert cells.uns["bftembed"] == "mine"
    assert "X_bft" not in cells.obsm


def test_file_without_obsm_and_uns_gets_them(cells_file, embeddings, tmp_path):
    with h5py.File(cells_file, "r+") as handle:
        del handle["obsm"], handle["uns"]
    embed_cells(cells_file, embeddings, out=tmp_path / "out.h5ad")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.isfinite(written.obsm["X_bft"]).all()
    assert "X_bft" in written.uns["bftembed"]


def test_provenance_says_what_was_done_and_survives_the_file(cells_file, embeddings, genes_file, tmp_path):
    from bftembed import __version__

    embed_cells(cells_file, genes_file, out=tmp_path / "out.h5ad", normalize="auto", denominator="matched-expression")
    entry = anndata.read_h5ad(tmp_path / "out.h5ad").uns["bftembed"]["X_bft"]
    assert json.loads(entry["embeddings"]) == {"encoder": {"name": "random", "seed": 7}}
    assert entry["embeddings_sha256"] == embeddings.fingerprint()
    expected = {
        "version": __version__,
        "matrix": "X",
        "gene_column": "",
        "normalize": "log1p-cp10k",
        "denominator": "matched-expression",
        "l2": True,
        "n_cells": 30,
        "n_genes": 6,
        "n_matched": 5,
        "n_no_embedding": 1,
        "n_missing": 1,
        "empty_policy": "error",
        "n_empty": 0,
    }
    assert {name: entry[name] for name in expected} == expected
    assert "whole numbers" in entry["reason"]


def test_two_runs_write_equal_bytes(cells_file, embeddings, tmp_path):
    written = []
    for name in ("a.h5ad", "b.h5ad"):
        embed_cells(cells_file, embeddings, out=tmp_path / name)
        written.append(sha256_file(tmp_path / name))
    assert written[0] == written[1]


# Interrupted.


@pytest.fixture(scope="module")
def large(make_cells, tmp_path_factory):
    """Cells and embeddings whose output of 12 MB takes a while to write, and an older output in its place."""
    folder = tmp_path_factory.mktemp("large")
    cells = make_cells(n_cells=6000)
    cells.write_h5ad(folder / "cells.h5ad")
    genes = list(cells.var_names)
    embeddings = GeneEmbeddings(genes, np.random.default_rng(0).normal(size=(6, 512)))
    embed_cells(folder / "cells.h5ad", embeddings, out=folder / "whole.h5ad")
    embed_cells(folder / "cells.h5ad", GeneEmbeddings(genes, np.eye(6)), out=folder / "old.h5ad")
    return folder, embeddings


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_killed_while_writing_leaves_the_old_output(large, tmp_path, moment):
    folder, embeddings = large
    out = tmp_path / "out.h5ad"
    out.write_bytes((folder / "old.h5ad").read_bytes())
    final = (folder / "whole.h5ad").stat().st_size
    child = os.fork()
    if child == 0:
        code = 1
        try:
            embed_cells(folder / "cells.h5ad", embeddings, out=out)
            code = 0
        finally:
            os._exit(code)
    ended = (0, 0)
    while ended == (0, 0):
        with contextlib.suppress(FileNotFoundError):
            if any(p.stat().st_size >= moment * final for p in tmp_path.glob(".out.h5ad.*")):
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
        ended = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(ended[1])
    old, new = (sha256_file(folder / name) for name in ("old.h5ad", "whole.h5ad"))
    if moment < 0.5:
        assert (code, sha256_file(out)) == (-signal.SIGKILL, old)
    elif code == 0:
        assert sha256_file(out) == new
    else:
        # Killed after the replacement the new one is there, and whole.
        assert code == -signal.SIGKILL
        assert sha256_file(out) in {old, new}
    assert anndata.read_h5ad(out).n_obs == 6000


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("older", [True, False])
def test_full_disk_is_a_clear_error_and_leaves_nothing_behind(large, tmp_path, share, older):
    folder, embeddings = large
    embeddings.save(tmp_path / "genes.safetensors")
    out = tmp_path / "out" / "out.h5ad"
    out.parent.mkdir()
    if older:
        out.write_bytes((folder / "old.h5ad").read_bytes())
    limit = int((folder / "whole.h5ad").stat().st_size * share)
    command = [folder / "cells.h5ad", "--genes", tmp_path / "genes.safetensors", "--out", out]
    done = subprocess.run(
        [sys.executable, "-c", "from bftembed.cli import main; main()", "cells", "embed", *map(str, command)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert f"Cannot write {out}" in done.stderr
    assert "disk is full" in done.stderr
    assert [p.name for p in out.parent.iterdir()] == (["out.h5ad"] if older else [])
    if older:
        assert sha256_file(out) == sha256_file(folder / "old.h5ad")


def test_full_disk_while_dropping_cells_is_the_same(make_cells, tmp_path):
    cells = make_cells(n_cells=3000)
    values = cells.X.toarray()
    values[5] = 0
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "out.h5ad"
    embeddings = GeneEmbeddings(list(cells.var_names), np.random.default_rng(0).normal(size=(6, 256)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    try:
        with pytest.raises(BftembedError, match="disk is full"):
            embed_cells(tmp_path / "cells.h5ad", embeddings, out=out, empty_cells="drop")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]
