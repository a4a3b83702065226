"""`export_state`: what is in the folder, and every bad input."""

from __future__ import annotations

import json
import subprocess
import tomllib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from scipy import sparse

from bftembed.cells.vectors import cell_vectors
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, MissingExtraError
from bftembed.export import check_state, export_state
from bftembed.io import sha256_file

CONTROL = "non-targeting"


def counts_of(data, depth=1e4):
    """Whole counts that give the very log1p values of cells again, all of one depth."""
    counts = np.random.default_rng(0).poisson(np.expm1(data.X) / 5).astype(np.float32)
    counts[:, 0] += 1
    return counts


def logged(counts):
    totals = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p(1e4 / totals * counts)


def obs_set(column, place, value):
    def change(data):
        values = data.obs[column].astype(object).to_numpy().copy()
        values[place(data) if callable(place) else place] = value
        data.obs[column] = pd.Categorical(values)

    return change


# What is written


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
        told = found.uns["bftembed"]
        assert told["X_bft"]["embeddings_sha256"] == genes.fingerprint()
        assert told["state_export"]["simulated"]
        with h5py.File(exported / "cells" / f"{name}.h5ad") as file:
            assert isinstance(file["X"], h5py.Dataset)
            assert file["var"].attrs["_index"] == "_index"


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
    same = load_file(exported / "pert_features.safetensors")
    assert {k: v.tolist() for k, v in same.items()} == {k: v.tolist() for k, v in table.items()}


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


def test_manifest_tells_hashes_readings_and_that_it_is_simulated(exported, screen):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["simulated"] is True
    assert set(manifest["readings"]) == {"cell embedding", "perturbation features"}
    assert manifest["embeddings_sha256"] == screen[1].fingerprint()
    files = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()} - {"manifest.json"}
    assert manifest["sha256"] == {name: sha256_file(exported / name) for name in sorted(files)}
    assert "SIMULATED" in (exported / "README.md").read_text()


def test_the_same_input_gives_the_same_bytes(write, screen, tmp_path):
    path = write()
    for name in ("one", "two"):
        export_state(path, screen[1], tmp_path / name, hvg=20)
    for name in ("cells/sim.h5ad", "pert_features.safetensors"):
        one, two = (anndata_bytes(tmp_path / place / name) for place in ("one", "two"))
        assert one == two


def anndata_bytes(path):
    return sha256_file(path)


def test_counts_of_any_storage_are_logged_and_the_totals_are_of_all_genes(write, screen, tmp_path):
    counts = counts_of(screen[0])

    def stored(form):
        def change(data):
            data.X = counts if form is None else form(counts)
            del data.uns["log1p"]

        return change

    expected = logged(counts)
    for name, form in (("dense", None), ("csr", sparse.csr_matrix), ("csc", sparse.csc_matrix)):
        done = export_state(write(stored(form), f"{name}.h5ad"), screen[1], tmp_path / name, hvg=20)
        found = anndata.read_h5ad(tmp_path / name / "cells" / f"{name}.h5ad")
        columns = screen[0].var_names.get_indexer(found.var_names)
        np.testing.assert_allclose(found.X, expected[:, columns], rtol=1e-5)
        assert found.n_vars < screen[0].n_vars
        assert any("log1p of counts per 10,000" in note for note in done.notes)
        assert check_state(tmp_path / name) == []


def test_logged_and_counted_files_are_each_decided_and_said(write, screen, tmp_path):
    def as_counts(data):
        data.X = counts_of(data)
        del data.uns["log1p"]

    files = [write(None, "a.h5ad", ["k562", "rpe1"]), write(as_counts, "b.h5ad", ["jurkat"])]
    done = export_state(files, screen[1], tmp_path / "out", hvg=20)
    assert any("Some inputs were counts and others logged" in note for note in done.notes)
    assert check_state(tmp_path / "out") == []


def test_genes_in_another_order_are_put_into_that_of_the_first(write, screen, tmp_path):
    files = [
        write(None, "a.h5ad", ["k562", "rpe1"]),
        write(lambda data: data[:, ::-1].copy(), "b.h5ad", ["jurkat"]),
    ]
    done = export_state(files, screen[1], tmp_path / "out", hvg=20)
    a, b = (anndata.read_h5ad(tmp_path / "out" / "cells" / f"{name}.h5ad") for name in "ab")
    assert list(a.var_names) == list(b.var_names)
    np.testing.assert_allclose(b.X, screen[0][b.obs_names, b.var_names].X, rtol=1e-6)
    assert any("order of a.h5ad" in note for note in done.notes)


