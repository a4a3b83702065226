"""GRPO: what is rewarded is learnt, resume, what is said before training, what is an error."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tests_paths import REPOSITORY

from bftembed.config import GrpoConfig, dump_config
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.base import Request
from bftembed.llm.chat import request_tokens
from bftembed.tuning.run import tune

torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from bftembed.tasks.llm.grpo import REWARDS, grpo  # noqa: E402
from bftembed.tuning.grpo import FLAT_STEPS, _dataset  # noqa: E402


def even(question, answer, grade):
    """Share of letters of even code: a random model's answers differ in it."""
    return sum(ord(letter) % 2 == 0 for letter in answer.text) / max(len(answer.text), 1)


def broken(question, answer, grade):
    raise ZeroDivisionError


def nothing(question, answer, grade):
    return 0.0


@pytest.fixture
def questions_file(tmp_path):
    """Give 12 training questions, two of them long, and 6 held-out ones."""
    rows = [
        {"prompt": f"Is G{i}{' very' * 8 * (i > 9)} on?", "answer": ("yes", "no")[i % 2], "options": ["yes", "no"]}
        for i in range(12)
    ]
    rows = [row | {"split": "train"} for row in rows]
    rows += [{"prompt": f"Is H{i} on?", "answer": ("yes", "no")[i % 2], "options": ["yes", "no"]} for i in range(6)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def make(tiny_model, questions_file, tmp_path, monkeypatch):
    """Make a `GrpoConfig` on the tiny model; `training` are changes of its training."""
    for name in ("even", "broken", "nothing"):
        monkeypatch.setitem(REWARDS.entries, name, f"test_grpo:{name}")

    def of(out="run", training=(), **changes):
        values = {
            "model": str(tiny_model),
            "out": str(tmp_path / out),
            "questions": str(questions_file),
            "held_out": 0,
            "rewards": {"even": 1.0},
        }
        options = {"precision": "fp32", "threads": 1, "learning_rate": 0.01, "schedule": "constant", "max_steps": 4}
        options |= {"batch_size": 8, "num_generations": 4, "max_completion_length": 4}
        return GrpoConfig.model_validate(values | {"training": options | dict(training)} | changes)

    return of


def log_of(report):
    return json.loads((Path(report.out) / "log.json").read_text())


def weights(report):
    return load_file(f"{report.model}/model.safetensors")


def test_what_is_rewarded_becomes_likely(make):
    reward = [line["reward"] for line in log_of(grpo(make(training={"max_steps": 30, "batch_size": 16})))]
    assert np.mean(reward[-6:]) > np.mean(reward[:6]) + 0.3


def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(make):
    whole = grpo(make("whole"))

    def stop(done, total, note):
        if done == 2 and total == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        grpo(make("stopped"), progress=stop)
    resumed = grpo(make("stopped"))
    assert [line["reward"] for line in log_of(resumed)] == [line["reward"] for line in log_of(whole)]
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_accuracy_before_and_after_and_what_training_starts_from(lora, make):
    report = grpo(make(held_out=4, lora=lora, rewards={"even": 1.0, "exact": 2.0}, training={"beta": 0.1}))
    assert report.questions == {"train": 12, "held_out": 4, "too_long": 0, "labels": {"no": 6, "yes": 6}}
    assert set(report.baselines) == {"always no", "chance"}
    for low, value, high in ((r[1], r[0], r[2]) for r in (report.before, report.after)):
        assert 0 <= low <= value <= high <= 1
    assert report.difference[0] == pytest.approx(report.after[0] - report.before[0])
    assert report.start["frac_reward_zero_std"] == 0
    assert 0 < report.start["reward"] < 1
    measured = {"reward", "kl", "parse_rate", "share_yes", "share_no", "entities", "connectives", "rewards/exact/mean"}
    assert measured <= log_of(report)[0].keys()
    start = load_file(f"{make().model}/model.safetensors")
    assert any(not torch.equal(one, start[name]) for name, one in weights(report).items())
    again = grpo(make(held_out=4, lora=lora, rewards={"even": 1.0, "exact": 2.0}, training={"beta": 0.1}))
    assert (again.seconds, again.after) == (0, report.after)


def test_another_run_or_a_tuning_in_the_folder_is_an_error(make, make_config, tmp_path):
    grpo(make(training={"max_steps": 1}))
    with pytest.raises(BftembedError, match=r"training\.beta"):
        grpo(make(training={"max_steps": 1, "beta": 0.5}))
    tune(make_config(tmp_path / "tuned", training__max_steps=1))
    with pytest.raises(BftembedError, match="recipe"):
        grpo(make("tuned"))


def test_it_starts_from_a_tuned_model(make, make_config, tmp_path):
    tuned = tune(make_config(tmp_path / "tuned", training__max_steps=1))
    assert grpo(make(model=tuned.model, training={"max_steps": 1})).steps == 1


def test_equal_rewards_are_said(make):
    told = []
    report = grpo(
        make(rewards={"nothing": 1.0}, training={"max_steps": FLAT_STEPS, "max_completion_length": 1}),
        progress=lambda *given: told.append(given[2]),
    )
    assert len(report.warnings) == 1
    assert report.start["frac_reward_zero_std"] == 1
    assert any("warning" in note for note in told)


def test_long_prompts_are_left_out_and_counted(make):
    report = grpo(make(training={"max_steps": 1, "max_prompt_length": 60}))
    assert (report.questions["train"], report.questions["too_long"], len(report.warnings)) == (10, 2, 1)
    with pytest.raises(BftembedError, match="All 12"):
        grpo(make("short", training={"max_prompt_length": 5}))


def test_a_reward_that_fails_is_named_with_its_question(make):
    with pytest.raises(BftembedError, match=r"'broken'.*questions:\d+.*ZeroDivisionError"):
        grpo(make(rewards={"broken": 1.0}))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rewards": {"exactt": 1.0}}, UnknownNameError),
        ({"training": {"trl": {"epsilonn": 0.1}}}, UnknownNameError),
        ({"training": {"trl": {"beta": 0.1}}}, BftembedError),
        ({"questions": "mmlu"}, BftembedError),
        ({"training": {"batch_size": 6}}, ValidationError),
    ],
)
def test_wrong_configs(changes, error, make):
    with pytest.raises(error):
        grpo(make(**changes))


