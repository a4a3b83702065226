"""Per-token negative log-likelihood of a linear head, without ever holding ``[tokens, vocabulary]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Tokens of a chunk when it is left to us, and the bytes of its float32 logits: fewer tokens make the products slow,
#: more gain nothing (measured on a CPU).
_CHUNK_TOKENS, CHUNK_BYTES = 256, 160 * 2**20
#: Bytes of float32 probabilities that are kept for the backward pass of a trained head rather than computed twice:
#: 1,024 tokens of 128,256 words. Plain SFT holds twice as much or more.
KEPT_BYTES = 512 * 2**20


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    chunk_tokens: int | Literal["auto"] = "auto",
    ignore_index: int = -100,
) -> Tensor:
    """Return the NLL of every label under ``softmax(hidden @ weight.T + bias)``, equal to this program.

    ::

        logits = hidden.float() @ weight.float().T + bias          # (…, vocabulary), never held here
        nll    = cross_entropy(logits, labels, reduction="none")   # 0 where labels == ignore_index

    Rows with ignored labels are dropped before the product. Logits exist for one chunk of tokens at a time: they are
    recomputed in the backward pass, or, when neither `weight` nor `bias` asks for a gradient (a frozen head, as under
    LoRA), the gradient of each row is kept in the forward pass and only scaled in the backward pass, since the NLL of a
    token depends on its own row alone. With a trained head, the probabilities of few tokens (at most 512 MiB)
    are one chunk that is kept for one backward pass, unless `chunk_tokens` is given.

    Parameters
    ----------
    hidden
        (…, d) floating point: the model's last hidden states, already aligned with the labels (shift them once).
    weight
        (vocabulary, d), same dtype as `hidden`; or float32, then it is cast and its gradient is float32 throughout.
    labels
        (…,) int64 in [0, vocabulary), or `ignore_index`.
    bias
        (vocabulary,), or None.
    chunk_tokens
        Tokens per chunk; ``"auto"`` is 256, fewer where their logits would exceed 160 MiB.
    ignore_index
        The label of tokens that do not count.

    Returns
    -------
    Tensor
        (…,) float32 (float64 for float64 input), 0 at ignored labels. Products are taken in the dtype of `hidden`
        (bf16 products are accumulated by the backend in float32), exponentials and sums in float32.

    Raises
    ------
    BftembedError
        For shapes or dtypes that do not fit, or a label outside the vocabulary.
    """
    _check(hidden, weight, labels, bias, ignore_index)
    flat = labels.reshape(-1)
    valid = (flat != ignore_index).nonzero().squeeze(1)
    chunk = _chunk(chunk_tokens, weight.shape[0])
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    keeps = chunk_tokens == "auto" and trained and 4 * len(valid) * weight.shape[0] <= KEPT_BYTES
    chunk = max(1, len(valid)) if keeps else chunk
    rows = _LinearNLL.apply(hidden.reshape(-1, hidden.shape[-1])[valid], weight, flat[valid], bias, chunk, keeps)
    return rows.new_zeros(flat.shape).index_put((valid,), rows).reshape(labels.shape)


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, ignore_index: int) -> None:
    if hidden.shape[:-1] != labels.shape or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise BftembedError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and labels {tuple(labels.shape)} do not fit: "
            "expected (…, d), (vocabulary, d) and (…,)."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise BftembedError(f"bias has shape {tuple(bias.shape)}; expected ({weight.shape[0]},).")
    if weight.dtype not in (hidden.dtype, _wide(hidden)) or not hidden.is_floating_point():
        raise BftembedError(f"hidden is {hidden.dtype} and weight {weight.dtype}; give one floating type for both.")
    counted = labels[labels != ignore_index]
    if counted.numel() and not (int(counted.min()) >= 0 and int(counted.max()) < weight.shape[0]):
        raise BftembedError(
            f"A label lies outside the vocabulary of {weight.shape[0]} (labels run from {int(counted.min())} to "
            f"{int(counted.max())}); tokens that do not count have the label {ignore_index}."
        )


def _chunk(chunk_tokens: int | str, vocabulary: int) -> int:
    if chunk_tokens == "auto":
        return max(1, min(_CHUNK_TOKENS, CHUNK_BYTES // (4 * vocabulary)))
    if not isinstance(chunk_tokens, int) or chunk_tokens < 1:
        raise BftembedError(f"chunk_tokens={chunk_tokens!r} must be 'auto' or at least 1.")
    return chunk_tokens


class _Logits:
    """Logits of one chunk of rows after the other, in buffers that are made once.

    A fresh buffer per chunk would cost as much time in page faults as the exponentials do.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int) -> None:
        self.hidden, self.weight, self.bias, self.chunk = hidden, weight, bias, chunk
        shape = (min(chunk, max(len(hidden), 1)), weight.shape[0])
        self.product = hidden.new_empty(shape)
        self.wide = (
            self.product if _wide(hidden) == hidden.dtype else self.product.new_empty(shape, dtype=_wide(hidden))
        )

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield each chunk's rows and its logits, which may be overwritten."""
        for start in range(0, len(self.hidden), self.chunk):
            part = slice(start, min(start + self.chunk, len(self.hidden)))
            n = part.stop - part.start
            torch.mm(self.hidden[part], self.weight.T, out=self.product[:n])
            logits = self.wide[:n]
            if self.wide is not self.product:
                logits.copy_(self.product[:n])
            yield part, logits if self.bias is None else logits.add_(self.bias)

    def narrow(self, logits: Tensor) -> Tensor:
        """Return what the chunk's logits were turned into, in the dtype of the hidden states."""
        return logits if self.wide is self.product else self.product[: len(logits)].copy_(logits)


