"""A causal language model that returns the NLL of its labels instead of logits, inside its own forward.

Inside, since data-parallel and sharded wrappers gather parameters and reduce gradients around ``forward`` alone.

Rows of a batch are joined into one without padding that holds their common beginning once. Rows of instruction data
begin alike (system message, wording of the question) and differ in length. With causal attention a token depends on
itself and what comes before it, so the hidden states of a common beginning are those of every row: only attention has
to know which row a token belongs to.
"""

from __future__ import annotations

import functools
import re
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import ModelOutput

from bftembed.errors import BftembedError
from bftembed.llm.models import attends_to_all_before
from bftembed.objectives import linear_nll

if TYPE_CHECKING:
    from collections.abc import Collection

#: Config keys by which models scale or cap their logits, and the value that changes nothing.
_LOGIT_KEYS = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "output_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "logits_scaling": 1.0,
}
#: Name of the attention over joined rows.
_JOINED = "bftembed_rows"


@dataclass
class _NLLOutput(ModelOutput):
    nll: Tensor | None = None


def changed_logits(config: Any) -> str:
    """Return the name of the config key by which a model scales or caps its logits, or ``""``."""
    text = config.get_text_config()
    for key, neutral in _LOGIT_KEYS.items():
        if getattr(text, key, None) not in (None, neutral):
            return key
    return ""


def adapted_modules(model: Any, targets: str | Collection[str]) -> list[str]:
    """Return the names of the modules of a causal language model that PEFT gives an adapter.

    `targets` is ``"all-linear"``, ends of names, or a regular expression of whole names.

    Raises
    ------
    BftembedError
        When nothing fits, or the head does: an adapter on it would have no effect, since the NLL is taken from the
        head's weight.
    """
    head = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    if targets == "all-linear":
        return [n for n, m in layers.items() if type(m).__name__ in ("Linear", "Conv1D") and m is not head]
    if isinstance(targets, str):
        try:
            found = [name for name in layers if re.fullmatch(targets, name)]
        except re.error as err:
            raise BftembedError(f"target_modules is not a regular expression ({err}): {targets!r}.") from err
    else:
        found = [name for name in layers if any(f".{name}".endswith(f".{target}") for target in targets)]
    if not found:
        known = sorted({name.rpartition(".")[2] for name, module in layers.items() if module.weight.dim() == 2})
        raise BftembedError(f"target_modules={targets!r} fits no module. Their names end in {', '.join(known)}.")
    if any(model.get_submodule(name) is head for name in found):
        raise BftembedError(
            f"target_modules={targets!r} has the head in it. An adapter on the head would have no effect, since the "
            "NLL is taken from its weight. Leave it out, or train the whole head by modules_to_save."
        )
    return found


def add_nll_head(model: Any) -> None:
    """Let ``model(**inputs, labels=labels, nll=True).nll`` be that of `linear_nll`; other calls stay.

    It is float32 (batch, length - 1), 0 where the label is -100. `model` is a causal language model of transformers,
    before it is wrapped by PEFT or a distributed engine, with a plain linear head and logits that are neither scaled
    nor capped (`changed_logits`).
    """
    plain = model.forward
    _join_rows(model)

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, nll: bool = False, **kwargs: Any) -> Any:
        if not nll:
            return plain(*args, **kwargs)
        labels = kwargs.pop("labels")[:, 1:]
        hidden = _hidden_states(self.base_model, *args, **kwargs)[:, :-1]
        # Looked up on each call: wrappers replace the head after this patch.
        head = self.get_output_embeddings()
        weight, bias = _whole(head.weight), None if head.bias is None else _whole(head.bias)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        bias = None if bias is None else bias.to(torch.promote_types(dtype, torch.float32))
        # A float32 weight is cast inside, so that its gradient is summed in float32.
        weight = weight if weight.dtype == torch.float32 else weight.to(dtype)
        return _NLLOutput(nll=linear_nll(hidden.to(dtype), weight, labels.to(hidden.device), bias=bias))

    model.forward = types.MethodType(forward, model)


def add_embedding_gradient_by_rows(model: Any) -> None:
    """Let an embedding that is also the head add its gradient to the head's row by row.

    Otherwise it makes a second one of the size of the vocabulary. Not for several processes, whose engines expect dense
    or sparse gradients, and not a sum of both.
    """
    embedding = model.get_input_embeddings()
    if embedding.weight is model.get_output_embeddings().weight:
        embedding.sparse = True


def _whole(parameter: Tensor) -> Tensor:
    """Return a sharded parameter (FSDP2) as a whole tensor whose gradient is averaged, not each rank's own."""
    from torch.distributed.tensor import DTensor, Partial

    if isinstance(parameter, DTensor):
        return parameter.full_tensor(grad_placements=[Partial("avg")])
    return parameter


