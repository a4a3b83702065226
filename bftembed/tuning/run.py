"""A tuning run: from a config to a folder that transformers, vLLM and `profiles generate` load, with its model card."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.config import TuneConfig, load_config, save_config
from bftembed.config.loading import check_config
from bftembed.errors import BftembedError, require
from bftembed.io import atomic_folder, exclusive_lock, sha256_file, write_json, write_text
from bftembed.llm.chat import close_thought, has_template
from bftembed.llm.models import load_language_model, model_identity, quiet_transformers, resolve_model
from bftembed.llm.reasoning import split_reasoning
from bftembed.machine import cpu_has_bf16
from bftembed.progress import silent
from bftembed.tuning.data import Conversation, read_conversations
from bftembed.tuning.encoding import TrainingSet, default_window, encode_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.config import GrpoConfig
    from bftembed.llm.models import LocalModel
    from bftembed.progress import Progress
    from bftembed.tuning.estimate import TuneEstimate

#: What a folder of a run, and of a tuned model, was made of.
RECORD = "bftembed.json"
_CARD = """\
---
base_model: {config.model}
{licence}tags: [bftembed, balanced-fine-tuning, {config.objective.name}]
library_name: transformers
---

# {config.model}, tuned with {config.objective.name}

Made by `bftembed tune` with an objective of Balanced Fine-Tuning (arXiv 2511.21075); every setting, and what it was
made of, is in `bftembed.json`. Texts of this model are its own claims: nobody checked them.

- Window g: {window}. Trained: {trained}.
- {rows}; {steps} steps.

`loss` is the objective's and cannot be compared between objectives; `nll` is plain, in nats per token.

