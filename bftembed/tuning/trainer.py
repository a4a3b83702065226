"""TRL's `SFTTrainer` with our objectives, and the training loop of a config: checkpoints that are whole, a clean stop.

With `bftembed.tuning.grpo` the only file that knows TRL (tested with 1.16).
"""

from __future__ import annotations

import signal
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bftembed.errors import BftembedError, unknown_name
from bftembed.io import write_json
from bftembed.llm.models import quiet_transformers
from bftembed.objectives import ObjectiveLoss, objective_loss
from bftembed.tuning.encoding import mixed_order
from bftembed.tuning.head import adapted_modules, add_embedding_gradient_by_rows, add_nll_head, changed_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.config import TuneConfig
    from bftembed.config.recipes import _Lora, _Training
    from bftembed.progress import Progress
    from bftembed.tuning.encoding import Encoded, TrainingSet

#: Mark of a checkpoint that was written to its end.
_WHOLE = "whole.json"


class ObjectiveTrainer(SFTTrainer):
    """TRL's `SFTTrainer` that minimizes an objective of `bftembed.objectives`.

    The loss of a step is equation 6 over the samples of the whole step: summed over accumulated micro-batches and
    ranks, divided by their number of samples that have a token to learn. So one batch of 4, two accumulated of 2, two
    ranks with 2 each and 4 packed into one row are the same step.

    Parameters
    ----------
    *args, **kwargs
        As for `SFTTrainer`.
    objective
        Name of the objective.
    options
        ``window``, ``sample_coefficient``, ``eps``, ``clip``, ``gamma`` of `bftembed.objectives.objective_loss`.
    head
        ``"own"``: `bftembed.objectives.linear_nll`; ``"trl"``: TRL's fused head, which has a Triton kernel on CUDA and
        knows scaled or capped logits and ZeRO-3; ``"auto"``: TRL's on those, else our own.

    Raises
    ------
    BftembedError
        For label smoothing, an adapter on the head, context or sequence parallelism, and the own head on a model that
        scales or caps its logits.

    Notes
    -----
    Logged beside the loss, with ``eval_`` in evaluation (``eval_NAME_`` of a dict of datasets): ``nll`` (plain, mean
    over samples of the mean over tokens), ``nll_per_token`` (plain, mean over tokens), ``mean_token_weight`` and
    ``share_weight_1`` in [0, 1], ``mean_sample_coefficient``, ``sft_mass_kept`` (the objective's loss over plain SFT's
    on the same tokens), ``share_short`` (samples shorter than the window), ``samples`` and ``tokens`` (learnt ones).
    """

    #: The loss is divided by the samples of all micro-batches here, so the trainer must not divide it again.
    loss_is_scaled_for_ga: Any = True

    def __init__(
        self,
        *args: Any,
        objective: str = "bft",
        options: dict[str, Any] | None = None,
        head: str = "auto",
        **kwargs: Any,
    ) -> None:
        targets, given = getattr(kwargs.get("peft_config"), "target_modules", None), kwargs.get("model")
        if getattr(kwargs.get("args"), "label_smoothing_factor", 0):
            raise BftembedError("Label smoothing is not possible: an objective's weights are confidences in the label.")
        if targets and isinstance(given, torch.nn.Module):
            adapted_modules(given, targets)
        super().__init__(*args, **kwargs)
        self._objective, self._options = objective, dict(options or {})
        objective_loss(torch.zeros(1), torch.ones(1, dtype=torch.bool), objective, **self._options)
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise BftembedError(
                "Context and sequence parallelism cut a sequence, and windows reach across the cuts. Use data "
                "parallelism, FSDP2 or ZeRO-3, and shorter rows."
            )
        changed = changed_logits(self.model.config)
        if head == "own" and changed:
            raise BftembedError(f"The model changes its logits ({changed}), which our head does not. Use head='trl'.")
        plain = not changed and not self.is_deepspeed_enabled and self.args.device.type != "cuda"
        self._own_head = head == "own" or (head == "auto" and plain)
        if self._own_head:
            inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            add_nll_head(inner)
            if self.accelerator.num_processes == 1:
                add_embedding_gradient_by_rows(inner)
        self._sums: dict[str, Tensor | int] = {"train": 0, "eval": 0}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the micro-batches of a step, and the number of samples in it over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.zeros((), dtype=torch.long, device=device)
        for batch in batches:
            mask, segments = _targets(batch)
            count += objective_loss(mask.float(), mask, "sft", segment_ids=segments).n_samples.to(device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, scaled so that the sum over the step's micro-batches is the step's loss."""
        if return_outputs:
            raise BftembedError("ObjectiveTrainer makes no logits. Evaluate with prediction_loss_only=True.")
        training = self.model.training
        given = {**inputs, "use_cache": False}
        nll = model(**given, nll=True).nll if self._own_head else -model(**given, fused_lm_head=True).log_probs
        mask, segments = _targets(inputs)
        found = objective_loss(nll, mask, self._objective, segment_ids=segments, **self._options)
        plain = objective_loss(nll.detach(), mask, "sft", segment_ids=segments)
        window = self._options.get("window", 256)
        self._sums["train" if training else "eval"] += _sums(nll.detach()[mask], found, plain, mask, window)
        count = found.n_samples if num_items_in_batch is None else num_items_in_batch
        loss = found.loss_sum / count.clamp(min=1).to(found.loss_sum)
        # The count is that of all ranks, and gradients are averaged over them.
        return loss * self.accelerator.num_processes if training and num_items_in_batch is not None else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures since the last log line, over all ranks."""
        mode = "train" if self.model.training else "eval"
        sums = torch.as_tensor(self._sums[mode], dtype=torch.float64).expand(9).to(self.args.device)
        self._sums[mode] = 0
        measures = _ratios(self.accelerator.reduce(sums, reduction="sum").tolist())
        # "eval_loss", or "eval_NAME_loss" of one of several held-out sets
        prefix = next(name for name in logs if name.endswith("_loss")).removesuffix("loss") if mode == "eval" else ""
        logs.update({prefix + name: value for name, value in measures.items()})
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none into checkpoints: the exported model has a card of its own."""


def _targets(inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Return which targets are learnt, and the number of each one's sample in a packed row, (batch, length - 1)."""
    positions = inputs.get("position_ids")
    return inputs["labels"][:, 1:] != -100, None if positions is None else (positions == 0).cumsum(1)[:, 1:]


def _sums(nll: Tensor, found: ObjectiveLoss, plain: ObjectiveLoss, mask: Tensor, window: int) -> Tensor:
    """Return sums over samples and tokens, float64 (9,), so that batches, micro-batches and ranks add up."""
    weight, n = found.token_weight[mask], found.sample_tokens
    values = [found.n_samples, n.sum(), weight.sum(), (weight >= 1).sum(), found.sample_weight.sum()]
    values += [found.loss_sum.detach(), plain.loss_sum, nll.sum(), (n < window).sum()]
    return torch.stack([v.to(torch.float64) for v in values]).cpu()


def _ratios(sums: list[float]) -> dict[str, float]:
    """Return the measures of `ObjectiveTrainer`; empty when nothing was measured."""
    samples, tokens, token_weight, weight_at_1, coefficient, loss, sample_nll, token_nll, short = sums
    if not samples or not tokens:
        return {}
    return {
        "nll": sample_nll / samples,
        "nll_per_token": token_nll / tokens,
        "mean_token_weight": token_weight / tokens,
        "share_weight_1": weight_at_1 / tokens,
        "mean_sample_coefficient": coefficient / samples,
        "sft_mass_kept": loss / sample_nll if sample_nll else 0.0,
        "share_short": short / samples,
        "samples": samples,
        "tokens": tokens,
    }


def train(
    config: TuneConfig,
    model: Any,
    tokenizer: Any,
    sets: Sequence[TrainingSet],
    arguments: SFTConfig,
    *,
    window: int,
    progress: Progress,
) -> tuple[ObjectiveTrainer, dict[str, float]]:
    """Train `model` in place. It goes on from the last whole checkpoint in the folder of `arguments`.

    The objective gets `window`. A signal is a KeyboardInterrupt once the checkpoint is written. Returns the trainer
    and, for several sets, how often each was learnt: 1.5 is one and a half times.
    """
    watch, resume = Watch(progress), last_whole_checkpoint(Path(arguments.output_dir))
    padded = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    packed = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True)
    with quiet_transformers(), warnings.catch_warnings():
        # TRL 1 calls gradient checkpointing by the names that transformers 5 calls deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        held_out = {one.name: _dataset_of(one.held_out.rows) for one in sets if one.held_out}
        datasets = [_dataset_of(one.learnt.rows) for one in sets]
        if config.data.packing:
            datasets = [pack_dataset(one, config.data.max_length, strategy="bfd") for one in datasets]
        dataset, passes = _mixed(sets, datasets, arguments) if len(sets) > 1 else (datasets[0], {})
        if passes:
            # The order of the whole run is one epoch of the trainer, so that a resumed run finds its place in it.
            arguments.num_train_epochs, arguments.train_sampling_strategy = 1, "sequential"
        trainer = ObjectiveTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=None if not held_out else held_out if len(sets) > 1 else held_out[sets[0].name],
            processing_class=tokenizer,
            data_collator=lambda batch: (packed if "seq_lengths" in batch[0] else padded)(batch),
            peft_config=adapters(config.lora),
            callbacks=[watch],
            objective=config.objective.name,
            head=config.training.head,
            options=config.objective.model_dump(exclude={"name"}) | {"window": window},
        )
        trainer.remove_callback(PrinterCallback)
        with watch:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if watch.stopped:
            raise KeyboardInterrupt
        if held_out and not any(name.startswith("eval_") for name in (trainer.state.log_history[-2:] or [{}])[-1]):
            trainer.evaluate()
    return trainer, passes


