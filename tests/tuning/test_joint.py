"""Joint sets: the order of their rows, measures of each, resume, and weights that make no sense."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.config import TuneConfig, dump_config, load_config
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tuning.encoding import mixed_order

pytest.importorskip("trl")

from bftembed.tuning.run import tune


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0.1, 9)), min_size=1, max_size=4), st.integers(1, 120))
def test_sets_give_their_shares_and_no_row_comes_again_before_all_have_come(sets, total):
    rows, weights = [n for n, _ in sets], np.array([w for _, w in sets])
    order = mixed_order(rows, weights / weights.sum(), total, 3)
    assert len(order) == total
    start = 0
    for n, share in zip(rows, weights / weights.sum(), strict=True):
        drawn = order[(order >= start) & (order < start + n)]
        start += n
        assert abs(len(drawn) - share * total) <= 1
        for first in range(0, len(drawn), n):
            assert len(set(drawn[first : first + n])) == len(drawn[first : first + n])


def test_every_step_has_about_the_shares_and_passes_differ():
    order = mixed_order([30, 1000], [0.25, 0.75], 800, 0)
    of_first = (order < 30).reshape(-1, 16).sum(1)
    assert of_first.sum() == 200
    assert set(of_first) <= {2, 3, 4, 5, 6}
    small = order[order < 30]
    assert not np.array_equal(small[:30], small[30:60])
    assert np.array_equal(order, mixed_order([30, 1000], [0.25, 0.75], 800, 0))


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    """Give a small and a larger set whose rows have 3 and 20 learnt tokens, end token included."""
    folder, rng = tmp_path_factory.mktemp("sets"), random.Random(0)
    for name, n, length in (("short", 6, 2), ("long", 30, 19)):
        rows = [
            {"prompt": f"What is {rng.choice('ABC')}{i}?", "completion": "".join(rng.choices("acgt", k=length))}
            for i in range(n)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def joint(make_config, two_sets):
    def make(out=None, short=None, long=None, **changes):
        sets = [
            {"path": str(two_sets / "short.jsonl"), **(short or {})},
            {"path": str(two_sets / "long.jsonl"), **(long or {})},
        ]
        return make_config(out, **{"data__train": sets, **changes})

    return make


def log_of(report):
    return json.loads((Path(report.out) / "log.json").read_text())


def shares(report):
    """Return the share of samples of the short set in each step, from the numbers of learnt tokens."""
    return [(20 - line["tokens"] / line["samples"]) / 17 for line in log_of(report) if "loss" in line]


def test_a_step_is_one_batch_of_both_sets_by_their_weights(joint):
    options = {"training__max_steps": 6, "training__batch_size": 8}
    report = tune(joint(short={"weight": 1}, long={"weight": 3}, **options))
    found = shares(report)
    assert np.mean(found) == pytest.approx(0.25)
    assert {round(share * 8) for share in found} <= {1, 2, 3}
    assert report.sets["short"] == {"train": 6, "eval": 0, "dropped": 0, "truncated": 0, "empty": 0, "passes": 2.0}
    assert report.sets["long"]["passes"] == 1.2
    assert report.rows["train"] == 36


def test_without_weights_an_epoch_has_every_row_once(joint):
    report = tune(joint(training__max_steps=None, training__batch_size=6, training__epochs=1.0))
    assert report.steps == 6
    assert {name: one["passes"] for name, one in report.sets.items()} == {"short": 1.0, "long": 1.0}
    assert sum(line["tokens"] for line in log_of(report) if "loss" in line) == 6 * 3 + 30 * 20
    assert report.warnings == ()


def test_weights_are_those_of_samples_in_packed_rows_too(joint):
    report = tune(joint(short={"weight": 1}, long={"weight": 1}, data__packing=True, training__epochs=4.0,
                        training__max_steps=None, training__batch_size=2))  # fmt: skip
    lines = [line for line in log_of(report) if "loss" in line]
    tokens, samples = (sum(line[key] for line in lines) for key in ("tokens", "samples"))
    assert (20 - tokens / samples) / 17 == pytest.approx(0.5, abs=0.12)
    assert report.sets["short"]["passes"] > 4 * report.sets["long"]["passes"]
    assert any("short" in warning for warning in report.warnings)


def test_each_set_has_its_held_out_rows_and_measures(joint, two_sets):
    report = tune(joint(short={"eval": str(two_sets / "long.jsonl")}, long={"name": "acgt"}, data__eval_fraction=0.2))
    assert {name: (one["train"], one["eval"]) for name, one in report.sets.items()} == {
        "short": (6, 30),
        "acgt": (24, 6),
    }
    assert report.final["eval_short_samples"] == 30
    assert report.final["eval_acgt_samples"] == 6
    assert report.final["eval_acgt_nll"] > 0
    assert "eval_nll" not in report.final
    assert "| eval_short_nll | eval_acgt_nll |" in (Path(report.model) / "README.md").read_text()
    again = tune(joint(short={"eval": str(two_sets / "long.jsonl")}, long={"name": "acgt"}, data__eval_fraction=0.2))
    assert (again.seconds, again.sets) == (0, report.sets)


def test_a_resumed_joint_run_equals_an_uninterrupted_one(joint, tmp_path):
    options = {"training__max_steps": 14, "training__save_every": 5, "training__accumulate": 2}
    weights = {"short": {"weight": 2}, "long": {"weight": 1}}
    straight = tune(joint(tmp_path / "straight", **weights, **options))

    class StopError(Exception):
        pass

    def stop(done, total, note):
        if done == 12:
            raise StopError

    with pytest.raises(StopError):
        tune(joint(**weights, **options), progress=stop)
    steps = []
    resumed = tune(joint(**weights, **options), progress=lambda done, total, note: steps.append(done))
    assert steps[0] == 11
    assert log_of(resumed) == log_of(straight)


def test_another_weight_or_file_is_another_run(joint, two_sets, tmp_path):
    tune(joint(short={"weight": 1}, long={"weight": 3}, training__max_steps=1))
    with pytest.raises(BftembedError, match=r"data\.train\.1\.weight"):
        tune(joint(short={"weight": 1}, long={"weight": 4}, training__max_steps=1))
    other = tmp_path / "long.jsonl"
    other.write_text((two_sets / "long.jsonl").read_text())
    options = {"short": {"weight": 1}, "training__max_steps": 1}
    assert tune(joint(long={"weight": 3, "path": str(other)}, **options)).seconds == 0
    other.write_text(other.read_text() + '{"prompt": "p", "completion": "c"}\n')
    with pytest.raises(BftembedError, match=r"data_sha256\.long\.train"):
        tune(joint(long={"weight": 3, "path": str(other)}, **options))


def test_a_set_without_a_place_in_the_run_is_an_error(joint):
    with pytest.raises(BftembedError, match="'short'"):
        tune(joint(short={"weight": 1e-3}, long={"weight": 1}))


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        ([{"path": "a.jsonl", "weight": 0}, {"path": "b.jsonl", "weight": 1}], "data.train.0.weight"),
        ([{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": -1}], "data.train.1.weight"),
        ([{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl"}], "data"),
        ([{"path": "a.jsonl"}, {"path": "x/a.jsonl"}], "data"),
        ([{"path": "a.jsonl", "eval": "e.jsonl", "eval_fraction": 0.1}], "data.train.0"),
        ([], "data.train"),
    ],
)
def test_sets_that_make_no_sense_are_errors_of_their_key(sets, key, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"recipe": "tune", "data": {"train": sets}}))
    with pytest.raises(BftembedError, match=f"key '{key}':"):
        load_config(file)


def test_a_misspelt_key_of_a_set_is_named_and_a_path_is_a_set(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("recipe: tune\ndata:\n  train:\n    - {path: a.jsonl, wieght: 2}\n")
    with pytest.raises(UnknownNameError, match=r"data\.train\.0\.weight"):
        load_config(file)
    file.write_text("recipe: tune\ndata: {train: x/a.jsonl.gz}\n")
    config = load_config(file, TuneConfig)
    assert (config.data.train[0].path, config.data.train[0].name) == ("x/a.jsonl.gz", "a")
    file.write_text(dump_config(config))
    assert load_config(file) == config
