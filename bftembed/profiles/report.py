"""Content of a profile store: its profiles, its counts, and a summary per prompt and generator."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import RESOLVED_STATUSES, names_of
from bftembed.profiles.screening import mentions, words_without
from bftembed.profiles.selection import by_origin, chosen, has_text, mark_counts

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

#: Words of a text that decide whether another text says the same.
_OPENING_WORDS = 30


def show_profiles(
    folder: str | os.PathLike[str],
    genes: Sequence[str] = (),
    *,
    prompt: str | None = None,
    generator: str | None = None,
) -> dict[str, Any]:
    """Print the profiles of genes, or all, with their quality flags. The command exits with 3 when a gene has none.

    Parameters
    ----------
    folder
        Folder of the profile store.
    genes
        Genes, by any of the names that the store was asked for. By default all.
    prompt
        Prompt of the profiles.
    generator
        Generator of the profiles: its spec, the beginning of one, or its id.

    Returns
    -------
    dict
        ``profiles`` (fields of `bftembed.llm.base.Answer`) and ``missing`` (genes without a profile).
    """
    with AnswerStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = list(dict.fromkeys(entity_of.get(g, g) for g in genes))
        profiles = store.answers(entities=wanted or None)
    if profiles:
        prompts, generators = [prompt] if prompt else [], [generator] if generator else []
        profiles = chosen(profiles, prompts=prompts, generators=generators, where=str(folder))
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


def report_profiles(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarize a store per prompt and generator: coverage, lengths, quality flags, own names, repeated texts.

    Parameters
    ----------
    folder
        Folder of the profile store.

    Returns
    -------
    dict
        JSON values. ``names``: kind → status → number of names. ``origins``: one dict per origin, sorted by its fields
        ``kind``, ``prompt``, ``generator`` and ``generator_id``, with

        - ``profiles`` (several of an entity where the settings differ), ``with_text`` and ``unmarked`` (with text and
          without a quality flag: embedded by default);
        - ``resolvable`` (names of this kind that lead to an entity, whichever run listed them), of these ``covered``
          (with an unmarked text), and the share ``coverage``, None without names;
        - ``words`` (separated by white space) of the texts: ``median``, ``low`` and ``high`` (5 % and 95 % quantile);
          None without texts;
        - ``finish_reasons`` and ``marks``: value → profiles; ``"ok"`` counts those without a flag;
        - ``naming_itself``: texts that name their own entity by symbol, alias, earlier symbol, full name or the name as
          given;
        - ``repeated``: texts whose first 30 words, without the entity's own names, are those of another entity too.
    """
    with AnswerStore.open(folder) as store:
        entities, profiles = store.entities(), store.answers()
    if not profiles:
        raise BftembedError(f"There are no profiles in {folder}. Run bftembed profiles generate again.")
    names: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entities:
        names[entry.kind][entry.status] += 1
        given[entry.kind, entry.entity].append(entry.name)
    origins = []
    for origin, some in by_origin(profiles).items():
        kind = origin.kind
        known = {e: (*names_of(kind, e), *given.get((kind, e), ())) for e in {p.entity for p in some}}
        listed = [e.entity for e in entities if e.kind == kind and e.status in RESOLVED_STATUSES]
        texts = [p for p in some if has_text(p)]
        unmarked = {p.entity for p in texts if not p.marks}
        covered = sum(entity in unmarked for entity in listed)
        lengths = [len(p.text.split()) for p in texts]
        quantiles = np.quantile(lengths, [0.5, 0.05, 0.95]).tolist() if lengths else ()
        openings = {p.entity: tuple(words_without(p.text, known[p.entity])[:_OPENING_WORDS]) for p in texts}
        times = Counter(openings.values())
        origins.append(
            {
                **origin._asdict(),
                "profiles": len(some),
                "with_text": len(texts),
                "unmarked": sum(not p.marks for p in texts),
                "resolvable": len(listed),
                "covered": covered,
                "coverage": covered / len(listed) if listed else None,
                "words": dict(zip(("median", "low", "high"), quantiles, strict=False)) or None,
                "finish_reasons": dict(sorted(Counter(p.finish_reason for p in some).items())),
                "marks": mark_counts(some),
                "naming_itself": sum(mentions(p.text, known[p.entity]) for p in texts),
                "repeated": sum(times[opening] > 1 for opening in openings.values()),
            }
        )
    return {"names": {kind: dict(sorted(n.items())) for kind, n in sorted(names.items())}, "origins": origins}
