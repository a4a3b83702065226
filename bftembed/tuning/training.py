"""From encoded rows to a trained model: our config as TRL's, the callbacks, the loop."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, pack_dataset

from bftembed.errors import BftembedError
from bftembed.llm.models import quiet_transformers
from bftembed.tuning.checkpoints import MarkWhole, StopOnSignal
from bftembed.tuning.trainer import Collator, ObjectiveTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.config import TuneConfig
    from bftembed.progress import Progress
    from bftembed.tuning.encoding import Encoded


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes
    ----------
    trainer
        Holds the model.
    steps
        Optimiser steps in all.
    log
        One record per log line: ``step``, ``loss``, ``grad_norm``, ``learning_rate`` and the measures.
    final
        The last value of each.
    is_main
        Whether this process writes.
    """

    trainer: ObjectiveTrainer
    steps: int
    log: list[dict[str, Any]]
    final: dict[str, float]
    is_main: bool

    def save(self, folder: Path) -> None:
        """Write the trained weights (or adapters); called on every rank, since their shards may have to be gathered."""
        with quiet_transformers():
            self.trainer.save_model(str(folder))
        self.wait()

    def wait(self) -> None:
        """Wait for the other ranks."""
        self.trainer.accelerator.wait_for_everyone()


def train(
    config: TuneConfig,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    held_out: Sequence[Encoded],
    *,
    folder: Path,
    resume: Path | None,
    bf16: bool,
    progress: Progress,
) -> Trained:
    """Train `model` in place.

    Parameters
    ----------
    config
        What to run.
    model, tokenizer
        Of transformers.
    rows, held_out
        What to learn from, and what to evaluate on (may be empty).
    folder
        Of checkpoints.
    resume
        Checkpoint to go on from, or None.
    bf16
        Take products in bf16.
    progress
        Told the optimiser steps.

    Raises
    ------
    KeyboardInterrupt
        After a signal, once the checkpoint is written.
    """
    stop = StopOnSignal()
    with quiet_transformers(), warnings.catch_warnings():
        # TRL 1 calls gradient checkpointing by the names that transformers 5 calls deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        trainer = ObjectiveTrainer(
            model=model,
            args=_arguments(config, folder, bf16=bf16, evaluates=bool(held_out)),
            train_dataset=_dataset(rows, pack_to=config.data.max_length if config.data.packing else None),
            eval_dataset=_dataset(held_out) if held_out else None,
            processing_class=tokenizer,
            data_collator=Collator(tokenizer.pad_token_id),
            peft_config=_adapters(config),
            callbacks=[MarkWhole(), stop, _Tell(progress)],
            objective=config.objective.name,
            options=config.objective.model_dump(exclude={"name"}),
        )
        trainer.remove_callback(PrinterCallback)
        with stop:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if stop.stopped:
            raise KeyboardInterrupt
        if held_out and "eval_loss" not in (trainer.state.log_history[-2:] or [{}])[-1]:
            trainer.evaluate()
    log = [line for line in trainer.state.log_history if "loss" in line or "eval_loss" in line]
    final: dict[str, float] = {}
    for line in log:
        final.update({name: value for name, value in line.items() if name not in ("step", "epoch")})
    return Trained(trainer, trainer.state.global_step, log, final, trainer.accelerator.is_main_process)


def _arguments(config: TuneConfig, folder: Path, *, bf16: bool, evaluates: bool) -> SFTConfig:
    asked = config.training
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=asked.epochs,
        max_steps=asked.max_steps or -1,
        learning_rate=asked.learning_rate,
        lr_scheduler_type=asked.schedule,
        warmup_steps=asked.warmup_ratio,
        weight_decay=asked.weight_decay,
        max_grad_norm=asked.max_grad_norm,
        optim=asked.optimizer,
        per_device_train_batch_size=asked.batch_size,
        per_device_eval_batch_size=asked.batch_size,
        gradient_accumulation_steps=asked.accumulate,
        gradient_checkpointing=asked.gradient_checkpointing,
        bf16=bf16,
        fp16=False,
        use_cpu=not torch.cuda.is_available(),
        seed=asked.seed,
        logging_steps=asked.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates and asked.eval_every else "no",
        eval_steps=asked.eval_every,
        prediction_loss_only=True,
        save_strategy="steps" if asked.save_every else "no",
        save_steps=asked.save_every or 500,
        save_total_limit=asked.keep,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        # Rows come encoded and cut: TRL has nothing to prepare.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        # The objective has no place for the balancing loss of mixtures of experts.
        router_aux_loss_coef=0.0,
        # A tokenizer without a padding token was given one, which a model need not know.
        eos_token=None,
    )


def _dataset(rows: Sequence[Encoded], pack_to: int | None = None) -> Dataset:
    dataset = Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})
    return dataset if pack_to is None else pack_dataset(dataset, pack_to, strategy="bfd")


def _adapters(config: TuneConfig) -> LoraConfig | None:
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type, unused-ignore]
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )


class _Tell(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Tells progress, and stops a run whose loss is no number."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if loss != loss:
            raise BftembedError(
                f"The loss of step {state.global_step} is no number. Lower training.learning_rate, or train in fp32."
            )
        if state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps, f"loss {loss:.4g}, nll {(logs or {}).get('nll', 0):.4g}")
