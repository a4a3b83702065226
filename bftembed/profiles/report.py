"""Content of a profile store: its profiles, its counts, and a summary as JSON, figure or HTML page."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_json, write_text
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.profiles.duplicates import THRESHOLD, near_duplicates
from bftembed.profiles.export import has_text, mark_counts
from bftembed.profiles.generate import RESOLVED_STATUSES, names_of
from bftembed.profiles.screening import mentions
from bftembed.profiles.selection import by_origin, chosen, origin_labels
from bftembed.report.figure import COLORS, GRID, INK, OTHER, inline_svg, new_figure, save_figure, style
from bftembed.report.html import render

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from bftembed.llm.base import Answer
    from bftembed.llm.store import ListedEntity
    from bftembed.profiles.selection import Origin

#: Quality flag → color.
MARK_COLORS = {
    "ok": COLORS[2],
    "truncated": COLORS[0],
    "looping": COLORS[1],
    "refusal": COLORS[3],
    "language": COLORS[4],
    "off-topic": COLORS[5],
    "reasoning": COLORS[6],
    "unknown-finish": COLORS[7],
    "empty": OTHER,
    "failed": "#5a5a5a",
}
#: Origins in a figure.
MAX_ROWS = 12


def show_profiles(
    folder: str | os.PathLike[str],
    genes: Sequence[str] = (),
    *,
    prompt: str | None = None,
    generator: str | None = None,
) -> dict[str, Any]:
    """Print the profiles of genes with their quality flags, or a summary of the store.

    The command exits with 3 when a gene has no profile.

    Parameters
    ----------
    folder
        Folder of the profile store.
    genes
        Genes, by any of the names that the store was asked for. None prints a summary.
    prompt
        Prompt of the profiles.
    generator
        Generator of the profiles: its spec, the beginning of one, or its id.

    Returns
    -------
    dict
        ``profiles`` (fields of `bftembed.llm.base.Answer`) and ``missing`` (genes without a profile); without `genes`,
        ``listed`` (names), ``profiles`` (count), ``marks`` (mark → count) and ``generators`` (specs).
    """
    with AnswerStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = list(dict.fromkeys(entity_of.get(g, g) for g in genes))
        profiles = store.answers(entities=wanted or None)
        specs = [g["spec"] for g in store.generators()]
    if profiles:
        prompts, generators = [prompt] if prompt else [], [generator] if generator else []
        profiles = chosen(profiles, prompts=prompts, generators=generators, where=str(folder))
    if not genes:
        marks = mark_counts(profiles)
        return {"listed": len(entity_of), "profiles": len(profiles), "marks": marks, "generators": specs}
    have = {p.entity for p in profiles}
    return {"profiles": [asdict(p) for p in profiles], "missing": [g for g in wanted if g not in have]}


def store_status(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Count names, profiles, failures and tokens of a store. The command exits with 3 when profiles are missing.

    Parameters
    ----------
    folder
        Folder of the profile store. A run may be writing to it.
    """
    with AnswerStore.open(folder) as store:
        return store.status()


def report_profiles(
    folder: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, threshold: float = THRESHOLD
) -> dict[str, Any]:
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

    Returns
    -------
    dict
        ``names`` and ``origins`` of `summarize_profiles`, and ``out``.

    Raises
    ------
    BftembedError
        For a folder without a store or profiles, another suffix, and a file that cannot be written.
    """
    suffix = "" if out is None else Path(out).suffix.lower()
    if out is not None and suffix not in (".html", ".json", ".png"):
        raise BftembedError(f"out (--out) is {out}; give a file that ends in .html, .json or .png.")
    refuse_input_as_output(out, Path(folder) / STORE_FILE)
    with AnswerStore.open(folder) as store:
        entities, profiles = store.entities(), store.answers()
    if not profiles:
        raise BftembedError(f"There are no profiles in {folder}. Run bftembed profiles generate again.")
    found = summarize_profiles(entities, profiles, threshold=threshold)
    name, of = Path(folder).resolve().name, by_origin(profiles)
    labels = {origin: f"{origin.kind}: {label}" for origin, label in origin_labels(list(of)).items()}
    if out is not None and suffix == ".json":
        write_json(out, {"store": name, **found})
    elif out is not None:
        figure = profiles_figure({labels[o]: some for o, some in of.items()}, f"Profiles of {name}")
        if suffix == ".png":
            save_figure(figure, out, dpi=130)
        else:
            write_text(out, _page(found, list(labels.values()), figure, name))
    return found | {"out": None if out is None else str(out)}


def summarize_profiles(
    entities: Sequence[ListedEntity], profiles: Sequence[Answer], *, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Count and measure the profiles of a store.

    Parameters
    ----------
    entities
        Names that the store was asked for.
    profiles
        All or some of its profiles.
    threshold
        As for `bftembed.profiles.duplicates.near_duplicates`.

    Returns
    -------
    dict
        JSON values. ``names``: kind → status → number of names. ``origins``: one dict per origin, sorted by its fields
        ``kind``, ``prompt``, ``generator`` and ``generator_id``, with

        - ``entities``, ``profiles`` (several of an entity where the settings differ), ``with_text`` and ``unmarked``
          (with text and without a quality flag: embedded by default);
        - ``resolvable`` (names of this kind that lead to an entity, whichever run listed them), of these ``covered``
          (with a text) and ``covered_unmarked``, and the shares ``text_coverage`` and ``coverage``, None without names;
        - ``characters`` and ``words`` (separated by white space) of the texts: ``median``, ``low`` and ``high`` (5 %
          and 95 % quantile), ``shortest``, ``longest``; None without texts;
        - ``finish_reasons`` and ``marks``: value → profiles; ``"ok"`` counts those without a flag;
        - ``naming_itself`` and ``naming_itself_share``: texts that name their own entity by symbol, alias, earlier
          symbol, full name or the name as given;
        - ``near_duplicates``: the fields of `NearDuplicates` and ``share``; of several texts of an entity the first,
          by key, is compared.
    """
    names: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entities:
        names[entry.kind][entry.status] += 1
        given[entry.kind, entry.entity].append(entry.name)
    known = {
        (kind, entity): (*names_of(kind, entity)[1], *given.get((kind, entity), ()))
        for kind, entity in dict.fromkeys((p.kind, p.entity) for p in profiles)
    }
    listed = [e for e in entities if e.status in RESOLVED_STATUSES]
    return {
        "names": {kind: dict(sorted(counts.items())) for kind, counts in sorted(names.items())},
        "origins": [
            _summary(origin, some, [e.entity for e in listed if e.kind == origin.kind], known, threshold)
            for origin, some in by_origin(profiles).items()
        ],
    }


