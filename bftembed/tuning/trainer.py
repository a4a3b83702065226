"""The adapter to TRL: `SFTTrainer` with our objectives. The only file that knows TRL (tested with 1.16)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bftembed.errors import BftembedError
from bftembed.objectives import objective_loss
from bftembed.tuning.head import add_embedding_gradient_by_rows, add_nll_head, changed_logits
from bftembed.tuning.measures import Measures, measures_of


class ObjectiveTrainer(SFTTrainer):
    """TRL's `SFTTrainer` that minimises an objective of `bftembed.objectives`.

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
        For label smoothing, an adapter on the head, context or sequence parallelism, TRL's own losses, and the own
        head on a model that scales or caps its logits.

    Notes
    -----
    `Measures` of every step are logged beside the loss, with ``eval_`` in evaluation, where ``eval_nll`` and
    ``eval_nll_per_token`` are plain NLL whatever the objective.
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
        _refuse(kwargs)
        super().__init__(*args, **kwargs)
        self._objective, self._options = objective, dict(options or {})
        objective_loss(torch.zeros(1), torch.ones(1, dtype=torch.bool), objective, **self._options)
        parallel = self.accelerator.parallelism_config
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise BftembedError(
                "Context and sequence parallelism are refused: they cut a sequence into shards, and the windows of "
                "confidences reach across their borders. Use data parallelism, FSDP2 or ZeRO-3, and shorter rows."
            )
        self._own_head = _is_own_head(head, self)
        if self._own_head:
            inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            add_nll_head(inner)
            if self.accelerator.num_processes == 1:
                add_embedding_gradient_by_rows(inner)
        self._measures = {"train": Measures.zero(), "eval": Measures.zero()}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the micro-batches of a step, and the number of samples in it over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [_valid_samples(batch) for batch in batches]
        count = torch.stack(counts).sum().to(device) if counts else torch.zeros((), dtype=torch.long, device=device)
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
        nll = self._nll(model, inputs)
        mask, segments = inputs["labels"][:, 1:] != -100, _segments(inputs)
        found = objective_loss(nll, mask, self._objective, segment_ids=segments, **self._options)
        measured = measures_of(nll.detach(), mask, found, segments, window=self._options.get("window", 256))
        self._measures["train" if training else "eval"] += measured
        count = found.n_samples if num_items_in_batch is None else num_items_in_batch
        loss = found.loss_sum / count.clamp(min=1).to(found.loss_sum)
        if training and num_items_in_batch is not None:
            # The count is that of all ranks, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        return loss

    def _nll(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        inputs = {**inputs, "use_cache": False}
        if self._own_head:
            return model(**inputs, nll=True).nll
        return -model(**inputs, fused_lm_head=True).log_probs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the measures since the last log line, over all ranks."""
        mode = "train" if self.model.training else "eval"
        sums = self.accelerator.reduce(self._measures[mode].sums.to(self.args.device), reduction="sum")
        self._measures[mode] = Measures.zero()
        prefix = "eval_" if mode == "eval" else ""
        logs.update({prefix + name: value for name, value in Measures(sums.cpu()).ratios().items()})
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none into checkpoints: the exported model has a card of its own."""


class Collator:
    """Pads rows to the longest of a batch; joins packed rows (those with ``seq_lengths``) without padding."""

    def __init__(self, pad_token_id: int) -> None:
        self._padded = DataCollatorForLanguageModeling(pad_token_id=pad_token_id)
        self._packed = DataCollatorForLanguageModeling(pad_token_id=pad_token_id, padding_free=True)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch as tensors."""
        return (self._packed if "seq_lengths" in rows[0] else self._padded)(rows)


def _refuse(kwargs: dict[str, Any]) -> None:
    arguments, peft = kwargs.get("args"), kwargs.get("peft_config")
    if getattr(arguments, "label_smoothing_factor", 0):
        raise BftembedError(
            "Label smoothing is refused: the weights of an objective are confidences in the true label, and smoothing "
            "trains another one."
        )
    if getattr(arguments, "loss_type", "nll") != "nll" or kwargs.get("compute_loss_func") is not None:
        raise BftembedError("loss_type and compute_loss_func are TRL's own losses; name the objective instead.")
    targets = getattr(peft, "target_modules", None) or ()
    if any(name.split(".")[-1] in ("lm_head", "embed_out") for name in targets if not isinstance(targets, str)):
        raise BftembedError(
            "An adapter on the head (lm_head) is refused: the NLL is taken from the head's own weight, so the adapter "
            "would have no effect. Take it out of target_modules, or train the whole head by modules_to_save."
        )


def _is_own_head(head: str, trainer: ObjectiveTrainer) -> bool:
    changed = changed_logits(trainer.model.config)
    if head not in ("auto", "own", "trl"):
        raise BftembedError(f"head={head!r} is none of 'auto', 'own', 'trl'.")
    if head == "own" and changed:
        raise BftembedError(f"The model changes its logits ({changed}), which our head does not. Use head='trl'.")
    sharded = trainer.is_deepspeed_enabled
    return head == "own" or (head == "auto" and not changed and not sharded and trainer.args.device.type != "cuda")


def _segments(inputs: dict[str, Any]) -> Tensor | None:
    """Return the number of each target's sample in its packed row, (batch, length - 1); None where rows are samples."""
    positions = inputs.get("position_ids")
    return None if positions is None else (positions == 0).cumsum(1)[:, 1:]


def _valid_samples(inputs: dict[str, Any]) -> Tensor:
    """Return the number of samples with a token to learn, 0-d int64."""
    mask, segments = inputs["labels"][:, 1:] != -100, _segments(inputs)
    if segments is None:
        return mask.any(1).sum()
    row = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
    return torch.tensor(len(torch.unique(torch.stack([row[mask], segments[mask]]), dim=1).T), device=mask.device)
