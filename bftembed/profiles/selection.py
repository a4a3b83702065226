"""Profiles out of a store: as a Parquet table, by prompt and generator, and the one per entity that is embedded."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bftembed.errors import BftembedError, UnknownNameError, examples, unknown_name
from bftembed.io import atomic_path, canonical_json
from bftembed.llm import model_spec
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.screening import MARKS

if TYPE_CHECKING:
    import os

    from bftembed.profiles.generate import GenerationReport

#: Marks of profiles that have no text.
_TEXTLESS = ("empty", "failed")


def export_profiles(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Write every profile of a store to a Parquet file.

    Parameters
    ----------
    folder
        Folder of the profile store.
    out
        Parquet file to write.

    Returns
    -------
    dict
        ``profiles`` (count), ``marks`` (mark → count) and ``out``.

    Notes
    -----
    Columns: the fields of `bftembed.llm.base.Answer` but scores and sample. The file's metadata hold, under
    ``bftembed``, the fingerprints of the generators and the sha256 of the store's content. Equal stores give equal
    bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with AnswerStore.open(folder) as store:
        profiles = store.answers()
        about = {"generators": store.generators(), "sha256": store.digest()}
    table = pa.Table.from_pylist([asdict(p) for p in profiles], schema=_schema())
    with atomic_path(Path(out)) as temporary:
        pq.write_table(
            table.replace_schema_metadata({"bftembed": canonical_json(about)}), temporary, compression="zstd"
        )
    return {"profiles": len(profiles), "marks": mark_counts(profiles), "out": str(out)}


def _read_exported(path: Path) -> list[Answer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        schema = pa.schema([f for f in _schema() if f.name in table.column_names])  # earlier versions wrote fewer
        table = table.select(schema.names).cast(schema)
        if gaps := [name for name in table.column_names if table[name].null_count]:
            raise ValueError(f"rows without {', '.join(gaps)}")
        return [Answer(**{**row, "marks": tuple(row["marks"])}) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as err:
        raise BftembedError(f"{path} is not a whole Parquet table of profiles: {str(err).splitlines()[0]}.") from err


def _schema() -> Any:
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64(), "tuple[str, ...]": pa.list_(pa.string())}
    return pa.schema([(f.name, types[str(f.type)]) for f in fields(Answer) if f.name not in ("scores", "sample")])


def has_text(profile: Answer) -> bool:
    """Return whether a profile was written, with quality flags or without."""
    return bool(profile.text.strip()) and not profile.error


def mark_counts(profiles: Sequence[Answer]) -> dict[str, int]:
    """Return mark → number of profiles that carry it, and ``"ok"`` → number without any."""
    counts = Counter(mark for p in profiles for mark in p.marks)
    return {"ok": sum(not p.marks for p in profiles), **dict(sorted(counts.items()))}


@dataclass(frozen=True)
class Selection:
    """Texts to embed (entity → text), what was left out (mark → entities, one with two marks under both), and whence.

    `n_read` counts the profiles that were read; `prompts` and `generators` are of those in `texts`.
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

    It is a `BftembedError` when there are no profiles, nothing is left, or an entity has several.
    """
    for mark in allow_marks:
        if mark not in MARKS or mark in _TEXTLESS:
            raise unknown_name("mark to allow", mark, [m for m in MARKS if m not in _TEXTLESS])
    if not isinstance(profiles, Mapping | Sequence) and hasattr(profiles, "out"):
        keys = getattr(profiles, "keys", None) if keys is None else keys
        profiles = profiles.out
    where, found = _read(profiles)
    if keys is not None:
        by_key = {p.key: p for p in found}
        if absent := set(keys) - set(by_key):
            raise UnknownNameError(f"{len(absent)} keys have no profile in {where}: {examples(sorted(absent))}.")
        found = [by_key[key] for key in dict.fromkeys(keys)]
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
        used += [] if refused else [profile]
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
        return str(path), _read_exported(path)
    with AnswerStore.open(path) as store:
        return str(path), store.answers()


def _all_marks(profile: Answer) -> tuple[str, ...]:
    """Return the marks, and that of a profile without a text, which a table may lack."""
    marks = profile.marks
    if has_text(profile) or set(marks) & set(_TEXTLESS):
        return marks
    return (*marks, "failed" if profile.error else "empty")


def _require_one_each(profiles: list[Answer], where: str) -> None:
    times = Counter(p.entity for p in profiles)
    if several := [entity for entity, n in times.items() if n > 1]:
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

    A prompt is given by ``name`` or ``name@version``, a generator by its spec, the beginning of one, or its id; one
    that wrote none of them is an `UnknownNameError`, which names `where` they are from.
    """
    found = list(profiles)
    for what, attributes, names in (
        ("prompt", ("prompt",), prompts),
        ("generator", ("generator", "generator_id"), generators),
    ):
        picked: dict[int, Answer] = {}
        for name in names:
            spellings = {name}
            if what == "generator":
                with contextlib.suppress(BftembedError):
                    spellings.add(str(model_spec(name)))  # as the store has it, with "builtin:" spelled out
            mine = [p for p in found if any(_begins(getattr(p, a), s) for a in attributes for s in spellings)]
            if not mine:
                known = {getattr(p, a) for p in found for a in attributes} - {""}
                raise unknown_name(what, name, sorted(known), where=where)
            picked |= {id(p): p for p in mine}
        found = list(picked.values()) if names else found
    return found


def _begins(value: str, wanted: str) -> bool:
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
    return dict(sorted(found.items()))


def origin_labels(origins: Sequence[Origin]) -> dict[Origin, str]:
    """Name origins by prompt and generator, and by the generator's id where several have the same spec."""
    times = Counter(o[:3] for o in origins)
    return {o: f"{o.prompt} by {o.generator}" + (f" ({o.generator_id})" if times[o[:3]] > 1 else "") for o in origins}