def _join_rows(model: Any) -> bool:
    """Let rows of a batch be joined where that is exact (full causal attention by PyTorch); return whether it is."""
    joins = bool(model.config.get_text_config()._attn_implementation == "sdpa" and attends_to_all_before(model))
    if joins:
        AttentionInterface.register(_JOINED, _attention)
        AttentionMaskInterface.register(_JOINED, sdpa_mask)
        model.set_attn_implementation(_JOINED)
    return joins


def _hidden_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Any = None, **kwargs: Any
) -> Tensor:
    """Return the last hidden states, (batch, length, d), of a model without its head; any values at padding."""
    rows = None
    if model.config.get_text_config()._attn_implementation == _JOINED and position_ids is None:
        rows = _JoinedRows.of(input_ids, attention_mask)
    if rows is None:
        given = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        return model(input_ids, **given).last_hidden_state
    given = {"attention_mask": rows.mask, "position_ids": rows.positions, "rows": rows, **kwargs}
    found = model(rows.tokens, **given).last_hidden_state[0]
    return found.index_select(0, rows.place.flatten()).unflatten(0, rows.place.shape)


@dataclass(frozen=True)
class _JoinedRows:
    """The tokens of a batch: the common beginning, then what follows it in each row."""

    tokens: Tensor  # int64 (1, n)
    positions: Tensor  # int64 (1, n), within the rows
    place: Tensor  # int64 (batch, length): where each token of the batch is in `tokens`; 0 for padding
    common: int  # length of the common beginning, less than that of the shortest row
    grid: tuple[int, int]  # rows, and the largest number of tokens that follow the beginning
    cell: Tensor  # int64 (n - common,): cell of the grid, row by row, in which each following token lies
    mask: Tensor  # bool (1, 1, grid[1], common + grid[1]): what a token at a place of the grid's rows sees

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor | None) -> _JoinedRows | None:
        """Find the common beginning; None for rows that are not padded on the right alone."""
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if not real[:, 0].all() or (real[:, 1:] > real[:, :-1]).any():
            return None
        batch, length = input_ids.shape
        shortest = int(real.sum(1).min())
        alike = (input_ids[:, : shortest - 1] == input_ids[:1, : shortest - 1]).all(0) if batch > 1 else real[0, :0]
        common = int(alike.long().cumprod(0).sum())
        following = real[:, common:]
        following = following[:, : int(following.sum(1).max())]
        at = torch.arange(length, device=input_ids.device)
        place = torch.zeros_like(input_ids)
        place[:, :common] = at[:common]
        place[:, common:][real[:, common:]] = torch.arange(int(following.sum()), device=at.device) + common
        size = following.shape[1]
        mask = torch.ones(size, common + size, dtype=torch.bool, device=at.device).tril(common)
        return cls(
            tokens=torch.cat([input_ids[0, :common], input_ids[:, common:][real[:, common:]]])[None],
            positions=torch.cat([at[:common], at.expand_as(real)[:, common:][real[:, common:]]])[None],
            place=place,
            common=common,
            grid=(batch, size),
            cell=following.flatten().nonzero().squeeze(1),
            mask=mask[None, None],
        )

    def spread(self, following: Tensor) -> Tensor:
        """Return (n - common, heads, d) as (batch, grid[1], heads, d), 0 in cells without a token."""
        batch, size = self.grid
        cells = following.new_zeros(batch * size, *following.shape[1:])
        return cells.index_copy(0, self.cell, following).unflatten(0, self.grid)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    rows: _JoinedRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the form of transformers: (1, heads, n, d) each, and (1, n, heads, d) back."""
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    n = rows.common
    # The heads that share a key are laid one after the other as queries of one head, so that keys are not repeated.
    shared = query.shape[1] // key.shape[1]
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    parts = []
    if n:
        first = torch.ones(n, n, dtype=torch.bool, device=key.device).tril()
        q, k, v = query[None, :n], key[None, :n], value[None, :n]
        parts.append(_grouped(q, k, v, first[None, None], shared, options)[0])
    keys, values = (
        torch.cat([x[:n].expand(rows.grid[0], *x[:n].shape), rows.spread(x[n:])], 1) if n else rows.spread(x)
        for x in (key, value)
    )
    found = _grouped(rows.spread(query[n:]), keys, values, rows.mask, shared, options)
    parts.append(found.flatten(0, 1).index_select(0, rows.cell))
    return torch.cat(parts)[None], None


def _grouped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, shared: int, options: dict[str, Any]) -> Tensor:
    """Return the attention of (batch, length, heads, d) queries on keys and values that `shared` heads share."""
    batch, length, heads, d = q.shape
    q = q.unflatten(2, (heads // shared, shared)).permute(0, 2, 3, 1, 4).reshape(batch, heads // shared, -1, d)
    found = scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask.repeat(1, 1, shared, 1), **options
    )
    return found.unflatten(2, (shared, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)
