"""Memory and time of a tuning run before it starts, from the model's config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from bftembed.llm.models import quiet_transformers
from bftembed.objectives.nll import CHUNK_BYTES, KEPT_BYTES
from bftembed.tuning.head import adapted_modules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.config import TuneConfig


@dataclass(frozen=True)
class TuneEstimate:
    """Estimate of a tuning run.

    Attributes
    ----------
    parameters, trained
        Numbers of parameters.
    tokens_per_step
        Mean over steps, of all devices, prompts included.
    flops_per_step
        Floating-point operations of all devices; a product of matrices (n, k) and (k, m) is 2nkm.
    hours
        Of all steps, at the given rate; None without one.
    memory
        GB (10⁹ bytes) of each device at its peak: ``weights``, ``gradients``, ``optimizer`` (AdamW), ``gathered``
        (layers that are put together from their shards), ``activations`` of the longest rows, ``logits``, and
        ``total``, which is less than their sum where gradients take the place of activations.
    """

    parameters: int
    trained: int
    tokens_per_step: int
    flops_per_step: float
    hours: float | None
    memory: dict[str, float]


def estimate(
    config: TuneConfig,
    model_config: Any,
    lengths: Sequence[int],
    learnt: int,
    steps: int,
    *,
    bf16: bool,
    devices: int,
    flops: float | None,
) -> TuneEstimate:
    """Estimate a run on rows of `lengths` tokens, of which `learnt` are learnt.

    The model is run once on tensors without storage, the longest rows in one batch: the tensors that its backward pass
    needs and the operations of its products are counted, not modelled. With several devices weights, gradients and
    optimizer are sharded over them (FSDP2, ZeRO-3) and layers are gathered in the precision of the products.

    Not counted: the allocator's fragments, what CUDA itself takes, messages between devices, the packing's gain.
    """
    options, lora = config.training, config.lora
    dtype = torch.bfloat16 if bf16 and (lora or devices > 1) else torch.float32
    shape = (options.batch_size, config.data.max_length if config.data.packing else max(lengths))
    kept: dict[int, tuple[Any, int]] = {}  # storages are held, so that no other takes the place of one

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with FakeTensorMode(), quiet_transformers():
        model = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation="sdpa").train()
        blocks = [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]
        layers = [sum(p.numel() for p in block.parameters()) for block in blocks] or [0]
        parameters = sum(p.numel() for p in model.parameters())
        outside = parameters - sum(layers)
        if lora:
            model.requires_grad_(requires_grad=False)
            for name in adapted_modules(model, lora.target_modules):
                _adapt(model.get_submodule(name), lora.rank)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        ids = torch.zeros(shape, dtype=torch.long)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model.base_model(ids, use_cache=False)
        vocabulary, width = model.get_output_embeddings().weight.shape
    activations = sum(size for place, (_, size) in kept.items() if place not in own)
    per_token = counter.get_total_flops() / math.prod(shape)
    text = model_config.get_text_config()
    if options.gradient_checkpointing:  # the inputs of all layers, and one layer that is computed again
        inputs = text.num_hidden_layers * math.prod(shape) * text.hidden_size * dtype.itemsize
        activations = inputs + activations // text.num_hidden_layers
        if bf16 and dtype == torch.float32:  # autocast keeps a copy of every weight; without checkpoints it is counted
            activations += 2 * parameters
    logits = 4 * vocabulary * min(learnt, math.prod(shape))
    logits = logits if not lora and logits <= KEPT_BYTES else min(logits, CHUNK_BYTES)
    held = {
        "weights": (parameters * dtype.itemsize if lora else parameters * 4) / devices,
        "gradients": trained * 4 / devices,
        "optimizer": trained * 8 / devices,
        "gathered": (outside + 2 * max(layers)) * dtype.itemsize * (1 if lora else 2) if devices > 1 else 0,
        "activations": activations,
        "logits": logits * (1.5 if bf16 else 1),
    }
    # Gradients are made as activations are freed, and are freed before the next step unless micro-batches add up.
    shared = min(held["gradients"], held["activations"]) if options.accumulate == 1 else 0
    memory = {name: round(size / 1e9, 6) for name, size in {**held, "total": sum(held.values()) - shared}.items()}
    rows = options.batch_size * options.accumulate * devices
    row = sum(lengths) / len(lengths)
    if config.data.packing:
        row = min(config.data.max_length, sum(lengths))
    tokens = rows * row
    # Backward passes by activations and by weights; layers once more where they are recomputed; the head's logits too.
    passes = (2 if lora else 3) + options.gradient_checkpointing
    head = 2 * vocabulary * width * tokens * learnt / sum(lengths) * (2 if lora else 4)
    per_step = tokens * per_token * passes + head
    return TuneEstimate(
        parameters=parameters,
        trained=trained,
        tokens_per_step=round(tokens),
        flops_per_step=per_step,
        hours=round(steps * per_step / devices / flops / 3600, 2) if flops else None,
        memory=memory,
    )


def _adapt(layer: Any, rank: int) -> None:
    """Add an adapter to a layer, in float32 as those of PEFT are."""
    n_out, n_in = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1]
    layer.down, layer.up = nn.Linear(n_in, rank, bias=False), nn.Linear(rank, n_out, bias=False)
    layer.register_forward_hook(lambda self, given, out: out + self.up(self.down(given[0].float())).to(out.dtype))
