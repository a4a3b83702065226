"""A causal language model that gives the NLL of its labels instead of logits, inside its own forward.

Inside, since data-parallel and sharded wrappers gather parameters and reduce gradients around ``forward`` alone.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from bftembed.objectives import linear_nll
from bftembed.tuning.rows import hidden_states, join_rows

#: Config keys by which models scale or cap their logits, and the value that changes nothing.
_LOGIT_KEYS = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "output_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "logits_scaling": 1.0,
}


@dataclass
class NLLOutput(ModelOutput):
    """What the model returns when asked for NLL: `nll` float32 (batch, length - 1), 0 where the label is -100."""

    nll: Tensor | None = None


def changed_logits(config: Any) -> str:
    """Return the name of the config key by which a model scales or caps its logits, or ``""``."""
    text = config.get_text_config()
    for key, neutral in _LOGIT_KEYS.items():
        if getattr(text, key, None) not in (None, neutral):
            return key
    return ""


def add_nll_head(model: Any) -> None:
    """Let ``model(**inputs, labels=labels, nll=True)`` return `NLLOutput` by `linear_nll`; other calls stay.

    Parameters
    ----------
    model
        Causal language model of transformers, before it is wrapped by PEFT or a distributed engine. Its head must be a
        plain linear layer and its logits neither scaled nor capped (`changed_logits`).
    """
    plain = model.forward
    join_rows(model)

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, nll: bool = False, **kwargs: Any) -> Any:
        if not nll:
            return plain(*args, **kwargs)
        labels = kwargs.pop("labels")[:, 1:]
        hidden = hidden_states(self.base_model, *args, **kwargs)[:, :-1]
        # Looked up on each call: wrappers replace the head after this patch.
        head = self.get_output_embeddings()
        weight, bias = _whole(head.weight), None if head.bias is None else _whole(head.bias)
        dtype = _product_dtype(hidden, weight)
        bias = None if bias is None else bias.to(torch.promote_types(dtype, torch.float32))
        # A float32 weight is cast inside, so that its gradient is summed in float32.
        weight = weight if weight.dtype == torch.float32 else weight.to(dtype)
        return NLLOutput(nll=linear_nll(hidden.to(dtype), weight, labels.to(hidden.device), bias=bias))

    model.forward = types.MethodType(forward, model)


def add_embedding_gradient_by_rows(model: Any) -> None:
    """Let an embedding that is also the head add its gradient to the head's row by row.

    Otherwise it makes a second one of the size of the vocabulary. Not for several processes, whose engines expect dense
    or sparse gradients, and not a sum of both.
    """
    embedding = model.get_input_embeddings()
    if embedding.weight is model.get_output_embeddings().weight:
        embedding.sparse = True


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype in which a linear layer would be taken here: autocast's, where that is on."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return weight.dtype


def _whole(parameter: Tensor) -> Tensor:
    """Return a sharded parameter (FSDP2) as a whole tensor whose gradient is averaged over the ranks.

    Plain ``full_tensor()`` would keep each rank's own gradient.
    """
    from torch.distributed.tensor import DTensor, Partial

    if isinstance(parameter, DTensor):
        return parameter.full_tensor(grad_placements=[Partial("avg")])
    return parameter