def test_all_genes_on_request(write, screen, tmp_path):
    done = export_state(write(), screen[1], tmp_path / "out", hvg=20, all_genes=True, output_space="all")
    assert (done.n_genes, done.n_hvg) == (60, 20)
    assert check_state(tmp_path / "out") == []
    assert "data.kwargs.output_space=all" in (tmp_path / "out" / "train.sh").read_text()


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
    path = write(lambda data: rename_one(data, "NOT-A-GENE"))
    with pytest.raises(
        BftembedError, match=r"1 of 8 perturbations have no vector: 'NOT-A-GENE': NOT-A-GENE is no known"
    ):
        export_state(path, screen[1], tmp_path / "out", hvg=20)
    assert not (tmp_path / "out").exists()
    done = export_state(path, screen[1], tmp_path / "out", hvg=20, allow_missing=True)
    assert done.missing == ("NOT-A-GENE",)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["missing"] == ["NOT-A-GENE"]
    table = torch.load(tmp_path / "out" / "pert_features.pt", weights_only=True)
    assert not table["NOT-A-GENE"].any()
    assert [one.level for one in check_state(tmp_path / "out")] == ["WARN"]


def rename_one(data, name):
    first = next(x for x in sorted(set(data.obs["gene"])) if x != CONTROL)
    data.obs["gene"] = pd.Categorical([name if x == first else x for x in data.obs["gene"]])


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
    code, words = call("predict.sh", "unseen_gene", "X_bft", "text", "best.ckpt", "--shared-only")
    assert words[3] == f"{tmp_path}/out/runs/unseen_gene-X_bft-text"
    assert words[5:] == ["best.ckpt", "--profile", "full", "--shared-only"]
    assert call("train.sh", "no_such_question")[0] == 2
    assert call("train.sh", "unseen_gene", "X_bft", "magic")[0] == 2
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = subprocess.run(["bash", tmp_path / "moved" / "train.sh"], capture_output=True, text=True, check=False)
    assert moved.returncode == 1
    assert "absolute paths" in moved.stderr


# Bad input: each named, and nothing is written


def test_no_control(write, screen, tmp_path):
    refused(write(lambda d: d[d.obs["gene"] != CONTROL].copy()), screen, tmp_path, "Unknown control 'non-targeting'")


def test_control_missing_in_one_file(write, screen, tmp_path):
    files = [write(None, "a.h5ad", ["k562"]), write(lambda d: d[d.obs["gene"] != CONTROL].copy(), "b.h5ad", ["rpe1"])]
    refused(files, screen, tmp_path, r"Unknown control .* in .*b\.h5ad")


def test_control_missing_in_one_cell_type(write, screen, tmp_path):
    def change(data):
        return data[(data.obs["gene"] != CONTROL) | (data.obs["cell_type"] != "rpe1")].copy()

    refused(write(change), screen, tmp_path, r"no control cells \('non-targeting'\) of the cell types 'rpe1'")


@pytest.mark.parametrize("column", ["gene", "cell_type", "gem_group"])
def test_labels_that_are_missing(write, screen, tmp_path, column):
    refused(
        write(obs_set(column, slice(0, 3), np.nan)), screen, tmp_path, f"3 of .* cells have no value in obs.'{column}'"
    )


def test_unknown_column(write, screen, tmp_path):
    refused(write(), screen, tmp_path, "Unknown obs column 'genes'.*Did you mean 'gene'", pert_col="genes")


def test_negative_values(write, screen, tmp_path):
    def change(data):
        data.X = data.X - 1

    refused(write(change), screen, tmp_path, "values are negative")


def test_values_that_are_neither_counts_nor_logged(write, screen, tmp_path):
    def change(data):
        data.X = np.expm1(data.X)
        del data.uns["log1p"]

    refused(write(change), screen, tmp_path, "neither counts nor logged")


def test_values_too_large_for_a_logarithm(write, screen, tmp_path):
    def change(data):
        data.X = data.X * 2.5

    refused(write(change), screen, tmp_path, "stays below 15")


