"""What a step tells beside its loss: how much of plain fine-tuning an objective keeps, and whether its window works."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bftembed.objectives import ObjectiveLoss, objective_loss

_SUMS = (
    "samples",
    "tokens",
    "token_weight",
    "weight_at_1",
    "sample_coefficient",
    "loss",
    "sample_nll",
    "token_nll",
    "short",
)


@dataclass(frozen=True)
class Measures:
    """Sums over samples and tokens, so that batches, micro-batches and ranks add up.

    Attributes
    ----------
    sums
        float64 (9,).
    """

    sums: Tensor

    @classmethod
    def zero(cls) -> Measures:
        """Return measures of nothing."""
        return cls(torch.zeros(len(_SUMS), dtype=torch.float64))

    def __add__(self, other: Measures) -> Measures:
        return Measures(self.sums + other.sums)

    def ratios(self) -> dict[str, float]:
        """Return what is logged; empty when nothing was measured.

        Returns
        -------
        dict
            ``nll`` (plain, mean over samples of the mean over tokens), ``nll_per_token`` (plain, mean over tokens),
            ``mean_token_weight`` and ``share_weight_1`` in [0, 1], ``mean_sample_coefficient``, ``sft_mass_kept`` (the
            objective's loss over plain SFT's on the same tokens), ``share_short`` (samples shorter than the window),
            ``samples`` and ``tokens`` (learnt ones).
        """
        s = dict(zip(_SUMS, self.sums.tolist(), strict=True))
        if not s["samples"] or not s["tokens"]:
            return {}
        return {
            "nll": s["sample_nll"] / s["samples"],
            "nll_per_token": s["token_nll"] / s["tokens"],
            "mean_token_weight": s["token_weight"] / s["tokens"],
            "share_weight_1": s["weight_at_1"] / s["tokens"],
            "mean_sample_coefficient": s["sample_coefficient"] / s["samples"],
            "sft_mass_kept": s["loss"] / s["sample_nll"] if s["sample_nll"] else 0.0,
            "share_short": s["short"] / s["samples"],
            "samples": s["samples"],
            "tokens": s["tokens"],
        }


def measures_of(
    nll: Tensor, mask: Tensor, found: ObjectiveLoss, segment_ids: Tensor | None, *, window: int
) -> Measures:
    """Return the measures of a batch.

    Parameters
    ----------
    nll, mask, segment_ids
        As given to `bftembed.objectives.objective_loss`; `nll` detached.
    found
        What it returned.
    window
        g of equation 2.
    """
    plain = objective_loss(nll, mask, "sft", segment_ids=segment_ids)
    weight, known = found.token_weight[mask], nll[mask]
    values = (
        found.n_samples,
        mask.sum(),
        weight.sum(),
        (weight >= 1).sum(),
        found.sample_weight.sum(),
        found.loss_sum.detach(),
        plain.loss_sum,
        known.sum(),
        (found.sample_tokens < window).sum(),
    )
    return Measures(torch.stack([v.to(torch.float64) for v in values]).cpu())
