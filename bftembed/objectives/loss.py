"""The loss of every objective from per-token NLL: a sum over samples and their number, never a mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bftembed.errors import BftembedError, unknown_name
from bftembed.objectives._weights import OBJECTIVES, SAMPLE_COEFFICIENTS, Options, Samples, confidence


@dataclass(frozen=True)
class ObjectiveLoss:
    """The loss of a batch, before it is divided by the number of samples.

    Attributes
    ----------
    loss_sum
        0-d, differentiable in the NLL: the sum over samples in equation 6. Divide it by the *global* number of
        samples (over accumulated micro-batches and ranks).
    n_samples
        0-d int64: samples with at least one valid token.
    token_weight
        w, detached, in the shape of the NLL; 0 where the mask is.
    sample_weight
        s, detached, (n_samples,): samples in order of their rows, and of their segments within a row.
    local_confidence
        C_loc, detached, in the shape of the NLL; 0 where the mask is.
    sample_tokens
        int64 (n_samples,): valid tokens of each sample, in the order of `sample_weight`.
    """

    loss_sum: Tensor
    n_samples: Tensor
    token_weight: Tensor
    sample_weight: Tensor
    local_confidence: Tensor
    sample_tokens: Tensor


def objective_loss(
    nll: Tensor,
    mask: Tensor,
    objective: str = "bft",
    *,
    window: int = 256,
    sample_coefficient: str = "one_minus_min",
    eps: float = 1e-8,
    clip: bool = True,
    gamma: float = 1.0,
    segment_ids: Tensor | None = None,
) -> ObjectiveLoss:
    """Return the loss of an objective, equal in value and gradient to this program.

    ::

        for each sample b, over its valid tokens t = 0 … n-1 (mask true), in order:
            c[t]     = exp(-nll[t])                                            # eq. 1, detached
            C_loc[t] = mean(c[max(0, t - (g-1)//2) : t + g//2 + 1])            # eq. 2, g = window
                       (the mean of the whole sample where n < g)
            w[t]     = clip(c[t] / (C_loc[t] + eps), 0, 1)                     # eq. 3
            C_min    = min(C_loc)                                              # eq. 4
            s        = 1 - C_min        (or 2 - C_min: sample_coefficient)     # eq. 5
            loss_sum += s * sum(w * nll) / (n + eps)                           # eq. 6
            n_samples += 1

    with the w and s of the objective:

    ============  =================  ==========================================================================
    objective     w                  s
    ============  =================  ==========================================================================
    sft           1                  1
    dft           c                  1
    bft-token     eq. 3              1
    bft-sample    1                  eq. 5
    bft           eq. 3              eq. 5
    bft-v1        c                  1 - p**gamma, p = exp(min over full windows of the mean log-confidence)
    ============  =================  ==========================================================================

    Parameters
    ----------
    nll
        Negative log-likelihood per token, (batch, length) or (length,), any floating type. Values where the mask is
        false do not matter (they may be NaN).
    mask
        bool, same shape: true on response tokens. A row without any contributes 0 and is not counted.
    objective
        One of the table; the first five share the outer mean of equation 6.
    window
        g, at least 1.
    sample_coefficient
        ``"one_minus_min"`` (in [0, 1]), equation 5 of the paper, or ``"two_minus_min"`` (in [1, 2]), the default of
        earlier versions; see docs/decisions/loss.md.
    eps
        As in the program, not negative.
    clip
        Whether w is clipped to [0, 1].
    gamma
        Exponent of bft-v1.
    segment_ids
        int, same shape: samples of packed rows. Tokens of one row with the same number are one sample; without it
        every row is one.

    Returns
    -------
    ObjectiveLoss
        Sums are float32, or float64 for a float64 `nll`. An all-masked batch gives 0, connected to the graph.

    Raises
    ------
    UnknownNameError
        For an unknown objective or sample coefficient.
    BftembedError
        For shapes that differ, a mask that is not bool, a window below 1, or a negative eps.

    References
    ----------
    Balanced Fine-Tuning, arXiv 2511.21075, equations 1-6; Dynamic Fine-Tuning, arXiv 2508.05629.
    """
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    if sample_coefficient not in SAMPLE_COEFFICIENTS:
        raise unknown_name("sample coefficient", sample_coefficient, SAMPLE_COEFFICIENTS)
    _check(nll, mask, segment_ids, window, eps)

    where, sample = _compacted(mask, segment_ids)
    dtype = torch.float64 if nll.dtype == torch.float64 else torch.float32
    valid = nll.reshape(-1)[where].to(dtype)
    samples = Samples.of(sample)
    known = confidence(valid, samples, Options(window, sample_coefficient, eps, clip, gamma))
    token, per_sample = (part.to(dtype) for part in OBJECTIVES[objective](known))
    loss_sum = (per_sample * samples.total(token * valid) / (samples.count.to(dtype) + eps)).sum()
    return ObjectiveLoss(
        loss_sum=loss_sum,
        n_samples=torch.tensor(len(samples.count), device=nll.device),
        token_weight=_spread(token, where, nll),
        sample_weight=per_sample,
        local_confidence=_spread(known.local.to(dtype), where, nll),
        sample_tokens=samples.count,
    )


def _check(nll: Tensor, mask: Tensor, segment_ids: Tensor | None, window: int, eps: float) -> None:
    if nll.dim() not in (1, 2) or not nll.is_floating_point():
        raise BftembedError(
            f"nll is {nll.dtype} of shape {tuple(nll.shape)}; give floats (batch, length) or (length,)."
        )
    for name, other in (("mask", mask), ("segment_ids", segment_ids)):
        if other is not None and other.shape != nll.shape:
            raise BftembedError(f"{name} has shape {tuple(other.shape)}, but nll has {tuple(nll.shape)}.")
    if mask.dtype != torch.bool:
        raise BftembedError(f"mask is {mask.dtype}; give bool, true on response tokens (labels != -100).")
    if window < 1 or eps < 0:
        raise BftembedError(f"window={window} must be at least 1, and eps={eps} not negative.")


def _compacted(mask: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the flat positions of the valid tokens, sample after sample, and the sorted numbers of their samples."""
    length = mask.shape[-1]
    where = mask.reshape(-1).nonzero().squeeze(1)
    row = where // max(length, 1)
    if segment_ids is None:
        return where, row
    # Number (row, segment) pairs in order; a stable sort keeps the tokens of a segment in their order.
    _, segment = torch.unique(segment_ids.reshape(-1)[where], return_inverse=True)
    sample = row * (len(where) + 1) + segment
    sample, order = sample.sort(stable=True)
    return where[order], sample


def _spread(values: Tensor, where: Tensor, like: Tensor) -> Tensor:
    out = torch.zeros(like.numel(), dtype=values.dtype, device=like.device)
    out[where] = values
    return out.reshape(like.shape)
