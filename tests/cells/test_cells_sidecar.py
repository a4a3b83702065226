"""Embeddings in a file of their own: three formats, several inputs, whole or untouched, memory that does not grow."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from bftembed.cells import names
from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.io import sha256_file

FORMATS = ["h5ad", "zarr", "parquet"]
COMMAND = [sys.executable, "-c", "from bftembed.cli import main; main()", "cells", "embed"]


def read(path, key="X_bft"):
    """Vectors, table of cells and provenance of a sidecar of any format."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        vectors = np.stack(table[key].to_numpy(zero_copy_only=False)) if len(table) else None
        told = json.loads(pq.read_schema(path).metadata[b"bftembed"])
        return vectors, table.drop_columns([key]).to_pandas().set_index("cell"), told
    cells = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
    assert (cells.X, cells.n_vars) == (None, 0)
    return cells.obsm[key], cells.obs, cells.uns["bftembed"][key]


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def with_empty(cells, rows):
    values = cells.X.toarray()
    values[rows] = 0
    cells.X = sp.csr_matrix(values)
    return cells


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
def test_sidecar_holds_names_coverage_vectors_and_provenance(make_cells, embeddings, tmp_path, form, matrix):
    source, path = tmp_path / "cells.h5ad", tmp_path / "new" / f"emb.{form}"
    cells = make_cells(form=matrix)
    cells.write_h5ad(source)
    before = sha256_file(source)
    report = embed_cells(source, embeddings, sidecar=path, block_rows=7)
    expected = embed_cells(cells, embeddings)
    vectors, obs, told = read(path)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected.obsm["X_bft"])
    assert list(obs.index) == list(expected.obs_names)
    assert list(obs.columns) == ["X_bft_coverage"]
    np.testing.assert_array_equal(obs["X_bft_coverage"], expected.obs["X_bft_coverage"])
    assert set(told) == set(expected.uns["bftembed"]["X_bft"])
    assert (told["n_cells"], told["embeddings_sha256"]) == (30, embeddings.fingerprint())
    assert (report.out, sha256_file(source)) == (path, before)
    assert files_of(path.parent) == [path.name]


