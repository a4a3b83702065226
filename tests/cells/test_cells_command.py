"""`bftembed cells embed`: what people and machines read, the exit codes, and the dry run."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
from cell_toys import cells_of, counts_of, embedded, files_in, with_empty_cells, write

from bftembed.io import sha256_file

COUNTS = ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_no_embedding")


def test_the_command_writes_what_the_library_computes_and_says_what_it_did(run, cells, path, genes_file, tmp_path):
    out = tmp_path / "out.h5ad"
    code, printed, progress = run("embed", path, "--genes", genes_file, "--out", out)
    assert (code, str(out) in printed, "30/30" in progress) == (0, True, True)
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_bft"], embedded(cells)[0])
    code, printed, progress = run("embed", path, "--genes", genes_file, "--out", out, "--json")
    found = json.loads(printed)
    assert (code, progress, found["out"], found["empty_cells"]) == (0, "", str(out), [])
    assert sum(found[name] for name in COUNTS) == found["n_genes"] == 6
    assert (found["n_cells"], found["dim"], found["normalize"]) == (30, 4, "log1p-cp10k")


def test_every_option_reaches_the_library(run, cells, genes_file, tmp_path):
    cells.layers["counts"] = with_empty_cells([3]).X
    cells.var["symbol"] = list(cells.var_names)
    path, out = write(cells, tmp_path)[0], tmp_path / "out.h5ad"
    words = "--layer counts --gene-column symbol --normalize none --weights rank --top-k 3 --key X_new"
    words += " --gene-matrix center --no-l2 --empty-cells nan --kind gene --json"
    code, printed, _ = run("embed", path, "--genes", genes_file, "--out", out, *words.split())
    assert (code, json.loads(printed)["empty_cells"]) == (0, ["cell3"])
    options = {"layer": "counts", "normalize": "none", "weights": "rank", "top_k": 3, "gene_matrix": "center"}
    expected, _ = embedded(cells, **options, l2=False, empty_cells="nan")
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_new"], expected)


def test_a_modality_and_obsm(run, genes_file, tmp_path):
    out = tmp_path / "e.h5ad"
    both, _ = write(cells_of(), tmp_path, "h5mu")
    code, _, _ = run("embed", both, "--modality", "rna", "--genes", genes_file, "--sidecar", out)
    assert code == 0
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_bft"], embedded(cells_of())[0])
    cells = cells_of()
    cells.obsm["ADT"], cells.uns["panel"] = counts_of(seed=3)[:, :4], list(cells.var_names[:4])
    words = ["--obsm", "ADT", "--obsm-names", "uns/panel", "--normalize", "clr", "--empty-cells", "nan"]
    code, _, _ = run("embed", write(cells, tmp_path)[0], *words, "--genes", genes_file, "--sidecar", out)
    expected, _ = embedded(cells, obsm="ADT", obsm_names="uns/panel", normalize="clr", empty_cells="nan")
    assert code == 0
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_bft"], expected)


def test_negative_values_point_to_raw(run, cells, genes_file, tmp_path):
    cells.raw = cells.copy()
    cells.X = cells.X.toarray() - 5
    words = ("embed", write(cells, tmp_path)[0], "--genes", genes_file, "--out", tmp_path / "out.h5ad", "--json")
    code, printed, error = run(*words)
    assert (code, printed, "--use-raw" in error) == (1, "", True)
    code, printed, _ = run(*words, "--use-raw")
    assert (code, json.loads(printed)["matrix"]) == (0, "raw/X")


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        ("--out o.h5ad", 2, "--genes"),
        ("--genes GENES", 1, "--out"),
        ("--genes GENES --out o.h5ad --normalize log1p", 2, "log1p-cp10k"),
        ("--genes GENES --out o.h5ad --top-k many", 2, "--top-k"),
        ("--genes gone.safetensors --out o.h5ad", 1, "gone.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(run, path, genes_file, tmp_path, monkeypatch, words, code, word):
    monkeypatch.chdir(tmp_path)
    left, printed, error = run("embed", path, *words.replace("GENES", str(genes_file)).split())
    assert (left, printed, word in error) == (code, "", True)
    assert error.strip().count("\n") == 0
    assert files_in(tmp_path) == ["cells.h5ad"]


class TestTheDryRun:
    """It says what embedding would do or reject, and writes nothing."""

    def dry(self, run, path, genes_file, *words, place="--out"):
        out = path.parent / "out.h5ad"
        found = run("embed", path, "--genes", genes_file, place, out, "--dry-run", "--json", *words)
        assert not out.exists()
        return found

    @pytest.mark.parametrize("form", ["csr", "csc", "dense"])
    @pytest.mark.parametrize("place", ["--out", "--sidecar"])
    def test_it_foretells_the_run_and_leaves_nothing(self, run, genes_file, tmp_path, form, place):
        path, _ = write(cells_of(form=form), tmp_path)
        before = sha256_file(path)
        code, printed, _ = self.dry(run, path, genes_file, place=place)
        found, told = json.loads(printed), embedded(cells_of())[1]
        assert code == 0
        for name in (*COUNTS, "n_cells", "n_genes", "n_duplicates", "n_other_features", "normalize"):
            assert found[name] == told[name]
        assert (sha256_file(path), files_in(tmp_path)) == (before, ["cells.h5ad"])

    @pytest.mark.parametrize(
        ("change", "words", "word"),
        [
            ("negative", (), "negative"),
            ("nan", (), "NaN"),
            ("shares", (), "--normalize"),
            ("foreign", (), "gene"),
            ("empty", (), "cell3"),
            ("taken", (), "X_bft"),
            ("", ("--layer", "zzz"), "zzz"),
        ],
    )
    def test_what_the_run_would_reject_is_an_error(self, run, genes_file, tmp_path, change, words, word):
        counts = counts_of()
        if change in ("negative", "nan"):
            counts[4, 2] = -1 if change == "negative" else np.nan
        cells = with_empty_cells([3]) if change == "empty" else cells_of(counts)
        if change == "shares":
            cells = cells_of(counts / counts.sum(axis=1, keepdims=True))
        elif change == "foreign":
            cells.var_names = [f"Foo{i}-x" for i in range(6)]
        elif change == "taken":
            cells.obsm["X_bft"] = np.zeros((30, 2))
        code, _, error = self.dry(run, write(cells, tmp_path)[0], genes_file, *words)
        assert (code, word in error) == (1, True)
