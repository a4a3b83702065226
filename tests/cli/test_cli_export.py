"""`bftembed export state` and `bftembed export check`: options reach the library, exit codes, JSON."""

from __future__ import annotations

import json
import tomllib

import pandas as pd
import pytest

from bftembed.testing import simulate_perturbations


@pytest.fixture
def screen(tmp_path):
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


def test_state_writes_a_folder_that_check_finds_good(run, screen):
    code, out, _ = run(*arguments(screen, "--holdout-cell-type", "jurkat", "--val-cell-type", "rpe1"))
    assert code == 0
    assert "SIMULATED" in out
    assert "zeroshot_celltype: perturbed cells 24 train, 24 val, 24 test" in out
    config = tomllib.loads((screen / "out" / "zeroshot_celltype.toml").read_text())
    assert config["zeroshot"] == {"bft.rpe1": "val", "bft.jurkat": "test"}
    assert "control_pert='NT (ctrl)'" in (screen / "out" / "train.sh").read_text()
    code, out, _ = run("export", "check", screen / "out")
    assert (code, out) == (0, "ok: nothing that STATE would fail on or go wrong with\n")


def test_state_as_json_and_named_genes(run, screen):
    gene = sorted(genes_of(screen))[0]
    code, out, _ = run(*arguments(screen, "--holdout-genes", gene.lower(), "--output-space", "all", "--json"))
    assert code == 0
    found = json.loads(out)
    assert found["simulated"] is True
    assert found["n_hvg"] == 10
    lists = tomllib.loads((screen / "out" / "unseen_gene.toml").read_text())["fewshot"]["bft.k562"]
    assert lists["test"] == [gene]
    assert "output_space=all" in (screen / "out" / "train.sh").read_text()


def genes_of(folder):
    import anndata

    return set(anndata.read_h5ad(folder / "cells.h5ad", backed="r").obs["target"]) - {"NT (ctrl)"}


def test_state_says_what_is_wrong_and_writes_nothing(run, screen):
    code, _, err = run(*arguments(screen, "--holdout-cell-type", "jurkatt"))
    assert code == 1
    assert "Did you mean 'jurkat'?" in err
    assert not (screen / "out").exists()
    code, _, err = run(*arguments(screen, "--output-space", "embedding"))
    assert code == 1
    assert "ReLU" in err


def test_check_leaves_with_3_and_one_line_per_finding(run, screen):
    run(*arguments(screen))
    toml = screen / "out" / "unseen_gene.toml"
    toml.write_text(toml.read_text().replace('bft = "train"', 'bft = "trein"').replace('val = ["', 'val = ["X-'))
    code, out, _ = run("export", "check", screen / "out")
    assert code == 3
    lines = out.splitlines()
    assert lines[-1].endswith("WARN")
    assert all(line.startswith(("FAIL ", "WARN ")) for line in lines[:-1])
    code, out, _ = run("export", "check", screen / "out", "--json")
    assert code == 3
    found = json.loads(out)
    assert found["ok"] is False
    assert {"level", "file", "what", "remedy"} == set(found["findings"][0])
    assert run("export", "check", screen / "nothing")[0] == 1
