"""The estimate before the start, held to real models, real memory and published figures."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError

torch, trl = pytest.importorskip("torch"), pytest.importorskip("trl")

from peft import LoraConfig, get_peft_model  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig  # noqa: E402

from bftembed.tuning.estimate import estimate  # noqa: E402
from bftembed.tuning.head import adapted_modules  # noqa: E402
from bftembed.tuning.run import tune  # noqa: E402

#: Prints the estimate of a run in GB, and the memory that its second step had come to.
PEAK = """
import json, resource, sys
import torch, trl, peft, transformers
from bftembed.config import load_config
from bftembed.tuning import estimate, run, trainer
config = load_config(sys.argv[1])
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
peaks = []
def note(done, total, text):
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
estimated = run.tune(config, dry_run=True).estimate.memory["total"]
run.tune(config, progress=note)
print(json.dumps([estimated, (peaks[1] - before) / 1e9]))
"""


def test_a_dry_run_counts_rows_steps_and_parameters_and_writes_nothing(make_config, tiny_model):
    config = make_config(training__max_steps=None, training__epochs=2.0, training__accumulate=2)
    report = tune(config, dry_run=True, devices=2, flops=1e9)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert report.estimate.parameters == report.estimate.trained == sum(p.numel() for p in model.parameters())
    assert (report.rows["train"], report.steps) == (24, 4)
    assert report.window == 16
    seconds = report.estimate.flops_per_step * 4 / 2 / 1e9
    assert report.estimate.hours == pytest.approx(seconds / 3600, abs=0.005)
    assert tune(config, dry_run=True).estimate.hours is None
    done = tune(make_config())
    assert done.estimate is None
    assert done.rows == report.rows


def test_a_dry_run_needs_neither_weights_nor_tokenizer(make_config, tiny_model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((tiny_model / "config.json").read_text())
    config = make_config(model=str(tmp_path / "bare"))
    report = tune(config, dry_run=True)
    assert report.estimate.tokens_per_step == 4 * 256
    assert report.rows == {"train": 24}
    assert any("tokenizer" in warning for warning in report.warnings)
    assert not (tmp_path / "run").exists()
    with pytest.raises(BftembedError, match="config"):
        tune(make_config(model=str(tmp_path)), dry_run=True)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*layers\.1\..*_proj"])
def test_adapters_are_those_of_peft(make_config, tiny_model, targets):
    lora = {"rank": 4, "target_modules": targets}
    found = tune(make_config(lora=lora), dry_run=True).estimate
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    modules = adapted_modules(base, targets)
    peft = get_peft_model(base, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    named = {
        name.split(".lora_A")[0].removeprefix("base_model.model.")
        for name, _ in peft.named_parameters()
        if "lora_A" in name
    }
    assert set(modules) == named
    assert found.trained == peft.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("targets", ["q_pro", r".*(", ["gate"], "lm_head", r".*lm_head|.*q_proj", ["lm_head"]])
def test_targets_that_fit_nothing_or_the_head_are_errors(make_config, targets):
    with pytest.raises(BftembedError, match="target_modules"):
        tune(make_config(lora={"target_modules": targets}))


def estimated(config, model_config, length, **changes):
    options = {"steps": 1, "bf16": False, "devices": 1, "flops": None}
    return estimate(config, model_config, [length] * 4, 4 * length, **{**options, **changes})


def test_activations_and_operations_are_those_of_the_real_model(make_config, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    ids, mask = torch.zeros(4, 64, dtype=torch.long), torch.ones(4, 64)
    mask[0, -1] = 0  # a padded batch
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hidden = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.sum().backward()
        model.lm_head(hidden)  # our head computes its logits twice
    found = estimated(make_config(), AutoConfig.from_pretrained(tiny_model), 64)
    assert found.memory["activations"] * 1e9 == pytest.approx(sum(n for n, _ in kept.values()), rel=1e-3)
    assert found.flops_per_step == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_shards_checkpoints_and_adapters_save_what_they_save(make_config):
    model = LlamaConfig(
        hidden_size=512, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8, vocab_size=4096
    )
    one = estimated(make_config(), model, 256)
    eight = estimated(make_config(), model, 256, devices=8)
    for part in ("weights", "gradients", "optimizer"):
        assert eight.memory[part] == pytest.approx(one.memory[part] / 8, abs=0.001)
    assert eight.memory["gathered"] > 0 == one.memory["gathered"]
    assert eight.tokens_per_step == 8 * one.tokens_per_step
    less = estimated(make_config(training__gradient_checkpointing=True), model, 256)
    assert less.memory["activations"] < one.memory["activations"] / 4
    assert 1.25 < less.flops_per_step / one.flops_per_step < 1.34
    lora = estimated(make_config(lora={"rank": 8}), model, 256, bf16=True)
    assert lora.memory["weights"] == pytest.approx(one.memory["weights"] / 2, abs=0.001)
    assert lora.memory["optimizer"] < one.memory["optimizer"] / 20


@pytest.mark.slow
def test_70b_is_as_published(make_config):
    """LLaMA-Factory's table says 1.2 TB; 80 GB devices held 1/16 of Llama 2 70B in Hugging Face's run with FSDP."""
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    options = {"training__gradient_checkpointing": True, "training__batch_size": 1}
    llama_3 = LlamaConfig(**shape, num_key_value_heads=8, vocab_size=128256)
    found = estimated(make_config(**options), llama_3, 2048, bf16=True)
    assert found.parameters == 70_553_706_496
    assert sum(found.memory[part] for part in ("weights", "gradients", "optimizer")) == pytest.approx(1129, rel=0.01)
    assert found.memory["total"] == pytest.approx(1200, rel=0.1)
    llama_2 = LlamaConfig(**shape, num_key_value_heads=8, vocab_size=32000)
    found = estimated(make_config(**options), llama_2, 2048, bf16=True, devices=16, steps=500, flops=1.2e13)
    assert 69 < found.memory["total"] < 86
    # 13.5 hours between two hosts: 1.2e13 operations per second and device, 4 % of an A100's peak.
    assert found.hours == pytest.approx(13.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(("checkpointing", "lora"), [(False, None), (True, None), (False, {"rank": 8})])
def test_the_peak_of_a_real_step_is_near_the_estimate(make_config, tmp_path, checkpointing, lora):
    from bftembed.config import dump_config

    rng, file = random.Random(0), tmp_path / "rows.jsonl"
    words = ["gene", "cell", "the", "protein", "kinase"]
    rows = [{"prompt": f"{i} what", "completion": " ".join(rng.choices(words, k=200 - i))} for i in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"training__gradient_checkpointing": checkpointing, "training__max_steps": 2, "lora": lora}
    model = "builtin:smollm2-135m-instruct"
    config = make_config(model=model, data__train=str(file), data__max_length=512, **options)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    found, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.7 < found / measured < 1.2