def _wide(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk: int, keeps: bool
    ) -> Tensor:
        frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
        nll = torch.empty(len(hidden), dtype=_wide(hidden), device=hidden.device)
        log_sum = torch.empty_like(nll)
        row_gradient = torch.empty_like(hidden) if frozen and hidden.requires_grad else None
        kept = None
        ctx.chunk, ctx.frozen, ctx.weight_dtype = chunk, frozen, weight.dtype
        weight = weight.to(hidden.dtype)
        chunks = _Logits(hidden, weight, bias, chunk)
        for part, logits in chunks:
            wanted = logits.gather(1, labels[part, None]).squeeze(1)
            largest = logits.amax(1)
            total = logits.sub_(largest[:, None]).exp_().sum(1)
            log_sum[part] = total.log() + largest
            nll[part] = log_sum[part] - wanted
            if frozen and row_gradient is None:
                continue
            if frozen or keeps:
                kept = _minus_one_hot(logits.div_(total[:, None]), labels[part])
            if row_gradient is not None:
                torch.mm(chunks.narrow(logits), weight, out=row_gradient[part])
        if frozen:
            ctx.save_for_backward(row_gradient)
        else:
            ctx.save_for_backward(hidden, weight, labels, bias, log_sum, kept)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (row_gradient,) = ctx.saved_tensors
            scaled = None if row_gradient is None else row_gradient * gradient[:, None].to(row_gradient.dtype)
            return scaled, None, None, None, None, None
        hidden, weight, labels, bias, log_sum, kept = ctx.saved_tensors
        needs_hidden, needs_weight, _, needs_bias, *_ = ctx.needs_input_grad
        to_hidden = torch.empty_like(hidden) if needs_hidden else None
        to_weight: Tensor | None = None
        to_bias = torch.zeros_like(bias, dtype=log_sum.dtype) if needs_bias else None
        chunks = _Logits(hidden, weight, bias, ctx.chunk)
        for part, slope in [(slice(None), kept)] if kept is not None else _slopes(chunks, log_sum, labels):
            slope.mul_(gradient[part, None])
            if to_bias is not None:
                to_bias += slope.sum(0)
            slope = chunks.narrow(slope)
            if to_hidden is not None:
                torch.mm(slope, weight, out=to_hidden[part])
            if not needs_weight:
                continue
            if to_weight is None:
                # Summing thousands of bf16 chunks into a bf16 matrix would lose most of them.
                to_weight = (slope.T @ hidden[part]).to(log_sum.dtype)
            elif to_weight.dtype == slope.dtype:
                to_weight.addmm_(slope.T, hidden[part])
            else:
                to_weight += slope.T @ hidden[part]
        if needs_weight:
            to_weight = torch.zeros_like(weight) if to_weight is None else to_weight
            to_weight = to_weight.to(ctx.weight_dtype)
        to_bias = None if to_bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight, None, to_bias, None, None


def _slopes(chunks: _Logits, log_sum: Tensor, labels: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the derivative of the NLL of each chunk's rows by their logits, which may be overwritten."""
    for part, logits in chunks:
        yield part, _minus_one_hot(logits.sub_(log_sum[part, None]).exp_(), labels[part])


def _minus_one_hot(probabilities: Tensor, labels: Tensor) -> Tensor:
    probabilities[torch.arange(len(labels), device=labels.device), labels] -= 1
    return probabilities
