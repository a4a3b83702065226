"""`check_state`: every rule of the contract, by breaking one thing of a good export; and cell-load on the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest
import torch
from mutations import MUTATIONS

from bftembed.errors import BftembedError
from bftembed.export import check_state, export_state

LOADER = Path(__file__).with_name("load_with_cell_load.py")


def failures(folder):
    return [one for one in check_state(folder) if one.level == "FAIL"]


def test_a_good_export_has_no_finding(good):
    assert check_state(good) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_thing_broken_is_found(good, name):
    mutation = MUTATIONS[name]
    assert check_state(good) == []
    mutation.break_it(good)
    found = failures(good)
    hits = [one for one in found if one.file == mutation.file and re.search(mutation.says, one.what)]
    assert hits, "\n".join(map(str, found))
    assert all(one.remedy and "\n" not in str(one) for one in found)


def test_seven_dimensions_fail_with_all_genes_and_warn_else(write, screen, tmp_path):
    genes = type(screen[1])(screen[1].ids, screen[1].matrix[:, :7])
    export_state(write(), genes, tmp_path / "out", hvg=20)
    (warning,) = check_state(tmp_path / "out")
    assert warning.level == "WARN"
    assert "7 dimensions" in warning.what
    assert any("7 dimensions" in one.what for one in failures_with(tmp_path / "out", output_space="all"))


def failures_with(folder, **options):
    return [one for one in check_state(folder, **options) if one.level == "FAIL"]


def test_what_works_but_may_not_be_meant_is_a_warning(good):
    (good / "train.sh").write_text((good / "train.sh").read_text().replace('  "use_wandb=false"\n', ""))
    shutil.copy(good / "cells" / "a.h5ad", good / "left.h5ad")
    with h5py.File(good / "cells" / "b.h5ad", "r+") as file:
        vectors = file["obsm/X_bft"][:].astype("f8")
        del file["obsm/X_bft"]
        file["obsm"]["X_bft"] = vectors
    table = torch.load(good / "pert_features.pt", weights_only=True)
    first = next(label for label in table if label != "non-targeting")
    table[first] = torch.zeros(16)
    torch.save(table, good / "pert_features.pt")
    found = {(one.level, one.file): one.what for one in check_state(good)}
    assert set(found) == {
        ("WARN", "train.sh"),
        ("WARN", "left.h5ad"),
        ("WARN", "cells/b.h5ad"),
        ("WARN", "pert_features.pt"),
    }
    assert "use_wandb" in found["WARN", "train.sh"]
    assert "no TOML file names" in found["WARN", "left.h5ad"]
    assert "float64" in found["WARN", "cells/b.h5ad"]
    assert "zero vectors" in found["WARN", "pert_features.pt"]


def test_a_pickle_that_would_run_code_runs_nothing(good, tmp_path):
    trap = tmp_path / "sprung"
    code = b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    (good / "pert_features.pt").write_bytes(code)
    assert any("STATE cannot load it" in one.what for one in failures(good))
    assert not trap.exists()


@pytest.mark.parametrize("damage", [b"", b"no file of HDF5", None])
def test_a_damaged_file_is_a_finding(good, damage):
    path = good / "cells" / "a.h5ad"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    assert any(one.file == "cells/a.h5ad" and "cannot be read" in one.what for one in failures(good))


def test_a_folder_made_by_hand_is_judged_by_its_scripts(good):
    (good / "manifest.json").unlink()
    for name in "ab":
        with h5py.File(good / "cells" / f"{name}.h5ad", "r+") as file:
            file["obs"].move("gene", "target")
            order = [x if x != "gene" else "target" for x in file["obs"].attrs["column-order"]]
            file["obs"].attrs["column-order"] = order
    assert any("obs has no column 'gene'" in one.what for one in failures(good))
    script = good / "train.sh"
    script.write_text(script.read_text().replace("pert_col='gene'", "pert_col='target'"))
    assert failures(good) == []


def test_an_empty_folder_and_none(tmp_path):
    assert {one.what for one in failures(tmp_path)} == {
        "there is no h5ad file",
        "there is no TOML file of splits",
    }
    with pytest.raises(BftembedError, match="No such folder"):
        check_state(tmp_path / "nothing")


def test_runs_of_state_are_passed_over(good):
    (good / "runs" / "one").mkdir(parents=True)
    (good / "runs" / "one" / "adata_pred.h5ad").write_bytes(b"")
    assert check_state(good) == []


@pytest.mark.skipif("BFTEMBED_STATE_PYTHON" not in os.environ, reason="no interpreter with cell-load was named")
def test_cell_load_agrees(exported, tmp_path):
    """What cell-load stops at, and what it lets pass without a word: the latter is why there is a check."""
    expected = {"good": "silent", "good with all": "silent"} | {
        name: one.cell_load for name, one in MUTATIONS.items() if one.cell_load
    }
    folders = {}
    for name in expected:
        folder = tmp_path / re.sub(r"\W+", "-", name)
        shutil.copytree(exported, folder)
        for path in (*folder.glob("*.toml"), *folder.glob("*.sh")):
            path.write_text(path.read_text().replace(str(exported), str(folder)))
        if name in MUTATIONS:
            MUTATIONS[name].break_it(folder)
        folders[name] = str(folder), "all" if "with all" in name + expected[name] else "gene"
    command = [os.environ["BFTEMBED_STATE_PYTHON"], LOADER]
    done = subprocess.run(command, input=json.dumps(folders), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    wrong = {name: said for name, said in found.items() if bool(said) != expected[name].startswith("error")}
    assert not wrong
    assert set(found) == set(expected)
