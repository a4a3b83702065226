"""Which profiles are embedded: read from wherever they are, one per entity, marked ones left out and counted."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError, UnknownNameError, examples, unknown_name
from bftembed.llm import model_spec
from bftembed.llm.base import Answer
from bftembed.profiles.screening import MARKS

if TYPE_CHECKING:
    import os

    from bftembed.profiles.generate import GenerationReport

#: Marks of profiles that have no text.
_TEXTLESS = ("empty", "failed")


@dataclass(frozen=True)
class Selection:
    """Texts to embed, and what was left out.

    Attributes
    ----------
    texts
        Entity → text, sorted by entity.
    left_out
        Mark → entities, sorted; one with two marks is listed under both.
    n_read
        Profiles read, left-out ones included.
    allowed_marks
        Marks that were let through.
    prompts, generators
        Of the profiles in `texts`; empty for a mapping.
    """

    texts: dict[str, str]
    left_out: dict[str, list[str]]
    n_read: int
    allowed_marks: tuple[str, ...]
    prompts: tuple[str, ...]
    generators: tuple[str, ...]


def select_profiles(
    profiles: str | os.PathLike[str] | Mapping[str, str] | Sequence[Answer] | GenerationReport,
    *,
    allow_marks: Sequence[str] = (),
    prompt: str | None = None,
    generator: str | None = None,
    keys: Sequence[str] | None = None,
) -> Selection:
    """Choose one profile per entity; the parameters are those of `bftembed.embeddings.embed_genes`.

    Raises
    ------
    BftembedError
        When there are no profiles, nothing is left, or an entity has several profiles.
    UnknownNameError
        For a mark, prompt, generator or key that does not exist.
    """
    if isinstance(allow_marks, str):
        allow_marks = [mark.strip() for mark in allow_marks.split(",") if mark.strip()]
    allowed = tuple(allow_marks)
    for mark in allowed:
        if mark not in MARKS or mark in _TEXTLESS:
            raise unknown_name("mark to allow", mark, [m for m in MARKS if m not in _TEXTLESS])
    if not isinstance(profiles, Mapping | Sequence) and hasattr(profiles, "out"):
        keys = getattr(profiles, "keys", None) if keys is None else keys
        profiles = profiles.out
    where, found = _read(profiles)
    if keys is not None:
        found = _with_keys(keys, found, where)
    if not found:
        raise BftembedError(f"There are no profiles in {where}. Make some: bftembed profiles generate GENES --out DIR")
    found = of_prompt(prompt, found, where)
    found = of_generator(generator, found, where)
    _refuse_several(found, where)
    texts: dict[str, str] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    used = []
    for profile in sorted(found, key=lambda p: p.entity):
        marks = _all_marks(profile)
        refused = [mark for mark in marks if mark not in allowed]
        for mark in refused:
            left_out[mark].append(profile.entity)
        if not refused:
            texts[profile.entity] = profile.text
            used.append(profile)
    if not texts:
        raise BftembedError(_nothing_left(left_out, len(found), where))
    return Selection(
        texts=texts,
        left_out=dict(sorted(left_out.items())),
        n_read=len(found),
        allowed_marks=allowed,
        prompts=tuple(sorted({p.prompt for p in used} - {""})),
        generators=tuple(sorted({p.generator for p in used} - {""})),
    )


def _read(profiles: str | os.PathLike[str] | Mapping[str, str] | Sequence[Answer]) -> tuple[str, list[Answer]]:
    if isinstance(profiles, Mapping):
        for entity, text in profiles.items():
            if not isinstance(entity, str) or not isinstance(text, str):
                kinds = f"{type(entity).__name__} → {type(text).__name__}"
                raise BftembedError(f"The mapping holds {entity!r} as {kinds}; expected id and text, both str.")
        return "the mapping", [Answer("", name, "", text, "", (), "", "") for name, text in profiles.items()]
    if isinstance(profiles, Sequence) and not isinstance(profiles, str):
        for i, profile in enumerate(profiles):
            if not isinstance(profile, Answer):
                raise BftembedError(f"Item {i} of the profiles is {type(profile).__name__}, expected Answer.")
        return "the list", list(profiles)
    path = Path(profiles)
    if not path.exists():
        raise BftembedError(f"No such folder or file: {path}. Give the folder of a profile store, or a Parquet file.")
    if path.is_file():
        from bftembed.profiles.export import read_exported

        return str(path), read_exported(path)
    from bftembed.llm.store import AnswerStore

    with AnswerStore.open(path) as store:
        return str(path), store.answers()


def _all_marks(profile: Answer) -> tuple[str, ...]:
    marks = list(profile.marks)
    if profile.error and "failed" not in marks:
        marks.append("failed")
    if not profile.text.strip() and not set(marks) & set(_TEXTLESS):
        marks.append("empty")
    return tuple(marks)


def _with_keys(keys: Sequence[str], profiles: list[Answer], where: str) -> list[Answer]:
    wanted = {keys} if isinstance(keys, str) else set(keys)
    absent = wanted - {p.key for p in profiles}
    if absent:
        raise UnknownNameError(
            f"{len(absent)} of {len(wanted)} keys have no profile in {where}: {examples(sorted(absent))}. "
            "Give the keys of stored profiles, or None for all."
        )
    return [p for p in profiles if p.key in wanted]


def of_prompt(wanted: str | None, profiles: list[Answer], where: str) -> list[Answer]:
    """Return the profiles by the prompt `wanted` (``name`` or ``name@version``), or raise with those there are."""
    if wanted is None:
        return profiles
    chosen = [p for p in profiles if _is_or_begins(p.prompt, wanted)]
    if not chosen:
        raise unknown_name("prompt", wanted, sorted({p.prompt for p in profiles}), where=where)
    return chosen


def of_generator(wanted: str | None, profiles: list[Answer], where: str) -> list[Answer]:
    """Return the profiles by the generator `wanted` (a spec, its beginning, or an id), or raise with what there is."""
    if wanted is None:
        return profiles
    names = {wanted}
    with contextlib.suppress(BftembedError):
        # The store holds a spec as `model_spec` writes it, with "builtin:" spelled out.
        names.add(str(model_spec(wanted)))
    chosen = [p for p in profiles if any(_is_or_begins(p.generator, name) for name in names)]
    if chosen:
        return chosen
    ids = sorted({p.generator_id for p in profiles} - {""})
    begun = [name for name in ids if name.startswith(wanted)] if re.fullmatch("[0-9a-f]{6,16}", wanted) else []
    if len(begun) > 1:
        raise BftembedError(f"Several generator ids in {where} begin with {wanted!r}: {', '.join(begun)}. Give more.")
    if not begun:
        raise unknown_name("generator", wanted, [*sorted({p.generator for p in profiles}), *ids], where=where)
    return [p for p in profiles if p.generator_id == begun[0]]


def chosen(
    profiles: Sequence[Answer],
    *,
    prompts: Sequence[str] = (),
    generators: Sequence[str] = (),
    where: str = "the store",
) -> list[Answer]:
    """Return the profiles of some prompts and generators, in the order in which these are named; by default all.

    Raises
    ------
    UnknownNameError
        For a prompt or generator that wrote none of them.
    """
    found = list(profiles)
    if prompts:
        found = [p for name in prompts for p in of_prompt(name, found, where)]
    if generators:
        found = [p for name in generators for p in of_generator(name, found, where)]
    return list({p.key: p for p in found}.values())


def _is_or_begins(value: str, wanted: str) -> bool:
    return value == wanted or (value.startswith(wanted) and value[len(wanted)] in "@:,")


def _refuse_several(profiles: list[Answer], where: str) -> None:
    of: dict[str, list[Answer]] = defaultdict(list)
    for profile in profiles:
        of[profile.entity].append(profile)
    several = {entity: found for entity, found in of.items() if len(found) > 1}
    if not several:
        return
    origins = Counter((p.prompt, p.generator, p.generator_id) for found in several.values() for p in found)
    listed = "; ".join(
        f"prompt {p!r}, generator {g!r}{f' with id {i}' if i else ''} ({n})" for (p, g, i), n in sorted(origins.items())
    )
    prompts, generators, ids = (set(column) for column in zip(*origins, strict=True))
    by = ["--prompt (prompt=)"] if len(prompts) > 1 else []
    if len(ids) > len(generators):
        by.append("--generator with an id (generator=): one spec stands there with several versions or settings")
    elif len(generators) > 1:
        by.append("--generator (generator=)")
    remedy = (
        f"Choose with {' or '.join(by)}."
        if by
        else "They were made with different settings: generate each into a folder of its own."
    )
    raise BftembedError(
        f"{len(several)} entities have more than one profile in {where}: {examples(several)}. They come from {listed}. "
        f"{remedy}"
    )


def _nothing_left(left_out: Mapping[str, Sequence[str]], n: int, where: str) -> str:
    counts = {mark: len(entities) for mark, entities in left_out.items()}
    listed = ", ".join(f"{count} {mark}" for mark, count in sorted(counts.items(), key=lambda item: -item[1]))
    with_text = [mark for mark in sorted(counts) if mark not in _TEXTLESS]
    remedy = (
        f"To embed them in spite of that: --allow-marks {','.join(with_text)} (allow_marks={tuple(with_text)!r})."
        if with_text
        else "Generate them again: bftembed profiles generate … --retry-failed"
    )
    return f"None of the {n} profiles in {where} is fit to be embedded: {listed}. {remedy}"
