"""The uncertainty diagnostic of section 1: where low-confidence tokens are sparse, where dense, and what they say.

Arrays in, values out. Confidences come from `bftembed.tuning.confidence`, tags from `bftembed.tuning.tagging`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.tuning.tagging import TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPARSE, DENSE, NEITHER = "A", "B", ""
#: Numbers of one block of the bootstrap: responses times resamples.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class DiagnosticOptions:
    """What the paper's text leaves open; the defaults are this project's choice.

    Attributes
    ----------
    window
        Tokens of a window. A shorter response is one window, whole.
    stride
        Tokens from one window to the next; the last window ends with the response.
    tau_quantile
        A token is low-confidence when its confidence is below this quantile of its response. 0.5: the median.
    sparse_quantile
        Group A: windows whose low fraction and longest run are both at or below this quantile of all windows.
    dense_quantile
        Group B: both at or above this quantile.
    resamples
        Bootstrap resamples of the responses.
    seed
        Of the bootstrap.
    """

    window: int = 32
    stride: int = 1
    tau_quantile: float = 0.5
    sparse_quantile: float = 0.25
    dense_quantile: float = 0.75
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "stride", "resamples"):
            if getattr(self, name) < 1:
                raise BftembedError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.seed < 0:
            raise BftembedError(f"seed={self.seed} must be at least 0.")
        if not 0 < self.tau_quantile < 1:
            raise BftembedError(f"tau_quantile={self.tau_quantile} must lie between 0 and 1.")
        if not 0 <= self.sparse_quantile < self.dense_quantile <= 1:
            raise BftembedError(
                f"sparse_quantile={self.sparse_quantile} must lie below dense_quantile={self.dense_quantile}, "
                "both in [0, 1]."
            )


@dataclass(frozen=True)
class Windows:
    """One entry per window, response by response.

    Attributes
    ----------
    response, start, length
        int64 (m,): index of the response, first token in it, tokens.
    low_fraction
        float64 (m,) in [0, 1]: low-confidence tokens / tokens.
    longest_run
        int64 (m,): longest contiguous run of low-confidence tokens inside the window.
    low_tags
        int64 (m, tags): low-confidence tokens of each tag.
    group
        str (m,): ``"A"`` (sparse-low), ``"B"`` (dense-low) or ``""``.
    """

    response: np.ndarray
    start: np.ndarray
    length: np.ndarray
    low_fraction: np.ndarray
    longest_run: np.ndarray
    low_tags: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class Enrichment:
    """How much more often a tag is met among the low-confidence tokens of group B than of group A.

    Attributes
    ----------
    tag
        Name of the tag.
    tokens, low_tokens
        Tokens of the tag, and those of them that are low-confidence, each counted once, over all responses.
    low_sparse, low_dense
        Those low-confidence tokens that some window of A, of B, holds, each counted once: what the shares rest on.
    share_sparse, share_dense
        Share of the tag among the low-confidence tokens of A and of B; None where the group has no such token.
    ratio
        ``share_dense / share_sparse``; None where the share in A is 0 or unknown.
    low, high
        95 % interval (percentile bootstrap over responses, thresholds held); None where it is unbounded or unknown.
    undefined
        Resamples with 0 / 0, which the interval leaves out.
    """

    tag: str
    tokens: int
    low_tokens: int
    low_sparse: int
    low_dense: int
    share_sparse: float | None
    share_dense: float | None
    ratio: float | None
    low: float | None
    high: float | None
    undefined: int


@dataclass(frozen=True)
class Diagnostic:
    """The result: `windows`, `thresholds` per group and statistic, `counts`, and `enrichment` per tag."""

    options: DiagnosticOptions
    windows: Windows
    thresholds: dict[str, dict[str, float]]
    counts: dict[str, int]
    enrichment: tuple[Enrichment, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the windows as JSON values."""
        return {
            "options": asdict(self.options),
            "counts": self.counts,
            "thresholds": self.thresholds,
            "enrichment": [asdict(row) for row in self.enrichment],
        }


