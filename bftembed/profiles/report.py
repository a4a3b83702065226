"""Summary of a profile store, as text, figure, JSON or HTML page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_json, write_text
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.profiles.duplicates import THRESHOLD
from bftembed.profiles.summary import StoreSummary, origin_labels, summarise
from bftembed.report.figure import COLORS, GRID, INK, OTHER, new_figure, save_figure, style

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bftembed.profiles.summary import Lengths, OriginSummary

#: Mark → color; the bars also carry the word.
MARK_COLORS = {
    "ok": COLORS[2],
    "truncated": COLORS[0],
    "looping": COLORS[1],
    "refusal": COLORS[3],
    "off-topic": COLORS[5],
    "reasoning": COLORS[6],
    "unknown-finish": COLORS[7],
    "empty": OTHER,
    "failed": "#5a5a5a",
}
MOST_ROWS = 12

#: A heading, and names and values below it.
Block = tuple[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class ProfileReport:
    """Summary of a store, in words per origin, and the file that was written."""

    summary: StoreSummary
    about: tuple[str, ...]
    blocks: tuple[Block, ...]
    out: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {**self.summary.to_dict(), "out": None if self.out is None else str(self.out)}


def report_profiles(
    folder: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, threshold: float = THRESHOLD
) -> ProfileReport:
    """Summarize a store per prompt and generator: coverage, lengths, quality flags, own names, near-duplicates.

    Parameters
    ----------
    folder
        Folder of the profile store.
    out
        Report to write: .html, .json, or .png for the figure of lengths and flags.

    Other Parameters
    ----------------
    threshold
        Jaccard similarity from which texts are near-duplicates, in ]0, 1].

    Raises
    ------
    BftembedError
        For a folder without a store or profiles, another suffix, and a file that cannot be written.
    """
    if not 0 < threshold <= 1:
        raise BftembedError(f"threshold is {threshold:g}; give a similarity above 0, up to 1.")
    store_folder, target = Path(folder), None if out is None else Path(out)
    if target is not None:
        if target.suffix.lower() not in (".html", ".json", ".png"):
            raise BftembedError(f"out (--out) is {target}; give a file that ends in .html, .json or .png.")
        refuse_input_as_output(target, store_folder / STORE_FILE)
    with AnswerStore.open(store_folder) as store:
        entities, profiles = store.entities(), store.answers()
    if not profiles:
        raise BftembedError(f"There are no profiles in {folder}. Run bftembed profiles generate again.")
    found = summarise(entities, profiles, threshold=threshold)
    labels = origin_labels([o.origin for o in found.origins])
    about = [f"names ({kind}): {_counts(counts)}" for kind, counts in found.names.items()]
    blocks = [(f"{o.origin.kind}: {labels[o.origin]}", _rows(o)) for o in found.origins]
    rows = [Drawn(b[0], o.words_each, o.marks, o.profiles) for b, o in zip(blocks, found.origins, strict=True)]
    title = f"Profiles of {store_folder.resolve().name}"
    if target is not None and target.suffix.lower() == ".html":
        write_page(target, rows, blocks, title=title, about=about)
    elif target is not None and target.suffix.lower() == ".png":
        draw_profiles(target, rows, title=title)
    elif target is not None:
        write_json(target, {"store": store_folder.resolve().name, **found.to_dict()})
    return ProfileReport(found, tuple(about), tuple(blocks), target)


def _rows(o: OriginSummary) -> list[tuple[str, str]]:
    near = o.near_duplicates
    coverage = "unknown: the store lists no names of this kind"
    if o.coverage is not None:
        coverage = (
            f"{o.coverage:.1%} of {o.resolvable:,} resolvable names without a mark, {o.text_coverage:.1%} with a text"
        )
    own = f"{o.naming_itself / o.with_text:.1%} of the texts name their own entity" if o.with_text else "no text"
    rows = [
        ("profiles", f"{o.profiles:,} of {o.entities:,} entities; {o.with_text:,} with text, {o.unmarked:,} unmarked"),
        ("coverage", coverage),
        ("characters", _lengths(o.characters)),
        ("words", _lengths(o.words)),
        ("finish reasons", _counts(o.finish_reasons)),
        ("marks", _counts(o.marks)),
        ("own name", own),
        (
            "near-duplicates",
            f"{near.with_duplicate:,} of {near.compared:,} ({near.share:.1%}) are nearly another entity's "
            f"(similarity {near.threshold:g} or more, own names removed): {near.pairs:,} pairs, "
            f"{len(near.groups):,} groups",
        ),
    ]
    if near.groups:
        sizes = ", ".join(f"{n:,}" for n in near.groups[:8]) + (", …" if len(near.groups) > 8 else "")
        some = ", ".join(near.largest[0]) + (", …" if near.groups[0] > len(near.largest[0]) else "")
        rows += [("  groups of", sizes), ("  the largest", some)]
        rows.append(("  closest", ", ".join(f"{p.first} ~ {p.second} ({p.similarity:.2f})" for p in near.closest[:4])))
    return rows


def _lengths(x: Lengths | None) -> str:
    if x is None:
        return "no text"
    return f"median {x.median:,.0f}; 5 % {x.low:,.0f}, 95 % {x.high:,.0f}; {x.shortest:,} to {x.longest:,}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name or '(none)'}" for name, n in counts.items())


@dataclass(frozen=True)
class Drawn:
    """One row of the figure.

    Attributes
    ----------
    label
        Who wrote the profiles.
    words
        Words of each text.
    marks
        Mark → profiles; ``"ok"``: without any.
    profiles
        How many there are; one with two marks counts in two bars.
    """

    label: str
    words: Sequence[int]
    marks: Mapping[str, int]
    profiles: int


def draw_profiles(path: str | os.PathLike[str], rows: Sequence[Drawn], *, title: str = "") -> None:
    """Draw a histogram of lengths and bars of marks for each row, as PNG; beyond 12 rows the title counts the rest.

    Parameters
    ----------
    path
        PNG file.
    rows
        From top to bottom; the histograms share their axis.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For no rows, or a file that cannot be written.
    """
    if not rows:
        raise BftembedError("There are no profiles to draw. Make some: bftembed profiles generate GENES --out DIR")
    shown = rows[:MOST_ROWS]
    if len(rows) > len(shown):
        title = f"{title} (first {len(shown)} of {len(rows)})"
    figure = new_figure(10.2, 0.7 + 1.75 * len(shown), title)
    grid = figure.subplots(len(shown), 2, width_ratios=(1.35, 1), squeeze=False)
    edges = _edges(shown)
    for i, (row, (left, right)) in enumerate(zip(shown, grid, strict=True)):
        last = i == len(shown) - 1
        _draw_lengths(left, row, edges, last=last)
        _draw_marks(right, row, last=last)
    save_figure(figure, path, dpi=130)


def _edges(rows: Sequence[Drawn]) -> np.ndarray:
    """Return the bins that all histograms share: up to the longest, or four times the 99 % quantile when it is far."""
    every = np.concatenate([np.asarray(r.words, dtype=float) for r in rows])
    if not len(every):
        return np.linspace(0, 10, 11)
    top = max(1.0, min(float(every.max()), 4 * float(np.quantile(every, 0.99))))
    width = max(1.0, np.ceil(top / 60))
    return np.arange(0, top + 2 * width, width)


def _draw_lengths(axes: Any, row: Drawn, edges: np.ndarray, *, last: bool) -> None:
    style(axes)
    axes.set_title(_label(row.label), loc="left", fontsize=9, color=INK)
    axes.set_xlim(edges[0], edges[-1])
    if len(row.words):
        beyond = int((np.asarray(row.words) > edges[-1]).sum())
        axes.hist(np.clip(row.words, edges[0], edges[-1]), bins=edges, color=COLORS[0], linewidth=0)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.25)
        middle = float(np.median(row.words))
        axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        told = f"median {middle:g} of {len(row.words):,}" + (f"; {beyond:,} longer, in the last bar" if beyond else "")
        # On the side of the axis where the middle of the texts is not.
        at, side = (0.015, "left") if middle > (edges[0] + edges[-1]) / 2 else (0.985, "right")
        axes.text(at, 0.95, told, transform=axes.transAxes, ha=side, va="top", fontsize=8, color=INK)
    else:
        axes.text(0.5, 0.5, "no text", transform=axes.transAxes, ha="center", color=INK, fontstyle="italic")
        axes.set_yticks([])
    axes.set_ylabel("profiles")
    axes.set_xlabel("words" if last else "")


def _draw_marks(axes: Any, row: Drawn, *, last: bool) -> None:
    style(axes)
    marks = [m for m in MARK_COLORS if row.marks.get(m)] + sorted(set(row.marks) - set(MARK_COLORS))
    for y, mark in enumerate(marks):
        count = row.marks[mark]
        share = count / row.profiles if row.profiles else 0
        axes.barh(y, share, color=MARK_COLORS.get(mark, OTHER), height=0.62)
        axes.text(share + 0.015, y, f"{count:,}", va="center", fontsize=8.5, color=INK)
    axes.set(yticks=range(len(marks)), yticklabels=marks, xlim=(0, 1.12), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_xticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylim(max(len(marks), 3) - 0.45, -0.55)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("share of profiles" if last else "")


def _label(text: str, most: int = 84) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8885; }
th { white-space: nowrap; font-weight: 600; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
</style></head><body>
<h1>{{ title }}</h1>
{% for line in about %}<p>{{ line }}</p>{% endfor %}
<img alt="{{ alt }}" src="data:image/png;base64,{{ picture }}">
{% for heading, rows in blocks %}<h2>{{ heading }}</h2>
<table>{% for name, value in rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% endfor %}<p>Written by bftembed {{ version }}.</p>
</body></html>
"""


def write_page(
    path: str | os.PathLike[str],
    rows: Sequence[Drawn],
    blocks: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    *,
    title: str,
    about: Sequence[str] = (),
) -> None:
    """Write one HTML file that needs nothing else: the figure, and a table of words and values per block.

    Parameters
    ----------
    path
        HTML file.
    rows
        Of the figure, as in `draw_profiles`.
    blocks
        Heading and rows of (name, value); every text is escaped.
    title, about
        Heading of the page, and lines below it.
    """
    import base64
    import tempfile

    from jinja2 import Environment, StrictUndefined

    from bftembed._version import __version__

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "figure.png"
        draw_profiles(picture, rows)
        encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    marks = [", ".join(f"{n:,} {mark}" for mark, n in row.marks.items()) for row in rows]
    alt = "; ".join(f"{r.label}: {len(r.words):,} texts, {m}" for r, m in zip(rows, marks, strict=True))
    page = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(_PAGE)
        .render(title=title, about=about, alt=alt, picture=encoded, blocks=blocks, version=__version__)
    )
    page = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "�", page)
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
