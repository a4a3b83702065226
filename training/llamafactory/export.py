"""Write a tuning config as a folder for LLaMA-Factory 0.9.5: data, ``train.yaml``, and the hook with the objective.

Usage: python training/llamafactory/export.py --config configs/tune/smollm2_cpu.yaml --out for-llamafactory
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bftembed.config import TuneConfig, load_config
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_json, write_text
from bftembed.llm.models import resolve_model
from bftembed.tuning.data import read_conversations

if TYPE_CHECKING:
    from collections.abc import Iterator

HOOK = Path(__file__).with_name("bft_hook.py")
#: Attention implementations of transformers, in LLaMA-Factory's names for ``flash_attn``.
ATTENTION = {"sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2", "flash_attention_3": "fa3"}
TAGS = {"role_tag": "role", "content_tag": "content"} | {f"{r}_tag": r for r in ("user", "assistant", "system")}


def export(config: TuneConfig, folder: Path) -> list[str]:
    """Write the folder, and return where LLaMA-Factory does not do what the config asks for.

    Raises
    ------
    BftembedError
        For unreadable data, conversations that LLaMA-Factory would skip (it takes user and assistant in turn).
    """
    one, *others = config.data.train
    if others or one.eval or one.eval_fraction:
        raise BftembedError("data.train is a list of sets, which is not exported. Give one file: its path.")
    files = {"train": one.path} | ({"eval": config.data.eval} if config.data.eval else {})
    values: dict[str, Any] = {f"{name}.json": messages(file) for name, file in files.items()}
    options = config.objective.model_dump(exclude={"name"}, exclude_none=True)
    values["objective.json"] = {"objective": config.objective.name, **options}
    # "sharegpt" with tags, not "openai": that one adds "detailed thinking off" to every system prompt.
    form = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS}
    values["dataset_info.json"] = {f"bftembed_{name}": {"file_name": f"{name}.json", **form} for name in files}
    written = yaml.safe_dump(settings(config), sort_keys=False, allow_unicode=True, width=10_000)
    for name, value in values.items():
        refuse_input_as_output(folder / name, *files.values())
        write_json(folder / name, value)
    write_text(folder / "train.yaml", written)
    shutil.copy(HOOK, folder / HOOK.name)
    return list(differences(config))


def messages(file: str) -> list[dict[str, Any]]:
    """Return the rows of a data file."""
    rows = []
    for conversation in read_conversations(file):
        roles = [turn.role for turn in conversation.turns]
        spoken = roles[1:] if roles[0] == "system" else roles
        if spoken != ["user", "assistant"] * (len(spoken) // 2):
            raise BftembedError(
                f"{conversation.where}: the turns are {', '.join(roles)}. LLaMA-Factory skips a conversation unless "
                "user and assistant alternate after at most one system turn; join neighboring turns of one role."
            )
        rows.append({"messages": [{"role": turn.role, "content": turn.content} for turn in conversation.turns]})
    return rows


def settings(config: TuneConfig) -> dict[str, Any]:
    """Return ``train.yaml``."""
    data, training, lora = config.data, config.training, config.lora
    warm = training.schedule == "constant" and training.warmup_ratio > 0
    found: dict[str, Any] = {
        "model_name_or_path": model(config.model),
        "flash_attn": ATTENTION.get(training.attention, "auto"),
        "disable_gradient_checkpointing": not training.gradient_checkpointing,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if lora is None else "lora",
        "dataset_dir": ".",
        "dataset": "bftembed_train",
        "template": "empty" if data.template == "none" else None,  # None: the tokenizer's own chat template
        "cutoff_len": cutoff(config),
        "packing": data.packing,
        "neat_packing": data.packing,
        "overwrite_cache": True,
        "output_dir": "trained",
        "logging_steps": training.log_every,
        "save_strategy": "steps" if training.save_every else "no",
        "save_total_limit": training.keep,
        "report_to": "none",
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulate,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "lr_scheduler_type": "constant_with_warmup" if warm else training.schedule,
        "warmup_ratio": training.warmup_ratio,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": training.optimizer,
        "bf16": training.precision != "fp32",
        "seed": training.seed,
    }
    if training.save_every:
        found["save_steps"] = training.save_every
    if lora is not None:
        if isinstance(lora.target_modules, str) and lora.target_modules != "all-linear":
            raise BftembedError("lora.target_modules is a regular expression, which is not exported. Give names.")
        target = "all" if lora.target_modules == "all-linear" else ",".join(lora.target_modules)
        found |= {"lora_rank": lora.rank, "lora_alpha": int(lora.alpha), "lora_dropout": lora.dropout}
        found["lora_target"] = target
    if data.eval or data.eval_fraction:
        found |= {"eval_dataset": "bftembed_eval"} if data.eval else {"val_size": data.eval_fraction}
        found |= {"do_eval": True, "eval_strategy": "no", "per_device_eval_batch_size": training.batch_size}
        if training.eval_every:
            found |= {"eval_strategy": "steps", "eval_steps": training.eval_every}
    return found


def model(name: str) -> str:
    """Return what LLaMA-Factory loads: a folder, or a hub name as it is."""
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    return str(resolve_model("language-model", name).path) if name.startswith("builtin:") else name


def cutoff(config: TuneConfig) -> int:
    """Return ``cutoff_len``: LLaMA-Factory pads packed rows to a multiple of 8, but not their positions, and fails."""
    return max(config.data.max_length // 8 * 8, 8) if config.data.packing else config.data.max_length


def differences(config: TuneConfig) -> Iterator[str]:
    """Yield where LLaMA-Factory does not do what the config asks for."""
    data, training = config.data, config.training
    if data.over_long != "truncate":
        yield f"data.over_long={data.over_long!r}: LLaMA-Factory silently cuts at {cutoff(config)} tokens."
    if data.template == "none":
        yield "data.template='none': LLaMA-Factory's template 'empty' puts nothing between the texts or after them."
    elif data.thinking != "on":
        yield f"data.thinking={data.thinking!r}: LLaMA-Factory closes no thought that the chat template opens."
    if data.eval_fraction:
        yield "data.eval_fraction becomes val_size: other rows are held out than by bftembed."
    if training.precision == "fp32":
        yield "training.precision='fp32': on a GPU, LLaMA-Factory loads half precision and widens what it trains."
    if training.threads is not None:
        yield f"training.threads has no key in LLaMA-Factory; set OMP_NUM_THREADS={training.threads} instead."
    if config.lora is not None and config.lora.alpha % 1:
        yield f"lora.alpha={config.lora.alpha}: LLaMA-Factory takes an integer, {int(config.lora.alpha)}."


def main() -> None:
    """Export a config, and print what differs and how to run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="A YAML file of recipe tune.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write; its files are replaced.")
    options = parser.parse_args()
    try:
        found = export(load_config(options.config, TuneConfig), options.out)
    except BftembedError as err:
        sys.exit(f"error: {err}")
    print(*found, f"run it in {options.out}: python {HOOK.name} train.yaml", sep="\n")


if __name__ == "__main__":
    main()
