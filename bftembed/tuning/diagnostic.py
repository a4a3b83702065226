"""The uncertainty diagnostic of section 1: windows of sparse and of dense low-confidence tokens, and their tags.

Confidences are those of teacher forcing; tags come from `bftembed.tuning.tagging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bftembed.errors import BftembedError
from bftembed.progress import silent
from bftembed.report.figure import COLORS, INK, new_figure, save_figure, style
from bftembed.tuning.encoding import IGNORED, default_window
from bftembed.tuning.tagging import TAGS

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress
    from bftembed.tuning.encoding import Encoded

SPARSE, DENSE = "A", "B"
_STATISTICS = ["low_fraction", "longest_run"]
_LOW_TAGS = [f"low_{tag}" for tag in TAGS]
_TAG_COLORS = dict(zip(TAGS, (COLORS[3], COLORS[2], "#5a5a5a"), strict=True))
_GROUP_COLORS = {SPARSE: COLORS[0], DENSE: COLORS[1]}
_TOKENS_PER_ROW, _MAX_TOKENS = 44, 220


def token_confidence(
    model: Any, encoded: Sequence[Encoded], *, batch_tokens: int = 4096, progress: Progress = silent
) -> list[np.ndarray]:
    """Return ``c[t] = softmax(z[t])[y[t]]`` of every response token, fed the prompt and the gold prefix.

    Logits are never held for all tokens (`bftembed.objectives.linear_nll`), unless the model caps or scales them after
    its head (Gemma 2, Cohere, Granite …).

    Parameters
    ----------
    model
        A causal language model of transformers (or PEFT around one); it is put into evaluation mode.
    encoded
        Rows; their labels are the response tokens.
    batch_tokens
        Tokens of a batch, padding counted.
    progress
        Called with the number of rows done.

    Returns
    -------
    list of ndarray
        In the order of `encoded`: float32 in [0, 1], one value per label that is not -100.

    Raises
    ------
    BftembedError
        For a row that starts with a response token, and for NaN.
    """
    import torch

    # PEFT calls its own wrapper base_model; the model inside has the adapters in place.
    model = (model.get_base_model() if hasattr(model, "get_base_model") else model).eval()
    for item in encoded:
        if item.labels and item.labels[0] != IGNORED:
            raise BftembedError(f"{item.where}: nothing predicts the first token of a response without a prompt.")
    # The longest first: what does not fit in memory fails at once.
    order = sorted((i for i in range(len(encoded)) if encoded[i].input_ids), key=lambda i: -len(encoded[i].input_ids))
    found = [np.empty(0, dtype=np.float32)] * len(encoded)
    done = len(encoded) - len(order)
    with torch.no_grad():
        while order:
            batch = order[: max(1, batch_tokens // len(encoded[order[0]].input_ids))]
            order, done = order[len(batch) :], done + len(batch)
            for i, values in zip(batch, _confidences(model, [encoded[i] for i in batch]), strict=True):
                if not np.isfinite(values).all():
                    raise BftembedError(f"{encoded[i].where}: NaN from the model in {model.dtype}. Take another dtype.")
                found[i] = values
            progress(done, len(encoded), "")
    return found


def _confidences(model: Any, batch: list[Encoded]) -> list[np.ndarray]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from bftembed.objectives import linear_nll
    from bftembed.tuning.head import changed_logits

    def padded(rows: list[list[int]], value: int) -> Any:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    # Padding on the right: a causal model never looks at it, and positions count from the first token.
    ids, targets = (
        padded([item.input_ids for item in batch], 0),
        padded([item.labels for item in batch], IGNORED)[:, 1:],
    )
    mask = padded([[1] * len(item.input_ids) for item in batch], 0)
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), "use_cache": False}
    labels = targets.to(model.device)
    if changed_logits(model.config):
        logits = model(**inputs).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    else:
        head = model.get_output_embeddings()
        nll = linear_nll(model.base_model(**inputs)[0][:, :-1], head.weight, labels, bias=getattr(head, "bias", None))
    values = (-nll.float()).exp().clamp(0, 1).cpu().numpy()
    return [row[wanted] for row, wanted in zip(values, (targets != IGNORED).numpy(), strict=True)]


@dataclass(frozen=True)
class Diagnostic:
    """Result of the diagnostic.

    Attributes
    ----------
    options, counts
        The options that were used; numbers of responses, tokens and windows.
    thresholds
        Group → statistic → value.
    enrichment
        Per tag: ``tokens``, ``low_tokens``; ``low_sparse``, ``low_dense`` (low-confidence tokens that some window of A,
        of B, holds, each counted once: the base of the shares); ``share_sparse``, ``share_dense``; ``ratio`` B / A with
        its 95 % interval ``low`` to ``high``, None where unbounded or unknown; ``undefined`` resamples (0 / 0).
    windows
        A row per window, response by response: ``response`` (its index), ``start`` (first token), ``length``,
        ``low_fraction`` in [0, 1], ``longest_run`` (of low-confidence tokens), ``group`` (``"A"``: sparse-low, ``"B"``:
        dense-low, or ``""``) and the low-confidence tokens of each tag (``low_entity`` …).
    note
        A sentence where windows are shorter than the paper's.
    """

    options: dict[str, Any]
    counts: dict[str, int]
    thresholds: dict[str, dict[str, float]]
    enrichment: list[dict[str, Any]]
    windows: pd.DataFrame
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all but the windows as JSON values."""
        return {name: getattr(self, name) for name in ("options", "note", "counts", "thresholds", "enrichment")}


