"""`export_state`: the content of the folder, and every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import tomllib

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from bftembed.cells.pipeline import cell_vectors  # noqa: E402
from bftembed.embeddings import GeneEmbeddings  # noqa: E402
from bftembed.errors import BftembedError  # noqa: E402
from bftembed.export import check_state, export_state  # noqa: E402
from bftembed.io import sha256_file  # noqa: E402

CONTROL = "non-targeting"


def as_counts(form=np.asarray):
    def change(data):
        counts = np.random.default_rng(0).poisson(np.expm1(data.X) / 5).astype(np.float32)
        counts[:, 0] += 1
        data.X = form(counts)
        del data.uns["log1p"]

    return change


def relabeled(column, rows, value):
    def change(data):
        values = data.obs[column].astype(object).to_numpy().copy()
        values[rows(data) if callable(rows) else rows] = value
        data.obs[column] = pd.Categorical(values)

    return change


def with_x(change):
    def changed(data):
        data.X = change(data.X)
        data.uns.pop("log1p", None)

    return changed


def test_cells_hold_the_vectors_the_expression_and_its_variable_genes(exported, screen):
    data, genes = screen
    for name in ("a", "b"):
        found = anndata.read_h5ad(exported / "cells" / f"{name}.h5ad")
        source = data[found.obs_names]
        expected, _ = cell_vectors(source.copy(), genes)
        np.testing.assert_allclose(found.obsm["X_bft"], expected, atol=1e-6)
        assert found.obsm["X_bft"].dtype == found.obsm["X_hvg"].dtype == found.X.dtype == np.float32
        np.testing.assert_allclose(found.X, source[:, found.var_names].X, rtol=1e-6)
        names = found.var_names[found.var["highly_variable"]]
        assert list(names) == list(found.uns["hvg_names"])
        assert len(names) == found.obsm["X_hvg"].shape[1] == 20
        np.testing.assert_array_equal(found.obsm["X_hvg"], found[:, names].X)
        assert found.var.index.name is None
        assert list(found.var["gene_name"]) == list(found.var_names)
        perturbed = set(found.obs["gene"]) - {CONTROL}
        assert perturbed <= set(found.var_names)
        assert "log1p" in found.uns
        for column in ("gene", "cell_type", "gem_group"):
            assert set(found.obs[column].cat.categories) == set(source.obs[column])
            assert list(found.obs[column].astype(str)) == list(source.obs[column].astype(str))
        assert json.loads(found.uns["state_export"])["embeddings_sha256"] == genes.fingerprint()
        assert found.uns["simulated"]


def test_variable_genes_are_those_of_scanpy_over_all_files(exported, screen):
    import scanpy

    expected = scanpy.pp.highly_variable_genes(screen[0], flavor="seurat", n_top_genes=20, inplace=False)
    found = anndata.read_h5ad(exported / "cells" / "b.h5ad", backed="r")
    order = [g for g, d in zip(screen[0].var_names, expected["highly_variable"], strict=True) if d]
    assert list(found.uns["hvg_names"]) == order


def test_features_are_plain_tensors_with_the_control_as_zero(exported, screen):
    data, genes = screen
    table = torch.load(exported / "pert_features.pt", weights_only=True)
    assert set(table) == set(data.obs["gene"])
    assert {type(key) for key in table} == {str}
    for label, vector in table.items():
        expected = np.zeros(16) if label == CONTROL else genes.vector(label)
        np.testing.assert_array_equal(vector.numpy(), expected)
        assert vector.dtype == torch.float32
        assert vector.untyped_storage().nbytes() == 16 * 4


def test_both_questions_have_a_validation_split(exported):
    cells = [anndata.read_h5ad(path).obs for path in (exported / "cells").glob("*.h5ad")]
    obs = pd.concat([one.astype(str) for one in cells])
    zeroshot = tomllib.loads((exported / "zeroshot_celltype.toml").read_text())
    assert sorted(zeroshot["zeroshot"].values()) == ["test", "val"]
    assert zeroshot["datasets"] == {"bft": str(exported / "cells")}
    unseen = tomllib.loads((exported / "unseen_gene.toml").read_text())
    lists = list(unseen["fewshot"].values())
    assert set(unseen["fewshot"]) == {f"bft.{name}" for name in set(obs["cell_type"])}
    assert all(one == lists[0] for one in lists)
    assert len(lists[0]["test"]) == 2
    assert len(lists[0]["val"]) == 1
    manifest = json.loads((exported / "manifest.json").read_text())
    held = obs[obs["gene"].isin(lists[0]["test"])]
    assert manifest["questions"]["unseen_gene"]["n_cells"]["test"] == len(held)


def test_manifest_has_hashes_readings_and_that_it_is_simulated(exported, screen):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["simulated"] is True
    assert set(manifest["readings"]) == {"cell embedding", "perturbation features"}
    assert manifest["embeddings_sha256"] == screen[1].fingerprint()
    files = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()} - {"manifest.json"}
    assert manifest["sha256"] == {name: sha256_file(exported / name) for name in sorted(files)}


def test_the_same_input_gives_the_same_bytes(write, screen, tmp_path):
    path = write()
    for name in ("one", "two"):
        export_state(path, screen[1], tmp_path / name, hvg=20)
    one, two = (sha256_file(tmp_path / place / "cells" / "sim.h5ad") for place in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("form", [np.asarray, sparse.csc_matrix])
def test_counts_of_any_storage_are_logged_and_the_totals_are_of_all_genes(write, screen, tmp_path, form):
    files = [write(None, "a.h5ad", ["k562", "rpe1"]), write(as_counts(form), "b.h5ad", ["jurkat"])]
    done = export_state(files, screen[1], tmp_path / "out", hvg=20)
    data = anndata.read_h5ad(files[1])
    counts = np.asarray(data.X.todense() if sparse.issparse(data.X) else data.X, dtype=np.float64)
    expected = pd.DataFrame(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), columns=data.var_names)
    found = anndata.read_h5ad(tmp_path / "out" / "cells" / "b.h5ad")
    np.testing.assert_allclose(found.X, expected[found.var_names], rtol=1e-5)
    assert found.n_vars < screen[0].n_vars
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [one["embedding"]["normalize"] for one in manifest["cells"].values()] == ["none", "log1p-cp10k"]
    assert len(done.notes) == 3  # of each file, and that they differ
    assert check_state(tmp_path / "out") == []


def test_genes_in_another_order_are_put_into_that_of_the_first(write, screen, tmp_path):
    files = [
        write(None, "a.h5ad", ["k562", "rpe1"]),
        write(lambda data: data[:, ::-1].copy(), "b.h5ad", ["jurkat"]),
    ]
    export_state(files, screen[1], tmp_path / "out", hvg=20)
    a, b = (anndata.read_h5ad(tmp_path / "out" / "cells" / f"{name}.h5ad") for name in "ab")
    assert list(a.var_names) == list(b.var_names)
    np.testing.assert_allclose(b.X, screen[0][b.obs_names, b.var_names].X, rtol=1e-6)
    assert check_state(tmp_path / "out") == []


def test_labels_of_any_spelling_and_combinations_find_their_vectors(write, screen, tmp_path):
    data, genes = screen
    targets = sorted(set(data.obs["gene"]) - {CONTROL})
    a, b, c = targets[:3]
    embeddings = GeneEmbeddings(
        ["TP53", "BRCA1", *genes.ids], np.vstack([np.ones((1, 16)), np.full((1, 16), 2), genes.matrix])
    )

    def change(data):
        renamed = {a: "P53", b: "ENSG00000012048", c: f"{a.lower()}+{targets[3]}"}
        renamed |= {targets[4]: f"{CONTROL}+{targets[4]}"}
        data.obs["gene"] = pd.Categorical([renamed.get(x, x) for x in data.obs["gene"]])

    done = export_state(write(change), embeddings, tmp_path / "out", hvg=20, holdout_genes=[targets[3]])
    table = torch.load(tmp_path / "out" / "pert_features.pt", weights_only=True)
    assert table["P53"].tolist() == [1.0] * 16
    assert table["ENSG00000012048"].tolist() == [2.0] * 16
    np.testing.assert_allclose(
        table[f"{a.lower()}+{targets[3]}"], genes.vector(a) + genes.vector(targets[3]), rtol=1e-6
    )
    np.testing.assert_array_equal(table[f"{CONTROL}+{targets[4]}"], genes.vector(targets[4]))
    assert set(done.mapped) >= {"P53", "ENSG00000012048", f"{a.lower()}+{targets[3]}"}
    lists = tomllib.loads((tmp_path / "out" / "unseen_gene.toml").read_text())["fewshot"]["bft.k562"]
    assert lists["test"] == sorted([f"{a.lower()}+{targets[3]}", targets[3]])
    assert check_state(tmp_path / "out") == []


def test_two_cell_types_validate_on_genes(write, screen, tmp_path):
    export_state(write(cells=["k562", "rpe1"]), screen[1], tmp_path / "out", hvg=20, holdout_cell_types=["rpe1"])
    config = tomllib.loads((tmp_path / "out" / "zeroshot_celltype.toml").read_text())
    assert config["zeroshot"] == {"bft.rpe1": "test"}
    assert list(config["fewshot"]) == ["bft.k562"]
    assert config["fewshot"]["bft.k562"]["val"]
    assert check_state(tmp_path / "out") == []


def test_one_cell_type_asks_of_unseen_genes_alone(write, screen, tmp_path):
    done = export_state(write(cells=["k562"]), screen[1], tmp_path / "out", hvg=20)
    assert list(done.questions) == ["unseen_gene"]
    assert not (tmp_path / "out" / "zeroshot_celltype.toml").exists()
    assert check_state(tmp_path / "out") == []


def test_missing_perturbations_are_zeros_only_on_request(write, screen, tmp_path):
    first = min(set(screen[0].obs["gene"]) - {CONTROL})
    path = write(relabeled("gene", lambda data: data.obs["gene"] == first, "NOT-A-GENE"))
    with pytest.raises(BftembedError, match="NOT-A-GENE"):
        export_state(path, screen[1], tmp_path / "out", hvg=20)
    assert not (tmp_path / "out").exists()
    done = export_state(path, screen[1], tmp_path / "out", hvg=20, allow_missing=True)
    assert done.missing == ("NOT-A-GENE",)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["missing"] == ["NOT-A-GENE"]
    table = torch.load(tmp_path / "out" / "pert_features.pt", weights_only=True)
    assert not table["NOT-A-GENE"].any()
    assert [one.level for one in check_state(tmp_path / "out")] == ["WARN"]


def test_scripts_give_every_override_and_pass_the_users_on(write, screen, tmp_path):
    export_state(write(), screen[1], tmp_path / "out", hvg=20)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "state").write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    (tools / "state").chmod(0o755)

    def call(name, *arguments):
        environment = {"PATH": f"{tools}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", tmp_path / "out" / name, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.splitlines()

    code, words = call("train.sh", "unseen_gene", "X_hvg", "onehot", "training.max_steps=60")
    assert code == 0
    assert words[:2] == ["tx", "train"]
    assert words[-1] == "training.max_steps=60"
    for one in (
        f"data.kwargs.toml_config_path='{tmp_path}/out/unseen_gene.toml'",
        "data.kwargs.embed_key=X_hvg",
        "data.kwargs.perturbation_features_file=null",
        "data.kwargs.control_pert='non-targeting'",
        "data.kwargs.output_space=gene",
        "model=state",
        "++model.kwargs.gene_decoder_bool=true",
        "model.kwargs.cell_set_len=8",
        "use_wandb=false",
    ):
        assert one in words
    assert f"data.kwargs.perturbation_features_file='{tmp_path}/out/pert_features.pt'" in call("train.sh")[1]
    assert call("train.sh", "no_such_question")[0] == 2
    assert call("train.sh", "unseen_gene", "X_bft", "magic")[0] == 2
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = subprocess.run(["bash", tmp_path / "moved" / "train.sh"], capture_output=True, text=True, check=False)
    assert moved.returncode == 2
    assert "absolute paths" in moved.stderr


def no_control(kind=None):
    def change(data):
        kept = (data.obs["gene"] != CONTROL) | (data.obs["cell_type"] != (kind or data.obs["cell_type"]))
        return data[kept].copy()

    return change


def one_perturbation(data):
    return data[data.obs["gene"].isin([CONTROL, min(set(data.obs["gene"]) - {CONTROL})])].copy()


def duplicate(axis):
    def change(data):
        names = getattr(data, axis)
        setattr(data, axis, [*names[:-1], names[0]])

    return change


def empty_cell(data):
    data.X[5] = 0


BAD_FILES = {
    "no control of a cell type": no_control("rpe1"),
    "missing perturbations": relabeled("gene", slice(0, 3), np.nan),
    "negative values": with_x(lambda x: x - 1),
    "neither counts nor logged": with_x(np.expm1),
    "too large for a logarithm": with_x(lambda x: x * 2.5),
    "duplicate genes": duplicate("var_names"),
    "duplicate cells": duplicate("obs_names"),
    "one perturbation": one_perturbation,
    "a cell without expression": empty_cell,
    "a quotation mark": relabeled("cell_type", lambda data: data.obs["cell_type"] == "k562", 'k"562'),
}
BAD_OPTIONS = {
    "unknown column": {"pert_col": "genes"},
    "no cell type left": {"holdout_cell_types": ["jurkat", "rpe1"], "val_cell_types": ["k562"]},
    "unknown cell type": {"holdout_cell_types": ["jurkatt"]},
    "unknown gene": {"holdout_genes": ["TP53"]},
    "no variable genes": {"hvg": 0},
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_rejected_and_nothing_is_written(write, screen, tmp_path, name):
    rejected(write(BAD_FILES[name]), screen[1], tmp_path)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_rejected_and_nothing_is_written(write, screen, tmp_path, name):
    rejected(write(), screen[1], tmp_path, **BAD_OPTIONS[name])


def test_files_that_do_not_fit_together_are_rejected(write, screen, tmp_path):
    first = write(None, "a.h5ad", ["k562"])
    rejected([first, write(lambda d: d[:, :-2].copy(), "b.h5ad", ["rpe1"])], screen[1], tmp_path)
    rejected([first, write(no_control(), "b.h5ad", ["rpe1"])], screen[1], tmp_path)
    rejected([first, first], screen[1], tmp_path)
    rejected([], screen[1], tmp_path)


def test_an_output_folder_that_is_not_empty_or_cannot_be_named_is_rejected(write, screen, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    for name in ("out", "out[1]"):
        with pytest.raises(BftembedError):
            export_state(write(), screen[1], tmp_path / name)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def rejected(data, genes, tmp_path, **options):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BftembedError):
        export_state(data, genes, tmp_path / "out", **{"hvg": 20, **options})
    assert sorted(tmp_path.iterdir()) == before
