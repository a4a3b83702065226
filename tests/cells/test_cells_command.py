"""`bftembed cells embed`: what people and machines read, and the exit codes."""

from __future__ import annotations

import json
import sys

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from bftembed.cells.embed import embed_cells
from bftembed.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Give a function that runs the command and returns exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bftembed", "cells", "embed", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call


def test_command_writes_what_the_library_computes_and_says_what_it_did(run, cells_file, cells, genes_file, tmp_path):
    out = tmp_path / "out.h5ad"
    code, said, progress = run(cells_file, "--genes", genes_file, "--out", out)
    assert code == 0
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_bft"], embed_cells(cells, genes_file).obsm["X_bft"])
    assert str(out) in said
    assert "cells: 30/30" in progress


def test_json_is_one_object_with_every_count(run, cells_file, genes_file, tmp_path):
    code, said, progress = run(cells_file, "--genes", genes_file, "--out", tmp_path / "out.h5ad", "--json")
    summary = json.loads(said)
    assert (code, progress) == (0, "")
    assert summary["out"] == str(tmp_path / "out.h5ad")
    counts = ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_no_embedding")
    assert sum(summary[name] for name in counts) == summary["n_genes"] == 6
    assert summary["empty_cells"] == []
    assert 0 < summary["coverage"] < 1


def test_features_of_another_type_are_counted(run, cells, genes_file, tmp_path):
    cells.var["feature_types"] = ["Gene Expression"] * 4 + ["Antibody Capture"] * 2
    cells.write_h5ad(tmp_path / "cells.h5ad")
    code, said, _ = run(tmp_path / "cells.h5ad", "--genes", genes_file, "--out", tmp_path / "out.h5ad", "--json")
    summary = json.loads(said)
    assert (code, summary["n_genes"], summary["n_other_features"]) == (0, 4, 2)
    said = run(tmp_path / "cells.h5ad", "--genes", genes_file, "--out", tmp_path / "again.h5ad")[1]
    assert ["other", "features", "2"] in [line.split() for line in said.splitlines()]


def test_every_option_reaches_the_library(run, cells, genes_file, tmp_path):
    path, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    values = cells.X.toarray()
    values[3] = 0
    cells.layers["counts"] = sp.csr_matrix(values)
    cells.var["symbol"] = list(cells.var_names)
    cells.write_h5ad(path)
    flags = ("--layer", "counts", "--gene-column", "symbol", "--normalize", "none", "--weights", "rank", "--top-k", 3)
    more = ("--key", "X_new", "--gene-matrix", "center", "--no-l2", "--empty-cells", "nan", "--json")
    code, said, _ = run(path, "--genes", genes_file, "--out", out, *flags, *more)
    assert (code, json.loads(said)["empty_cells"]) == (0, ["cell3"])
    expected = embed_cells(
        cells,
        genes_file,
        layer="counts",
        normalize="none",
        weights="rank",
        top_k=3,
        gene_matrix="center",
        l2=False,
        empty_cells="nan",
    )
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_new"], expected.obsm["X_bft"])


def test_raw_flag_takes_raw(run, cells, genes_file, tmp_path):
    cells.raw = cells.copy()
    cells.X = cells.X.toarray() - 5
    cells.write_h5ad(tmp_path / "cells.h5ad")
    arguments = (tmp_path / "cells.h5ad", "--genes", genes_file, "--out", tmp_path / "out.h5ad")
    code, _, error = run(*arguments)
    assert code == 1
    assert "\nerror: " in error
    assert "--use-raw" in error
    code, said, _ = run(*arguments, "--use-raw")
    assert code == 0
    assert "raw/X" in said


@pytest.mark.parametrize(("missing", "expected"), [("--genes", 2), ("--out", 1)])
def test_a_missing_option_is_an_error(run, cells_file, genes_file, tmp_path, missing, expected):
    options = {"--genes": genes_file, "--out": tmp_path / "out.h5ad"}
    del options[missing]
    code, _, error = run(cells_file, *(part for pair in options.items() for part in pair))
    assert code == expected
    assert missing in error


def test_unknown_choice_is_a_usage_error_with_the_list(run, cells_file, genes_file, tmp_path):
    code, _, error = run(cells_file, "--genes", genes_file, "--out", tmp_path / "o.h5ad", "--normalize", "log1p")
    assert code == 2
    assert "--normalize" in error
    assert "log1p-cp10k" in error