def diagnose(
    confidences: Sequence[np.ndarray],
    tags: Sequence[np.ndarray],
    *,
    window: int | None = None,
    stride: int = 1,
    tau_quantile: float = 0.5,
    sparse_quantile: float = 0.25,
    dense_quantile: float = 0.75,
    resamples: int = 2000,
    seed: int = 0,
) -> Diagnostic:
    """Sort windows of token confidences into sparse-low and dense-low, and compare the tags of their low tokens.

    With ``k[w, tag]`` low-confidence tokens of a tag in window ``w``::

        share[G, tag] = sum of k[w, tag] over windows w of G  /  sum of k[w, any tag] over windows w of G
        ratio[tag]    = share[B, tag] / share[A, tag]

    Windows overlap when ``stride < window``: a token counts once for each window of a group that holds it. Responses
    are resampled (percentile bootstrap, thresholds held), since windows of one response depend on one another.

    Parameters
    ----------
    confidences
        Per response, (n,) in [0, 1].
    tags
        Per response, (n,) integers: indices into `bftembed.tuning.tagging.TAGS`.
    window
        Tokens of a window; a shorter response is one window. By default the paper's 256 where the median response is
        longer than that, else 32.
    stride
        Tokens from one window to the next; the last window ends with the response.
    tau_quantile
        A token is low-confidence below this quantile of its response. 0.5: the median.
    sparse_quantile, dense_quantile
        Group A: low fraction and longest run at or below this quantile of all windows; B: both at or above it.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    BftembedError
        For options out of range, and when a group is empty or the two are not distinct.
    """
    sizes = np.array([len(c) for c in confidences], dtype=np.int64)
    if not sizes.sum():
        raise BftembedError(f"None of the {len(sizes)} responses has a token.")
    note = ""
    if window is None:
        window = default_window(sizes[sizes > 0].tolist())
        if window != 256:
            median = np.median(sizes[sizes > 0])
            note = f"The median response has {median:g} tokens, so windows have {window} instead of the paper's 256."
    check_options(window, stride, tau_quantile, sparse_quantile, dense_quantile)
    low = [low_tokens(c, tau_quantile) for c in confidences]
    windows = _windows(low, tags, window, stride)
    at_a, at_b = (windows[_STATISTICS].quantile(q) for q in (sparse_quantile, dense_quantile))
    sparse = (windows[_STATISTICS] <= at_a).all(axis=1)
    dense = (windows[_STATISTICS] >= at_b).all(axis=1)
    thresholds = {SPARSE: at_a.to_dict(), DENSE: at_b.to_dict()}
    if not sparse.any() or not dense.any() or (sparse & dense).any():
        raise BftembedError(
            f"Of {len(windows)} windows, {sparse.sum()} are sparse-low (A), {dense.sum()} dense-low (B) and "
            f"{(sparse & dense).sum()} both; thresholds: {thresholds}. Use other quantiles, a smaller window "
            f"({window}), or more and longer responses."
        )
    windows.insert(5, "group", np.where(sparse, SPARSE, np.where(dense, DENSE, "")))
    tag, is_low = np.concatenate(tags).astype(np.int64), np.concatenate(low)
    chosen = {"tokens": np.ones_like(is_low), "low_tokens": is_low}
    for name, group in (("low_sparse", SPARSE), ("low_dense", DENSE)):
        chosen[name] = is_low & np.concatenate(in_group(windows, sizes, group))
    tokens = pd.DataFrame({name: np.bincount(tag[which], minlength=len(TAGS)) for name, which in chosen.items()})
    rows = zip(TAGS, tokens.to_dict("records"), _ratios(windows, resamples, seed), strict=True)
    counts = {
        "responses": len(sizes),
        "empty_responses": int((sizes == 0).sum()),
        "short_responses": int(((sizes > 0) & (sizes < window)).sum()),
        "tokens": int(sizes.sum()),
        "low_tokens": int(is_low.sum()),
        "windows": len(windows),
        "windows_sparse": int(sparse.sum()),
        "windows_dense": int(dense.sum()),
    }
    options = {"window": window, "stride": stride, "tau_quantile": tau_quantile, "sparse_quantile": sparse_quantile}
    options |= {"dense_quantile": dense_quantile, "resamples": resamples, "seed": seed}
    return Diagnostic(options, counts, thresholds, [{"tag": name} | n | r for name, n, r in rows], windows, note)