@pytest.mark.parametrize("form", FORMATS)
def test_chunked_names_of_any_kind_come_out_as_they_were(make_cells, embeddings, tmp_path, form, monkeypatch):
    monkeypatch.setattr(names, "CHUNK", 7)
    monkeypatch.setattr(names.Table.parts, "__defaults__", (7,))
    cells = make_cells()
    cells.obs_names = [*(f"größe/{i}" for i in range(28)), "", "cell\n"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    embed_cells(tmp_path / "cells.h5ad", embeddings, sidecar=tmp_path / f"emb.{form}")
    assert list(read(tmp_path / f"emb.{form}")[1].index) == list(cells.obs_names)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("policy", ["drop", "nan"])
def test_empty_cells_are_left_out_or_nan(make_cells, embeddings, tmp_path, form, policy, monkeypatch):
    monkeypatch.setattr(anndata, "read_h5ad", None)  # the input is never read as a whole
    cells = with_empty(make_cells(), [3, 17])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    report = embed_cells(tmp_path / "cells.h5ad", embeddings, sidecar=tmp_path / f"e.{form}", empty_cells=policy)
    monkeypatch.undo()
    expected = embed_cells(cells, embeddings, empty_cells=policy)
    vectors, obs, told = read(tmp_path / f"e.{form}")
    np.testing.assert_array_equal(vectors, expected.obsm["X_bft"])
    assert list(obs.index) == list(expected.obs_names)
    np.testing.assert_array_equal(obs["X_bft_coverage"], expected.obs["X_bft_coverage"])
    assert list(told["empty_cells"]) == list(report.empty_cells) == ["cell3", "cell17"]


@pytest.mark.parametrize("form", FORMATS)
def test_two_runs_write_the_same(cells_file, embeddings, tmp_path, form):
    for name in "ab":
        embed_cells(cells_file, embeddings, sidecar=tmp_path / f"{name}.{form}")
    a, b = tmp_path / f"a.{form}", tmp_path / f"b.{form}"
    if a.is_dir():
        one, other = ({p.relative_to(x): p.read_bytes() for p in x.rglob("*") if p.is_file()} for x in (a, b))
        assert one == other
    else:
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_existing_sidecar_is_replaced(cells_file, embeddings, tmp_path, form):
    path = tmp_path / f"emb.{form}"
    embed_cells(cells_file, GeneEmbeddings(embeddings.ids, np.eye(5)), sidecar=path)
    embed_cells(cells_file, embeddings, sidecar=path)
    assert read(path)[0].shape == (30, 4)
    assert files_of(tmp_path) == ["cells.h5ad", path.name]


def test_h5ad_is_laid_out_as_anndata_does(cells_file, embeddings, tmp_path):
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    embed_cells(cells_file, embeddings, sidecar=first)
    anndata.read_h5ad(first).write_h5ad(second)
    with h5py.File(first) as ours, h5py.File(second) as theirs:
        for handle, other in ((ours, theirs), (theirs, ours)):
            here, there = [], []
            handle.visit(here.append)
            other.visit(there.append)
            assert sorted(here) == sorted(there)
        for name in here:
            for attribute in ("encoding-type", "encoding-version"):
                assert ours[name].attrs[attribute] == theirs[name].attrs[attribute], name
        assert h5py.check_string_dtype(ours["obs/_index"].dtype).encoding == "utf-8"


# Several inputs.


@pytest.fixture
def two(make_cells, tmp_path):
    """Two files with genes in another order and equal names of cells."""
    a, b = make_cells(n_cells=30, seed=1), make_cells(n_cells=21, seed=2)
    b = b[:, ["NKG7", "LYZ", "CD8A", "CD3D"]].copy()
    folders = tmp_path / "a", tmp_path / "b"
    for folder, cells in zip(folders, (a, b), strict=True):
        folder.mkdir()
        cells.write_h5ad(folder / "cells.h5ad")
    return [folder / "cells.h5ad" for folder in folders], (a, b)


@pytest.mark.parametrize("form", FORMATS)
def test_several_files_are_one_stream(two, embeddings, tmp_path, form):
    paths, (a, b) = two
    report = embed_cells(paths, embeddings, sidecar=tmp_path / f"e.{form}", kernel="axpy")
    parts = [embed_cells(x, embeddings, kernel="axpy") for x in (a, b)]
    vectors, obs, told = read(tmp_path / f"e.{form}")
    np.testing.assert_array_equal(vectors, np.concatenate([x.obsm["X_bft"] for x in parts]))
    assert list(obs.index) == [*a.obs_names, *b.obs_names]
    assert list(obs["file"]) == [str(paths[0])] * 30 + [str(paths[1])] * 21
    assert list(obs["X_bft_coverage"]) == [*a.obs["X_bft_coverage"], *b.obs["X_bft_coverage"]]
    assert [(x.file, x.n_cells, x.n_genes, x.n_matched) for x in report.files] == [
        (str(paths[0]), 30, 6, 5),
        (str(paths[1]), 21, 4, 3),
    ]
    total = [x.X.sum() for x in (a, b)]
    expected = sum(x.coverage * n for x, n in zip(report.files, total, strict=True)) / sum(total)
    worst = min(report.files, key=lambda one: one.coverage)
    assert (report.n_cells, report.n_genes) == (51, worst.n_genes)
    assert report.coverage == pytest.approx(expected)
    assert (told["n_cells"], len(told["files"])) == (51, 2)
    assert json.loads(told["files"][1])["n_matched"] == 3
    assert json.dumps(report.as_dict())


def test_labels_are_short_where_they_can_be_and_dropping_keeps_them_right(make_cells, embeddings, tmp_path):
    for name, rows in (("one", [0]), ("two", [1, 2])):
        with_empty(make_cells(), rows).write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]
    for form in FORMATS:
        embed_cells(paths, embeddings, sidecar=tmp_path / f"e.{form}", empty_cells="drop")
        vectors, obs, _ = read(tmp_path / f"e.{form}")
        assert list(obs["file"]) == ["one.h5ad"] * 29 + ["two.h5ad"] * 28
        assert obs.index[29:31].tolist() == ["cell0", "cell3"]
        assert np.isfinite(vectors).all()


def test_later_files_take_the_kernel_of_the_first(two, embeddings, tmp_path):
    from bftembed.cells import aggregate

    asked = []
    choose = aggregate.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "choose", lambda *a, **k: asked.append(k["asked"]) or choose(*a, **k))
        report = embed_cells(two[0], embeddings, sidecar=tmp_path / "e.h5ad")
    assert asked == [None, report.files[0].kernel]


def test_values_of_two_kinds_are_refused_with_both_files(two, embeddings, tmp_path):
    paths, (_, b) = two
    b.X = sp.csr_matrix(np.log1p(b.X.toarray() * 1.37))
    b.write_h5ad(paths[1])
    with pytest.raises(BftembedError, match="normalize=") as error:
        embed_cells(paths, embeddings, sidecar=tmp_path / "e.h5ad")
    assert all(str(path) in str(error.value) for path in paths)
    assert not (tmp_path / "e.h5ad").exists()
    embed_cells(paths, embeddings, sidecar=tmp_path / "e.h5ad", normalize="none")


