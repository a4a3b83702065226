"""The tuning stage: from a config to a tuned model that other programs load."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.config import TuneConfig, load_config, save_config
from bftembed.errors import BftembedError, require
from bftembed.io import exclusive_lock, sha256_file, write_json
from bftembed.llm.chat import close_thought, has_template
from bftembed.llm.models import load_language_model, model_identity
from bftembed.llm.reasoning import split_reasoning
from bftembed.machine import cpu_has_bf16
from bftembed.progress import silent
from bftembed.tuning.checkpoints import last_whole_checkpoint
from bftembed.tuning.data import Conversation, read_conversations
from bftembed.tuning.encoding import EncodedData, encode_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.progress import Progress

RECORD = "bftembed.json"


@dataclass(frozen=True)
class TuneReport:
    """What a tuning run did.

    Attributes
    ----------
    out
        Folder of the run.
    model
        Folder of the tuned model: safetensors, tokenizer, card. ``transformers:FOLDER`` generates with it.
    steps, seconds
        Optimiser steps in all, and seconds of this call (0 when it had been finished before).
    rows
        ``train``, ``eval``, ``dropped``, ``truncated``, ``empty``: numbers of rows.
    final
        The last measures of training and evaluation, by the names in the log.
    warnings
        What a person should know: rows left out, a window that does nothing.
    """

    out: str
    model: str
    steps: int
    seconds: float
    rows: dict[str, int]
    final: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def tune(config: TuneConfig | str | os.PathLike[str], *, progress: Progress = silent) -> TuneReport:
    """Tune a language model and export it. A stopped run goes on from its last checkpoint.

    Run under torchrun or accelerate launch it is one of several ranks; rank 0 alone writes.

    Parameters
    ----------
    config
        A YAML file of the recipe tune; see bftembed config show tune.

        Also a `bftembed.config.TuneConfig`. In ``config.out``: ``config.yaml``, ``checkpoints/``, ``log.json``
        (measures per step) and ``model/`` (the tuned model with its card and `RECORD`).

    Other Parameters
    ----------------
    progress
        Called with the number of steps done.

    Returns
    -------
    TuneReport
        The same for a run that had been finished before; then nothing is trained.

    Raises
    ------
    BftembedError
        For data that cannot be learnt from (by row), a folder that holds another run, and what the trainer refuses.
    KeyboardInterrupt
        After SIGINT or SIGTERM, once the step is done and its checkpoint written.
    """
    chosen: TuneConfig = config if isinstance(config, TuneConfig) else load_config(config, TuneConfig)
    require("torch", "local")
    require("trl", "train")
    out = Path(chosen.out)
    main = int(os.environ.get("RANK", "0")) == 0
    with exclusive_lock(out / ".lock", holder=str(out)) if main else nullcontext():
        identity = _identity(chosen)
        done = _finished(out, identity)
        if done is not None:
            return done
        if main:
            save_config(chosen, out / "config.yaml")
            write_json(out / RECORD, identity)
        return _run(chosen, identity, out, progress)


def _run(config: TuneConfig, identity: dict[str, Any], out: Path, progress: Progress) -> TuneReport:
    import torch

    from bftembed.tuning.export import export_model
    from bftembed.tuning.training import train

    started = time.monotonic()
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    precision = chosen_precision(config)
    # Adapters stay in float32 whatever the frozen weights are; weights that are trained have to.
    frozen_dtype = "bfloat16" if precision == "bf16" and config.lora is not None else "float32"
    model, tokenizer, local = load_language_model(
        config.model, frozen_dtype, attn_implementation=config.training.attention
    )
    learnt, held_out = _data(config, tokenizer)
    warnings = _warnings(config, learnt, held_out)
    done = train(
        config,
        model,
        tokenizer,
        learnt.rows,
        held_out.rows if held_out else [],
        folder=out / "checkpoints",
        resume=last_whole_checkpoint(out / "checkpoints"),
        bf16=precision == "bf16",
        progress=progress,
    )
    report = TuneReport(
        out=str(out),
        model=str(out / "model"),
        steps=done.steps,
        seconds=round(time.monotonic() - started, 1),
        rows={
            "train": len(learnt.rows),
            "eval": len(held_out.rows) if held_out else 0,
            **{kind: len(getattr(learnt, kind)) for kind in ("dropped", "truncated", "empty")},
        },
        final=done.final,
        warnings=tuple(warnings),
    )
    done.save(out / "trained")
    if done.is_main:
        write_json(out / "log.json", done.log)
        record = {**identity, "base_licence": local.licence, "precision": precision, "report": asdict(report)}
        export_model(out / "trained", local.path, config, record, done.log, out / "model")
        shutil.rmtree(out / "trained")
    done.wait()
    return report


def chosen_precision(config: TuneConfig) -> str:
    """Return ``"bf16"`` or ``"fp32"``: what ``auto`` means on this machine."""
    import torch

    wanted = config.training.precision
    if wanted != "auto":
        return wanted
    has = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
    return "bf16" if has else "fp32"


def _identity(config: TuneConfig) -> dict[str, Any]:
    """Return what makes two runs the same: the config, and the bytes of its data and model."""
    data = {"train": _hash(config.data.train)} | ({"eval": _hash(config.data.eval)} if config.data.eval else {})
    return {
        "schema_version": 1,
        "config": config.model_dump(),
        "data_sha256": data,
        "model_revision": model_identity("language-model", config.model),
    }


def _hash(path: str) -> str:
    if not Path(path).is_file():
        raise BftembedError(f"No such data file: {path}.")
    return sha256_file(path)


def _finished(out: Path, identity: dict[str, Any]) -> TuneReport | None:
    """Return the report of this very run when it is finished; refuse a folder that holds another."""
    if not any((out / "checkpoints").glob("checkpoint-*")) and not (out / "model").exists():
        return None  # nothing was trained: an earlier run may have ended at its data, and its config been mended
    if not (out / RECORD).exists():
        raise BftembedError(f"{out} holds checkpoints or a model of something else. Choose another folder (out).")
    try:
        held = json.loads((out / RECORD).read_text(encoding="utf-8"))
        # A record of an earlier version lacks the options that came later.
        held["config"] = TuneConfig.model_validate(held["config"]).model_dump()
        differing = _differing(held, identity)
        report = json.loads((out / "model" / RECORD).read_text(encoding="utf-8"))["report"]
    except FileNotFoundError:
        report = None
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise BftembedError(f"{out / RECORD} is damaged ({err}). Choose another folder (out), or remove it.") from err
    if differing:
        raise BftembedError(
            f"{out} holds a run that differs in {', '.join(differing)}. Choose another folder (out), or remove it to "
            "start again."
        )
    if report is None:
        return None
    return TuneReport(**{**report, "seconds": 0.0, "warnings": tuple(report["warnings"])})


def _differing(held: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys in which two records differ; where a run lies is no part of what it is."""
    found = []
    for key in {**held, **wanted}:
        name, a, b = f"{prefix}{key}", held.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differing(a, b, f"{name}.")
        elif a != b and name not in ("config.out", "config.data.train", "config.data.eval"):
            found.append(name.removeprefix("config."))
    return found