def diagnose(
    confidences: Sequence[np.ndarray],
    tags: Sequence[np.ndarray],
    options: DiagnosticOptions | None = None,
    *,
    names: Sequence[str] = TAGS,
) -> Diagnostic:
    """Sort windows of token confidences into sparse-low and dense-low, and compare the tags of their low tokens.

    With ``k[w, tag]`` low-confidence tokens of a tag in window ``w``::

        share[G, tag] = sum of k[w, tag] over windows w of G  /  sum of k[w, any tag] over windows w of G
        ratio[tag]    = share[B, tag] / share[A, tag]

    Windows overlap when ``stride < window``: a token counts once for each window of a group that holds it, so it counts
    most for the group whose windows hold it most. Responses are resampled, not windows, since windows of one response
    depend on one another.

    Parameters
    ----------
    confidences
        Per response, (n,) in [0, 1]. Empty responses are counted and left out.
    tags
        Per response, (n,) integers: indices into `names`.
    options
        Window and thresholds; the defaults of `DiagnosticOptions` when None.
    names
        Names of the tags.

    Raises
    ------
    BftembedError
        For arrays that do not fit, and when a group is empty or the two cannot be told apart (with the counts and what
        to change).
    """
    options = options or DiagnosticOptions()
    _check(confidences, tags, names)
    low = [low_tokens(c, options.tau_quantile) for c in confidences]
    windows, thresholds = _grouped(_windows(low, tags, options, len(names)), options)
    sizes = np.array([len(c) for c in confidences])
    counts = {
        "responses": len(confidences),
        "empty_responses": int((sizes == 0).sum()),
        "short_responses": int(((sizes > 0) & (sizes < options.window)).sum()),
        "tokens": int(sizes.sum()),
        "low_tokens": int(sum(is_low.sum() for is_low in low)),
        "windows": len(windows.group),
        "windows_sparse": int((windows.group == SPARSE).sum()),
        "windows_dense": int((windows.group == DENSE).sum()),
        "responses_sparse": len(np.unique(windows.response[windows.group == SPARSE])),
        "responses_dense": len(np.unique(windows.response[windows.group == DENSE])),
    }
    tag, is_low = np.concatenate(tags).astype(np.int64), np.concatenate(low)
    places = [is_low & np.concatenate(in_group(windows, sizes, group)) for group in (SPARSE, DENSE)]
    held = [np.ones_like(is_low), is_low, *places]
    tallies = np.stack([np.bincount(tag[chosen], minlength=len(names)) for chosen in held])
    return Diagnostic(options, windows, thresholds, counts, _enrichment(windows, options, names, tallies))


def in_group(windows: Windows, sizes: Sequence[int] | np.ndarray, group: str) -> list[np.ndarray]:
    """Return, per response of `sizes` tokens, which tokens some window of `group` holds: bool (n,)."""
    ends = np.cumsum(sizes)
    first = (ends - sizes)[windows.response] + windows.start
    chosen = windows.group == group
    steps = np.zeros(int(ends[-1]) + 1, dtype=np.int64)
    np.add.at(steps, first[chosen], 1)
    np.add.at(steps, (first + windows.length)[chosen], -1)
    return np.split(steps.cumsum()[:-1] > 0, ends[:-1])


def low_tokens(confidence: np.ndarray, tau_quantile: float = 0.5) -> np.ndarray:
    """Return which tokens of a response lie below its quantile: bool (n,); none where all are equal."""
    if not len(confidence):
        return np.zeros(0, dtype=bool)
    return np.asarray(confidence < np.quantile(confidence, tau_quantile))


def window_starts(n: int, window: int, stride: int = 1) -> np.ndarray:
    """Return where the windows of a response of `n` tokens start; one, at 0, for a response that is no longer."""
    if n <= window:
        return np.zeros(min(n, 1), dtype=np.int64)
    return np.unique(np.append(np.arange(0, n - window + 1, stride), n - window))


def longest_runs(low: np.ndarray, window: int, stride: int = 1) -> np.ndarray:
    """Return the longest run of True inside each window: int64 (windows,), in [0, `window`]."""
    starts = window_starts(len(low), window, stride)
    running = np.zeros(len(starts), dtype=np.int64)
    best = running.copy()
    for offset in range(min(window, len(low))):
        running = (running + 1) * low[starts + offset]
        np.maximum(best, running, out=best)
    return best


def _check(confidences: Sequence[np.ndarray], tags: Sequence[np.ndarray], names: Sequence[str]) -> None:
    if len(confidences) != len(tags):
        raise BftembedError(f"{len(confidences)} arrays of confidences, but {len(tags)} of tags.")
    for i, (confidence, tag) in enumerate(zip(confidences, tags, strict=True)):
        if np.ndim(confidence) != 1 or np.shape(confidence) != np.shape(tag):
            raise BftembedError(
                f"Response {i} has confidences {np.shape(confidence)} and tags {np.shape(tag)}; expected (n,) twice."
            )
        if len(confidence) and not (np.min(confidence) >= 0 and np.max(confidence) <= 1):  # catches NaN as well
            raise BftembedError(f"Response {i} has a confidence that is not in [0, 1].")
        if len(tag) and not (np.min(tag) >= 0 and np.max(tag) < len(names)):
            raise BftembedError(f"Response {i} has a tag that is not in [0, {len(names)}).")