def _mixed(
    sets: Sequence[TrainingSet], datasets: Sequence[Dataset], arguments: SFTConfig
) -> tuple[Dataset, dict[str, float]]:
    """Return the rows of several sets in the order of the whole run, and how often each set is learnt in it.

    Weights are those of samples: a set whose packed rows hold many of them gives fewer rows.
    """
    sizes = [len(dataset) for dataset in datasets]
    weights = [one.weight or len(one.learnt.rows) for one in sets]
    shares = np.array([w * n / len(one.learnt.rows) for w, n, one in zip(weights, sizes, sets, strict=True)])
    total = round(sum(sizes) * arguments.num_train_epochs)
    if arguments.max_steps > 0:
        per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        total = arguments.max_steps * per_step * arguments.world_size
    order = mixed_order(sizes, shares / shares.sum(), total, arguments.seed)
    ends = np.cumsum(sizes)
    counts = np.bincount(np.searchsorted(ends, order, side="right"), minlength=len(sets))
    passes = {one.name: float(f"{k / n:.3g}") for one, k, n in zip(sets, counts, sizes, strict=True)}
    if none := [one.name for one, count in zip(sets, counts, strict=True) if not count]:
        raise BftembedError(f"The set {none[0]!r} gives none of the {total} samples of the run. Raise its weight.")
    return concatenate_datasets(datasets).select(order), passes