def check_options(window: int | None, stride: int, tau: float, sparse: float, dense: float) -> None:
    """Raise for options of `diagnose` that are out of range."""
    if (window is not None and window < 1) or stride < 1 or not 0 < tau < 1 or not 0 <= sparse < dense <= 1:
        raise BftembedError(
            f"window={window} and stride={stride} must be at least 1, tau_quantile={tau} between 0 and 1, and "
            f"sparse_quantile={sparse} below dense_quantile={dense}."
        )


def in_group(windows: pd.DataFrame, sizes: Sequence[int] | np.ndarray, group: str) -> list[np.ndarray]:
    """Return, per response of `sizes` tokens, which tokens some window of `group` holds: bool (n,)."""
    ends = np.cumsum(sizes)
    chosen = windows[windows["group"] == group]
    first = (ends - sizes)[chosen["response"]] + chosen["start"].to_numpy()
    steps = np.zeros(int(ends[-1]) + 1, dtype=np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, first + chosen["length"].to_numpy(), -1)
    return np.split(steps.cumsum()[:-1] > 0, ends[:-1])


def low_tokens(confidence: np.ndarray, tau_quantile: float = 0.5) -> np.ndarray:
    """Return which tokens of a response lie below its quantile: bool (n,); none where all are equal."""
    return np.asarray(confidence < np.quantile(confidence, tau_quantile)) if len(confidence) else np.zeros(0, bool)