def _summary(
    origin: Origin,
    profiles: Sequence[Answer],
    listed: Sequence[str],
    known: Mapping[tuple[str, str], Sequence[str]],
    threshold: float,
) -> dict[str, Any]:
    texts = [p for p in profiles if has_text(p)]
    first = {p.entity: p.text for p in reversed(texts)}
    unmarked = {p.entity for p in texts if not p.marks}
    covered, covered_unmarked = (sum(entity in have for entity in listed) for have in (first, unmarked))
    naming = sum(mentions(p.text, known[p.kind, p.entity]) for p in texts)
    near = near_duplicates(first, {e: known[origin.kind, e] for e in first}, threshold=threshold)
    return {
        **origin._asdict(),
        "entities": len({p.entity for p in profiles}),
        "profiles": len(profiles),
        "with_text": len(texts),
        "unmarked": sum(not p.marks for p in texts),
        "resolvable": len(listed),
        "covered": covered,
        "covered_unmarked": covered_unmarked,
        "coverage": covered_unmarked / len(listed) if listed else None,
        "text_coverage": covered / len(listed) if listed else None,
        "characters": _lengths([len(p.text) for p in texts]),
        "words": _lengths(_n_words(texts)),
        "finish_reasons": dict(sorted(Counter(p.finish_reason for p in profiles).items())),
        "marks": mark_counts(profiles),
        "naming_itself": naming,
        "naming_itself_share": naming / len(texts) if texts else None,
        "near_duplicates": asdict(near) | {"share": near.share},
    }


def _n_words(profiles: Sequence[Answer]) -> list[int]:
    return [len(p.text.split()) for p in profiles if has_text(p)]


def _lengths(lengths: Sequence[int]) -> dict[str, float] | None:
    if not lengths:
        return None
    low, median, high = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    return {"median": median, "low": low, "high": high, "shortest": min(lengths), "longest": max(lengths)}


def profiles_figure(profiles: Mapping[str, Sequence[Answer]], title: str = "") -> Figure:
    """Draw a histogram of lengths and bars of quality flags for each label, the first `MAX_ROWS`.

    Lengths over four times the 99 % quantile are in the last bar. A profile with two flags is in two bars.
    """
    from matplotlib.ticker import PercentFormatter

    shown = dict(islice(profiles.items(), MAX_ROWS))
    more = f" (first {len(shown)} of {len(profiles)})" if len(shown) < len(profiles) else ""
    figure = new_figure(10.2, 0.7 + 1.75 * len(shown), title + more)
    grid = figure.subplots(len(shown), 2, width_ratios=(1.35, 1), squeeze=False, sharex="col")
    lengths = {label: _n_words(some) for label, some in shown.items()}
    every = np.concatenate([[1], *lengths.values()])
    top = min(every.max(), 4 * np.quantile(every, 0.99))
    width = max(1, np.ceil(top / 60))
    edges = np.arange(0, top + 2 * width, width)
    for (label, some), (left, right) in zip(shown.items(), grid, strict=True):
        style(left)
        words = lengths[label]
        median = f"median {np.median(words):g} of {len(words):,} texts" if words else "no text"
        left.set_title(f"{textwrap.fill(label, 84)}\n{median}", loc="left", fontsize=9, color=INK)
        left.hist(np.clip(words, 0, edges[-1]), bins=edges, color=COLORS[0])
        left.set_ylabel("profiles")
        style(right)
        counts = {mark: n for mark, n in mark_counts(some).items() if n}
        shares = [n / len(some) for n in counts.values()]
        bars = right.barh(list(counts), shares, height=0.62, color=[MARK_COLORS.get(mark, OTHER) for mark in counts])
        right.bar_label(bars, [f"{n:,}" for n in counts.values()], padding=3, fontsize=8.5, color=INK)
        right.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 5), ylim=(max(len(counts), 3) - 0.45, -0.55))
        right.xaxis.set_major_formatter(PercentFormatter(1))
        right.grid(axis="x", color=GRID, linewidth=0.7)
        right.set_axisbelow(True)
    grid[-1, 0].set_xlabel("words")
    grid[-1, 1].set_xlabel("share of profiles")
    return figure


def _page(found: dict[str, Any], labels: Sequence[str], figure: Figure, name: str) -> str:
    flags = [", ".join(f"{n:,} {mark}" for mark, n in o["marks"].items()) for o in found["origins"]]
    alt = "; ".join(f"{label}: {marks}" for label, marks in zip(labels, flags, strict=True))
    origins = dict(zip(labels, found["origins"], strict=True))
    svg = inline_svg(figure, alt, "profiles")
    return render("profiles.html.j2", title=f"Profiles of {name}", names=found["names"], origins=origins, figure=svg)
