"""Balanced Fine-Tuning and its baselines as pure torch: per-token NLL without the logits, weights, losses.

Nothing of a trainer is imported here. `linear_nll` gives the negative log-likelihood of every token without ever
holding ``[tokens, vocabulary]``; `objective_loss` turns those into the loss of any objective, as a sum and a count.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bftembed.objectives._weights import OBJECTIVES as OBJECTIVES
    from bftembed.objectives.loss import ObjectiveLoss as ObjectiveLoss
    from bftembed.objectives.loss import objective_loss as objective_loss
    from bftembed.objectives.nll import linear_nll as linear_nll

_LAZY = {"ObjectiveLoss": "loss", "objective_loss": "loss", "linear_nll": "nll", "OBJECTIVES": "_weights"}

__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    """Load a public name on first use: torch is an extra."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bftembed.objectives' has no attribute {name!r}")
    from bftembed.errors import require

    require("torch", "local")
    return getattr(importlib.import_module(f"bftembed.objectives.{_LAZY[name]}"), name)