def _dataset_of(rows: Sequence[Encoded]) -> Dataset:
    return Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})


def adapters(lora: _Lora | None) -> LoraConfig | None:
    """Return peft's config of low-rank adapters."""
    return lora and LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type, unused-ignore]
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint with a mark: the trainer writes file by file, and a kill may have cut one short."""
    whole = (mark.parent for mark in folder.glob(f"checkpoint-*/{_WHOLE}"))
    return max(whole, key=lambda checkpoint: int(checkpoint.name.removeprefix("checkpoint-")), default=None)


def check_trackers(names: Sequence[str]) -> None:
    """Raise for a tracker that transformers does not know, or whose package is not installed."""
    from transformers.integrations import get_available_reporting_integrations, integration_utils

    for name in names:
        if name not in integration_utils.INTEGRATION_TO_CALLBACK:
            raise unknown_name("tracker", name, integration_utils.INTEGRATION_TO_CALLBACK, where="training.report_to")
        if name not in get_available_reporting_integrations():
            raise BftembedError(f"training.report_to has {name!r}, whose package is not installed: pip install {name}.")


def trainer_arguments(config: TuneConfig, folder: Path, *, bf16: bool) -> SFTConfig:
    """Return the trainer's arguments, with checkpoints in `folder` and products in bf16 when asked."""
    data = config.data
    shares = [data.eval_fraction if one.eval_fraction is None else one.eval_fraction for one in data.train]
    evaluates = any(shares) or any(one.eval or data.eval for one in data.train)
    with quiet_transformers(), warnings.catch_warnings():
        # TRL 1 calls gradient checkpointing by the names that transformers 5 calls deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        return SFTConfig(
            **shared_arguments(config.training, folder, bf16=bf16, evaluates=evaluates),
            per_device_eval_batch_size=config.training.batch_size,
            prediction_loss_only=True,
            # Rows come encoded and cut: TRL has nothing to prepare.
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            # The objective has no place for the balancing loss of mixtures of experts.
            router_aux_loss_coef=0.0,
            # A tokenizer without a padding token was given one, which a model need not know.
            eos_token=None,
        )


def shared_arguments(options: _Training, folder: Path, *, bf16: bool, evaluates: bool) -> dict[str, Any]:
    """Return the arguments that transformers' trainer has for every objective."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps or -1,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": options.schedule,
        "warmup_steps": options.warmup_ratio,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "optim": options.optimizer,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "gradient_checkpointing": options.gradient_checkpointing,
        "bf16": bf16,
        "fp16": False,
        "use_cpu": not torch.cuda.is_available(),
        "seed": options.seed,
        "logging_steps": options.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluates and options.eval_every else "no",
        "eval_steps": options.eval_every,
        "save_strategy": "steps" if options.save_every else "no",
        "save_steps": options.save_every or 500,
        "save_total_limit": options.keep,
        "report_to": list(options.report_to),
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Marks whole checkpoints, reports progress, and stops a run: at a NaN, and after a signal with a checkpoint.

    On SIGINT or SIGTERM the step is finished and a checkpoint written. A second signal stops at once. `shown` are the
    measures that the progress shows.
    """

    def __init__(self, progress: Progress, shown: Sequence[str] = ("loss", "nll")) -> None:
        self.stopped = False
        self._progress, self._shown = progress, shown
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop with a checkpoint after a signal."""
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint, which is written to its end."""
        if state.is_world_process_zero:
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE, {"step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the step; a loss that is NaN ends the run."""
        loss = (logs or {}).get("loss")
        if loss is not None and loss != loss:
            raise BftembedError(
                f"The loss of step {state.global_step} is NaN. Lower training.learning_rate, or train in fp32."
            )
        if loss is not None and state.is_world_process_zero:
            note = ", ".join(f"{name} {logs.get(name, 0):.4g}" for name in self._shown)
            self._progress(state.global_step, state.max_steps, note)
