"""GRPO: what is rewarded is learnt, resume, what is said before, what is an error."""

from __future__ import annotations

import json

import pytest

from bftembed.config import GrpoConfig

torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl")

from bftembed.tasks.llm.grpo import grpo  # noqa: E402
from bftembed.tasks.llm.rewards import REWARDS  # noqa: E402


def even(question, answer, grade):
    """Share of letters of even code in an answer: a reward that a random model has a spread of."""
    return sum(ord(letter) % 2 == 0 for letter in answer.text) / max(len(answer.text), 1)


def broken(question, answer, grade):
    raise ZeroDivisionError("oh")


def nothing(question, answer, grade):
    return 0.0


@pytest.fixture
def rewards(monkeypatch):
    for name in ("even", "broken", "nothing"):
        monkeypatch.setitem(REWARDS.entries, name, f"test_grpo:{name}")


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory):
    """Give 12 training and 6 held-out questions."""
    rows = [
        {"prompt": f"Is G{i} on?", "answer": ("yes", "no")[i % 2], "options": ["yes", "no"], "split": split}
        for i, split in enumerate(["train"] * 12 + ["test"] * 6)
    ]
    file = tmp_path_factory.mktemp("grpo") / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def make(tiny_model, questions_file, tmp_path, rewards):
    """Make a `GrpoConfig` on the tiny model."""

    def of(out="run", training=(), **changes):
        values = {
            "model": str(tiny_model),
            "out": str(tmp_path / out),
            "questions": str(questions_file),
            "held_out": 0,
            "rewards": {"even": 1.0},
            "training": {
                **{"precision": "fp32", "learning_rate": 0.003, "batch_size": 8, "num_generations": 4},
                **{"max_completion_length": 6, "max_steps": 3, "threads": 1, "schedule": "constant"},
                **dict(training),
            },
        }
        return GrpoConfig.model_validate(values | changes)

    return of


def log_of(report, name="reward"):
    return [line[name] for line in json.loads((report.tmp / "log.json").read_text())]


def lines(out):
    return json.loads((out / "log.json").read_text())


def test_what_is_rewarded_is_learnt(make, tmp_path):
    report = grpo(make(training={"max_steps": 40}))
    reward = [line["reward"] for line in lines(tmp_path / "run")]
    print(reward, report)
