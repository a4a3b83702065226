"""Generation of profiles: names are resolved, each entity fills a prompt, and answers are stored with quality flags."""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bftembed.datasets.fetch import load
from bftembed.entities.genes import GeneIndex
from bftembed.entities.lists import read_names
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import canonical_json, sha256_text
from bftembed.llm import generator_fingerprint, model_from_spec, model_spec
from bftembed.llm.base import POSTPROCESSING_VERSION, Request, to_json
from bftembed.llm.reasoning import valid_text
from bftembed.llm.runner import run_requests
from bftembed.llm.store import SCHEMA_VERSION, AnswerStore, ListedEntity
from bftembed.profiles.estimate import Estimate, estimate, record_seconds
from bftembed.profiles.screening import screen
from bftembed.progress import Progress, silent
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from bftembed.llm.base import Message, Sampling

KINDS = ("gene", "protein", "cell-type", "drug")
UNKNOWN = ("skip", "keep", "error")
#: Names that are resolved at once.
_RESOLVED_AT_ONCE = 8192
#: Statuses of names that lead to an entity.
RESOLVED_STATUSES = ("used", "mapped")


# -- prompts ----------------------------------------------------------------------------------------------

_PLACES = ("name", "genes", "aliases", "summary", "context")
_PLACE = re.compile("{(" + "|".join(_PLACES) + ")}")


@dataclass(frozen=True)
class Prompt:
    """A prompt template for a kind of entity; a changed wording is a new version, so that old profiles keep their key.

    `user` and `system` hold ``{name}``, ``{genes}``, ``{aliases}``, ``{summary}`` and ``{context}``; `own` is True for
    a file of the user.
    """

    name: str
    version: int | str
    kind: str
    system: str
    user: str
    own: bool = False

    @property
    def id(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def messages(
        self, name: str, genes: Sequence[str] = (), context: str = "", aliases: Sequence[str] = (), summary: str = ""
    ) -> tuple[Message, ...]:
        """Return the chat for one entity. Braces in what is filled in are not interpreted.

        `genes` are the symbols of those that encode a protein, `summary` is RefSeq's. A `context` is an error where the
        prompt has no place for it.
        """
        if context and not self.has("context"):
            raise BftembedError(f"The prompt {self.id} has no place for a context ({context[:40]!r}).")
        encoded = f", encoded by {' and '.join(genes)}" if genes and tuple(genes) != (name,) else ""
        others = ", ".join(alias for alias in aliases if alias != name)
        context = context if self.own or not context else f" Context: {context}"
        given = {"name": name, "genes": encoded, "aliases": others, "summary": summary, "context": context}
        texts = {"system": self.system, "user": self.user}
        filled = {role: _PLACE.sub(lambda place: given[place[1]], text) for role, text in texts.items()}
        return tuple({"role": role, "content": text} for role, text in filled.items() if text)

    def has(self, place: str) -> bool:
        """Return whether the prompt has a place for a value."""
        return f"{{{place}}}" in self.system + self.user


_ROLE = (
    "You are an assistant with deep knowledge of biology. Answer from what you know, in plain prose. "
    "The complete answer, spaces included, has to stay within 2000 characters."
)
_DRUG = "Tell me about the drug {name}: its targets, mechanism and effects on cells.{context}"
#: The first is the inference prompt of the BFT authors' released code (v1), in our words; the others follow it.
PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt("bft-gene", 1, "gene", _ROLE, "Tell me about the gene {name}."),
        Prompt("bft-protein", 1, "protein", _ROLE, "Tell me about the protein {name}{genes}."),
        Prompt("bft-cell-type", 1, "cell-type", _ROLE, "Tell me about the cell type {name}.{context}"),
        Prompt("bft-drug", 1, "drug", _ROLE, _DRUG),
    )
}


def get_prompt(name: str | None, kind: str) -> Prompt:
    """Return a prompt by name, from a YAML file, or the default of a kind.

    A file holds the keys ``user`` and, optionally, ``system``; the version of its prompt is the hash of its content.
    """
    name = name or f"bft-{kind}"
    if name.endswith((".yaml", ".yml")):
        return _read_prompt(Path(name), kind)
    if name not in PROMPTS:
        raise unknown_name("prompt", name, PROMPTS)
    if PROMPTS[name].kind != kind:
        raise BftembedError(f"The prompt {name!r} is for kind {PROMPTS[name].kind!r}, but the run is of kind {kind!r}.")
    return PROMPTS[name]


