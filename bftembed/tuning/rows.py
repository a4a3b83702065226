"""Rows of a batch as one row without padding that holds their common beginning once, and the attention over it.

Rows of instruction data begin alike (system message, wording of the question) and differ in length. With causal
attention a token depends on itself and what comes before it, so the hidden states of a common beginning are those of
every row, and padding is not needed at all: only attention has to know which row a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bftembed.llm.models import attends_to_all_before

_NAME = "bftembed_rows"


def join_rows(model: Any) -> bool:
    """Let `hidden_states` join the rows of a batch where that is exact, and return whether it is.

    It is for models that `attends_to_all_before` knows, by PyTorch's own kernel. Other calls of the model stay what
    they were.
    """
    joins = bool(model.config.get_text_config()._attn_implementation == "sdpa" and attends_to_all_before(model))
    if joins:
        AttentionInterface.register(_NAME, _attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)
    return joins


def hidden_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Any = None, **kwargs: Any
) -> Tensor:
    """Return the last hidden states, (batch, length, d); those at padding mean nothing.

    Parameters
    ----------
    model
        Without its head. Rows are joined when `join_rows` allowed it, are padded on the right and not packed.
    input_ids, attention_mask, position_ids, **kwargs
        As for the model.
    """
    rows = None
    if model.config.get_text_config()._attn_implementation == _NAME and position_ids is None:
        rows = Rows.of(input_ids, attention_mask)
    if rows is None:
        given = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        return model(input_ids, **given).last_hidden_state
    found = model(
        rows.tokens, attention_mask=rows.mask, position_ids=rows.positions, rows=rows, **kwargs
    ).last_hidden_state[0]
    return found.index_select(0, rows.place.flatten()).unflatten(0, rows.place.shape)


@dataclass(frozen=True)
class Rows:
    """The tokens of a batch: the common beginning, then what follows it in each row.

    Attributes
    ----------
    tokens, positions
        int64 (1, n): the tokens, and their positions within their rows.
    place
        int64 (batch, length): where in `tokens` each token of the batch is; 0 for padding.
    common
        Length of the common beginning, less than that of the shortest row.
    grid
        Rows, and the largest number of tokens that follow the beginning.
    cell
        int64 (n - common,): the cell of the grid, row by row, in which each following token lies.
    mask
        bool (1, 1, grid[1], common + grid[1]): what a token at a place of the grid's rows sees.
    """

    tokens: Tensor
    positions: Tensor
    place: Tensor
    common: int
    grid: tuple[int, int]
    cell: Tensor
    mask: Tensor

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor | None) -> Rows | None:
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
    rows: Rows | None = None,
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