{table}
"""


@dataclass(frozen=True)
class TuneReport:
    """Report of a tuning run.

    Attributes
    ----------
    out, model
        Folders of the run and of the tuned model; ``transformers:FOLDER`` generates with that.
    steps, seconds
        Optimizer steps in all, and seconds of this call (0 when it had been finished before).
    rows
        ``train``, ``eval``, ``dropped``, ``truncated``, ``empty``: numbers of rows.
    sets
        The same of each of several sets, and ``passes``: how often its rows were learnt; 1.5 is one and a half times.
    window
        Window of the objective that was used.
    final
        The last measures of training and evaluation, by the names in the log.
    estimate
        Memory and time, of a dry run alone.
    warnings
        Rows that were left out, sets learnt at different rates, a window that does nothing.
    """

    out: str
    model: str
    steps: int
    seconds: float
    rows: dict[str, int]
    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    window: int = 0
    final: dict[str, float] = field(default_factory=dict)
    estimate: TuneEstimate | None = None
    warnings: tuple[str, ...] = ()


def tune(
    config: TuneConfig | str | os.PathLike[str],
    *,
    objective: Literal["sft", "dft", "bft-token", "bft-sample", "bft", "bft-v1"] | None = None,
    dry_run: bool = False,
    devices: int = 1,
    flops: float | None = None,
    progress: Progress = silent,
) -> TuneReport:
    """Tune a language model and export it. A stopped run goes on from its last checkpoint.

    Run under torchrun or accelerate launch it is one of several ranks; rank 0 alone writes.

    Parameters
    ----------
    config
        A YAML file of the recipe tune; see bftembed config show tune.

        Also a `bftembed.config.TuneConfig`. In ``config.out``: ``config.yaml``, ``checkpoints/``, ``log.json``
        (measures per step) and ``model/`` (the tuned model with its card and ``bftembed.json``).
    objective
        Objective in place of the config's; its name is appended to the folder (out).
    dry_run
        Estimate memory and time, and write nothing. The model's config is enough, and its tokenizer, without which all
        rows count as long as data.max_length.
    devices
        Of the estimate: number of devices over which FSDP2 or ZeRO-3 shards the run.
    flops
        Of the estimate: floating-point operations per second that a device does in training, such as 4e14 for an H100
        at 40 % of its bf16 peak; without it no hours.

    Other Parameters
    ----------------
    progress
        Called with the number of steps done.

    Returns
    -------
    TuneReport
        Also of a run that had been finished before; then nothing is trained.

    Raises
    ------
    BftembedError
        For data that cannot be learnt from (by row), a folder that holds another run, and what the trainer rejects.
    KeyboardInterrupt
        After SIGINT or SIGTERM, once the step is done and its checkpoint written.
    """
    chosen: TuneConfig = config if isinstance(config, TuneConfig) else load_config(config, TuneConfig)
    require("torch", "local")
    require("trl", "train")
    if objective is not None:
        values = chosen.model_dump()
        values |= {"objective": {**values["objective"], "name": objective}, "out": f"{chosen.out}-{objective}"}
        chosen = check_config(TuneConfig, values, where="objective")
    if dry_run:
        return _estimated(chosen, devices, flops)
    from bftembed.tuning.trainer import check_trackers

    check_trackers(chosen.training.report_to)
    out = Path(chosen.out)
    main = int(os.environ.get("RANK", "0")) == 0
    with exclusive_lock(out / ".lock", holder=str(out)) if main else nullcontext():
        identity = run_identity(chosen, _data_sha256(chosen))
        if begun(out, identity, TuneConfig) and (out / "model" / RECORD).exists():
            report = json.loads((out / "model" / RECORD).read_text(encoding="utf-8"))["report"]
            return TuneReport(**{**report, "seconds": 0.0, "warnings": tuple(report["warnings"])})
        if main:
            save_config(chosen, out / "config.yaml")
            write_json(out / RECORD, identity)
        return _run(chosen, identity, out, progress)


def _run(config: TuneConfig, identity: dict[str, Any], out: Path, progress: Progress) -> TuneReport:
    from bftembed.tuning.trainer import train, trainer_arguments

    started = time.monotonic()
    precision = precision_of(config)
    arguments = trainer_arguments(config, out / "checkpoints", bf16=precision == "bf16")
    model, tokenizer, local = load_trainable(config, precision)
    sets = read_sets(config, tokenizer)
    window = config.objective.window or default_window([row.n_learnt for one in sets for row in one.learnt.rows])
    trainer, passes = train(
        config,
        model,
        tokenizer,
        sets,
        arguments,
        window=window,
        progress=progress,
    )
    log = [line for line in trainer.state.log_history if "loss" in line or any(n.startswith("eval_") for n in line)]
    final = {name: value for line in log for name, value in line.items() if name not in ("step", "epoch")}
    counts = {one.name: _counts(one) for one in sets}
    report = TuneReport(
        out=str(out),
        model=str(out / "model"),
        steps=trainer.state.global_step,
        seconds=round(time.monotonic() - started, 1),
        rows={kind: sum(one[kind] for one in counts.values()) for kind in counts[sets[0].name]},
        sets={name: {**counts[name], "passes": n} for name, n in passes.items()},
        window=window,
        final=final,
        warnings=tuple(_warnings(config.objective.name, window, sets, passes)),
    )
    with quiet_transformers():
        trainer.save_model(str(out / "trained"))  # on every rank: shards may have to be gathered
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        write_json(out / "log.json", log)
        record = {**identity, "base_licence": local.licence, "precision": precision, "report": asdict(report)}
        card = _model_card(config, record, log)
        export_model(out / "trained", local.path, config.lora is not None, record, card, out / "model")
        shutil.rmtree(out / "trained")
    trainer.accelerator.wait_for_everyone()
    return report


def precision_of(config: TuneConfig | GrpoConfig) -> str:
    """Return ``"bf16"`` or ``"fp32"``."""
    import torch

    if config.training.precision != "auto":
        return config.training.precision
    has_bf16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
    return "bf16" if has_bf16 else "fp32"


def load_trainable(config: TuneConfig | GrpoConfig, precision: str) -> tuple[Any, Any, LocalModel]:
    """Load the model of a config; return it, its tokenizer, and where it lies.

    The trainer's arguments are made before: under FSDP2 and ZeRO-3 a rank of a started group loads its part alone.
    """
    import torch

    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    # Adapters stay in float32 whatever the frozen weights are; weights that are trained have to.
    dtype = "bfloat16" if precision == "bf16" and config.lora is not None else "float32"
    return load_language_model(config.model, dtype, attn_implementation=config.training.attention)


def _estimated(config: TuneConfig, devices: int, flops: float | None) -> TuneReport:
    """Return the report of a dry run."""
    from transformers import AutoConfig, AutoTokenizer

    from bftembed.tuning.estimate import estimate

    # The weights of a model on the hub are not fetched for this.
    packaged = config.model.startswith("builtin:")
    place = resolve_model("language-model", config.model).path if packaged else Path(config.model).expanduser()
    name = place if place.is_dir() else config.model
    warnings: list[str] = []
    try:
        with quiet_transformers():
            model_config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as err:
        raise BftembedError(f"The config of {config.model} cannot be read: {err}") from err
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        given = [len(read_conversations(one.path)) for one in config.data.train]
        counts = {one.name: {"train": n} for one, n in zip(config.data.train, given, strict=True)}
        lengths = learnt = [config.data.max_length] * sum(given)
        warnings.append(f"{name} has no tokenizer: rows count as {config.data.max_length} tokens, all of them learnt.")
        window = config.objective.window or 0
    else:
        sets = read_sets(config, tokenizer)
        counts = {one.name: _counts(one) for one in sets}
        rows = [row for one in sets for row in one.learnt.rows]
        lengths, learnt = [len(row.input_ids) for row in rows], [row.n_learnt for row in rows]
        window = config.objective.window or default_window(learnt)
        warnings += _warnings(config.objective.name, window, sets, {})
    options = config.training
    packed = math.ceil(sum(lengths) / config.data.max_length) if config.data.packing else len(lengths)
    per_epoch = math.ceil(packed / (options.batch_size * options.accumulate * devices))
    steps = options.max_steps or math.ceil(options.epochs * per_epoch)
    bf16 = precision_of(config) == "bf16"
    found = estimate(config, model_config, lengths, sum(learnt), steps, bf16=bf16, devices=devices, flops=flops)
    return TuneReport(
        out=config.out,
        model=config.model,
        steps=steps,
        seconds=0.0,
        rows={kind: sum(one[kind] for one in counts.values()) for kind in next(iter(counts.values()))},
        sets={name: {**one} for name, one in counts.items()} if len(counts) > 1 else {},
        window=window,
        estimate=found,
        warnings=tuple(warnings),
    )


def _data_sha256(config: TuneConfig) -> dict[str, str]:
    sets = config.data.train
    files: dict[str, str | None] = {}
    for one in sets:
        prefix = "" if len(sets) == 1 else f"{one.name}."
        files |= {f"{prefix}train": one.path, f"{prefix}eval": one.eval or config.data.eval}
    given = {name: file for name, file in files.items() if file}
    for file in given.values():
        if not Path(file).is_file():
            raise BftembedError(f"No such data file: {file}.")
    return {name: sha256_file(file) for name, file in given.items()}


def run_identity(config: TuneConfig | GrpoConfig, data_sha256: dict[str, str]) -> dict[str, Any]:
    """Return what makes two runs the same: the config, and the bytes of its data and model."""
    return {
        "schema_version": 1,
        "config": config.model_dump(),
        "data_sha256": data_sha256,
        "model_revision": model_identity("language-model", config.model),
    }


def begun(out: Path, identity: dict[str, Any], kind: type[TuneConfig | GrpoConfig]) -> bool:
    """Return whether a folder holds a beginning of this very run; one that holds another run is an error."""
    if not any((out / "checkpoints").glob("checkpoint-*")) and not (out / "model").exists():
        return False  # nothing was trained: an earlier run may have ended at its data, and its config been mended
    if not (out / RECORD).exists():
        raise BftembedError(f"{out} holds checkpoints or a model of something else. Choose another folder (out).")
    held = json.loads((out / RECORD).read_text(encoding="utf-8"))
    if held["config"]["recipe"] == identity["config"]["recipe"]:
        # A record of an earlier version lacks the options that came later.
        held["config"] = kind.model_validate(held["config"]).model_dump()
    if differing := _differing(held, identity):
        raise BftembedError(
            f"{out} holds a run that differs in {', '.join(differing[:5])}. Choose another folder (out), or remove it "
            "to start again."
        )
    return True


def _differing(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the dotted keys in which two records differ; the places of a run and of its data are no part of it."""
    import pandas as pd

    def flat(record: dict[str, Any]) -> dict[str, Any]:
        config = record["config"]
        if isinstance(config["data"], dict):
            sets = [{k: v for k, v in one.items() if k not in ("path", "eval")} for one in config["data"]["train"]]
            if len(sets) == 1:
                sets[0].pop("name")  # the file's
            config = {**config, "data": {**config["data"], "train": dict(enumerate(sets))}}
        return dict(pd.json_normalize({**record, "config": config}, sep=".").to_dict("records")[0])

    a, b = flat(held), flat(wanted)
    elsewhere = ("config.out", "config.data.eval", "config.data")
    return [k.removeprefix("config.") for k in {**a, **b} if a.get(k) != b.get(k) and k not in elsewhere]


