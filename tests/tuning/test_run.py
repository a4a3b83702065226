"""A tuning run: one step however it is split, resume, rejected configs, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from llm_tools import Sampled
from pydantic import ValidationError
from tests_paths import REPOSITORY

from bftembed.config import dump_config
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.base import Request
from bftembed.tuning.data import read_conversations
from bftembed.tuning.diagnostic import token_confidence
from bftembed.tuning.encoding import encode_all
from bftembed.tuning.run import _split, tune

torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig  # noqa: E402
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling  # noqa: E402

from bftembed.objectives import objective_loss  # noqa: E402
from bftembed.tuning.trainer import ObjectiveTrainer, _dataset_of, last_whole_checkpoint  # noqa: E402

OBJECTIVES = ["sft", "dft", "bft-token", "bft-sample", "bft", "bft-v1"]


def curve(out):
    log = json.loads((Path(out) / "log.json").read_text())
    return [(line["loss"], line["grad_norm"], line["nll"]) for line in log if "loss" in line]


def weights(out):
    return load_file(Path(out) / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(config_of, tmp_path_factory):
    return curve(tune(config_of(tmp_path_factory.mktemp("whole") / "run")).out)


def test_accumulated_batches_are_the_step_of_one_batch(make_config, whole):
    split = tune(make_config(training__batch_size=2, training__accumulate=2))
    for a, b in zip(curve(split.out), whole, strict=True):
        assert a == pytest.approx(b, rel=2e-5)


def test_packed_rows_are_the_step_of_one_batch(make_config, tmp_path, tiny_model, pairs_file):
    four = tmp_path / "four.jsonl"
    four.write_text("".join(pairs_file.read_text().splitlines(keepends=True)[:4]))
    one = tune(make_config(out=str(tmp_path / "a"), data__train=str(four)))
    packed = tune(make_config(data__train=str(four), data__max_length=512, data__packing=True, training__batch_size=1))
    assert json.loads((Path(packed.out) / "log.json").read_text())[0]["samples"] == 4
    for a, b in zip(curve(packed.out), curve(one.out), strict=True):
        assert a == pytest.approx(b, rel=2e-5)


def test_two_ranks_are_the_step_of_one_batch(make_config, whole, tmp_path):
    file = tmp_path / "ranks.yaml"
    config = make_config(training__batch_size=2)
    file.write_text(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(REPOSITORY / "training" / "finetune.py"), "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    log = json.loads((Path(config.out) / "log.json").read_text())
    assert log[0]["samples"] == 4, "both ranks took part"
    for a, b in zip(curve(config.out), whole, strict=True):
        assert a == pytest.approx(b, rel=2e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_first_loss_is_the_objective_of_the_first_batch(objective, make_config, tiny_model):
    """Held to full logits and `objective_loss` on the rows that the log names by their number of tokens."""
    config = make_config(objective__name=objective, training__max_steps=1, training__batch_size=24)
    report = tune(config)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).double()
    rows = encode_all(
        read_conversations(config.data.train[0].path), AutoTokenizer.from_pretrained(tiny_model), max_length=256
    ).rows
    total = 0.0
    for row in rows:
        labels = torch.tensor([row.labels])[:, 1:]
        logits = model(torch.tensor([row.input_ids])).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        total += float(objective_loss(nll, labels != -100, objective, window=16).loss_sum)
    assert report.final["loss"] == pytest.approx(total / 24, rel=1e-5)


def test_trl_head_and_ours_take_the_same_steps(make_config, tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = encode_all(read_conversations(make_config().data.train[0].path), tokenizer, max_length=256).rows
    losses = {}
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}
    quiet |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}, "logging_steps": 1}
    for head in ("own", "trl"):
        arguments = SFTConfig(str(tmp_path / head), max_steps=3, per_device_train_batch_size=4, **quiet)
        trainer = ObjectiveTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            args=arguments,
            train_dataset=_dataset_of(rows),
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id),
            head=head,
            options={"window": 16},
        )
        trainer.train()
        losses[head] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses["own"] == pytest.approx(losses["trl"], rel=1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one(make_config, tmp_path):
    options = {"lora": {"rank": 4, "dropout": 0.1}, "training__max_steps": 4, "training__save_every": 2}
    straight = tune(make_config(out=str(tmp_path / "straight"), **options))

    class StopError(Exception):
        pass

    def stop_after_three(done, total, note):
        if done == 3:
            raise StopError

    config = make_config(**options)
    with pytest.raises(StopError):
        tune(config, progress=stop_after_three)
    assert last_whole_checkpoint(Path(config.out) / "checkpoints").name == "checkpoint-2"
    steps = []
    resumed = tune(config, progress=lambda done, total, note: steps.append(done))
    assert steps == [3, 4]
    assert curve(resumed.out) == curve(straight.out)
    a, b = weights(resumed.out), weights(straight.out)
    assert all((a[name] == b[name]).all() for name in b)


def test_a_killed_run_goes_on_and_a_cut_checkpoint_is_passed_over(make_config, tmp_path):
    straight = tune(make_config(out=str(tmp_path / "straight"), training__max_steps=24, training__save_every=4))
    config = make_config(training__max_steps=24, training__save_every=4)
    file = tmp_path / "killed.yaml"
    file.write_text(dump_config(config))
    command = [sys.executable, str(REPOSITORY / "training" / "finetune.py"), "--config", str(file)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Path(config.out) / "checkpoints"
    while last_whole_checkpoint(folder) is None:
        assert running.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (Path(config.out) / "model").exists()
    newest = last_whole_checkpoint(folder)
    cut = folder / f"checkpoint-{int(newest.name.split('-')[1]) + 1}"
    cut.mkdir(exist_ok=True)
    (cut / "model.safetensors").write_bytes(b"cut short")
    resumed = tune(config)
    a, b = weights(resumed.out), weights(straight.out)
    assert all((a[name] == b[name]).all() for name in b)


def test_a_signal_leaves_a_checkpoint(make_config, tmp_path):
    config = make_config(training__max_steps=100)

    def signal_at_two(done, total, note):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        tune(config, progress=signal_at_two)
    assert last_whole_checkpoint(Path(config.out) / "checkpoints").name in ("checkpoint-2", "checkpoint-3")


def test_a_finished_run_is_not_repeated_and_another_is_refused(make_config):
    first = tune(make_config())
    again = tune(make_config(), progress=lambda *_: pytest.fail("it trained again"))
    assert again.seconds == 0
    assert again.final == first.final
    with pytest.raises(BftembedError, match=r"differs in objective\.name"):
        tune(make_config(objective__name="sft"))


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_the_exported_model_is_the_trained_one_and_generates(lora, make_config):
    report = tune(make_config(lora=lora, data__eval_fraction=0.25, training__learning_rate=0.05))
    generator = Sampled(f"transformers:{report.model},max_new_tokens=4,dtype=fp32")
    (answer,) = generator.generate([Request("0" * 64, ({"role": "user", "content": "What is G1?"},))])
    assert answer.finish_reason in ("stop", "length")
    tokenizer = AutoTokenizer.from_pretrained(report.model)
    config = make_config()
    _, held_out = _split(read_conversations(config.data.train[0].path), 0.25, 0)
    rows = encode_all(held_out, tokenizer, max_length=256).rows
    found = token_confidence(AutoModelForCausalLM.from_pretrained(report.model), rows)
    assert report.final["eval_nll"] == pytest.approx(np.mean([-np.log(c).mean() for c in found]), rel=1e-4)
    card = (Path(report.model) / "README.md").read_text()
    assert "tuned with bft" in card
    names = {p.name for p in Path(report.model).iterdir()}
    assert not names & {"training_args.bin", "optimizer.pt"}


def test_bf16_and_checkpointed_activations_train(make_config, whole):
    report = tune(make_config(training__precision="bf16", training__gradient_checkpointing=True))
    for a, b in zip(curve(report.out), whole, strict=True):
        assert a[0] == pytest.approx(b[0], rel=0.05)


def test_the_window_follows_the_responses_unless_the_config_names_one(make_config, tmp_path):
    named = tune(make_config(objective={"window": 256}, training__max_steps=1))
    assert named.window == 256
    assert named.final["share_short"] == 1
    assert any("the window does nothing" in w for w in named.warnings)
    long = tmp_path / "long.jsonl"
    rows = [{"prompt": "q", "completion": "the gene " * n} for n in (40, 40, 2)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"objective": {}, "data__max_length": 512, "training__max_steps": 1}
    for name, data, window in (("short", None, 32), ("long", str(long), 256)):
        given = options | ({"data__train": data} if data else {})
        report = tune(make_config(tmp_path / name, **given))
        assert report.window == window
        assert f"Window g: {window} tokens, by the length" in (Path(report.model) / "README.md").read_text()
        assert json.loads((Path(report.model) / "bftembed.json").read_text())["report"]["window"] == window


def test_what_the_weights_cannot_follow_is_an_error(make_config, tmp_path):
    with pytest.raises(BftembedError, match="head"):
        tune(make_config(lora={"target_modules": ["q_proj", "lm_head"]}))
    with pytest.raises(ValidationError, match="smoothing"):
        make_config(training__label_smoothing=0.1)
    with pytest.raises(BftembedError, match="smoothing"):
        ObjectiveTrainer(args=SFTConfig(str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, bf16=False))


def test_another_objective_differs_from_the_config_in_it_and_the_folder_alone(make_config):
    config = make_config(training__max_steps=1)
    report = tune(config, objective="dft")
    assert report.out == f"{config.out}-dft"
    record, expected = json.loads((Path(report.model) / "bftembed.json").read_text())["config"], config.model_dump()
    assert record["objective"].pop("name") == "dft"
    assert expected["objective"].pop("name") == "bft"
    assert (record.pop("out"), expected.pop("out")) == (report.out, config.out)
    assert record == expected
    with pytest.raises(BftembedError, match=r"objective\.name"):
        tune(config, objective="bftt")


def test_the_head_is_that_of_the_config(make_config, tmp_path, whole):
    found = tune(make_config(training__head="trl"))
    for a, b in zip(curve(found.out), whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    own = make_config(tmp_path / "own", training__head="own")
    model = AutoModelForCausalLM.from_pretrained(own.model)
    model.config.logit_scale = 2.0
    model.save_pretrained(tmp_path / "scaled")
    AutoTokenizer.from_pretrained(own.model).save_pretrained(tmp_path / "scaled")
    with pytest.raises(BftembedError, match="logit_scale"):
        tune(own.model_copy(update={"model": str(tmp_path / "scaled")}))


def test_trackers_that_are_not_there_are_errors_before_the_run(make_config, monkeypatch):
    with pytest.raises(UnknownNameError):
        tune(make_config(training__report_to=["tensorbord"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *package: None)
    with pytest.raises(BftembedError, match="tensorboard"):
        tune(make_config(training__report_to=["tensorboard"]))


def test_a_run_that_failed_at_its_data_can_be_repeated_but_no_other_folder_taken(make_config, tmp_path):
    with pytest.raises(BftembedError, match="max_length"):
        tune(make_config(data__max_length=40))
    assert tune(make_config(training__max_steps=1)).steps == 1
    (tmp_path / "other" / "model").mkdir(parents=True)
    with pytest.raises(BftembedError, match="something else"):
        tune(make_config(tmp_path / "other"))