def _read_prompt(path: Path, kind: str) -> Prompt:
    import yaml

    try:
        texts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise BftembedError(f"{path} cannot be read as a prompt: {err}") from err
    if not isinstance(texts, Mapping) or set(texts) - {"system", "user"} or "{name}" not in str(texts.get("user")):
        raise BftembedError(f"{path} must hold the key user, with a {{name}} in it, and may hold the key system.")
    user, system = str(texts["user"]).strip(), str(texts.get("system", "")).strip()
    if others := set(re.findall(r"{(\w+)}", f"{system} {user}")) - set(_PLACES):
        raise unknown_name("place", min(others), _PLACES, where=str(path))
    version = sha256_text(canonical_json({"system": system, "user": user}))[:8]
    return Prompt(path.stem, version, kind, system, user, own=True)


# -- the run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerationReport:
    """What a run did.

    Attributes
    ----------
    out, generator, prompt
        Folder of the store, spec, and ``name@version``.
    listed, duplicates
        Names read, once each; and those that came again or mean an entity already listed.
    resolution, skipped
        Status (used, mapped, ambiguous, missing) → count; and names left out because they could not be resolved.
    entities, already_stored, written
        Entities to profile; profiles found from earlier runs, and written by this one.
    failed, failures
        Entities whose profile could not be written; and why: messages (numbers in them do not count) with their number
        and an entity, the most frequent first.
    marks
        Mark → count over the entities of this run; ``"ok"`` counts those without a mark.
    tokens, seconds
        Generated tokens and wall time of this run.
    keys
        Of the profiles of this run's entities, stored now or earlier.
    estimate
        Tokens and time of a dry run.
    """

    out: str
    generator: str
    prompt: str
    listed: int
    duplicates: int
    resolution: dict[str, int]
    skipped: tuple[str, ...]
    entities: int
    already_stored: int
    written: int = 0
    failed: tuple[str, ...] = ()
    marks: dict[str, int] = field(default_factory=dict)
    failures: tuple[tuple[str, int, str], ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    keys: Sequence[str] = ()
    estimate: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the keys."""
        return {name: value for name, value in asdict(replace(self, keys=())).items() if name != "keys"}


def generate_profiles(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    generator: str = "builtin:smollm2-135m-instruct",
    out: str | os.PathLike[str],
    prompt: str | None = None,
    kind: Literal["gene", "protein", "cell-type", "drug"] = "gene",
    column: str | None = None,
    context: Mapping[str, str] | str | os.PathLike[str] | None = None,
    unknown: Literal["skip", "keep", "error"] = "skip",
    retry_failed: bool = False,
    shard: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> GenerationReport:
    """Write a profile for every gene, protein, cell type or drug of a list. A stopped run goes on where it stopped.

    The command exits with 3 when profiles are missing. SIGINT and SIGTERM keep what was written before.

    Parameters
    ----------
    genes
        Names, or a file of them: text, CSV or TSV, a h5ad file (its var names), or builtin:NAME.
    generator
        Generator, with its options: facts, builtin:NAME,max_new_tokens=64, transformers:…, vllm:…, llamacpp:…,
        openai:…, openai-batch:….
    out
        Folder of the profile store.
    prompt
        Name of the prompt, or a YAML file with the keys system and user, where {name}, {aliases}, {summary}, {genes}
        and {context} stand for what is known of the entity. By default bft- and the kind.
    kind
        What the names are.
    column
        Column of the table, or of .var, with the names.
    context
        Table of name and text that the prompt passes on, such as a tissue or an indication (TSV or CSV, no header).

        Also a mapping of name to text.
    unknown
        Names that cannot be resolved: skip and report them, keep them as they are, or raise an error.
    retry_failed
        Try failed profiles again.
    shard
        I/N, the I-th of N parts of the list. bftembed profiles merge joins their stores.
    limit
        Maximum number of profiles, the first of the list.
    dry_run
        Estimate profiles, tokens and time, and write nothing.

    Other Parameters
    ----------------
    progress
        Called with the number of profiles done.

    Raises
    ------
    BftembedError
        For a bad list, spec, model or option, a store in use, or a full disk. What was committed stays.
    """
    texts = context if isinstance(context, Mapping) else read_context(context) if context is not None else {}
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    template = get_prompt(prompt, kind)
    listed = _read_entities(genes, kind, column=column, unknown=unknown, shard=shard, limit=limit)
    spec = model_spec(generator)
    model, sampling = model_from_spec(spec)
    fingerprint = generator_fingerprint(model, sampling)
    requests = _requests(listed, template, fingerprint, sampling, texts)
    counts: dict[str, Any] = {
        "out": str(Path(out)),
        "generator": str(spec),
        "prompt": template.id,
        "listed": len(listed.names),
        "duplicates": listed.duplicates,
        "resolution": dict(Counter(listed.statuses)),
        "skipped": listed.skipped,
        "entities": len(listed.chosen),
    }
    if dry_run:
        found = estimate(requests, fingerprint, Path(out))
        return GenerationReport(**counts, already_stored=found.already_stored, estimate=found)
    with AnswerStore.writing(out) as store:
        store.add_entities(map(ListedEntity, repeat(kind), *listed[:4]))
        run = run_requests(
            requests,
            model,
            store,
            spec=str(spec),
            generator_id=store.add_generator(str(spec), fingerprint),
            flags=_flags,
            retry_failed=retry_failed,
            total=len(listed.chosen),
            progress=progress,
        )
    record_seconds(fingerprint, run.written, run.seconds)
    failures = sorted(run.failures.values(), key=lambda one: -one[0])
    return GenerationReport(
        **counts,
        already_stored=run.stored,
        written=run.written,
        failed=tuple(sorted(run.failed)),
        marks=dict(run.marks) | {"ok": run.marks["ok"]},
        failures=tuple((message, n, entity) for n, message, entity in failures),
        tokens=run.tokens,
        seconds=run.seconds,
        keys=run.keys,
    )


class _Listed(NamedTuple):
    """Every name of a list, in columns (a third of the memory of rows).

    `chosen` are the numbers of those to profile: of this shard, each entity once. `genes` are those that encode a
    protein; `duplicates` counts names that came again or mean an entity already listed; `skipped` are not resolved.
    """

    names: list[str]
    entities: list[str]
    statuses: list[str]
    notes: list[str]
    chosen: Sequence[int]
    genes: dict[str, tuple[str, ...]]
    duplicates: int
    skipped: tuple[str, ...]


def _read_entities(
    genes: str | os.PathLike[str] | Sequence[str],
    kind: str,
    *,
    column: str | None = None,
    unknown: str = "skip",
    shard: str | None = None,
    limit: int | None = None,
) -> _Listed:
    """Read and resolve a list of names; shards go by a hash of the entity."""
    if unknown not in UNKNOWN:
        raise unknown_name("unknown", unknown, UNKNOWN)
    if limit is not None and limit < 1:
        raise BftembedError(f"limit (--limit) is {limit}; give 1 or more.")
    part, of = parse_shard(shard) if shard is not None else (1, 1)
    read = read_names(genes, column=column)
    names, entities, statuses, notes = list(map(valid_text, read.names)), [], [], []
    encoding: dict[str, tuple[str, ...]] = {}
    if kind in ("gene", "protein"):
        index: Any = GeneIndex.default() if kind == "gene" else ProteinIndex.default()
        for start in range(0, len(names), _RESOLVED_AT_ONCE):
            for found in index.resolve(read.names[start : start + _RESOLVED_AT_ONCE]):
                entities.append(valid_text(found.entity))
                statuses.append(found.status)
                notes.append(found.note)
                if kind == "protein":
                    encoding[entities[-1]] = found.genes
    else:  # taken as they are, spaces tidied
        entities = [" ".join(name.split()) for name in names]
        statuses, notes = ["used"] * len(names), [""] * len(names)
    kept = [unknown == "keep" or status in RESOLVED_STATUSES for status in statuses]
    skipped = tuple(name for name, keep in zip(names, kept, strict=True) if not keep)
    if skipped and (unknown == "error" or len(skipped) == len(names)):
        raise BftembedError(
            f"{len(skipped)} of {len(names)} names cannot be resolved: {examples(skipped)}. "
            "bftembed genes resolve shows why; --unknown keep profiles them as they are."
        )
    # Names are unique, so that only these can come twice.
    renamed = {entity for entity, name in zip(entities, read.names, strict=True) if entity != name}
    chosen, seen, again = array("q"), set[str](), sum(read.duplicates.values())
    for i, (entity, keep) in enumerate(zip(entities, kept, strict=True)):
        if not keep or (of > 1 and int(sha256_text(entity)[:8], 16) % of != part - 1):
            continue
        if entity in seen:
            again += 1
            continue
        chosen.append(i)
        if entity in renamed:
            seen.add(entity)
    return _Listed(names, entities, statuses, notes, chosen[:limit], encoding, again, skipped)


def names_of(kind: str, entity: str, name: str = "", genes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return all that a text may call an entity: symbol, aliases, full name.

    The `genes` that encode a protein are looked up where they are None.
    """
    if genes is None:
        genes = ProteinIndex.default().resolve([entity])[0].genes if kind == "protein" else ()
    names = [entity, name]
    for symbol in genes or ((entity,) if kind == "gene" else ()):
        record = GeneIndex.default().get(symbol)
        if record is not None:
            names += [record.symbol, record.name, *record.alias_symbols, *record.prev_symbols]
    return tuple(dict.fromkeys(filter(None, names)))


@dataclass(frozen=True)
class _ProfileRequest(Request):
    """A request for a profile, with the names that its text may call the entity."""

    names: tuple[str, ...] = ()


def _requests(
    listed: _Listed,
    prompt: Prompt,
    fingerprint: Mapping[str, Any],
    sampling: Sampling,
    context: Mapping[str, str],
) -> Iterator[Request]:
    """Return the request of each entity, made as it is needed; what the prompt needs is read at once."""
    summaries = load("refseq-summaries") if prompt.has("summary") else {}

    def request(number: int) -> Request:
        kind, entity = prompt.kind, listed.entities[number]
        genes = listed.genes.get(entity, ())
        names = names_of(kind, entity, listed.names[number], genes)
        messages = prompt.messages(entity, genes, context.get(entity, ""), names, summaries.get(entity, ""))
        key = _profile_key(entity=entity, kind=kind, messages=messages, fingerprint=fingerprint)
        about = {"entity": entity, "kind": kind, "prompt": prompt.id}
        about |= {"genes": ",".join(genes)} if genes else {}
        return _ProfileRequest(key, messages, sampling=sampling, metadata=about, names=names)

    return map(request, listed.chosen)


def _profile_key(*, entity: str, kind: str, messages: Sequence[Message], fingerprint: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hexadecimal digits) of all that decides a profile.

    `messages` are the full chat, with the entity filled in; `fingerprint` is of `bftembed.llm.generator_fingerprint`.
    """
    values = {"entity": entity, "kind": kind, "species": "human", "messages": messages}
    return sha256_text(to_json({**values, "generator": fingerprint, "postprocessing": POSTPROCESSING_VERSION}))


def _flags(request: Request, text: str, reason: str) -> tuple[str, ...]:
    prompt = "\n".join(m["content"] for m in request.messages)
    return screen(text, reason, getattr(request, "names", ()), prompt)


def read_context(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read name → text from a table without a header: tab-separated, or CSV by its suffix.

    A row without two columns, or a name with two texts, is a `BftembedError` that names the line.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise BftembedError(f"{file} cannot be read as a table of name and text: {err}.") from err
    found: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines, delimiter="," if file.suffix.lower() == ".csv" else "\t"), 1):
        cells = [" ".join(cell.split()) if i == 0 else cell.strip() for i, cell in enumerate(row)]
        if any(cells) and (len(cells) != 2 or not all(cells) or found.setdefault(*cells) != cells[1]):
            raise BftembedError(f"{file}, line {number}: expected a name and its only text, found {row}.")
    return found


# -- merging of shards ------------------------------------------------------------------------------------


def merge_stores(parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Copy the profiles of several stores into one.

    A profile that failed in one store gives way to one that did not. Nothing is removed: merging again adds nothing.

    Parameters
    ----------
    parts
        Folders of the profile stores of the shards.
    out
        Folder of the profile store to create or add to.

    Returns
    -------
    dict
        ``out``, ``parts`` (folders), ``added`` (profiles that were new in `out`) and ``same`` (those it had).

    Raises
    ------
    BftembedError
        When a part is no store or is `out`, or two stores hold different texts under one key; `out` then has the
        profiles of the parts before it.
    """
    target, folders = Path(out), [Path(part) for part in parts]
    if not folders or target.resolve() in [folder.resolve() for folder in folders]:
        raise BftembedError(f"Name the folders of the shards, and for --out another one: {target}.")
    for folder in folders:
        with AnswerStore.open(folder) as part:  # all are looked at before the first is copied
            old = part.schema < SCHEMA_VERSION
        if old:
            with AnswerStore.writing(folder):
                pass  # brought to today's schema
    with AnswerStore.writing(target) as store:
        counts = [store.absorb(folder) for folder in folders]
    added, same = (sum(column) for column in zip(*counts, strict=True))
    return {"out": str(target), "parts": [str(folder) for folder in folders], "added": added, "same": same}
