"""The two pictures of the uncertainty diagnostic, as PNG files: plain arrays in, one file out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.report.figure import COLORS, GRID, INK, OTHER, new_figure, save_figure, style

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from matplotlib.figure import Figure

#: Group → color, shape and words; the shapes tell them apart without color.
GROUPS = {
    "": (OTHER, "o", "neither"),
    "A": (COLORS[0], "s", "A sparse-low"),
    "B": (COLORS[1], "^", "B dense-low"),
}
#: Tag → color.
TAG_COLORS = {"entity": COLORS[3], "connective": COLORS[2], "other": "#5a5a5a"}
_TOKENS_PER_ROW, _MOST_TOKENS = 44, 220


@dataclass(frozen=True)
class Ratio:
    """One row of the enrichment: `tag`, `ratio` with its interval `low` to `high` (None: unknown), and `note`."""

    tag: str
    ratio: float | None
    low: float | None
    high: float | None
    note: str = ""


def draw_windows(
    path: str | os.PathLike[str],
    low_fraction: np.ndarray,
    longest_run: np.ndarray,
    group: np.ndarray,
    ratios: Sequence[Ratio],
    *,
    title: str = "",
) -> None:
    """Draw figure 1a: windows in the plane of their two statistics, and the enrichment of tags in B over A.

    Parameters
    ----------
    path
        PNG file.
    low_fraction, longest_run, group
        (windows,): the statistics and ``"A"``, ``"B"`` or ``""``. The area of a mark grows with the windows on it.
    ratios
        Rows of the right half, from top to bottom. The axis is logarithmic; an interval without an end runs to the
        edge, and a ratio that is None or 0 is written out.
    title
        Line above both.
    """
    figure = new_figure(10.2, 4.3, title)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    style(left)
    busiest = _busiest(low_fraction, longest_run)
    for name, (color, shape, words) in GROUPS.items():
        chosen = group == name
        if not chosen.any():
            continue
        # Fractions and runs take few values: one mark per place, so that thousands of windows stay readable.
        places = np.column_stack([np.round(low_fraction[chosen], 3), longest_run[chosen]])
        at, times = np.unique(places, axis=0, return_counts=True)
        size = 7 + 210 * times / busiest
        left.scatter(
            at[:, 0],
            at[:, 1],
            s=size,
            c=color,
            marker=shape,
            linewidths=0,
            alpha=0.8,
            label=f"{words} ({int(chosen.sum()):,})",
        )
    left.set(xlabel="fraction of low-confidence tokens in the window", ylabel="longest run of low-confidence tokens")
    left.set_ylim(bottom=0)
    legend = left.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        title="windows; the area of a mark grows with the windows on it",
        title_fontsize=8,
        alignment="left",
        columnspacing=1.2,
        handletextpad=0.3,
    )
    legend.get_title().set_color(INK)
    for handle in legend.legend_handles:
        handle.set_sizes([42])
    _draw_ratios(right, ratios)
    save_figure(figure, path, dpi=150)


def _busiest(low_fraction: np.ndarray, longest_run: np.ndarray) -> int:
    places = np.column_stack([np.round(low_fraction, 3), longest_run])
    return int(np.unique(places, axis=0, return_counts=True)[1].max())


def _draw_ratios(axes: Any, ratios: Sequence[Ratio]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    style(axes)
    known = [x for r in ratios for x in (r.ratio, r.low, r.high) if x]
    edge = 1.15 * max([2.0, *known, *(1 / x for x in known)])
    axes.set_xscale("log")
    axes.set_xlim(1 / edge, edge)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    for y, row in enumerate(ratios):
        color = TAG_COLORS.get(row.tag, OTHER)
        if not row.ratio:
            axes.text(1, y - 0.14, "no ratio" if row.ratio is None else "0", color=INK, ha="center", fontstyle="italic")
        if row.low is not None or row.high is not None:
            ends = [row.low or 1 / edge, edge if row.high is None else row.high or 1 / edge]
            axes.plot(ends, [y, y], color=color, linewidth=2.6, solid_capstyle="butt")
            for open_end, at, shape in ((not row.low, 1 / edge, "<"), (row.high is None, edge, ">")):
                if open_end:
                    axes.plot([at], [y], marker=shape, markersize=8, color=color, clip_on=False)
        if row.ratio:
            axes.plot([row.ratio], [y], marker="o", markersize=8, color=color)
            axes.text(row.ratio, y - 0.16, f"{row.ratio:.2f}", color=INK, ha="center", va="bottom", fontsize=9)
        axes.text(1 / edge * 1.03, y + 0.3, row.note, color=INK, ha="left", va="center", fontsize=8)
    axes.set(yticks=range(len(ratios)), yticklabels=[r.tag for r in ratios])
    axes.tick_params(axis="y", labelsize=10)
    axes.set_ylim(len(ratios) - 0.45, -0.6)
    axes.set_xlabel("share among low-confidence tokens, B / A (95 % interval)")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=GRID, linewidth=0.7, zorder=-1)


def draw_response(
    path: str | os.PathLike[str],
    tokens: Sequence[str],
    confidence: np.ndarray,
    low: np.ndarray,
    tags: Sequence[str],
    in_sparse: np.ndarray,
    in_dense: np.ndarray,
    *,
    tau: float,
    title: str = "",
) -> None:
    """Draw figure 1b: one response, its tokens along the text, the low-confidence ones filled with their tag's color.

    Parameters
    ----------
    path
        PNG file.
    tokens
        Text of each token.
    confidence, low
        (tokens,): in [0, 1], and whether it lies below `tau`.
    tags
        Tag of each token.
    in_sparse, in_dense
        (tokens,) bool: whether a window of group A, of group B, holds the token; drawn as bands above the bars.
    tau
        The threshold of this response.
    title
        Line above all. A response of more than 220 tokens is cut, and the title says so.
    """
    n = min(len(tokens), _MOST_TOKENS)
    if n < len(tokens):
        title = f"{title} (first {n} of {len(tokens)} tokens)"
    rows = max(1, -(-n // _TOKENS_PER_ROW))
    width = -(-n // rows)
    figure = new_figure(12, 0.75 + 2.05 * rows, title)
    for r, axes in enumerate(np.atleast_1d(figure.subplots(rows, 1, sharey=True))):
        part = slice(r * width, min((r + 1) * width, n))
        at = np.arange(part.stop - part.start)
        style(axes)
        colors = [TAG_COLORS.get(tag, OTHER) for tag in tags[part]]
        axes.bar(
            at,
            np.maximum(confidence[part], 0.012),
            width=0.74,
            color=[c if is_low else "none" for c, is_low in zip(colors, low[part], strict=True)],
            edgecolor=colors,
            linewidth=1.1,
        )
        # The bars of low tokens are low by definition; a ground behind them shows where they stand close.
        grounds = [*zip(at[low[part]], np.asarray(colors)[low[part]], strict=True)]
        axes.bar([x for x, _ in grounds], 1, width=1, color=[c for _, c in grounds], alpha=0.16, linewidth=0, zorder=0)
        axes.axhline(tau, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for group, inside, y in (("A", in_sparse[part], 1.14), ("B", in_dense[part], 1.06)):
            for first, last in _runs(inside):
                axes.plot([first - 0.5, last - 0.5], [y, y], color=GROUPS[group][0], linewidth=4, solid_capstyle="butt")
        axes.set_xticks(at, [_shown(t) for t in tokens[part]], rotation=62, ha="right", rotation_mode="anchor")
        for label, color, is_low in zip(axes.get_xticklabels(), colors, low[part], strict=True):
            label.set(color=color, size=8, weight="bold" if is_low else "normal")
        axes.tick_params(axis="x", length=0, pad=1)
        axes.set(xlim=(-0.8, width - 0.2), ylim=(0, 1.2), yticks=(0, 0.5, 1), ylabel="confidence")
    _response_legend(figure, tags[:n])
    save_figure(figure, path, dpi=150)


def _response_legend(figure: Figure, tags: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=color, edgecolor=color, label=tag) for tag, color in TAG_COLORS.items() if tag in set(tags)
    ]
    handles += [
        Patch(facecolor="#e4e4e4", edgecolor="none", label="shaded, bold: low confidence"),
        Patch(facecolor="none", edgecolor="#9a9a9a", label="open: not low"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="threshold τ"),
        Line2D([], [], color=GROUPS["A"][0], linewidth=4, label="in a window of A"),
        Line2D([], [], color=GROUPS["B"][0], linewidth=4, label="in a window of B"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5, labelcolor=INK
    )


def _runs(inside: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _shown(token: str, most: int = 14) -> str:
    text = token.strip().replace("\n", "⏎") or "␣"
    return text if len(text) <= most else f"{text[: most - 1]}…"