def test_different_genes(write, screen, tmp_path):
    files = [write(None, "a.h5ad", ["k562"]), write(lambda d: d[:, :-2].copy(), "b.h5ad", ["rpe1"])]
    refused(files, screen, tmp_path, r"different genes: 0 only in the former \(none\), 2 only in the latter")


def test_gene_names_twice(write, screen, tmp_path):
    def change(data):
        data.var_names = [*data.var_names[:-1], data.var_names[0]]

    refused(write(change), screen, tmp_path, "1 gene names occur more than once")


def test_embedding_with_too_few_dimensions(write, screen, tmp_path):
    data, genes = screen
    narrow = GeneEmbeddings(genes.ids, genes.matrix[:, :7])
    refused(write(), (data, narrow), tmp_path, "would have 7 dimensions", output_space="all")
    refused(write(), screen, tmp_path, "would have 3 dimensions", output_space="all", gene_matrix="whiten:3")
    export_state(write(), narrow, tmp_path / "gene", hvg=20)
    with pytest.raises(BftembedError, match="two axes"):
        GeneEmbeddings(genes.ids, genes.matrix[:, 0])


def test_one_perturbation_only(write, screen, tmp_path):
    def change(data):
        first = sorted(set(data.obs["gene"]) - {CONTROL})[0]
        return data[data.obs["gene"].isin([CONTROL, first])].copy()

    refused(write(change), screen, tmp_path, "1 perturbed gene .* takes three at least")


def test_a_cell_type_held_out_twice(write, screen, tmp_path):
    held = {"holdout_cell_types": ["jurkat"], "val_cell_types": ["jurkat"]}
    refused(write(), screen, tmp_path, "'jurkat' is to be held out twice", **held)


def test_nothing_left_to_train_on(write, screen, tmp_path):
    every = {"holdout_cell_types": ["jurkat", "rpe1"], "val_cell_types": ["k562"]}
    refused(write(), screen, tmp_path, "No cells are left to train on", **every)
    refused(write(), screen, tmp_path, "no gene is left to train on", holdout_share=0.99)


def test_unknown_names_in_holdouts(write, screen, tmp_path):
    refused(
        write(), screen, tmp_path, "Unknown cell type 'jurkatt'.*Did you mean 'jurkat'", holdout_cell_types=["jurkatt"]
    )
    refused(write(), screen, tmp_path, "Unknown perturbed gene 'TP53'", holdout_genes=["TP53"])


def test_output_folder_not_empty(write, screen, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(BftembedError, match="is there and not empty"):
        export_state(write(), screen[1], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_names_that_state_would_misread(write, screen, tmp_path):
    refused(write(), screen, tmp_path, "cuts names at the first dot", dataset="replogle.k562")
    with pytest.raises(BftembedError, match="reads as a pattern"):
        export_state(write(), screen[1], tmp_path / "out[1]")
    change = obs_set("cell_type", lambda data: data.obs["cell_type"] == "k562", 'k"562')
    refused(write(change), screen, tmp_path, "quotation mark")


def test_output_space_embedding(write, screen, tmp_path):
    refused(write(), screen, tmp_path, "ReLU", output_space="embedding")
    refused(write(), screen, tmp_path, "Unknown output space 'genes'", output_space="genes")


def test_cell_names_twice(write, screen, tmp_path):
    def change(data):
        data.obs_names = [*data.obs_names[:-1], data.obs_names[0]]

    refused(write(change), screen, tmp_path, "1 cell names occur more than once")


def test_cells_without_a_gene_that_has_an_embedding(write, screen, tmp_path):
    def change(data):
        data.X[5] = 0

    refused(write(change), screen, tmp_path, "1 of .* cells express no gene with an embedding .'cell5'")


def test_a_file_given_twice(write, screen, tmp_path):
    path = write()
    refused([path, path], screen, tmp_path, "given twice")


def test_without_torch(write, screen, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"bftembed\[local\]"):
        export_state(write(), screen[1], tmp_path / "out")


def refused(data, screen, tmp_path, message, **options):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BftembedError, match=message):
        export_state(data, screen[1], tmp_path / "out", **{"hvg": 20, **options})
    assert sorted(tmp_path.iterdir()) == before
