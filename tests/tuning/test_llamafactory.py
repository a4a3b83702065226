"""The export for LLaMA-Factory: its files, and the hook inside a stand-in for its SFT trainer."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import pytest
import yaml
from tests_paths import REPOSITORY

from bftembed.tuning.data import read_conversations

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainer, Seq2SeqTrainingArguments  # noqa: E402

from bftembed.objectives import objective_loss  # noqa: E402

FOLDER = REPOSITORY / "training" / "llamafactory"
VOCABULARY = 128
OPTIONS = {"window": 4, "sample_coefficient": "one_minus_min", "eps": 1e-6, "clip": False}


def module_of(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exporter():
    return module_of(FOLDER / "export.py")


def test_the_folder_holds_data_and_settings(exporter, make_config, pairs_file, tmp_path):
    config = make_config(
        data__eval=str(pairs_file), data__over_long="truncate", data__thinking="on", training__accumulate=4
    )
    assert len(exporter.export(config, tmp_path / "out")) == 2  # precision and threads have no key
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    for name in ("train", "eval"):
        written = read_conversations(tmp_path / "out" / f"{name}.json")
        assert [c.turns for c in written] == [c.turns for c in read_conversations(pairs_file)]
        assert info[f"bftembed_{name}"]["file_name"] == f"{name}.json"
    settings = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    expected = {
        "model_name_or_path": config.model,
        "finetuning_type": "full",
        "eval_dataset": "bftembed_eval",
        "template": None,
        "cutoff_len": 256,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "learning_rate": 0.01,
        "max_steps": 3,
        "bf16": False,
    }
    assert {key: settings[key] for key in expected} == expected


# ---- the hook, in a tree of modules like LLaMA-Factory's


class CustomSeq2SeqTrainer(Seq2SeqTrainer):
    """What LLaMA-Factory 0.9.5 adds to the trainer of transformers, as far as the loss goes."""

    def __init__(self, finetuning_args=None, processor=None, **kwargs):
        super().__init__(**kwargs)
        if processor is not None:
            self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.fixture
def hook(exporter, make_config, tmp_path, monkeypatch):
    """Import an exported hook as Python would with LLaMA-Factory installed."""
    tree = {"llamafactory": {}, "llamafactory.train": {}, "llamafactory.train.sft": {}}
    tree["llamafactory.train.sft.workflow"] = {"CustomSeq2SeqTrainer": CustomSeq2SeqTrainer}
    tree["llamafactory.train.tuner"] = {"run_exp": lambda: None}
    for name, values in tree.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    exporter.export(make_config(objective={"name": "bft", **OPTIONS}), tmp_path / "exported")
    return module_of(tmp_path / "exported" / "bft_hook.py")


def samples(n):
    """Return samples of 6 to 20 tokens after a prompt of 2 or more; the third has nothing to learn."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        ids = torch.randint(3, VOCABULARY, (6 + (5 * i) % 15,), generator=draw)
        labels = ids.clone()
        labels[: 2 + i % 4 if i != 2 else None] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made


def collate(rows):
    def padded(key, value):
        return torch.nn.utils.rnn.pad_sequence([r[key] for r in rows], batch_first=True, padding_value=value)

    lengths = torch.tensor([len(r["input_ids"]) for r in rows])
    mask = (torch.arange(max(lengths)) < lengths[:, None]).long()
    return {"input_ids": padded("input_ids", 0), "attention_mask": mask, "labels": padded("labels", -100)}


def trainer_of(hook, tmp_path, *, batch=1, accumulate=1, rows=None, processor=None):
    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate, "max_steps": 1}
    settings |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    args = Seq2SeqTrainingArguments(str(tmp_path / "trained"), remove_unused_columns=False, **settings)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    given = {"args": args, "data_collator": collate, "train_dataset": rows or samples(4), "processor": processor}
    return hook.Trainer(model=LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)), **given)


def loss_by_hand(model, rows):
    """Return the loss of single rows, without padding."""
    total, n = 0, 0
    for row in rows:
        nll = cross_entropy(model(input_ids=row["input_ids"][None]).logits[0, :-1], row["labels"][1:], reduction="none")
        part = objective_loss(nll, row["labels"][1:] != -100, "bft", **OPTIONS)
        total, n = total + part.loss_sum, n + int(part.n_samples)
    return total / n


def test_a_step_is_the_mean_over_its_samples_however_it_is_accumulated(hook, tmp_path):
    for batch, accumulate, processor in ((4, 1, None), (2, 2, object()), (1, 4, None)):
        trainer = trainer_of(hook, tmp_path, batch=batch, accumulate=accumulate, processor=processor)
        expected = loss_by_hand(trainer.model, samples(4))
        expected.backward()
        norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
        trainer.model.zero_grad()
        trainer.train()
        line = trainer.state.log_history[0]
        assert line["loss"] == pytest.approx(float(expected), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_packed_conversations_are_samples_of_their_own(hook, tmp_path):
    rows = [samples(8)[i] for i in (0, 1, 3)]
    packed = {key: torch.cat([r[key] for r in rows])[None] for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(len(r["input_ids"])) for r in rows])[None]
    trainer = trainer_of(hook, tmp_path)
    _, n = trainer.get_batch_samples(iter([packed]), 1, torch.device("cpu"))
    assert int(n) == 3
    # With positions and no mask, transformers keeps attention within each conversation.
    found = trainer.compute_loss(trainer.model.train(), packed, num_items_in_batch=n)
    torch.testing.assert_close(found, loss_by_hand(trainer.model, rows), rtol=1e-5, atol=1e-5)
