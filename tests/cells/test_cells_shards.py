"""Shards: parts of the cells of a file, embedded apart and joined again."""

from __future__ import annotations

import json
import shutil

import anndata
import h5py
import numpy as np
import pytest
from cell_toys import EMBEDDINGS, GENES, cells_of, counts_of, files_in, with_empty_cells, write

from bftembed import BftembedError, GeneEmbeddings, embed_cells
from bftembed.io import sha256_file


@pytest.fixture
def merge(run):
    """Give a function that joins parts and returns exit code and what was printed."""

    def call(parts, out, *options):
        code, printed, error = run("merge", *parts, "--out", out, *options)
        return code, printed + error

    return call


def shards_of(path, n, genes=EMBEDDINGS, **options):
    folder = path.parent / "parts"
    folder.mkdir(exist_ok=True)
    parts = [folder / f"{i}.h5ad" for i in range(1, n + 1)]
    for i, part in enumerate(parts, 1):
        embed_cells(path, genes, shard=f"{i}/{n}", sidecar=part, **options)
    return parts


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("csr", {"block_rows": 9}),
        ("csc", {"weights": "idf", "empty_cells": "drop"}),
        ("dense", {"weights": "rank", "top_k": 2, "gene_matrix": "center", "empty_cells": "nan"}),
    ],
)
def test_merged_shards_are_the_whole_run(merge, tmp_path, form, options):
    cells = with_empty_cells([0, 1, 40], 61, form) if "empty_cells" in options else cells_of(counts_of(61), form=form)
    path = write(cells, tmp_path)[0]
    whole, merged = tmp_path / "whole.h5ad", tmp_path / "merged.h5ad"
    embed_cells(path, EMBEDDINGS, sidecar=whole, **options)
    parts = shards_of(path, 4, **options)
    code, printed = merge([*parts[2:], *parts[:2]], merged, "--json")
    one, other = anndata.read_h5ad(whole), anndata.read_h5ad(merged)
    np.testing.assert_allclose(other.obsm["X_bft"], one.obsm["X_bft"], atol=1e-6)
    assert one.obs.equals(other.obs)
    expected, told = (dict(x.uns["bftembed"]["X_bft"]) for x in (one, other))
    assert list(told["empty_cells"]) == list(expected["empty_cells"])
    assert told["coverage"] == pytest.approx(expected["coverage"])
    for name in ("n_cells", "n_genes", "n_used", "normalize", "weights", "top_k", "gene_matrix", "embeddings_sha256"):
        assert told[name] == expected[name]
    found = json.loads(printed)
    assert (code, found["n_shards"], found["n_cells"], found["dim"]) == (0, 4, other.n_obs, 4)


def test_shards_are_all_cells_once_and_sizes_differ_by_one(tmp_path):
    path = write(cells_of(counts_of(11)), tmp_path)[0]
    for n in (2, 4, 11):
        parts = [anndata.read_h5ad(part).obs_names for part in shards_of(path, n)]
        assert [name for names in parts for name in names] == [f"cell{i}" for i in range(11)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_a_shard_is_an_error(cells, path, tmp_path):
    sidecar = {"sidecar": tmp_path / "e.h5ad"}
    for data, text, options, word in (
        *((path, text, sidecar, "shard") for text in ("0/2", "3/2", "2", "a/b", "1/31")),
        (cells, "1/2", {}, "file"),
        (path, "1/2", {"out": tmp_path / "out.h5ad"}, "sidecar"),
    ):
        with pytest.raises(BftembedError, match=word):
            embed_cells(data, EMBEDDINGS, shard=text, **options)
    assert files_in(tmp_path) == ["cells.h5ad"]


def test_an_error_in_a_shard_names_the_cell_of_the_file(tmp_path):
    options = {"sidecar": tmp_path / "e.h5ad", "shard": "2/2"}
    path = write(with_empty_cells([20]), tmp_path)[0]
    with pytest.raises(BftembedError, match="1 of 15 cells.*'cell20'"):
        embed_cells(path, EMBEDDINGS, **options)
    counts = counts_of()
    counts[21, 1] = np.nan
    write(cells_of(counts), tmp_path)
    with pytest.raises(BftembedError, match="'cell21'.*21"):
        embed_cells(path, EMBEDDINGS, **options)


def test_shards_that_do_not_belong_together_are_an_error(merge, path, tmp_path):
    one, two, three = shards_of(path, 3)
    out, other = tmp_path / "out.h5ad", tmp_path / "parts" / "other.h5ad"
    out.write_bytes(b"old")

    def wrong(word, parts):
        code, printed = merge(parts, out)
        assert (code, out.read_bytes()) == (1, b"old")
        assert word in printed

    wrong("2/3", [one, three])
    wrong("1/3", [two, three])
    shutil.copyfile(two, other)
    wrong("other.h5ad", [one, two, three, other])
    wrong("gone.h5ad", [one, two, tmp_path / "gone.h5ad"])
    more, renamed = tmp_path / "more", tmp_path / "renamed"
    more.mkdir(), renamed.mkdir()
    longer, _ = write(cells_of(counts_of(33)), more)
    foreign, _ = write(cells_of(genes=[*GENES[:-1], "CD8B"]), renamed)
    changed = GeneEmbeddings(EMBEDDINGS.ids, EMBEDDINGS.matrix + 1)
    for source, genes, options in (
        (path, EMBEDDINGS, {"shard": "3/4"}),
        (path, changed, {}),
        (path, EMBEDDINGS, {"normalize": "none"}),
        (path, EMBEDDINGS, {"l2": False}),
        (path, EMBEDDINGS, {"weights": "rank"}),
        (path, EMBEDDINGS, {"empty_cells": "nan"}),
        (path, EMBEDDINGS, {"key": "X_mine"}),
        (longer, EMBEDDINGS, {}),
        (foreign, EMBEDDINGS, {}),
    ):
        embed_cells(source, genes, sidecar=other, **{"shard": "3/3", **options})
        wrong("error", [one, two, other])


def test_what_is_no_shard_is_an_error_and_an_input_is_kept(merge, path, tmp_path):
    one, two = shards_of(path, 2)
    whole, out = tmp_path / "whole.h5ad", tmp_path / "out.h5ad"
    embed_cells(path, EMBEDDINGS, sidecar=whole)
    for bad in (whole, path):
        code, printed = merge([one, bad], out)
        assert (code, bad.name in printed) == (1, True)
    before = sha256_file(one)
    assert merge([one, two], one)[0] == 1
    assert sha256_file(one) == before
    with h5py.File(two, "r+") as handle:
        del handle["obsm/X_bft"]
        handle["obsm/X_bft"] = np.zeros((3, 4), dtype=np.float32)
    assert merge([one, two], out)[0] == 1
    two.write_bytes(two.read_bytes()[:5000])
    code, printed = merge([one, two], out)
    assert (code, "2.h5ad" in printed, out.exists()) == (1, True, False)