@pytest.mark.parametrize("form", FORMATS)
def test_error_in_the_second_file_leaves_the_old_sidecar(two, embeddings, tmp_path, form):
    paths, (_, b) = two
    path = tmp_path / "out" / f"e.{form}"
    embed_cells(paths, embeddings, sidecar=path)
    before = read(path)[0]
    with_empty(b, [4]).write_h5ad(paths[1])
    with pytest.raises(BftembedError, match=r"b/cells\.h5ad.*'cell4'"):
        embed_cells(paths, GeneEmbeddings(embeddings.ids, np.eye(5)), sidecar=path)
    np.testing.assert_array_equal(read(path)[0], before)
    assert files_of(path.parent) == [path.name]


def test_what_would_differ_from_file_to_file_is_refused(two, embeddings, tmp_path):
    paths, options = two[0], {"sidecar": tmp_path / "e.h5ad"}
    with pytest.raises(BftembedError, match="idf"):
        embed_cells(paths, embeddings, **options, weights="idf")
    with pytest.raises(BftembedError, match="not the same genes"):
        embed_cells(paths, embeddings, **options, gene_matrix="center")
    with pytest.raises(BftembedError, match="given twice"):
        embed_cells([paths[0], paths[0]], embeddings, **options)
    assert not options["sidecar"].exists()


# What is refused.


def test_places_that_make_no_sense_are_refused(cells, cells_file, embeddings, genes_file, tmp_path):
    for match, data, options in (
        ("either out", cells_file, {"out": tmp_path / "a.h5ad", "sidecar": tmp_path / "b.h5ad"}),
        ("needs sidecar", [cells_file, tmp_path / "other.h5ad"], {"out": tmp_path / "a.h5ad"}),
        ("needs sidecar", cells_file, {"shard": "1/2", "out": tmp_path / "a.h5ad"}),
        ("are for files", cells, {"sidecar": tmp_path / "b.h5ad"}),
        ("are for files", cells, {"shard": "1/2"}),
        ("without files", [], {"sidecar": tmp_path / "b.h5ad"}),
        ("without files", [cells], {"sidecar": tmp_path / "b.h5ad"}),
        (r"suffix '\.csv'", cells_file, {"sidecar": tmp_path / "b.csv"}),
        ("part of one file", [cells_file, tmp_path / "o.h5ad"], {"sidecar": tmp_path / "b.h5ad", "shard": "1/2"}),
        ("i from 1 to n", cells_file, {"sidecar": tmp_path / "b.h5ad", "shard": "3/2"}),
        ("too few", cells_file, {"sidecar": tmp_path / "b.h5ad", "shard": "1/31"}),
        ("No such file", tmp_path / "gone.h5ad", {"sidecar": tmp_path / "b.h5ad"}),
    ):
        with pytest.raises(BftembedError, match=match):
            embed_cells(data, embeddings, **options)
    assert files_of(tmp_path) == ["cells.h5ad"]


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink"])
def test_sidecar_that_is_an_input_is_refused(cells_file, embeddings, tmp_path, how):
    other = tmp_path / "other.h5ad"
    if how == "symlink":
        other.symlink_to(cells_file)
    elif how == "hardlink":
        other.hardlink_to(cells_file)
    second = tmp_path / "second.h5ad"
    shutil.copyfile(cells_file, second)
    before = sha256_file(cells_file)
    for data in (cells_file, [second, cells_file]):
        with pytest.raises(BftembedError, match="is the input"):
            embed_cells(data, embeddings, sidecar=cells_file if how == "same" else other)
    assert sha256_file(cells_file) == before


def test_folder_that_is_no_zarr_store_is_kept(cells_file, embeddings, tmp_path):
    for name in ("mine.zarr", "mine.h5ad", "mine.parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
        with pytest.raises(BftembedError, match=r"no zarr store|is a folder"):
            embed_cells(cells_file, embeddings, sidecar=tmp_path / name)
        assert (tmp_path / name / "thesis.txt").exists()


def test_store_that_is_the_input_is_not_written_to(cells, embeddings, tmp_path):
    store = tmp_path / "cells.zarr"
    with pytest.warns(UserWarning, match="zarr"):
        cells.write_zarr(store)
    for sidecar in (store, store / "emb.h5ad"):
        with pytest.raises(BftembedError, match="the input"):
            embed_cells(store, embeddings, sidecar=sidecar)
    embed_cells(store, embeddings, sidecar=tmp_path / "emb.zarr")
    np.testing.assert_array_equal(read(tmp_path / "emb.zarr")[0], embed_cells(cells, embeddings).obsm["X_bft"])


# The command.


def test_command_writes_a_sidecar_of_several_files(two, genes_file, tmp_path):
    paths, out = two[0], tmp_path / "e.parquet"
    command = [*COMMAND, *map(str, paths), "--genes", str(genes_file), "--sidecar", str(out)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["n_cells"], found["dim"]) == (51, 4)
    assert [one["n_cells"] for one in found["files"]] == [30, 21]
    assert len(pd.read_parquet(out)) == 51
    both = subprocess.run([*command, "--out", str(tmp_path / "o.h5ad")], capture_output=True, text=True, check=False)
    assert (both.returncode, "--sidecar" in both.stderr) == (1, True)


# Interrupted.


@pytest.fixture(scope="module")
def large(make_cells, tmp_path_factory):
    """Cells and embeddings whose sidecars of 12 MB take a while to write, and older sidecars."""
    folder = tmp_path_factory.mktemp("large")
    cells = make_cells(n_cells=6000)
    cells.write_h5ad(folder / "cells.h5ad")
    genes = list(cells.var_names)
    new = GeneEmbeddings(genes, np.random.default_rng(0).normal(size=(6, 512)))
    new.save(folder / "genes.safetensors")
    for form in FORMATS:
        embed_cells(folder / "cells.h5ad", GeneEmbeddings(genes, np.eye(6)), sidecar=folder / f"old.{form}")
        embed_cells(folder / "cells.h5ad", new, sidecar=folder / f"whole.{form}")
    return folder


def copied(source, to):
    to.parent.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, to)


