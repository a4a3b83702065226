"""Every objective takes the same steps in one process, accumulated, on two ranks, and sharded by FSDP2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests_paths import REPOSITORY

from bftembed.config import dump_config

torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl")
pytestmark = pytest.mark.slow

from safetensors.torch import load_file  # noqa: E402

from bftembed.objectives import OBJECTIVES  # noqa: E402
from bftembed.tuning.run import tune  # noqa: E402

CASES = {
    f"{name}-{kind}": (name, lora) for name in OBJECTIVES for kind, lora in (("full", None), ("lora", {"rank": 4}))
}
#: How the 4 samples of a step are divided: options of training, and those of ``ranks.py``.
SPLITS = {"accumulated": ({"accumulate": 2}, None), "ranks": ({}, []), "sharded": ({}, ["--fsdp2"])}


def results(out):
    """Return losses, gradient norms and NLLs by step, and the weights at the end."""
    log = json.loads((Path(out) / "log.json").read_text())
    steps = [(line["loss"], line["grad_norm"], line["nll"], line["samples"]) for line in log if "loss" in line]
    return steps, load_file(Path(out) / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def found(config_of, tmp_path_factory):
    """Give the results of every case in one process, and divided."""
    folder = tmp_path_factory.mktemp("equality")

    def config(case, kind, **training):
        name, lora = CASES[case]
        options = {"objective__name": name, "lora": lora, "training__max_steps": 2, "training__learning_rate": 1e-3}
        return config_of(folder / kind / case, **options, **{f"training__{k}": v for k, v in training.items()})

    runs = {(case, "whole"): results(tune(config(case, "whole")).out) for case in CASES}
    for kind, (training, ranks) in SPLITS.items():
        configs = {case: config(case, kind, batch_size=2, **training) for case in CASES}
        if ranks is None:
            runs |= {(case, kind): results(tune(one).out) for case, one in configs.items()}
            continue
        files = []
        for case, one in configs.items():
            files.append(folder / kind / f"{case}.yaml")
            files[-1].parent.mkdir(exist_ok=True)
            files[-1].write_text(dump_config(one))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(Path(__file__).with_name("ranks.py")), *ranks, *map(str, files)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr[-2000:]
        runs |= {(case, kind): results(one.out) for case, one in configs.items()}
    return runs


@pytest.mark.parametrize("kind", SPLITS)
@pytest.mark.parametrize("case", CASES)
def test_a_divided_step_is_the_whole_step(found, case, kind):
    (steps, weights), (expected, trained) = found[case, kind], found[case, "whole"]
    assert len(steps) == 2
    for a, b in zip(steps, expected, strict=True):
        assert a == pytest.approx(b, rel=5e-5)
    for name, weight in trained.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=2e-5)


def test_objectives_differ(found):
    losses = {case: found[case, "whole"][0][0][0] for case in CASES if case.endswith("full")}
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses)