def _windows(low: Sequence[np.ndarray], tags: Sequence[np.ndarray], window: int, stride: int) -> pd.DataFrame:
    parts: list[tuple[np.ndarray, ...]] = []
    for i, (is_low, tag) in enumerate(zip(low, tags, strict=True)):
        n = len(is_low)
        starts = np.zeros(min(n, 1), dtype=np.int64)
        if n > window:
            starts = np.unique(np.append(np.arange(0, n - window + 1, stride), n - window))
        ends = np.minimum(starts + window, n)
        running = np.zeros(len(starts), dtype=np.int64)
        longest = running.copy()
        for offset in range(min(window, n)):
            running = (running + 1) * is_low[starts + offset]
            np.maximum(longest, running, out=longest)
        marked = (tag[:, None] == np.arange(len(TAGS))) & is_low[:, None]
        before = np.concatenate([np.zeros((1, len(TAGS)), dtype=np.int64), marked.cumsum(axis=0)])
        parts.append((np.full(len(starts), i), starts, ends - starts, longest, before[ends] - before[starts]))
    response, start, length, longest, low_tags = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns = {"response": response, "start": start, "length": length, "low_fraction": low_tags.sum(axis=1) / length}
    return pd.DataFrame(columns | {"longest_run": longest} | dict(zip(_LOW_TAGS, low_tags.T, strict=True)))


