"""A tuning config as a folder for LLaMA-Factory: data, ``train.yaml``, and a hook that brings the objective.

LLaMA-Factory has no place to register a loss, so the hook puts a subclass in the place of its SFT trainer. Keys, file
forms and class names are those of LLaMA-Factory 0.9.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bftembed.config import TuneConfig, load_config
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_json, write_text
from bftembed.llm.models import resolve_model
from bftembed.tuning.data import read_conversations

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from bftembed.tuning.data import Conversation

HOOK = '''\
"""LLaMA-Factory's SFT stage with an objective of bftembed: python bft_hook.py train.yaml"""

import torch
from bftembed.objectives import objective_loss
from llamafactory.train.sft import workflow
from llamafactory.train.tuner import run_exp

OBJECTIVE = {objective}


def samples(batch):
    """Return which tokens are learnt, shifted once, and the sample of each in a packed row."""
    positions = batch.get("position_ids")
    segments = None if positions is None else (positions == 0).cumsum(-1)[:, 1:]
    return {"mask": batch["labels"][:, 1:] != -100, "segment_ids": segments}


class Trainer(workflow.CustomSeq2SeqTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # keeps transformers from dividing the loss by the accumulation steps

    def get_batch_samples(self, *args, **kwargs):
        batches, _ = super().get_batch_samples(*args, **kwargs)
        n = sum(int(objective_loss(b["labels"][:, 1:].float(), **samples(b)).n_samples) for b in batches)
        return batches, self.accelerator.gather(torch.tensor([n], device=self.args.device)).sum().clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:  # evaluation: the plain cross-entropy, comparable between objectives
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, of_samples = inputs["labels"][:, 1:], samples(inputs)
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss_sum = objective_loss(nll, **of_samples, **OBJECTIVE).loss_sum
        return loss_sum / num_items_in_batch * self.accelerator.num_processes  # ranks are averaged afterwards


if __name__ == "__main__":
    workflow.CustomSeq2SeqTrainer = Trainer
    run_exp()
'''

#: Attention implementations of transformers, as LLaMA-Factory's ``flash_attn`` calls them.
_ATTENTION = {"sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2", "flash_attention_3": "fa3"}

#: A key of ``train.yaml``, its value, and a comment or "".
_Setting = tuple[str, Any, str]


@dataclass(frozen=True)
class LlamaFactoryExport:
    """What was written, and how it is run.

    Attributes
    ----------
    folder
        The folder; it may be moved, unless the model is a folder of this machine.
    files
        Every file written.
    command
        How to start the training inside `folder`.
    differences
        Sentences: where LLaMA-Factory does not do what the config asks for.
    """

    folder: Path
    files: tuple[Path, ...]
    command: str
    differences: tuple[str, ...]


def export_llamafactory(
    config: TuneConfig | str | os.PathLike[str], out: str | os.PathLike[str], *, hook: bool = True
) -> LlamaFactoryExport:
    """Write data, settings and the objective as a hook for LLaMA-Factory 0.9.5.

    Parameters
    ----------
    config
        A YAML file of the recipe tune; see bftembed config show tune.

        Also a `bftembed.config.TuneConfig`. ``config.out`` is not used: LLaMA-Factory writes to ``trained``.
    out
        Folder to write. Files of the same names are replaced.

    Other Parameters
    ----------------
    hook
        Whether ``bft_hook.py`` is written, which trains with ``config.objective``. Without it LLaMA-Factory trains
        with its own loss, the mean cross-entropy of the tokens.

    Returns
    -------
    LlamaFactoryExport
        ``train.json`` (and ``eval.json``: system and all turns, ``messages`` form), ``dataset_info.json``,
        ``train.yaml``, ``bft_hook.py``, ``README.txt``.

    Raises
    ------
    BftembedError
        For unreadable data, conversations that LLaMA-Factory would skip (it takes user and assistant in turn), a model
        that is not there, or a ``lora.alpha`` that is not whole.
    """
    chosen: TuneConfig = config if isinstance(config, TuneConfig) else load_config(config, TuneConfig)
    folder = Path(out)
    data = {"train": read_conversations(chosen.data.train)}
    if chosen.data.eval is not None:
        data["eval"] = read_conversations(chosen.data.eval)
    rows = {name: _messages(conversations) for name, conversations in data.items()}
    settings = _settings(chosen)
    differences = tuple(_differences(chosen, hook))
    command = f"{'python bft_hook.py' if hook else 'llamafactory-cli train'} train.yaml"

    texts = {
        "train.yaml": _yaml(settings),
        "README.txt": _readme(chosen, len(rows["train"]), command, differences, hook),
    }
    if hook:
        texts["bft_hook.py"] = hook_code(chosen)
    values = {f"{name}.json": value for name, value in rows.items()} | {"dataset_info.json": _dataset_info(rows)}
    files = tuple(folder / name for name in [*values, *texts])
    for file in files:
        refuse_input_as_output(file, chosen.data.train, chosen.data.eval)
    for name, value in values.items():
        write_json(folder / name, value)
    for name, text in texts.items():
        write_text(folder / name, text)
    return LlamaFactoryExport(folder, files, command, differences)


def hook_code(config: TuneConfig) -> str:
    """Return the code of ``bft_hook.py`` with the objective of `config`."""
    objective = config.objective.model_dump()
    filled = {"objective": objective.pop("name"), **objective}
    lines = "".join(f"    {key!r}: {value!r},\n".replace("'", '"') for key, value in filled.items())
    return HOOK.replace("{objective}", "{\n" + lines + "}")


def _messages(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Return the rows of the data file; LLaMA-Factory skips what does not alternate, so that is an error here."""
    rows = []
    for conversation in conversations:
        roles = [turn.role for turn in conversation.turns]
        spoken = roles[1:] if roles[0] == "system" else roles
        if spoken != ["user", "assistant"] * (len(spoken) // 2):
            raise BftembedError(
                f"{conversation.where}: the turns are {', '.join(roles)}. LLaMA-Factory skips a conversation unless "
                "user and assistant alternate after at most one system turn; join neighbouring turns of one role."
            )
        rows.append({"messages": [{"role": turn.role, "content": turn.content} for turn in conversation.turns]})
    return rows


def _dataset_info(names: Iterable[str]) -> dict[str, Any]:
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    # "sharegpt" with tags, not "openai": that one adds "detailed thinking off" to every system prompt.
    return {
        f"bftembed_{name}": {
            "file_name": f"{name}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
        for name in names
    }


def _settings(config: TuneConfig) -> dict[str, list[_Setting]]:
    """Return the sections of ``train.yaml``."""
    data, training = config.data, config.training
    packing: list[_Setting] = [("packing", data.packing, "")] + ([("neat_packing", True, "")] if data.packing else [])
    steps = [] if training.max_steps is None else [("max_steps", training.max_steps, "wins over the epochs")]
    warm = training.schedule == "constant" and training.warmup_ratio > 0
    maybe = "set false where the device has no bf16" if training.precision == "auto" else ""
    save: list[_Setting] = [("save_strategy", "no", "the model is saved at the end")]
    if training.save_every is not None:
        save = [("save_strategy", "steps", ""), ("save_steps", training.save_every, "")]
    sections: dict[str, list[_Setting]] = {
        "model": [
            ("model_name_or_path", _model(config.model), ""),
            ("flash_attn", _ATTENTION.get(training.attention, "auto"), ""),
            ("disable_gradient_checkpointing", not training.gradient_checkpointing, "it is on by default"),
        ],
        "method": [("stage", "sft", ""), ("do_train", True, ""), *_method(config)],
        "data": [
            ("dataset_dir", ".", "this folder: run there"),
            ("dataset", "bftembed_train", ""),
            ("template", "empty" if data.template == "none" else None, "null: the tokenizer's own chat template"),
            ("cutoff_len", _cutoff(config), "longer conversations are cut"),
            *packing,
            ("overwrite_cache", True, ""),
        ],
        "output": [
            ("output_dir", "trained", ""),
            ("logging_steps", training.log_every, ""),
            *save,
            ("save_total_limit", training.keep, ""),
            ("report_to", "none", ""),
        ],
        "training": [
            ("per_device_train_batch_size", training.batch_size, ""),
            ("gradient_accumulation_steps", training.accumulate, ""),
            ("learning_rate", training.learning_rate, ""),
            ("num_train_epochs", training.epochs, ""),
            *steps,
            ("lr_scheduler_type", "constant_with_warmup" if warm else training.schedule, ""),
            ("warmup_ratio", training.warmup_ratio, ""),
            ("weight_decay", training.weight_decay, ""),
            ("max_grad_norm", training.max_grad_norm, ""),
            ("optim", training.optimizer, ""),
            ("bf16", training.precision != "fp32", maybe),
            ("seed", training.seed, ""),
        ],
    }
    if data.eval is not None or data.eval_fraction:
        sections["evaluation"] = _evaluation(config)
    return sections


def _model(name: str) -> str:
    """Return what LLaMA-Factory loads: a folder, or a name of the hub as it is."""
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if name.startswith(("builtin:", ".", "~")) or path.is_file() or path.is_absolute() or name.count("/") > 1:
        return str(resolve_model("language-model", name).path.resolve())
    return name


def _cutoff(config: TuneConfig) -> int:
    """Return ``cutoff_len``: LLaMA-Factory pads packed rows to a multiple of 8, but not their positions, and fails."""
    length, training = config.data.max_length, config.training
    if not config.data.packing:
        return length
    if training.attention == "flash_attention_2" and training.batch_size > 1:
        raise BftembedError(
            f"training.batch_size is {training.batch_size}; LLaMA-Factory takes one packed row at a time under "
            "flash_attention_2. Set batch_size to 1 and raise training.accumulate instead."
        )
    return max(length // 8 * 8, 8)


def _method(config: TuneConfig) -> list[_Setting]:
    lora = config.lora
    if lora is None:
        return [("finetuning_type", "full", "")]
    if not float(lora.alpha).is_integer():
        raise BftembedError(f"lora.alpha is {lora.alpha}; LLaMA-Factory takes a whole number. Round it.")
    target = "all" if lora.target_modules == "all-linear" else ",".join(lora.target_modules)
    return [
        ("finetuning_type", "lora", ""),
        ("lora_rank", lora.rank, ""),
        ("lora_alpha", int(lora.alpha), ""),
        ("lora_dropout", lora.dropout, ""),
        ("lora_target", target, ""),
    ]


def _evaluation(config: TuneConfig) -> list[_Setting]:
    data, training = config.data, config.training
    source: _Setting = (
        ("val_size", data.eval_fraction, "") if data.eval is None else ("eval_dataset", "bftembed_eval", "")
    )
    when: list[_Setting] = [("eval_strategy", "no", "once, at the end")]
    if training.eval_every is not None:
        when = [("eval_strategy", "steps", ""), ("eval_steps", training.eval_every, "")]
    return [source, ("do_eval", True, ""), *when, ("per_device_eval_batch_size", training.batch_size, "")]


def _yaml(sections: dict[str, list[_Setting]]) -> str:
    lines = []
    for title, settings in sections.items():
        lines.append(f"### {title}")
        for key, value, comment in settings:
            line = yaml.safe_dump({key: value}, allow_unicode=True, width=10_000).strip()
            lines.append(f"{line}  # {comment}" if comment else line)
        if title == "training":
            lines.append(
                "# deepspeed: one of LLaMA-Factory's ds_z*_config.json files; left out, since it was never tried"
            )
        lines.append("")
    return "\n".join(lines)


def _differences(config: TuneConfig, hook: bool) -> Iterable[str]:
    data, training = config.data, config.training
    if not hook:
        yield f"Without the hook the loss is the mean cross-entropy of the tokens, not {config.objective.name!r}."
    if data.over_long != "truncate":
        yield (
            f"data.over_long is {data.over_long!r}; LLaMA-Factory cuts a conversation of more than {_cutoff(config)} "
            "tokens, prompt or response, without a word."
        )
    if _cutoff(config) != data.max_length:
        yield f"data.max_length is {data.max_length}; packed rows have a multiple of 8 tokens, {_cutoff(config)}."
    if data.template == "none":
        yield "data.template is 'none'; LLaMA-Factory's template 'empty' puts nothing between the texts or after them."
    elif data.thinking != "on":
        yield f"data.thinking is {data.thinking!r}; LLaMA-Factory closes no thought that the chat template opens."
    if data.eval_fraction:
        yield "data.eval_fraction becomes val_size: other rows are held out than by bftembed."
    if training.precision == "fp32":
        yield "training.precision is 'fp32'; on a GPU, LLaMA-Factory loads half precision and widens what it trains."
    if training.threads is not None:
        yield f"training.threads has no key in LLaMA-Factory; set OMP_NUM_THREADS={training.threads} instead."
    if training.attention not in _ATTENTION:
        yield f"training.attention {training.attention!r} has no name in LLaMA-Factory; flash_attn is 'auto'."


def _readme(config: TuneConfig, n_rows: int, command: str, differences: Iterable[str], hook: bool) -> str:
    parts = [
        f"For LLaMA-Factory 0.9.5, by bftembed: {n_rows} conversations, objective {config.objective.name}.\n",
        f"Run in this folder, where LLaMA-Factory is installed:\n\n    {command}\n",
    ]
    if hook:
        parts.append(
            "On several devices (llamafactory-cli would train without the hook):\n\n"
            "    torchrun --nproc_per_node=8 bft_hook.py train.yaml\n\n"
            "The hook needs bftembed, and of its dependencies torch alone:\n\n"
            "    pip install --no-deps FOLDER_OF_BFTEMBED\n"
        )
    listed = "".join(f"- {sentence}\n" for sentence in differences)
    if listed:
        parts.append(f"Where LLaMA-Factory does not do what the config asks for:\n\n{listed}")
    return "\n".join(parts)