def _windows(low: Sequence[np.ndarray], tags: Sequence[np.ndarray], options: DiagnosticOptions, n_tags: int) -> Windows:
    parts: list[tuple[np.ndarray, ...]] = []
    for i, (is_low, tag) in enumerate(zip(low, tags, strict=True)):
        starts = window_starts(len(is_low), options.window, options.stride)
        ends = np.minimum(starts + options.window, len(is_low))
        marked = (tag[:, None] == np.arange(n_tags)) & is_low[:, None]
        before = np.concatenate([np.zeros((1, n_tags), dtype=np.int64), marked.cumsum(axis=0)])
        runs = longest_runs(is_low, options.window, options.stride)
        parts.append((np.full(len(starts), i), starts, ends - starts, runs, before[ends] - before[starts]))
    if not sum(len(part[0]) for part in parts):
        raise BftembedError(f"None of the {len(low)} responses has a token: there is nothing to diagnose.")
    response, start, length, runs, low_tags = (np.concatenate(column) for column in zip(*parts, strict=True))
    fraction = low_tags.sum(axis=1) / length
    return Windows(response, start, length, fraction, runs, low_tags, np.full(len(start), NEITHER))


def _grouped(windows: Windows, options: DiagnosticOptions) -> tuple[Windows, dict[str, dict[str, float]]]:
    statistics = {"low_fraction": windows.low_fraction, "longest_run": windows.longest_run}
    thresholds = {
        group: {name: float(np.quantile(values, q)) for name, values in statistics.items()}
        for group, q in ((SPARSE, options.sparse_quantile), (DENSE, options.dense_quantile))
    }
    sparse = np.all([v <= thresholds[SPARSE][n] for n, v in statistics.items()], axis=0)
    dense = np.all([v >= thresholds[DENSE][n] for n, v in statistics.items()], axis=0)
    told = ", ".join(
        f"{n} {thresholds[SPARSE][n]:.3g} (A, at most) and {thresholds[DENSE][n]:.3g} (B, at least)" for n in statistics
    )
    if (sparse & dense).any():
        raise BftembedError(
            f"The {len(sparse)} windows are too alike to be told apart: thresholds {told}. A response whose "
            "confidences are all equal has no low token. Use a smaller window, other quantiles, or more and longer "
            "responses."
        )
    if not sparse.any() or not dense.any():
        raise BftembedError(
            f"Of {len(sparse)} windows, {int(sparse.sum())} are in group A (sparse-low) and {int(dense.sum())} in "
            f"group B (dense-low); both are needed. Thresholds: {told}. Move sparse_quantile "
            f"({options.sparse_quantile}) and dense_quantile ({options.dense_quantile}) towards 0.5, use a smaller "
            f"window ({options.window}), or more responses."
        )
    group = np.where(sparse, SPARSE, np.where(dense, DENSE, NEITHER))
    fields = {name: getattr(windows, name) for name in Windows.__dataclass_fields__}
    return Windows(**(fields | {"group": group})), thresholds


def _enrichment(
    windows: Windows, options: DiagnosticOptions, names: Sequence[str], tallies: np.ndarray
) -> tuple[Enrichment, ...]:
    responses, index = np.unique(windows.response, return_inverse=True)
    sums = np.zeros((len(responses), 2, len(names)))
    for side, group in enumerate((SPARSE, DENSE)):
        chosen = windows.group == group
        np.add.at(sums[:, side], index[chosen], windows.low_tags[chosen])
    shares, ratios = _shares_and_ratios(sums.sum(axis=0)[None])
    drawn = np.concatenate([_shares_and_ratios(part)[1] for part in _resampled(sums, options)])
    rows = []
    for i, name in enumerate(names):
        defined = drawn[:, i][~np.isnan(drawn[:, i])]
        # No interpolation: between a number and infinity there is nothing.
        interval = np.quantile(defined, [0.025, 0.975], method="inverted_cdf") if len(defined) else [np.nan] * 2
        every, low, low_sparse, low_dense = (int(n) for n in tallies[:, i])
        rows.append(
            Enrichment(
                tag=name,
                tokens=every,
                low_tokens=low,
                low_sparse=low_sparse,
                low_dense=low_dense,
                share_sparse=_number(shares[0, 0, i]),
                share_dense=_number(shares[0, 1, i]),
                ratio=_number(ratios[0, i]),
                low=_number(interval[0]),
                high=_number(interval[1]),
                undefined=len(drawn) - len(defined),
            )
        )
    return tuple(rows)


def _resampled(sums: np.ndarray, options: DiagnosticOptions) -> Iterator[np.ndarray]:
    """Yield sums over resampled responses, (resamples of the block, 2, tags)."""
    n = len(sums)
    generator = np.random.default_rng(options.seed)
    block = max(1, _BLOCK // n)
    for start in range(0, options.resamples, block):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(block, options.resamples - start))
        yield np.tensordot(times.astype(float), sums, axes=1)


def _shares_and_ratios(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares (…, 2, tags) and the ratios B / A (…, tags): NaN for 0 / 0, infinite for x / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sums / sums.sum(axis=-1, keepdims=True)
        return shares, shares[..., 1, :] / shares[..., 0, :]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
