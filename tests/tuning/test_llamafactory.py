"""The export for LLaMA-Factory: its files, and the hook inside a stand-in for its SFT trainer."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import types

import pytest
import torch
import yaml
from tests_paths import REPOSITORY
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainer, Seq2SeqTrainingArguments

from bftembed.config import TuneConfig
from bftembed.errors import BftembedError
from bftembed.objectives import objective_loss
from bftembed.tuning.data import read_conversations
from bftembed.tuning.llamafactory import export_llamafactory, hook_code

VOCABULARY = 128
OBJECTIVE = {"name": "bft", "window": 4, "sample_coefficient": "one_minus_min", "eps": 1e-6, "clip": False}
ROWS = [
    {"messages": [{"role": "user", "content": "TP53?"}, {"role": "assistant", "content": "A tumour suppressor, p53."}]},
    {
        "messages": [
            {"role": "system", "content": "You are a biologist.\nBe “short”."},
            {"role": "user", "content": "CD4?"},
            {"role": "assistant", "content": "A co-receptor."},
            {"role": "user", "content": "Of what?"},
            {"role": "assistant", "content": "T cells, β → α."},
        ]
    },
    {"instruction": "INS?", "output": "Insulin."},
]


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Build a config on a data file and a model folder in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "model").mkdir()

    def build(**parts):
        parts = {"model": "model", **parts}
        return TuneConfig.model_validate({**parts, "data": {"train": "pairs.jsonl", **parts.get("data", {})}})

    return build


def settings_of(export):
    return yaml.safe_load((export.folder / "train.yaml").read_text(encoding="utf-8"))


# The files


def test_the_data_file_holds_the_conversations_unchanged(configured):
    export = export_llamafactory(configured(data={"eval": "pairs.jsonl"}), "out")
    for name in ("train", "eval"):
        written = read_conversations(export.folder / f"{name}.json")
        assert [c.turns for c in written] == [c.turns for c in read_conversations("pairs.jsonl")]
    assert all(file.is_file() for file in export.files)


def test_dataset_info_describes_the_data_file_as_it_is(configured):
    export = export_llamafactory(configured(), "out")
    info = json.loads((export.folder / "dataset_info.json").read_text())
    assert list(info) == [settings_of(export)["dataset"]]
    (entry,) = info.values()
    assert entry["formatting"] == "sharegpt"
    rows = json.loads((export.folder / entry["file_name"]).read_text(encoding="utf-8"))
    for row in rows:
        for turn in row[entry["columns"]["messages"]]:
            assert set(turn) == {entry["tags"]["role_tag"], entry["tags"]["content_tag"]}
            assert turn["role"] in {entry["tags"][f"{who}_tag"] for who in ("system", "user", "assistant")}


def test_train_yaml_of_full_tuning(configured, tmp_path):
    training = {
        "batch_size": 2,
        "accumulate": 4,
        "max_steps": 30,
        "learning_rate": 2e-5,
        "precision": "bf16",
        "seed": 7,
    }
    export = export_llamafactory(configured(training=training, data={"max_length": 512}), "out")
    assert settings_of(export) == {
        "model_name_or_path": str(tmp_path / "model"),
        "flash_attn": "sdpa",
        "disable_gradient_checkpointing": True,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset_dir": ".",
        "dataset": "bftembed_train",
        "template": None,
        "cutoff_len": 512,
        "packing": False,
        "overwrite_cache": True,
        "output_dir": "trained",
        "logging_steps": 1,
        "save_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-5,
        "num_train_epochs": 1.0,
        "max_steps": 30,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": True,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"lora": {"rank": 8, "alpha": 16.0, "dropout": 0.1}},
            {"finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1, "lora_target": "all"},
        ),
        ({"lora": {"target_modules": ["q_proj", "v_proj"]}}, {"lora_target": "q_proj,v_proj"}),
        ({"training": {"gradient_checkpointing": True}}, {"disable_gradient_checkpointing": False}),
        ({"training": {"schedule": "constant"}}, {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.03}),
        ({"training": {"schedule": "constant", "warmup_ratio": 0.0}}, {"lr_scheduler_type": "constant"}),
        ({"training": {"precision": "fp32"}}, {"bf16": False}),
        ({"training": {"precision": "auto"}}, {"bf16": True}),
        (
            {"training": {"save_every": 5, "keep": 3}},
            {"save_strategy": "steps", "save_steps": 5, "save_total_limit": 3},
        ),
        ({"training": {"attention": "flash_attention_2"}}, {"flash_attn": "fa2"}),
        ({"data": {"packing": True, "max_length": 100}}, {"packing": True, "neat_packing": True, "cutoff_len": 96}),
        ({"data": {"template": "none"}}, {"template": "empty"}),
        ({"data": {"eval_fraction": 0.25}}, {"val_size": 0.25, "do_eval": True, "eval_strategy": "no"}),
        (
            {"data": {"eval": "pairs.jsonl"}, "training": {"eval_every": 10}},
            {"eval_dataset": "bftembed_eval", "eval_strategy": "steps", "eval_steps": 10},
        ),
        ({"model": "dmis-lab/a-model"}, {"model_name_or_path": "dmis-lab/a-model"}),
    ],
)
def test_train_yaml_follows_the_config(configured, parts, expected):
    written = settings_of(export_llamafactory(configured(**parts), "out"))
    assert {key: written.get(key) for key in expected} == expected


def test_what_llamafactory_does_otherwise_is_said(configured):
    asked = configured(
        data={"over_long": "drop", "packing": True, "max_length": 100, "template": "none", "eval_fraction": 0.1},
        training={"precision": "fp32", "attention": "eager_paged", "threads": 2},
    )
    export = export_llamafactory(asked, "out", hook=False)
    said = " ".join(export.differences)
    for key in ("over_long", "max_length", "template", "eval_fraction", "precision", "attention", "threads", "'bft'"):
        assert key in said
    readme = (export.folder / "README.txt").read_text()
    assert all(sentence in readme for sentence in export.differences)
    assert export.command == "llamafactory-cli train train.yaml"
    assert not (export.folder / "bft_hook.py").exists()
    assert export_llamafactory(configured(data={"over_long": "truncate", "thinking": "on"}), "plain").differences == ()


def test_turns_that_llamafactory_would_skip_are_named(configured, tmp_path):
    turns = [{"role": r, "content": "x"} for r in ("user", "user", "assistant")]
    (tmp_path / "odd.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"messages": turns}) + "\n")
    with pytest.raises(BftembedError, match=r"odd\.jsonl:2: the turns are user, user, assistant"):
        export_llamafactory(configured(data={"train": "odd.jsonl"}), "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lora": {"alpha": 16.5}}, "lora.alpha is 16.5"),
        (
            {"data": {"packing": True}, "training": {"attention": "flash_attention_2", "batch_size": 2}},
            "Set batch_size to 1",
        ),
        ({"model": "./nothing"}, "nothing"),
    ],
)
def test_what_llamafactory_cannot_take_is_an_error(configured, parts, message):
    with pytest.raises(BftembedError, match=re.escape(message)):
        export_llamafactory(configured(**parts), "out")


def test_the_data_of_the_config_is_not_overwritten(configured, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(ROWS))
    with pytest.raises(BftembedError, match="would be overwritten"):
        export_llamafactory(configured(data={"train": "train.json"}), ".")
    assert json.loads((tmp_path / "train.json").read_text()) == ROWS


def test_the_page_shows_the_hook_that_is_written(configured):
    export = export_llamafactory(configured(), "out")
    page = (REPOSITORY / "docs" / "llamafactory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks == [(export.folder / "bft_hook.py").read_text(encoding="utf-8")]


# The hook, in a tree of modules like LLaMA-Factory's


class CustomSeq2SeqTrainer(Seq2SeqTrainer):
    """What LLaMA-Factory 0.9.5 adds to the trainer of transformers, as far as the loss goes."""

    def __init__(self, finetuning_args=None, processor=None, **kwargs):
        super().__init__(**kwargs)
        if processor is not None:
            self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.fixture
def hook(tmp_path, monkeypatch):
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
    config = TuneConfig.model_validate({"objective": OBJECTIVE, "data": {"train": "unused"}})
    (tmp_path / "bft_hook.py").write_text(hook_code(config))
    spec = importlib.util.spec_from_file_location("bft_hook", tmp_path / "bft_hook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config)


def samples(n, seed=0):
    """Return samples of 6 to 20 tokens after a prompt of 2 or more; the third has nothing to learn."""
    draw = torch.Generator().manual_seed(seed)
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

    ids = padded("input_ids", 0)
    lengths = torch.tensor([len(r["input_ids"]) for r in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": padded("labels", -100)}


def trainer_of(trainer_class, tmp_path, *, batch=1, accumulate=1, steps=2, rows=None, **kwargs):
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "trained"),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=1,
    )
    rows = samples(8) if rows is None else rows
    return trainer_class(model=tiny_model(), args=args, data_collator=collate, train_dataset=rows, **kwargs)


def logged(trainer, key):
    trainer.train()
    return torch.tensor([entry[key] for entry in trainer.state.log_history if key in entry], dtype=torch.float64)


def loss_by_hand(model, rows):
    """Return the loss and the number of samples of single rows, without padding."""
    total, n = 0, 0
    for row in rows:
        logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        nll = cross_entropy(logits, row["labels"][1:], reduction="none")
        options = {key: value for key, value in OBJECTIVE.items() if key != "name"}
        part = objective_loss(nll, row["labels"][1:] != -100, OBJECTIVE["name"], **options)
        total, n = total + part.loss_sum, n + int(part.n_samples)
    return total / n, n


@pytest.mark.parametrize("processor", [None, object()], ids=["text", "with a processor"])
@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_accumulation_does_not_change_the_step(hook, tmp_path, key, processor):
    shapes = [(4, 1), (2, 2), (1, 4)]
    found = [
        logged(trainer_of(hook.Trainer, tmp_path, batch=b, accumulate=a, processor=processor), key) for b, a in shapes
    ]
    assert len(found[0]) == 2
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_the_loss_of_a_step_is_the_mean_over_its_samples(hook, tmp_path):
    rows = samples(4)
    model = tiny_model()
    expected, n = loss_by_hand(model, rows)
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert n == 3  # one of four has nothing to learn
    for key, value in (("loss", expected), ("grad_norm", norm)):
        trainer = trainer_of(hook.Trainer, tmp_path, batch=2, accumulate=2, steps=1, rows=rows)
        torch.testing.assert_close(logged(trainer, key)[0], value.detach().double(), rtol=1e-5, atol=1e-5)


def test_a_mean_per_micro_batch_would_depend_on_the_accumulation(tmp_path):
    """Why the hook counts samples itself: the same objective as a plain `compute_loss_func`."""

    def mean_of_micro_batch(outputs, labels, num_items_in_batch=None):
        nll = cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        part = objective_loss(nll, labels[:, 1:] != -100)
        return part.loss_sum / part.n_samples.clamp(min=1)

    def first_loss(batch, accumulate):
        trainer = trainer_of(Seq2SeqTrainer, tmp_path, batch=batch, accumulate=accumulate, steps=1)
        trainer.compute_loss_func = mean_of_micro_batch
        return logged(trainer, "loss")[0]

    assert first_loss(1, 4) > 2 * first_loss(4, 1)


def test_packed_conversations_are_samples_of_their_own(hook, tmp_path):
    rows = [samples(8)[i] for i in (0, 1, 3)]
    packed = {key: torch.cat([r[key] for r in rows])[None] for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(len(r["input_ids"])) for r in rows])[None]
    trainer = trainer_of(hook.Trainer, tmp_path)
    _, n = trainer.get_batch_samples(iter([packed]), 1, torch.device("cpu"))
    assert int(n) == 3
    # With positions and no mask, transformers keeps attention within each conversation.
    expected, _ = loss_by_hand(trainer.model, rows)
    found = trainer.compute_loss(trainer.model.train(), packed, num_items_in_batch=n)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ranks_are_counted_together_and_their_averaging_undone(hook, tmp_path):
    trainer = trainer_of(hook.Trainer, tmp_path)
    batch = collate(samples(4))
    one_rank = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=torch.tensor(8))
    trainer.accelerator = types.SimpleNamespace(
        gather=lambda n: torch.cat([n, torch.tensor([5])]), num_processes=2, unwrap_model=lambda m: m
    )
    _, n = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    assert int(n) == 3 + 5
    two_ranks = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=n)
    torch.testing.assert_close(two_ranks, 2 * one_rank)


def test_a_step_with_nothing_to_learn_moves_nothing(hook, tmp_path):
    rows = [samples(8)[2]] * 2
    trainer = trainer_of(hook.Trainer, tmp_path, batch=1, accumulate=2, steps=1, rows=rows)
    batch = collate(rows)
    _, n = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    assert trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=n) == 0  # transformers logs NaN as 0
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert logged(trainer, "loss")[0] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_evaluation_is_the_plain_cross_entropy(hook, tmp_path):
    rows = samples(8)
    found = [
        trainer_of(trainer_class, tmp_path, eval_dataset=rows).evaluate()["eval_loss"]
        for trainer_class in (hook.Trainer, CustomSeq2SeqTrainer)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_hook_takes_its_objective_from_the_config(hook):
    assert {"name": hook.OBJECTIVE.pop("objective"), **hook.OBJECTIVE} == {**OBJECTIVE, "gamma": 1.0}
