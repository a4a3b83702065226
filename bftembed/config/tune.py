"""The recipe ``tune``: a language model, data, an objective, and how it is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from bftembed.config.base import Strict


class ObjectiveConfig(Strict):
    """The objective and what the paper leaves open about it; see `bftembed.objectives.objective_loss`.

    Attributes
    ----------
    name
        ``sft``, ``dft``, ``bft-token``, ``bft-sample``, ``bft`` or ``bft-v1``.
    window, sample_coefficient, eps, clip, gamma
        As in `bftembed.objectives.objective_loss`.
    """

    name: Literal["sft", "dft", "bft-token", "bft-sample", "bft", "bft-v1"] = "bft"
    window: int = Field(default=256, ge=1)
    sample_coefficient: Literal["one_minus_min", "two_minus_min"] = "one_minus_min"
    eps: float = Field(default=1e-8, ge=0)
    clip: bool = True
    gamma: float = Field(default=1.0, gt=0)


class DataConfig(Strict):
    """Conversations to learn from.

    Attributes
    ----------
    train
        File of conversations: see `bftembed.tuning.data.read_conversations` for its forms.
    eval
        File of held-out conversations, or None.
    eval_fraction
        Without `eval`: the share of `train` that is held out, drawn by the seed.
    max_length
        Longest conversation in tokens, prompt and response.
    over_long
        What happens to longer ones: ``"error"`` names them, ``"truncate"`` cuts their end, ``"drop"`` leaves them out.
    packing
        Put several conversations into one row of up to `max_length` tokens; attention, windows and sample means stay
        within each.
    template
        ``"chat"`` renders with the tokenizer's chat template, ``"none"`` joins the plain texts, ``"auto"`` takes the
        template when there is one.
    thinking
        Where the chat template opens a thought at the end of the prompt (DeepSeek-R1's ends in ``<think>``): ``"off"``
        closes it there, ``"on"`` leaves it open for rows that bring their thoughts, ``"auto"`` leaves it open where a
        row closes one. The tuned model is saved with the template that it was tuned with.
    """

    train: str = Field(min_length=1)
    eval: str | None = None
    eval_fraction: float = Field(default=0.0, ge=0, lt=1)
    max_length: int = Field(default=1024, ge=2)
    over_long: Literal["error", "truncate", "drop"] = "error"
    packing: bool = False
    template: Literal["auto", "chat", "none"] = "auto"
    thinking: Literal["auto", "on", "off"] = "auto"


class LoraConfig(Strict):
    """Low-rank adapters instead of all weights (arXiv 2106.09685).

    Attributes
    ----------
    rank, alpha, dropout
        Of the adapters; the update is scaled by alpha / rank.
    target_modules
        Names of linear layers, or ``"all-linear"`` for all but the head.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class TrainingConfig(Strict):
    """How the weights are moved.

    Attributes
    ----------
    epochs, max_steps
        How long; `max_steps` wins when given.
    learning_rate, schedule, warmup_ratio, weight_decay, max_grad_norm
        AdamW (betas .9, .999) and its schedule; gradients are clipped to a norm of `max_grad_norm`, 0 for never.
    batch_size
        Rows per device and forward pass.
    accumulate
        Forward passes per step. The loss is normalised by the samples of the whole step over all devices, so 1 x 4,
        2 x 2 and 2 devices x 2 are one thing.
    precision
        ``"fp32"``; ``"bf16"``: products in bf16, trained weights in float32; ``"auto"``: bf16 where the device
        has it.
    gradient_checkpointing
        Recompute activations in the backward pass: less memory, about a third more time.
    seed
        Of the order of rows, held-out rows, adapters and dropout.
    log_every, eval_every, save_every
        Steps between log lines, evaluations and checkpoints; None evaluates at the end alone, and saves at the end.
    keep
        Checkpoints that are kept. At least two, so that a kill while one is written leaves a whole one.
    optimizer
        Name as in transformers' ``OptimizerNames``.
    attention
        Attention implementation as in transformers (``"sdpa"``, ``"flash_attention_2"``, …).
    threads
        Threads of a CPU; None leaves them to torch. Sums depend on them in the last digits.
    """

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=1, ge=1)
    eval_every: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=2)
    optimizer: str = "adamw_torch_fused"
    attention: str = "sdpa"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_label_smoothing(cls, values: Any) -> Any:
        smoothing = {"label_smoothing", "label_smoothing_factor"} & set(values if isinstance(values, dict) else ())
        if smoothing:
            raise ValueError(
                f"{smoothing.pop()!r} is refused: the weights of an objective are confidences in the true label, and "
                "smoothing trains another one"
            )
        return values


class TuneConfig(Strict):
    """Tune a language model: what ``bftembed tune`` runs.

    Attributes
    ----------
    recipe
        Which model of this module the file is checked against.
    model
        ``builtin:NAME``, a folder or a hub name.
    out
        Folder for checkpoints, logs and the tuned model.
    objective, data, lora, training
        The parts; `lora` None trains all weights.
    """

    recipe: Literal["tune"] = "tune"
    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    out: str = Field(default="runs/tune", min_length=1)
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig
    lora: LoraConfig | None = None
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _one_source_of_held_out_rows(self) -> TuneConfig:
        if self.data.eval is not None and self.data.eval_fraction:
            raise ValueError("data.eval and data.eval_fraction are both given; held-out rows come from one of them")
        return self
