"""The oracle: the program of the docstring, token by token, in float64. Slow on purpose."""

from __future__ import annotations

import torch


def naive_loss(
    nll,
    mask,
    objective,
    *,
    window=256,
    sample_coefficient="one_minus_min",
    eps=1e-8,
    clip=True,
    gamma=1.0,
    segment_ids=None,
):
    """Return (loss_sum, n_samples, {(row, position): w}, [s], {(row, position): C_loc}); differentiable in `nll`."""
    if nll.dim() == 1:
        nll, mask = nll[None], mask[None]
        segment_ids = None if segment_ids is None else segment_ids[None]
    loss, count, weights, coefficients, local = 0.0 * nll[:0].sum(), 0, {}, [], {}
    for b in range(nll.shape[0]):
        names = [0] if segment_ids is None else sorted({int(s) for s in segment_ids[b]})
        for name in names:
            here = [
                t for t in range(nll.shape[1])
                if bool(mask[b, t]) and (segment_ids is None or int(segment_ids[b, t]) == name)
            ]  # fmt: skip
            n = len(here)
            if n == 0:
                continue
            values = [nll[b, t] for t in here]
            c = [float(torch.exp(-v.detach().double()).clamp(max=1)) for v in values]
            if n < window:
                c_loc = [sum(c) / n] * n
            else:
                c_loc = []
                for i in range(n):
                    seen = c[max(0, i - (window - 1) // 2) : i + window // 2 + 1]
                    c_loc.append(sum(seen) / len(seen))
            ratio = [x / (m + eps) for x, m in zip(c, c_loc, strict=True)]
            ratio = [min(max(r, 0.0), 1.0) for r in ratio] if clip else ratio
            hard = (2 if sample_coefficient == "two_minus_min" else 1) - min(c_loc)
            logs = [float(-v.detach().double()) for v in values]
            size = min(window, n)
            geometric = min(sum(logs[i : i + size]) / size for i in range(n - size + 1))
            v1 = 1 - float(torch.tensor(geometric, dtype=torch.float64).exp()) ** gamma
            w, s = {
                "sft": ([1.0] * n, 1.0),
                "dft": (c, 1.0),
                "bft-token": (ratio, 1.0),
                "bft-sample": ([1.0] * n, hard),
                "bft": (ratio, hard),
                "bft-v1": (c, v1),
            }[objective]
            loss = loss + s * sum(x * v for x, v in zip(w, values, strict=True)) / (n + eps)
            count += 1
            coefficients.append(s)
            for t, x, m in zip(here, w, c_loc, strict=True):
                weights[b, t], local[b, t] = x, m
    return loss, count, weights, coefficients, local
