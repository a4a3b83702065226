"""Shards: row ranges embedded apart and joined again, on one machine or through Ray."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bftembed.cells.embed import embed_cells
from bftembed.cells.merge import merge_shards
from bftembed.cells.stream import Shard
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.io import sha256_file


@pytest.fixture
def shards(tmp_path):
    """Give a function that embeds the shards of a file and returns their paths."""

    def make(source, embeddings, n, **options):
        (tmp_path / "parts").mkdir(exist_ok=True)
        parts = [tmp_path / "parts" / f"{i}.h5ad" for i in range(1, n + 1)]
        for i, part in enumerate(parts, 1):
            embed_cells(source, embeddings, shard=f"{i}/{n}", sidecar=part, **{"kernel": "axpy", **options})
        return parts

    return make


@given(st.integers(1, 40), st.integers(0, 1000))
def test_shards_are_all_cells_once_and_of_one_size_but_for_one(count, more):
    n_cells = count + more
    runs = [Shard(i, count).cells(n_cells, "file") for i in range(1, count + 1)]
    assert [cell for run in runs for cell in run] == list(range(n_cells))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(BftembedError, match="for example 2/8"):
        Shard.parse(text)


@pytest.mark.parametrize("kernel", ["axpy", "scipy"])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_merged_shards_are_the_bytes_of_the_whole_run(make_cells, tmp_path, shards, form, kernel):
    source, whole, merged = (tmp_path / name for name in ("cells.h5ad", "whole.h5ad", "merged.h5ad"))
    cells = make_cells(n_cells=331, form=form)
    cells.write_h5ad(source)
    embeddings = GeneEmbeddings(list(cells.var_names), np.random.default_rng(0).normal(size=(6, 48)))
    embed_cells(source, embeddings, sidecar=whole, kernel=kernel, block_rows=64)
    parts = shards(source, embeddings, 5, kernel=kernel, block_rows=50)
    report = merge_shards([*parts[2:], *parts[:2]], merged)
    one, other = anndata.read_h5ad(whole), anndata.read_h5ad(merged)
    assert one.obsm["X_bft"].tobytes() == other.obsm["X_bft"].tobytes()
    assert one.obs.equals(other.obs)
    assert (report.n_shards, report.n_cells, report.dim, report.out) == (5, 331, 48, merged)


@pytest.mark.parametrize(("kernel", "most"), [("dense-float32", 1e-6), ("dense-bf16", 2**-7)])
def test_dense_kernels_round_merged_shards_like_another_block_size(make_cells, tmp_path, shards, kernel, most):
    source = tmp_path / "cells.h5ad"
    cells = make_cells(n_cells=331)
    cells.write_h5ad(source)
    embeddings = GeneEmbeddings(list(cells.var_names), np.random.default_rng(0).normal(size=(6, 48)))
    embed_cells(source, embeddings, sidecar=tmp_path / "whole.h5ad", kernel=kernel)
    merge_shards(shards(source, embeddings, 5, kernel=kernel), tmp_path / "merged.h5ad")
    one, other = (anndata.read_h5ad(tmp_path / name).obsm["X_bft"] for name in ("whole.h5ad", "merged.h5ad"))
    assert np.abs(one - other).max() <= most
    assert (1 - (one.astype(np.float64) * other).sum(axis=1)).max() < 1e-5


@pytest.mark.parametrize("policy", ["drop", "nan"])
@pytest.mark.parametrize("options", [{}, {"weights": "idf"}, {"weights": "rank", "top_k": 2, "gene_matrix": "center"}])
def test_everything_of_the_whole_run_is_in_the_merged_one(make_cells, embeddings, tmp_path, shards, policy, options):
    source, whole, merged = (tmp_path / name for name in ("cells.h5ad", "whole.h5ad", "merged.h5ad"))
    cells = make_cells(n_cells=61)
    values = cells.X.toarray()
    values[[0, 1, 40]] = 0
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(source)
    options = {**options, "empty_cells": policy, "kernel": "axpy"}
    embed_cells(source, embeddings, sidecar=whole, **options)
    merge_shards(shards(source, embeddings, 4, **options), merged)
    one, other = anndata.read_h5ad(whole), anndata.read_h5ad(merged)
    assert one.obsm["X_bft"].tobytes() == other.obsm["X_bft"].tobytes()
    assert one.obs.equals(other.obs)
    expected, told = (x.uns["bftembed"]["X_bft"] for x in (one, other))
    assert list(told.pop("empty_cells")) == list(expected.pop("empty_cells")) == ["cell0", "cell1", "cell40"]
    assert (told.pop("coverage"), told.pop("n_shards")) == (pytest.approx(expected.pop("coverage")), 4)
    assert told.pop("reason").removesuffix(" (first shard)").startswith("counts: all values")
    expected.pop("reason")
    assert told == expected


def test_shard_says_what_it_is(cells_file, embeddings, tmp_path):
    report = embed_cells(cells_file, embeddings, sidecar=tmp_path / "a.h5ad", shard="2/4")
    other = tmp_path / "b.h5ad"
    embed_cells(cells_file, embeddings, sidecar=other, shard="3/4", block_rows=2)
    first, second = (anndata.read_h5ad(x).uns["bftembed"]["X_bft"] for x in (tmp_path / "a.h5ad", other))
    assert [first[x] for x in ("shard", "first_row", "last_row", "cells_of_all", "n_cells")] == ["2/4", 7, 14, 30, 8]
    assert report.n_cells == 8
    assert first["decides_sha256"] == second["decides_sha256"]
    embed_cells(cells_file, embeddings, sidecar=other, shard="3/4", l2=False)
    assert anndata.read_h5ad(other).uns["bftembed"]["X_bft"]["decides_sha256"] != first["decides_sha256"]


def test_error_in_a_shard_names_the_cell_of_the_file(make_cells, embeddings, tmp_path):
    cells = make_cells()
    values = cells.X.toarray()
    values[20] = 0
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    options = {"sidecar": tmp_path / "e.h5ad", "shard": "2/2"}
    with pytest.raises(BftembedError, match="1 of 15 cells.*'cell20'"):
        embed_cells(tmp_path / "cells.h5ad", embeddings, **options)
    huge = GeneEmbeddings(embeddings.ids, np.full((5, 4), 3e38))
    with pytest.raises(BftembedError, match="overflow float32: 'cell15'"):
        embed_cells(
            tmp_path / "cells.h5ad",
            huge,
            **options,
            empty_cells="nan",
            normalize="none",
            denominator="matched-expression",
            l2=False,
            kernel="axpy",
        )
    values[20], values[21, 1] = 1, np.nan
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(BftembedError, match=r"cell 'cell21' \(row 21\)"):
        embed_cells(tmp_path / "cells.h5ad", embeddings, **options)


def test_shards_can_be_joined_into_any_format(cells_file, embeddings, tmp_path, shards):
    import pyarrow.parquet as pq

    parts = shards(cells_file, embeddings, 3)
    expected = embed_cells(anndata.read_h5ad(cells_file), embeddings, kernel="axpy").obsm["X_bft"]
    merge_shards(parts, tmp_path / "m.zarr")
    np.testing.assert_array_equal(anndata.read_zarr(tmp_path / "m.zarr").obsm["X_bft"], expected)
    merge_shards(parts, tmp_path / "m.parquet")
    np.testing.assert_array_equal(np.stack(pq.read_table(tmp_path / "m.parquet")["X_bft"].to_pylist()), expected)


# What is refused.


def test_shards_that_do_not_fit_together_are_refused_by_name(make_cells, cells_file, embeddings, tmp_path, shards):
    one, two, three = shards(cells_file, embeddings, 3)
    out, other = tmp_path / "out.h5ad", tmp_path / "other.h5ad"
    out.write_bytes(b"old")

    def refused(match, parts, **options):
        with pytest.raises(BftembedError, match=match) as error:
            merge_shards(parts, out, **options)
        assert out.read_bytes() == b"old"
        return str(error.value)

    assert str(one) in refused(r"missing: 2/3", [one, three])
    refused("missing: 1/3, 3/3", [two])
    said = refused("both shard 2/3", [one, two, three, shutil.copyfile(two, other)])
    assert str(two) in said
    assert str(other) in said
    refused("no shards", [])
    refused("no such key|Unknown key", [one, two, three], key="X_other")
    refused("No such file", [one, two, tmp_path / "gone.h5ad"])

    wider = GeneEmbeddings(embeddings.ids, np.eye(5))
    same = GeneEmbeddings(embeddings.ids, embeddings.matrix + 1)
    more = make_cells(n_cells=33)
    more.write_h5ad(tmp_path / "more.h5ad")
    renamed = make_cells()
    renamed.var_names = [*list(renamed.var_names)[:-1], "CD8B"]
    renamed.write_h5ad(tmp_path / "renamed.h5ad")
    for match, source, genes, options in (
        ("different runs", cells_file, embeddings, {"shard": "3/4"}),
        ("embeddings_sha256", cells_file, wider, {}),
        ("embeddings_sha256", cells_file, same, {}),
        ("took their values differently", cells_file, embeddings, {"normalize": "none"}),
        ("different kernels", cells_file, embeddings, {"kernel": "scipy"}),
        ("l2 is", cells_file, embeddings, {"l2": False}),
        ("weights is", cells_file, embeddings, {"weights": "rank"}),
        ("empty_policy is", cells_file, embeddings, {"empty_cells": "nan"}),
        ("cells_of_all is", tmp_path / "more.h5ad", embeddings, {}),
        ("genes_sha256 is", tmp_path / "renamed.h5ad", embeddings, {}),
        ("different keys", cells_file, embeddings, {"key": "X_mine"}),
    ):
        embed_cells(source, genes, sidecar=other, **{"shard": "3/3", "kernel": "axpy", **options})
        said = refused(match, [one, two, other])
        assert match == "different keys" or str(other) in said


def test_what_is_no_shard_is_refused(cells_file, embeddings, tmp_path, shards):
    one, two = shards(cells_file, embeddings, 2)
    whole = tmp_path / "whole.h5ad"
    embed_cells(cells_file, embeddings, sidecar=whole)
    for match, bad in (("is not a shard", whole), ("has not one cell embedding", cells_file)):
        with pytest.raises(BftembedError, match=match):
            merge_shards([one, bad], tmp_path / "out.h5ad")
    with h5py.File(two, "r+") as handle:
        del handle["obsm/X_bft"]
        handle["obsm/X_bft"] = np.zeros((3, 4), dtype=np.float32)
    with pytest.raises(BftembedError, match=r"2\.h5ad.*expected \(15, 4\)"):
        merge_shards([one, two], tmp_path / "out.h5ad")
    two.write_bytes(two.read_bytes()[:5000])
    with pytest.raises(BftembedError, match=r"2\.h5ad"):
        merge_shards([one, two], tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()
    before = sha256_file(one)
    with pytest.raises(BftembedError, match="is the input"):
        merge_shards([one, two], one)
    assert sha256_file(one) == before


# The command.


def run(*arguments, code=0):
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "cells", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_command_embeds_shards_and_merges_them(cells_file, genes_file, tmp_path):
    for i in (1, 2):
        run("embed", cells_file, "--genes", genes_file, "--shard", f"{i}/2", "--sidecar", tmp_path / f"{i}.h5ad")
    parts, out = [tmp_path / "2.h5ad", tmp_path / "1.h5ad"], tmp_path / "all.h5ad"
    told = json.loads(run("merge", *parts, "--out", out, "--json").stdout)
    assert told == {"key": "X_bft", "n_shards": 2, "n_cells": 30, "dim": 4, "out": str(out)}
    assert anndata.read_h5ad(out).n_obs == 30
    assert "Shards are missing: 2/2" in run("merge", parts[1], "--out", out, code=1).stderr


# Ray.


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    own_print = builtins.print  # Ray puts its own in its place, which numba cannot compile
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    builtins.print = own_print


def test_missing_ray_names_the_extra(cells_file, embeddings, tmp_path, monkeypatch):
    from bftembed.cells.spread import embed_with_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BftembedError, match=r"bftembed\[ray\]"):
        embed_with_ray(cells_file, embeddings, tmp_path / "e.h5ad", shard_count=2)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [None, "axpy"])
def test_ray_gives_what_one_process_gives(ray, cells_file, embeddings, genes_file, tmp_path, kernel):
    from bftembed.cells.spread import embed_with_ray

    out, seen = tmp_path / "new" / "e.h5ad", []
    for genes in (embeddings, genes_file):
        report = embed_with_ray(
            *(cells_file, genes, out),
            shard_count=3,
            kernel=kernel,
            block_rows=4,
            progress=lambda done, total, note: seen.append((done, total)),
        )
        expected = embed_cells(anndata.read_h5ad(cells_file), embeddings, kernel=kernel).obsm["X_bft"]
        np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_bft"], expected)
        assert (report.n_shards, report.n_cells, report.out) == (3, 30, out)
    assert (seen[-1], seen[0][1]) == ((3, 3), 3)
    assert [path.name for path in out.parent.iterdir()] == ["e.h5ad"]


@pytest.mark.slow
def test_error_in_a_task_is_ours_and_leaves_nothing(ray, make_cells, embeddings, tmp_path):
    from bftembed.cells.spread import embed_with_ray

    cells = make_cells()
    values = cells.X.toarray()
    values[20] = 0
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(BftembedError, match=r"^.*cells\.h5ad: X: 1 of 10 cells.*'cell20'"):
        embed_with_ray(tmp_path / "cells.h5ad", embeddings, tmp_path / "e.h5ad", shard_count=3, kernel="axpy")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.slow
def test_worker_that_dies_is_replaced(ray, cells_file, embeddings, tmp_path, monkeypatch):
    """The first try of every shard ends its process; the next one goes through."""
    from bftembed.cells import spread

    whole = spread._embed_shard
    marks = tmp_path / "marks"
    marks.mkdir()

    def dies_once(source, genes, shard, part, *rest):
        import os

        mark = marks / shard.replace("/", "-")
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return whole(source, genes, shard, part, *rest)

    monkeypatch.setattr(spread, "_embed_shard", dies_once)
    spread.embed_with_ray(cells_file, embeddings, tmp_path / "e.h5ad", shard_count=2, kernel="axpy")
    expected = embed_cells(anndata.read_h5ad(cells_file), embeddings, kernel="axpy").obsm["X_bft"]
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "e.h5ad").obsm["X_bft"], expected)
    assert len(list(marks.iterdir())) == 2
