"""Golden values: what the verbs measure does not change by itself. `python tests/golden/record.py` writes them anew."""

from __future__ import annotations

import pytest
from golden_cases import CASES, Inputs
from golden_values import FOLDER, differences, flat, read


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, shared_data):
    return Inputs(tmp_path_factory.mktemp("golden"), shared_data)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_are_those_that_were_recorded(case, inputs):
    for package in case.extras:
        pytest.importorskip(package)
    changed = differences(read(case.command)[case.name], flat(case.run(inputs)), case.tolerance, case.loose)
    assert not changed, f"{len(changed)} values of {case} changed:\n" + "\n".join(changed[:40])


def test_every_recorded_value_is_compared_and_the_files_are_small():
    recorded = {(path.stem, name) for path in FOLDER.glob("*.json") for name in read(path.stem)}
    assert recorded == {(case.command, case.name) for case in CASES}
    assert len(CASES) == len(recorded)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 300_000


GOLDEN = {"a|value": 0.5, "a|low": 0.1, "n": 3, "none": None, "vector": [1.0, 2.0], "text": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"a|value": 0.500001},
        {"a|value": None},
        {"none": 0.0},
        {"n": 4},
        {"vector": [1.0, 2.01]},
        {"vector": [1.00001, 2.00002]},
        {"vector": [1.0]},
        {"text": "y"},
        {"b|value": 1.0},
    ],
    ids=str,
)
def test_a_change_is_found(change):
    assert not differences(GOLDEN, dict(GOLDEN), 1e-6)
    assert len(differences(GOLDEN, GOLDEN | change, 1e-6)) == 1
    assert len(differences(GOLDEN, {k: v for k, v in GOLDEN.items() if k not in change}, 1e-6)) == len(change) - (
        "b|value" in change
    )
