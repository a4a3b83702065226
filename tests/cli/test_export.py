"""`bftembed export …`: options reach the library, exit codes, JSON."""

from __future__ import annotations

import json
import tomllib

import pandas as pd
import pytest

from bftembed.testing import simulate_perturbations


@pytest.fixture
def screen(tmp_path):
    pytest.importorskip("torch")
    data, genes = simulate_perturbations(n_perturbations=6, n_genes=40, cells_per_perturbation=4, dim=8, seed=1)
    data.obs = data.obs.rename(columns={"gene": "target", "cell_type": "line", "gem_group": "lane"})
    data.obs["target"] = pd.Categorical([x if x != "non-targeting" else "NT (ctrl)" for x in data.obs["target"]])
    data.write_h5ad(tmp_path / "cells.h5ad")
    genes.save(tmp_path / "genes.safetensors")
    return tmp_path


def arguments(folder, *more):
    named = ("--pert-col", "target", "--cell-type-key", "line", "--batch-col", "lane", "--control", "NT (ctrl)")
    given = ("--genes", folder / "genes.safetensors", "--out", folder / "out", "--hvg", "10")
    return ("export", "state", folder / "cells.h5ad", *given, *named, *more)


def test_state_writes_a_folder_that_check_accepts(run, screen):
    code, out, _ = run(*arguments(screen, "--holdout-cell-types", "jurkat", "--val-cell-types", "rpe1", "--json"))
    assert code == 0
    found = json.loads(out)
    assert (found["simulated"], found["n_hvg"]) == (True, 10)
    config = tomllib.loads((screen / "out" / "zeroshot_celltype.toml").read_text())
    assert config["zeroshot"] == {"bft.rpe1": "val", "bft.jurkat": "test"}
    assert "control_pert='NT (ctrl)'" in (screen / "out" / "train.sh").read_text()
    assert run("export", "check", screen / "out")[0] == 0
    toml = screen / "out" / "unseen_gene.toml"
    toml.write_text(toml.read_text().replace('bft = "train"', 'bft = "trein"').replace('val = ["', 'val = ["X-'))
    code, out, _ = run("export", "check", screen / "out", "--json")
    found = json.loads(out)
    assert (code, found["ok"], set(found["findings"][0])) == (3, False, {"level", "rule", "file", "what", "remedy"})
    assert run("export", "check", screen / "out")[0] == 3


def test_genes_are_held_out_in_any_spelling(run, screen):
    import anndata

    labels = set(anndata.read_h5ad(screen / "cells.h5ad", backed="r").obs["target"]) - {"NT (ctrl)"}
    gene = min(labels)
    assert run(*arguments(screen, "--holdout-genes", gene.lower()))[0] == 0
    assert tomllib.loads((screen / "out" / "unseen_gene.toml").read_text())["fewshot"]["bft.k562"]["test"] == [gene]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--holdout-cell-types", "jurkatt"), 1),
        (("--hvg", "0"), 1),
    ],
)
def test_an_error_writes_nothing(run, screen, words, code):
    assert run(*arguments(screen, *words))[0] == code
    assert not (screen / "out").exists()
    assert run("export", "check", screen / "nothing")[0] == 1
