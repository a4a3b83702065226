"""`bftembed cells check`: what embedding would do and refuse, known before all values are read."""

from __future__ import annotations

import json
import sys

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from bftembed.cells import sampling
from bftembed.cells.check import check_cells
from bftembed.cells.embed import embed_cells
from bftembed.cli import main
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.io import sha256_file

COUNTS = ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_no_embedding")


@pytest.fixture
def run(monkeypatch, capsys):
    """Give a function that runs the command and returns exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bftembed", "cells", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call


def four_in_five(names):
    """Random vectors of four genes in five."""
    ids = [r.entity for r in GeneIndex.default().resolve(list(names)) if r.symbol]
    ids = [name for i, name in enumerate(dict.fromkeys(ids)) if i % 5]
    return GeneEmbeddings(ids, np.random.default_rng(1).normal(size=(len(ids), 4)))


@pytest.mark.parametrize(
    "file",
    [
        "citefuse_citeseq_pbmc500.h5ad",
        "scclassify_pancreas_wang.h5ad",
        "scclassify_pancreas_xin.h5ad",
        "symphony_pbmc_3batch.h5ad",
    ],
)
@pytest.mark.parametrize("sample_cells", [2048, 200])
def test_shared_cells_are_foretold(shared_data, tmp_path, file, sample_cells):
    path = shared_data(f"cells/{file}")
    before = sha256_file(path)
    embeddings = four_in_five(anndata.read_h5ad(path, backed="r").var_names)
    report = embed_cells(path, embeddings, out=tmp_path / "out.h5ad", empty_cells="nan")
    found = check_cells(path, embeddings, sample_cells=sample_cells)
    assert found.problems == ()
    assert (found.matrix.form, found.matrix.compression, found.matrix.dtype) == ("CSR", "gzip", "float32")
    assert (found.matrix.n_cells, found.matrix.n_genes) == (report.n_cells, report.n_genes)
    for name in (*COUNTS, "n_duplicates"):
        assert getattr(found.genes, name) == getattr(report, name)
    assert found.values.normalize == report.normalize
    assert found.values.whole == (sample_cells >= report.n_cells)
    if found.values.whole:
        assert found.values.reason == report.reason
        assert found.values.coverage == pytest.approx(report.coverage, rel=1e-12)
    else:
        assert found.values.sampled.startswith("208 of ")
        assert found.values.reason.endswith("in the sample")
        assert found.values.coverage == pytest.approx(report.coverage, abs=0.02)
    assert sha256_file(path) == before


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_small_files_of_every_form_are_read_whole(make_cells, embeddings, tmp_path, form):
    path = tmp_path / "cells.h5ad"
    make_cells(form=form).write_h5ad(path)
    found = check_cells(path, embeddings)
    report = embed_cells(path, embeddings, out=tmp_path / "out.h5ad")
    assert found.problems == ()
    assert found.values.whole
    assert found.matrix.form == {"csr": "CSR", "csc": "CSC", "dense": "dense"}[form]
    assert found.matrix.density == pytest.approx((make_cells().X.toarray() > 0).mean())
    assert (found.values.coverage, found.values.reason) == (pytest.approx(report.coverage), report.reason)
    assert found.values.n_empty == 0


def test_without_embeddings_known_genes_count_as_covered(cells, tmp_path):
    cells.var_names = ["CD3D", "LYZ", "MS4A1", "ENSG00000115523", "no-such-gene", "CD8A"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    genes = check_cells(tmp_path / "cells.h5ad").genes
    assert genes.matched_to == "HGNC"
    assert [getattr(genes, name) for name in COUNTS] == [4, 1, 0, 1, 0]
    assert genes.share == 5 / 6


def test_all_problems_are_told_at_once(run, cells, tmp_path):
    values = cells.X.toarray()
    values[4, 2], values[7, 1] = -1, np.nan
    cells.X = values
    cells.var["symbol"] = list(cells.var_names)
    cells.var_names = [str(i) for i in range(6)]
    cells.obsm["X_bft"] = np.zeros((30, 2))
    cells.uns["bftembed"] = "mine"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    code, said, errors = run(tmp_path / "cells.h5ad", "--genes", tmp_path / "no.safetensors")
    assert code == 1
    expected = (
        "no.safetensors",
        "overwrite=True",
        ".uns['bftembed'] is a value",
        "only numbers",
        "1 values are NaN",
        "1 values are negative, the first in row 4, gene '2'",
    )
    for line, part in zip(errors.splitlines(), expected, strict=True):
        assert line.startswith("error: ")
        assert part in line
    said = [line.split() for line in said.splitlines()]
    for line in (["ok", "no"], ["cells", "30"], ["form", "dense"], ["dtype", "float32"]):
        assert line in said
    code, said, errors = run(tmp_path / "cells.h5ad", "--json")
    found = json.loads(said)
    assert (code, len(errors.splitlines()), found["ok"], len(found["problems"])) == (1, 5, False, 5)
    assert found["values"]["n_negative"] == found["values"]["n_not_finite"] == 1


def test_command_says_what_would_be_done_and_leaves_nothing(run, cells_file, genes_file, tmp_path):
    code, said, errors = run(cells_file, "--genes", genes_file)
    assert (code, errors) == (0, "")
    said = [line.split() for line in said.splitlines()]
    for line in (["ok", "yes"], ["cells", "30"], ["genes", "6"], ["used", "5"], ["normalize", "log1p-cp10k"]):
        assert line in said
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]
    found = json.loads(run(cells_file, "--genes", genes_file, "--json")[1])
    assert (found["ok"], found["path"], found["genes"]["n_used"]) == (True, str(cells_file), 5)


def test_every_option_reaches_the_library(run, cells, tmp_path):
    cells.raw = cells
    cells.layers["logged"] = np.log1p(cells.X.toarray())
    cells.layers["negative"] = cells.X.toarray() - 5
    cells.var["symbol"] = ["CD3D", *(f"no-{i}" for i in range(5))]
    cells.write_h5ad(tmp_path / "cells.h5ad")

    def found(*options):
        return json.loads(run(tmp_path / "cells.h5ad", "--json", *options)[1])

    assert found("--use-raw")["matrix"]["name"] == "raw/X"
    assert found("--layer", "logged")["values"]["normalize"] == "none"
    twice = check_cells(tmp_path / "cells.h5ad", layer="logged", normalize="log1p-cp10k")
    assert "a second logarithm" in twice.problems[0]
    assert "use_raw=True" in found("--layer", "negative")["problems"][0]
    assert found("--gene-column", "symbol")["genes"]["n_used"] == 1
    assert "Did you mean 'symbol'" in found("--gene-column", "symbl")["problems"][0]
    assert "Known: logged" in found("--layer", "zzz")["problems"][0]
    for options in ({"normalize": "log"}, {"sample_cells": 0}, {"key": "a/b"}):
        with pytest.raises(BftembedError):
            check_cells(tmp_path / "cells.h5ad", **options)


def test_empty_cells_and_foreign_genes_are_problems(cells, tmp_path):
    values = cells.X.toarray()
    values[[3, 9]] = 0
    cells.X = sp.csr_matrix(values)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    found = check_cells(tmp_path / "cells.h5ad")
    assert found.values.n_empty == 2
    assert "2 of 30 cells (rows 3, 9) express no gene" in found.problems[0]
    cells.var_names = [f"Foo-{i}" for i in range(6)]
    cells.write_h5ad(tmp_path / "foreign.h5ad")
    found = check_cells(tmp_path / "foreign.h5ad")
    assert "none of its 6 genes is known to HGNC: 'Foo-0'" in found.problems[0]
    assert (found.genes, found.values.coverage, found.values.n_empty) == (None, None, None)


def test_oldest_layout_is_read_and_noted(pbmc_path):
    found = check_cells(pbmc_path, use_raw=True)
    assert found.ok
    assert "into memory as a whole" in found.notes[0]
    assert found.obsm == ("X_pca", "X_umap")
    assert "negative" in check_cells(pbmc_path).problems[0]


def test_sample_is_spread_evenly_and_bounded(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.3, size=(5000, 40)).astype(np.float32)
    # One cell in a hundred expresses nothing; the first stored values say nothing of the last.
    dense[::100] = 0
    dense[4000:] *= 100
    genes = list(GeneIndex.default())[:40]
    for form, values in (("csr", sp.csr_matrix(dense)), ("dense", dense)):
        data = anndata.AnnData(values)
        data.var_names = genes
        data.write_h5ad(tmp_path / f"{form}.h5ad", compression="gzip")
        found = check_cells(tmp_path / f"{form}.h5ad", sample_cells=1600)
        assert found.values.sampled == "1,600 of 5,000 cells"
        assert 5 < found.values.n_empty < 40
        monkeypatch.setattr(sampling, "MOST_NUMBERS", 3200)
        few = check_cells(tmp_path / f"{form}.h5ad", sample_cells=1600)
        assert int(few.values.sampled.split(" of ")[0]) < 400
        assert float(few.values.reason.split("largest ")[1].split(",")[0]) >= 100
        monkeypatch.undo()


def test_large_matrix_by_genes_is_read_in_part_and_says_so(monkeypatch, embeddings, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.poisson(0.5, size=(300, 200)).astype(np.float32)
    values[7, 150] = -1
    data = anndata.AnnData(sp.csc_matrix(values))
    data.var_names = list(GeneIndex.default())[:200]
    data.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(sampling, "MOST_BY_GENE", 8000)
    found = check_cells(tmp_path / "cells.h5ad")
    n_genes = int(found.values.sampled.split(" of ")[0])
    assert found.values.sampled == f"{n_genes} of 200 genes, in all cells"
    assert 30 < n_genes < 120
    assert found.values.n_empty is None
    monkeypatch.setattr(sampling, "PLACES", 200)
    monkeypatch.setattr(sampling, "MOST_BY_GENE", 20_000)
    assert "row 7, gene" in check_cells(tmp_path / "cells.h5ad").problems[0]
