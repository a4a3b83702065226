"""Selection of profiles: origins, prompts and generators by name, and the one profile per entity that is embedded."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bftembed.errors import BftembedError, UnknownNameError, examples, unknown_name
from bftembed.llm import model_spec
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.export import read_exported
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
    for mark in allow_marks:
        if mark not in MARKS or mark in _TEXTLESS:
            raise unknown_name("mark to allow", mark, [m for m in MARKS if m not in _TEXTLESS])
    if not isinstance(profiles, Mapping | Sequence) and hasattr(profiles, "out"):
        keys = getattr(profiles, "keys", None) if keys is None else keys
        profiles = profiles.out
    where, found = _read(profiles)
    if keys is not None:
        absent = set(keys) - {p.key for p in found}
        if absent:
            raise UnknownNameError(f"{len(absent)} keys have no profile in {where}: {examples(sorted(absent))}.")
        wanted = set(keys)
        found = [p for p in found if p.key in wanted]
    if not found:
        raise BftembedError(f"There are no profiles in {where}. Make some: bftembed profiles generate GENES --out DIR")
    found = chosen(found, prompts=[prompt] if prompt else (), generators=[generator] if generator else (), where=where)
    _require_one_each(found, where)
    left_out: dict[str, list[str]] = defaultdict(list)
    used = []
    for profile in sorted(found, key=lambda p: p.entity):
        refused = [mark for mark in _all_marks(profile) if mark not in allow_marks]
        for mark in refused:
            left_out[mark].append(profile.entity)
        if not refused:
            used.append(profile)
    if not used:
        counts = {mark: len(entities) for mark, entities in sorted(left_out.items())}
        with_text = ",".join(mark for mark in counts if mark not in _TEXTLESS)
        raise BftembedError(
            f"None of the {len(found)} profiles in {where} is fit to be embedded: "
            f"{', '.join(f'{n} {mark}' for mark, n in counts.items())}. "
            + (f"Embed them with --allow-marks {with_text}." if with_text else "Try again with --retry-failed.")
        )
    return Selection(
        texts={p.entity: p.text for p in used},
        left_out=dict(sorted(left_out.items())),
        n_read=len(found),
        allowed_marks=tuple(allow_marks),
        prompts=tuple(sorted({p.prompt for p in used} - {""})),
        generators=tuple(sorted({p.generator for p in used} - {""})),
    )


def _read(profiles: str | os.PathLike[str] | Mapping[str, str] | Sequence[Answer]) -> tuple[str, list[Answer]]:
    if isinstance(profiles, Mapping):
        if wrong := [name for name, text in profiles.items() if not (isinstance(name, str) and isinstance(text, str))]:
            raise BftembedError(
                f"The mapping holds {wrong[0]!r} → {profiles[wrong[0]]!r}; expected id and text, both str."
            )
        return "the mapping", [Answer("", name, "", text, "", (), "", "") for name, text in profiles.items()]
    if isinstance(profiles, Sequence) and not isinstance(profiles, str):
        if not all(isinstance(profile, Answer) for profile in profiles):
            raise BftembedError("The list of profiles holds something else than Answer; give texts as {id: text}.")
        return "the list", list(profiles)
    path = Path(profiles)
    if not path.exists():
        raise BftembedError(f"No such folder or file: {path}. Give the folder of a profile store, or a Parquet file.")
    if path.is_file():
        return str(path), read_exported(path)
    with AnswerStore.open(path) as store:
        return str(path), store.answers()


def _all_marks(profile: Answer) -> tuple[str, ...]:
    marks = profile.marks
    if profile.error and "failed" not in marks:
        marks = (*marks, "failed")
    if not profile.text.strip() and not set(marks) & set(_TEXTLESS):
        marks = (*marks, "empty")
    return marks


def _require_one_each(profiles: list[Answer], where: str) -> None:
    times = Counter(p.entity for p in profiles)
    several = [entity for entity, n in times.items() if n > 1]
    if several:
        origins = by_origin([p for p in profiles if times[p.entity] > 1])
        listed = "; ".join(f"{label} ({len(origins[o])})" for o, label in origin_labels(list(origins)).items())
        remedy = "--prompt or --generator (a spec or an id) chooses" if len(origins) > 1 else "their contexts differ"
        raise BftembedError(
            f"{len(several)} entities have more than one profile in {where}, such as {examples(several)}: {listed}; "
            f"{remedy}."
        )


def chosen(
    profiles: Sequence[Answer],
    *,
    prompts: Sequence[str] = (),
    generators: Sequence[str] = (),
    where: str = "the store",
) -> list[Answer]:
    """Return the profiles of some prompts and generators, in the order in which these are named; by default all.

    Parameters
    ----------
    profiles
        To choose from.
    prompts
        ``name`` or ``name@version`` of each.
    generators
        Spec, beginning of one, or id of each.
    where
        Source of the profiles, for errors.

    Raises
    ------
    UnknownNameError
        For a prompt or generator that wrote none of them.
    """
    found = list(profiles)
    if prompts:
        found = [p for name in prompts for p in _of_prompt(name, found, where)]
    if generators:
        found = [p for name in generators for p in _of_generator(name, found, where)]
    return list({id(p): p for p in found}.values())


def _of_prompt(wanted: str, profiles: list[Answer], where: str) -> list[Answer]:
    found = [p for p in profiles if _is_or_begins(p.prompt, wanted)]
    if not found:
        raise unknown_name("prompt", wanted, sorted({p.prompt for p in profiles}), where=where)
    return found


def _of_generator(wanted: str, profiles: list[Answer], where: str) -> list[Answer]:
    names = {wanted}
    with contextlib.suppress(BftembedError):
        # The store holds a spec as `model_spec` writes it, with "builtin:" spelled out.
        names.add(str(model_spec(wanted)))
    found = [p for p in profiles if any(_is_or_begins(p.generator, name) for name in names)]
    if found:
        return found
    ids = sorted({p.generator_id for p in profiles} - {""})
    begun = [identity for identity in ids if len(wanted) >= 6 and identity.startswith(wanted)]
    if len(begun) != 1:
        raise unknown_name("generator", wanted, [*sorted({p.generator for p in profiles}), *ids], where=where)
    return [p for p in profiles if p.generator_id == begun[0]]


def _is_or_begins(value: str, wanted: str) -> bool:
    return value == wanted or (value.startswith(wanted) and value[len(wanted)] in "@:,")


class Origin(NamedTuple):
    """Where profiles come from: kind, prompt (``name@version``), generator (spec) and the generator's id."""

    kind: str
    prompt: str
    generator: str
    generator_id: str


def by_origin(profiles: Sequence[Answer]) -> dict[Origin, list[Answer]]:
    """Return the profiles by origin; origins are sorted, and the profiles of each by entity and key."""
    found: dict[Origin, list[Answer]] = defaultdict(list)
    for p in sorted(profiles, key=lambda p: (p.entity, p.key)):
        found[Origin(p.kind, p.prompt, p.generator, p.generator_id)].append(p)
    return dict(sorted(found.items(), key=lambda item: item[0]))


def origin_labels(origins: Sequence[Origin]) -> dict[Origin, str]:
    """Name origins by prompt and generator, and by the generator's id where several have the same spec."""
    times = Counter(o[:3] for o in origins)
    return {o: f"{o.prompt} by {o.generator}" + (f" ({o.generator_id})" if times[o[:3]] > 1 else "") for o in origins}
