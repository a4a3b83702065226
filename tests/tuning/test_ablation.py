"""The grid and the rows of the window sweep."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import yaml
from tests_paths import REPOSITORY

pytest.importorskip("torch")

from bftembed.config import TuneConfig
from bftembed.tuning.data import Conversation, Turn, write_conversations
from bftembed.tuning.diagnostic import objective_weights

TRAINING = REPOSITORY / "training"


@pytest.fixture
def script():
    found = runpy.run_path(str(TRAINING / "ablation.py"))
    found["SETTINGS"].update(yaml.safe_load((TRAINING / "window_sweep.yaml").read_text()))
    return found


def test_every_objective_at_every_window_at_equal_rate_and_equal_weight(script):
    grid = script["sweep"]([0, 1])
    assert len(grid) == 2 * (1 + 2 + 3 * 6 * 2)
    found = {(r["name"], r["window"], r["equal_mean_weight"]) for r in grid.values()}
    assert {(n, g, e) for n in ("bft", "bft-token", "bft-sample") for g in (16, 512) for e in (False, True)} <= found
    assert ("sft", 256, True) not in found
    assert len({(r["label"], r["seed"]) for r in grid.values()}) == len(grid)
    TuneConfig.model_validate({"data": {"train": "x"}, "training": script["SETTINGS"]["recipe"]})


def test_rows_of_several_genes(script):
    pairs = [Conversation(f"f:{i}", (Turn("user", f"Tell me of G{i}."), Turn("assistant", f"t{i}"))) for i in range(5)]
    first, second = script["joined"](pairs, 2)
    assert [t.content for t in first.turns] == ["Tell me about the genes G0, G1.", "t0\n\nt1"]
    assert second.turns[1].content == "t2\n\nt3"
    assert script["joined"](pairs, 1) == pairs


def test_mean_weight_is_that_of_the_untuned_model_s_confidences(script, tmp_path):
    pairs = [Conversation("", (Turn("user", "a"), Turn("assistant", "b")))]
    write_conversations(pairs, tmp_path / "train.jsonl")
    confidences = [np.linspace(0.1, 0.9, 40), np.full(30, 0.5)]
    np.savez(tmp_path / "train.npz", *confidences)  # as an earlier run kept them
    found = script["mean_weight"](tmp_path / "train.jsonl", "dft", {"window": 8})
    assert found == pytest.approx(np.concatenate(confidences).mean())
    assert script["mean_weight"](tmp_path / "train.jsonl", "sft", {"window": 8}) == 1
    of_bft = objective_weights(confidences, "bft", window=8)
    assert of_bft[-1] == pytest.approx(0.5)  # alike: w = 1, s = 1 - .5
    assert script["mean_weight"](tmp_path / "train.jsonl", "bft", {"window": 8}) == pytest.approx(of_bft.mean())