def read_sets(config: TuneConfig, tokenizer: Any) -> list[TrainingSet]:
    """Read and encode the data of a config, and hold out rows of each set.

    Where no row of any set brings thoughts, the template of `tokenizer` is changed in place so that it closes its own.
    """
    if tokenizer.eos_token_id is None:
        raise BftembedError(f"The tokenizer of {config.model} has no end token, so no answer could be ended.")
    options: dict[str, Any] = {
        "template": config.data.template,
        "max_length": config.data.max_length,
        "over_long": config.data.over_long,
    }
    conversations = [read_conversations(one.path) for one in config.data.train]
    if has_template(tokenizer, config.data.template):
        every = [c for found in conversations for c in found]
        answers = [turn.content for c in every for turn in c.turns if turn.role == "assistant"]
        thoughts = config.data.thinking == "auto" and any(split_reasoning(answer)[1] for answer in answers)
        if config.data.thinking != "on" and not thoughts:
            close_thought(tokenizer)
    sets = []
    for one, found in zip(config.data.train, conversations, strict=True):
        file = one.eval or config.data.eval
        fraction = 0.0 if file else config.data.eval_fraction if one.eval_fraction is None else one.eval_fraction
        try:
            learnt, held_out = _split(found, fraction, config.training.seed)
            if file:
                held_out = read_conversations(file)
            encoded = [encode_all(part, tokenizer, **options) for part in (learnt, held_out) if part]
        except BftembedError as err:
            raise BftembedError(f"{one.path}: {err}") from err
        sets.append(TrainingSet(one.name, one.weight, *encoded))
    return sets