def _data(config: TuneConfig, tokenizer: Any) -> tuple[EncodedData, EncodedData | None]:
    if tokenizer.eos_token_id is None:
        raise BftembedError(f"The tokenizer of {config.model} has no end token, so no answer could be ended.")
    options: dict[str, Any] = {
        "template": config.data.template,
        "max_length": config.data.max_length,
        "over_long": config.data.over_long,
    }
    conversations = read_conversations(config.data.train)
    if has_template(tokenizer, config.data.template):
        answers = [turn.content for c in conversations for turn in c.turns if turn.role == "assistant"]
        thoughts = config.data.thinking == "auto" and any(split_reasoning(answer)[1] for answer in answers)
        if config.data.thinking != "on" and not thoughts:
            close_thought(tokenizer)
    learnt, held_out = _split(conversations, config.data.eval_fraction, config.training.seed)
    if config.data.eval is not None:
        held_out = read_conversations(config.data.eval)
    encoded = encode_all(learnt, tokenizer, **options)
    return encoded, encode_all(held_out, tokenizer, **options) if held_out else None


def _split(
    conversations: Sequence[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Hold out a share of the rows, drawn by the seed; both parts stay in the file's order."""
    n = round(len(conversations) * fraction)
    if not fraction:
        return list(conversations), []
    if not 0 < n < len(conversations):
        raise BftembedError(
            f"data.eval_fraction={fraction} of {len(conversations)} rows is {n} rows; both parts need at least one."
        )
    chosen = set(random.Random(seed).sample(range(len(conversations)), n))
    learnt = [c for i, c in enumerate(conversations) if i not in chosen]
    return learnt, [c for i, c in enumerate(conversations) if i in chosen]


def _warnings(config: TuneConfig, learnt: EncodedData, held_out: EncodedData | None) -> list[str]:
    found = learnt.lines() + [f"held out: {line}" for line in (held_out.lines() if held_out else [])]
    window = config.objective.window
    short = sum(row.n_learnt < window for row in learnt.rows)
    if config.objective.name not in ("sft", "dft") and short > len(learnt.rows) / 2:
        found.append(
            f"{short} of {len(learnt.rows)} responses are shorter than the window of {window} tokens. In those every "
            "token is compared with the mean of the whole response: the window does nothing. Set objective.window "
            "below the usual length of a response."
        )
    return found