def digest(path):
    if path.is_dir():
        return {str(p.relative_to(path)): sha256_file(p) for p in path.rglob("*") if p.is_file()}
    return sha256_file(path)


def command(folder, out):
    return [*COMMAND, *map(str, (folder / "cells.h5ad", "--genes", folder / "genes.safetensors", "--sidecar", out))]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_full_disk_is_a_clear_error_and_keeps_the_old_sidecar(large, tmp_path, form, share):
    out = tmp_path / "out" / f"e.{form}"
    copied(large / f"old.{form}", out)
    limit = int(6000 * 512 * 4 * share)
    done = subprocess.run(
        command(large, out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert f"Cannot write {out}: the disk is full" in done.stderr
    assert files_of(out.parent) == [out.name]
    assert digest(out) == digest(large / f"old.{form}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("moment", ["first file", "half", "nearly", "renamed"])
def test_killed_at_any_moment_there_is_a_whole_sidecar(large, tmp_path, form, moment):
    out = tmp_path / "out" / f"e.{form}"
    copied(large / f"old.{form}", out)
    old, new = digest(large / f"old.{form}"), digest(large / f"whole.{form}")
    wanted = {"first file": 1, "half": 6_000_000, "nearly": 12_000_000, "renamed": 10**12}[moment]
    with subprocess.Popen(command(large, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            hidden, size = [], 0
            with contextlib.suppress(FileNotFoundError):  # what is listed may be gone a moment later
                hidden = list(out.parent.glob(".*"))
                size = sum(p.stat().st_size for h in hidden for p in (h, *h.rglob("*")))
            if size >= wanted or (moment == "renamed" and hidden and time.monotonic() % 0.05 < 0.01):
                child.kill()
                break
    assert digest(out) in (old, new)
    if moment == "first file":
        assert digest(out) == old
    read(out)


# Memory.


@pytest.mark.slow
def test_memory_does_not_grow_with_the_vectors(embeddings, tmp_path):
    """200,000 cells of 512 dimensions are 410 MB of vectors; what is added to the memory of 2,000 cells is not."""
    rng = np.random.default_rng(0)
    GeneEmbeddings(embeddings.ids, rng.normal(size=(5, 512))).save(tmp_path / "genes.safetensors")
    peaks = {}
    for n in (2_000, 200_000):
        counts = sp.csr_matrix(rng.poisson(1, size=(n, 5)).astype(np.float32) + np.eye(5, dtype=np.float32)[0])
        cells = anndata.AnnData(counts, obs=pd.DataFrame(index=[f"a-rather-long-barcode-{i}" for i in range(n)]))
        cells.var_names = embeddings.ids
        cells.write_h5ad(tmp_path / f"{n}.h5ad")
        # Not ru_maxrss: a child begins with that of its parent.
        code = (
            "import sys, re, pathlib; from bftembed.cells.embed import embed_cells; "
            "embed_cells(sys.argv[1], sys.argv[2], sidecar=sys.argv[3], kernel='axpy'); "
            "print(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
        )
        for form in FORMATS:
            arguments = [str(tmp_path / f"{n}.h5ad"), str(tmp_path / "genes.safetensors"), str(tmp_path / f"e.{form}")]
            done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
            peaks[form, n] = int(done.stdout) * 1024
            path = Path(arguments[-1])
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    grown = {form: peaks[form, 200_000] - peaks[form, 2_000] for form in FORMATS}
    # Three blocks of 2,048 cells in place of one, 50 bytes a cell, row groups of 16 MB.
    assert max(grown.values()) < 120e6, (peaks, grown)
