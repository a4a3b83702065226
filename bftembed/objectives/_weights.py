"""Token weights and sample coefficients of every objective, from detached confidences. O(tokens), segment aware.

Everything here works on *compacted* tokens: the valid tokens of all samples, sample after sample, so that prompt and
padding never enter a window. Equations are those of arXiv 2511.21075.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE_COEFFICIENTS = ("one_minus_min", "two_minus_min")


@dataclass(frozen=True)
class Samples:
    """Which compacted token belongs to which sample.

    Attributes
    ----------
    sample
        int64 (n_tokens,): sample of each token, 0 … n_samples - 1, not decreasing.
    start, count
        int64 (n_samples,): first token of each sample, and its number of tokens (at least 1).
    """

    sample: Tensor
    start: Tensor
    count: Tensor

    @classmethod
    def of(cls, sample: Tensor) -> Samples:
        """Build it from the sample of each token (any increasing numbers, gaps allowed)."""
        _, sample, count = torch.unique_consecutive(sample, return_inverse=True, return_counts=True)
        return cls(sample, count.cumsum(0) - count, count)

    def window(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the window of each token as flat positions [low, high), clipped to its sample.

        A window has exactly `size` positions: ``(size - 1) // 2`` before the token, itself, ``size // 2`` after. In a
        sample shorter than `size` every window is the whole sample (equation 2).
        """
        start, count = self.start[self.sample], self.count[self.sample]
        position = torch.arange(len(self.sample), device=self.sample.device) - start
        low = (position - (size - 1) // 2).clamp(min=0)
        high = torch.minimum(position + size // 2 + 1, count)
        short = count < size
        return start + low.masked_fill(short, 0), start + torch.where(short, count, high)

    def minimum(self, values: Tensor) -> Tensor:
        """Return the smallest value of each sample, (n_samples,)."""
        out = values.new_full((len(self.count),), torch.inf)
        return out.scatter_reduce(0, self.sample, values, "amin")

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over each sample, (n_samples,); differentiable."""
        return values.new_zeros(len(self.count)).index_add(0, self.sample, values)


@dataclass(frozen=True)
class Options:
    """Choices that the paper leaves open or that its authors expose; see `bftembed.objectives.objective_loss`."""

    window: int = 256
    sample_coefficient: str = "one_minus_min"
    eps: float = 1e-8
    clip: bool = True
    gamma: float = 1.0


@dataclass(frozen=True)
class Confidence:
    """Detached confidences of the compacted tokens.

    Attributes
    ----------
    token
        c, (n_tokens,) in [0, 1] (equation 1).
    local
        C_loc, (n_tokens,) in [0, 1]: mean of c over the token's window (equation 2).
    log_token
        log c, (n_tokens,), at most 0.
    samples
        The samples.
    options
        The choices.
    """

    token: Tensor
    local: Tensor
    log_token: Tensor
    samples: Samples
    options: Options

    def ones(self) -> tuple[Tensor, Tensor]:
        """Return token weights and sample coefficients of 1."""
        return torch.ones_like(self.token), self.token.new_ones(len(self.samples.count))


def confidence(nll: Tensor, samples: Samples, options: Options) -> Confidence:
    """Return the confidences of compacted tokens.

    Parameters
    ----------
    nll
        (n_tokens,) negative log-likelihoods, finite; detached here.
    samples, options
        As in the classes.
    """
    # A running sum over a long batch loses digits in float32; float64 costs a millisecond. (MPS has none.)
    wide = torch.float32 if nll.device.type == "mps" else torch.float64
    log_token = nll.detach().to(wide).neg().clamp(max=0)
    token = log_token.exp()
    return Confidence(token, _window_mean(token, *samples.window(options.window)), log_token, samples, options)


def _window_mean(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the mean of ``values[low:high]`` for each pair, by differences of one running sum."""
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return (running[high] - running[low]) / (high - low)


def _token_weight(c: Confidence) -> Tensor:
    """Equation 3: w = clip(c / (C_loc + eps), 0, 1)."""
    weight = c.token / (c.local + c.options.eps)
    return weight.clamp(0, 1) if c.options.clip else weight


def _sample_coefficient(c: Confidence) -> Tensor:
    """Equations 4 and 5: from C_min, larger for difficult samples."""
    hardest = c.samples.minimum(c.local)
    return (2 if c.options.sample_coefficient == "two_minus_min" else 1) - hardest


def _sft(c: Confidence) -> tuple[Tensor, Tensor]:
    """Supervised fine-tuning: w = 1, s = 1."""
    return c.ones()


def _dft(c: Confidence) -> tuple[Tensor, Tensor]:
    """Dynamic fine-tuning (arXiv 2508.05629): w = c, s = 1."""
    return c.token, c.ones()[1]


def _bft_token(c: Confidence) -> tuple[Tensor, Tensor]:
    """Token level of BFT alone: w of equation 3, s = 1."""
    return _token_weight(c), c.ones()[1]


def _bft_sample(c: Confidence) -> tuple[Tensor, Tensor]:
    """Sample level of BFT alone: w = 1, s of equation 5."""
    return c.ones()[0], _sample_coefficient(c)


def _bft(c: Confidence) -> tuple[Tensor, Tensor]:
    """Balanced fine-tuning: w of equation 3, s of equation 5."""
    return _token_weight(c), _sample_coefficient(c)


def _bft_v1(c: Confidence) -> tuple[Tensor, Tensor]:
    """Return the loss weights of the authors' released code: w = c, s = 1 - p**gamma.

    p = exp(smallest mean log-confidence over the full windows of a sample), the mean over the whole sample when it is
    shorter than the window.
    """
    samples, size = c.samples, c.options.window
    count = samples.count[samples.sample]
    position = torch.arange(len(samples.sample), device=count.device) - samples.start[samples.sample]
    length = count.clamp(max=size)
    full = position + length <= count
    low = samples.start[samples.sample] + position
    means = _window_mean(c.log_token, low, torch.where(full, low + length, low + 1))
    hardest = samples.minimum(means.masked_fill(~full, torch.inf)).exp()
    return c.token, 1 - hardest**c.options.gamma


#: Objective → function from confidences to (token weights (n_tokens,), sample coefficients (n_samples,)).
OBJECTIVES: dict[str, Callable[[Confidence], tuple[Tensor, Tensor]]] = {
    "sft": _sft,
    "dft": _dft,
    "bft-token": _bft_token,
    "bft-sample": _bft_sample,
    "bft": _bft,
    "bft-v1": _bft_v1,
}