def _ratios(windows: pd.DataFrame, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return shares, ratio and interval of each tag."""
    per_response = windows.groupby(["response", "group"])[_LOW_TAGS].sum().unstack("group", fill_value=0)
    sums = np.stack([per_response.xs(group, axis=1, level="group") for group in (SPARSE, DENSE)], axis=1).astype(float)
    n, generator = len(sums), np.random.default_rng(seed)

    def shares_and_ratio(sums: np.ndarray) -> np.ndarray:
        """Return (3, tags): shares in A and B, and B / A; NaN for 0 / 0, infinite for x / 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = sums / sums.sum(axis=-1, keepdims=True)
            return np.concatenate([shares, shares[1:] / shares[:1]])

    found = shares_and_ratio(sums.sum(axis=0))
    resampled = (generator.multinomial(n, np.full(n, 1 / n)) for _ in range(resamples))
    drawn = np.array([shares_and_ratio(np.tensordot(times, sums, axes=1))[2] for times in resampled])
    rows = []
    for of_tag, ratios in zip(found.T, drawn.T, strict=True):
        defined = ratios[~np.isnan(ratios)]
        # No interpolation: between a number and infinity there is nothing.
        interval = np.quantile(defined, [0.025, 0.975], method="inverted_cdf") if len(defined) else [np.nan] * 2
        values = [float(x) if np.isfinite(x) else None for x in (*of_tag, *interval)]
        row = dict(zip(("share_sparse", "share_dense", "ratio", "low", "high"), values, strict=True))
        rows.append(row | {"undefined": len(ratios) - len(defined)})
    return rows


def group_weights(confidences: Sequence[np.ndarray], result: Diagnostic) -> list[dict[str, Any]]:
    """Return the weight that each objective gives the low-confidence tokens in windows of A and of B.

    Returns
    -------
    list of dict
        Per ``objective``: ``mean``, the mean of w · s over all tokens (equations 3 and 5, at the diagnostic's window),
        and ``sparse`` and ``dense``, the mean over the low tokens of A and of B divided by it. ``bft-token`` never
        gives a token less than ``dft`` (C_loc is at most 1): what an objective prefers shows in these ratios alone.
    """
    from bftembed.objectives import OBJECTIVES

    sizes = [len(c) for c in confidences]
    low = np.concatenate([low_tokens(c, result.options["tau_quantile"]) for c in confidences])
    inside = {
        name: low & np.concatenate(in_group(result.windows, sizes, group))
        for name, group in (("sparse", SPARSE), ("dense", DENSE))
    }
    rows = []
    for objective in OBJECTIVES:
        weight = objective_weights(confidences, objective, window=result.options["window"])
        of_groups = {name: float(weight[held].mean() / weight.mean()) for name, held in inside.items() if held.any()}
        rows.append({"objective": objective, "mean": float(weight.mean()), **of_groups})
    return rows


def objective_weights(confidences: Sequence[np.ndarray], objective: str, **options: Any) -> np.ndarray:
    """Return w · s of every token, response by response: float64 (tokens,); options as in `objective_loss`."""
    import torch

    from bftembed.objectives import objective_loss

    # All responses are one packed row; float32 holds no confidence much below 1e-30.
    nll = torch.from_numpy(-np.log(np.maximum(np.concatenate(confidences).astype(np.float64), 1e-30)))
    response = torch.from_numpy(np.repeat(np.arange(len(confidences)), [len(c) for c in confidences]))
    mask = torch.ones_like(nll, dtype=torch.bool)
    found = objective_loss(nll, mask, objective, segment_ids=response, **options)
    weights: np.ndarray = (found.token_weight * found.sample_weight.repeat_interleave(found.sample_tokens)).numpy()
    return weights


def draw_weights(path: str | os.PathLike[str], rows: Sequence[dict[str, Any]]) -> None:
    """Draw the ratios of `group_weights`: a pair of bars per objective, and a line at the mean weight."""
    figure = new_figure(7, 3.2, "Weight of low-confidence tokens, relative to the mean over all tokens")
    axes, at = figure.subplots(), np.arange(len(rows))
    style(axes)
    for shift, (name, group) in ((-0.2, ("sparse", SPARSE)), (0.2, ("dense", DENSE))):
        label = f"in windows of {group} ({name}-low)"
        heights = [row.get(name, np.nan) for row in rows]
        axes.bar(at + shift, heights, width=0.36, color=_GROUP_COLORS[group], label=label)
    axes.axhline(1, color=INK, linewidth=0.9, linestyle="dashed")
    axes.set_xticks(at, [row["objective"] for row in rows])
    axes.set(ylabel="weight / mean weight")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    save_figure(figure, path)


def draw_response(
    path: str | os.PathLike[str],
    tokens: Sequence[str],
    confidence: np.ndarray,
    tags: Sequence[str],
    inside: dict[str, np.ndarray],
    *,
    tau: float,
    title: str = "",
) -> None:
    """Draw figure 1b: the tokens of one response (220 at most), those below `tau` filled with their tag's color.

    `confidence` and the values of `inside` (group → whether one of its windows holds the token; bands above the bars)
    are (tokens,).
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    n = min(len(tokens), _MAX_TOKENS)
    rows = max(1, -(-n // _TOKENS_PER_ROW))
    width = -(-n // rows)
    figure = new_figure(12, 0.75 + 2.05 * rows, title)
    for r, axes in enumerate(np.atleast_1d(figure.subplots(rows, 1, sharey=True))):
        part = slice(r * width, min((r + 1) * width, n))
        at, low = np.arange(part.stop - part.start), confidence[part] < tau
        color = [_TAG_COLORS[tag] for tag in tags[part]]
        style(axes)
        fill = [c if is_low else "none" for c, is_low in zip(color, low, strict=True)]
        axes.bar(at, np.maximum(confidence[part], 0.012), width=0.74, color=fill, edgecolor=color, linewidth=1.1)
        # The bars of low tokens are low by definition; a ground behind them shows where they are close.
        axes.bar(at, low, width=1, color=color, alpha=0.16, linewidth=0, zorder=0)
        axes.axhline(tau, color=INK, linewidth=0.9, linestyle="dashed")
        for (group, held), y in zip(inside.items(), (1.14, 1.06), strict=True):
            axes.scatter(at[held[part]], np.full(held[part].sum(), y), marker="_", color=_GROUP_COLORS[group])
        shown = [token.strip().replace("\n", "⏎")[:14] or "␣" for token in tokens[part]]
        axes.set_xticks(at, shown, rotation=62, ha="right", rotation_mode="anchor", size=8)
        axes.set(xlim=(-0.8, width - 0.2), ylim=(0, 1.2), yticks=(0, 0.5, 1), ylabel="confidence")
    handles: list[Any] = [Patch(color=color, label=f"{tag} (filled: low)") for tag, color in _TAG_COLORS.items()]
    handles += [Line2D([], [], color=_GROUP_COLORS[g], linewidth=4, label=f"in a window of {g}") for g in inside]
    handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle="dashed", label="threshold τ"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5, labelcolor=INK)
    save_figure(figure, path)