def _split(
    conversations: Sequence[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Hold out a share of the rows, drawn by the seed; both parts stay in the file's order."""
    n = round(len(conversations) * fraction)
    if not fraction:
        return list(conversations), []
    if not 0 < n < len(conversations):
        raise BftembedError(
            f"eval_fraction={fraction} of {len(conversations)} rows is {n} rows; both parts need at least one."
        )
    chosen = set(random.Random(seed).sample(range(len(conversations)), n))
    learnt = [c for i, c in enumerate(conversations) if i not in chosen]
    return learnt, [c for i, c in enumerate(conversations) if i in chosen]


def _counts(one: TrainingSet) -> dict[str, int]:
    left = {kind: len(getattr(one.learnt, kind)) for kind in ("dropped", "truncated", "empty")}
    return {"train": len(one.learnt.rows), "eval": len(one.held_out.rows) if one.held_out else 0, **left}


def _warnings(objective: str, window: int, sets: Sequence[TrainingSet], passes: dict[str, float]) -> list[str]:
    found = []
    for one in sets:
        of_set = one.learnt.lines() + [f"held out: {line}" for line in (one.held_out.lines() if one.held_out else [])]
        found += [f"{one.name}: {line}" for line in of_set] if len(sets) > 1 else of_set
    if passes and max(passes.values()) > max(1, 2 * min(passes.values())):
        times = ", ".join(f"{name} {n:g} times" for name, n in passes.items())
        found.append(f"The rows of one set are learnt more often than those of another, by the weights: {times}.")
    rows = [row for one in sets for row in one.learnt.rows]
    short = sum(row.n_learnt < window for row in rows)
    if objective not in ("sft", "dft") and short > len(rows) / 2:
        found.append(
            f"{short} of {len(rows)} responses are shorter than the window of {window} tokens. In those every "
            "token is compared with the mean of the whole response: the window does nothing. Set objective.window "
            "below the usual length of a response."
        )
    return found


def export_model(trained: Path, base: Path, adapted: bool, record: dict[str, Any], card: str, folder: Path) -> None:
    """Write the model as safetensors with tokenizer, card and `record` to a new folder, atomically.

    `trained` holds the weights, or (`adapted`) the adapters, which are merged into the weights in `base`, and the
    tokenizer; the result has the dtype of `base`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local = {"local_files_only": True}
    with atomic_folder(folder) as temporary, quiet_transformers():
        dtype = AutoConfig.from_pretrained(base, **local).dtype or "auto"
        if not adapted:
            model = AutoModelForCausalLM.from_pretrained(trained, dtype=dtype, **local)
        else:
            from peft import PeftModel

            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **local)
            model = PeftModel.from_pretrained(model, str(trained)).merge_and_unload()
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(trained, **local).save_pretrained(temporary)
        write_text(temporary / "README.md", card)
        write_json(temporary / RECORD, record)


def _model_card(config: TuneConfig, record: dict[str, Any], log: list[dict[str, Any]]) -> str:
    """Return the card as Markdown with the metadata block that model hubs read; ten lines of the log are shown."""
    import pandas as pd

    report = record["report"]
    measured = pd.DataFrame(log).groupby("step").last()
    held_out = [name for name in measured if name.startswith("eval_") and name.endswith("_nll")] or ["eval_nll"]
    columns = ["loss", "nll", *held_out, "mean_token_weight", "mean_sample_coefficient", "sft_mass_kept"]
    steps = measured.reindex(columns=columns)
    shown = steps.iloc[sorted({*range(0, len(steps), -(-len(steps) // 10)), len(steps) - 1})]
    rows = [[str(step), *("" if pd.isna(v) else f"{v:.4g}" for v in row)] for step, *row in shown.itertuples()]
    lines = [["step", *columns], ["---"] * (len(columns) + 1), *rows]
    return _CARD.format(
        config=config,
        licence=f"license: {record['base_licence'].lower()}\n" if record.get("base_licence") else "",
        window=f"{report['window']} tokens{'' if config.objective.window else ', by the length of the responses'}",
        trained="all weights" if config.lora is None else f"LoRA, rank {config.lora.rank}, merged",
        rows=", ".join(f"{n} {kind} rows" for kind, n in report["rows"].items()),
        steps=report["steps"],
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
    )
