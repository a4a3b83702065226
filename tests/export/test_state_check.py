"""`check_state`: every rule, by breaking one thing of a good export; and cell-load on the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mutations import MUTATIONS  # noqa: E402  it needs torch

from bftembed.errors import BftembedError  # noqa: E402
from bftembed.export import check_state  # noqa: E402
from bftembed.export.check import RULES  # noqa: E402

LOADER = Path(__file__).with_name("load_with_cell_load.py")


def failures(folder, **options):
    return {(one.rule, one.file) for one in check_state(folder, **options) if one.level == "FAIL"}


def test_a_good_export_has_no_finding_and_every_rule_is_tested(good):
    assert check_state(good) == []
    assert {one.rule for one in MUTATIONS.values()} == set(RULES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_thing_broken_is_found(good, name):
    mutation = MUTATIONS[name]
    mutation.break_it(good)
    assert (mutation.rule, mutation.file) in failures(good)


def test_a_zero_vector_is_a_warning(good):
    table = torch.load(good / "pert_features.pt", weights_only=True)
    table[next(label for label in table if label != "non-targeting")] = torch.zeros(16)
    torch.save(table, good / "pert_features.pt")
    (found,) = check_state(good)
    assert (found.level, found.rule, found.as_dict()["file"]) == ("WARN", "features", "pert_features.pt")


def test_a_pickle_that_would_run_code_runs_nothing(good, tmp_path):
    trap = tmp_path / "sprung"
    (good / "pert_features.pt").write_bytes(b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    assert ("features", "pert_features.pt") in failures(good)
    assert not trap.exists()


@pytest.mark.parametrize("damage", [b"", b"not HDF5", None])
def test_a_damaged_file_is_a_finding(good, damage):
    path = good / "cells" / "a.h5ad"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    assert ("readable", "cells/a.h5ad") in failures(good)


def test_columns_are_those_of_the_manifest_or_as_asked(good):
    manifest = json.loads((good / "manifest.json").read_text())
    manifest["columns"]["pert"] = "target"
    (good / "manifest.json").write_text(json.dumps(manifest))
    assert failures(good) >= {("readable", "cells/a.h5ad"), ("readable", "cells/b.h5ad")}
    assert check_state(good, pert_col="gene") == []
    (good / "manifest.json").write_text("{")
    assert [one.level for one in check_state(good)] == ["WARN"]
    assert ("controls", "cells/a.h5ad") in failures(good, control="ctrl")


def test_an_empty_folder_and_none(tmp_path):
    assert failures(tmp_path) == {("readable", ""), ("validation", "")}
    with pytest.raises(BftembedError):
        check_state(tmp_path / "nothing")


def test_runs_of_state_are_passed_over(good):
    (good / "runs" / "one").mkdir(parents=True)
    (good / "runs" / "one" / "adata_pred.h5ad").write_bytes(b"")
    assert check_state(good) == []


@pytest.mark.skipif("BFTEMBED_STATE_PYTHON" not in os.environ, reason="no interpreter with cell-load was named")
def test_cell_load_agrees(exported, tmp_path):
    """What cell-load stops at, and what it lets pass silently: the latter is why there is a check."""
    expected = {"good": "silent", "good with all": "silent"} | {k: one.cell_load for k, one in MUTATIONS.items()}
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