def test_a_held_out_question_of_the_training_is_an_error(make, questions_file):
    rows = questions_file.read_text().splitlines()
    leaked = json.dumps({k: v for k, v in json.loads(rows[0]).items() if k != "split"})
    questions_file.write_text("\n".join([*rows, leaked]))
    with pytest.raises(BftembedError, match="training questions too"):
        grpo(make(held_out=100, balanced=False))


@pytest.mark.slow
def test_two_ranks_train_one_policy(make, tmp_path, monkeypatch, questions_file):
    config = make(held_out=4, rewards={"format": 1.0, "coin": 1.0}, training={"batch_size": 4})
    (tmp_path / "ranks.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(REPOSITORY / "training" / "finetune.py"), "--config", str(tmp_path / "ranks.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["steps"], report["before"]) == (4, None)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("reward", "learns"), [("exact", True), ("coin", False)])
def test_a_known_rule_is_learnt_and_a_coin_teaches_nothing(reward, learns, tmp_path):
    """Four minutes of CPU time each."""
    spec = importlib.util.spec_from_file_location("grpo_benchmark", REPOSITORY / "benchmarks" / "grpo.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    questions = str(benchmark.rule_questions(tmp_path / "rule.jsonl"))
    changes = {"rewards": {reward: 1.0}, "held_out": 60, "training": {"max_steps": 12}}
    report = grpo(benchmark.config_of(tmp_path / "run", questions, **changes))
    assert (report.difference[1] > 0) == learns


@pytest.mark.parametrize("template", [True, False])
def test_prompts_are_those_of_generation(template, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template if template else None
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is G1 on?"})
    trainer = trl.GRPOTrainer.__new__(trl.GRPOTrainer)
    trainer.processing_class, trainer._is_vlm, trainer.environment_factories = tokenizer, False, None
    trainer.tools, trainer.chat_template, trainer.chat_template_kwargs = None, None, {}
    sent = trainer._tokenize_prompts(_dataset([chat], tokenizer, 0)["prompt"][:])[0]
    assert list(sent[0]) == request_tokens(tokenizer, Request("", messages=chat), {})
