"""Generation of profiles: names are resolved, each entity becomes a request, and answers are stored with flags."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bftembed.datasets.fetch import load
from bftembed.entities.genes import GeneIndex
from bftembed.entities.lists import read_names
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import canonical_json, sha256_text
from bftembed.llm import generator_fingerprint, model_from_spec, model_spec
from bftembed.llm.base import POSTPROCESSING_VERSION, Request
from bftembed.llm.reasoning import valid_text
from bftembed.llm.runner import run_requests
from bftembed.llm.store import AnswerStore, ListedEntity
from bftembed.profiles.estimate import Estimate, estimate, record_seconds
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.screening import screen
from bftembed.progress import Progress, silent
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from bftembed.llm.base import Sampling
    from bftembed.profiles.prompts import Prompt

KINDS = ("gene", "protein", "cell-type", "drug")
UNKNOWN = ("skip", "keep", "error")
#: Statuses of names that lead to an entity.
RESOLVED_STATUSES = ("used", "mapped")


@dataclass(frozen=True)
class GenerationReport:
    """What a run did.

    Attributes
    ----------
    out
        Folder of the store.
    generator, prompt
        Spec and ``name@version``.
    listed
        Names read, without duplicates.
    duplicates
        Names that came again, or that mean an entity already listed.
    resolution
        Status (used, mapped, ambiguous, missing) → count.
    skipped
        Names left out because they could not be resolved.
    entities
        Entities to profile.
    written, already_stored
        Profiles written by this run, and found from earlier ones.
    failed
        Entities whose profile could not be written.
    failures
        Why: messages (numbers in them do not count) with their number and an entity, the most frequent first.
    marks
        Mark → count over the entities of this run; ``"ok"`` counts those without a mark.
    tokens, seconds
        Generated tokens and wall time of this run.
    keys
        Keys of the profiles of this run's entities, stored now or earlier.
    estimate
        Tokens, cost and time of a dry run.
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
    price: tuple[float, float] | None = None,
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
        Estimate profiles, tokens, cost and time, and write nothing.

    Other Parameters
    ----------------
    price
        US dollars per million tokens of prompt and answer, for `dry_run`. By default list prices of OpenAI.
    progress
        Called with the number of profiles done.

    Returns
    -------
    GenerationReport
        Counts; ``failed`` and ``skipped`` name what is missing.

    Raises
    ------
    BftembedError
        For a bad list, spec, model or option, a store in use, or a full disk. What was committed stays.
    """
    texts = context if isinstance(context, Mapping) else read_context(context) if context is not None else {}
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    template = get_prompt(prompt, kind)
    listed = read_entities(genes, kind, column=column, unknown=unknown, shard=shard, limit=limit)
    spec = model_spec(generator)
    model, sampling = model_from_spec(spec)
    fingerprint = generator_fingerprint(model, sampling)
    requests = profile_requests(listed.chosen, template, fingerprint, sampling, texts)
    counts: dict[str, Any] = {
        "out": str(Path(out)),
        "generator": str(spec),
        "prompt": template.id,
        "listed": len(listed.entries),
        "duplicates": listed.duplicates,
        "resolution": dict(Counter(entry.status for entry in listed.entries)),
        "skipped": listed.skipped,
        "entities": len(listed.chosen),
    }
    if dry_run:
        found = estimate(requests, spec, model, fingerprint, out, price)
        return GenerationReport(**counts, already_stored=found.already_stored, estimate=found)
    with AnswerStore.writing(out) as store:
        store.add_entities(listed.entries)
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


def _flags(request: Request, text: str, reason: str) -> tuple[str, ...]:
    prompt = "\n".join(m["content"] for m in request.messages)
    return screen(text, reason, getattr(request, "names", ()), prompt)


class Listed(NamedTuple):
    """Every name of a list (`entries`), and those to profile (`chosen`): of this shard, each entity once.

    `duplicates` counts names that came again or mean an entity already listed; `skipped` are not resolved.
    """

    entries: list[ListedEntity]
    chosen: list[ListedEntity]
    duplicates: int
    skipped: tuple[str, ...]


def read_entities(
    genes: str | os.PathLike[str] | Sequence[str],
    kind: str,
    *,
    column: str | None = None,
    unknown: str = "skip",
    shard: str | None = None,
    limit: int | None = None,
) -> Listed:
    """Read and resolve a list of names; the parameters are those of `generate_profiles`.

    An entity belongs to a shard by a hash of its name.
    """
    if unknown not in UNKNOWN:
        raise unknown_name("unknown", unknown, UNKNOWN)
    if limit is not None and limit < 1:
        raise BftembedError(f"limit (--limit) is {limit}; give 1 or more.")
    part, of = parse_shard(shard) if shard is not None else (1, 1)
    names = read_names(genes, column=column)
    entries = resolve(names.names, kind)
    unresolved = [e.name for e in entries if e.status not in RESOLVED_STATUSES] if unknown != "keep" else []
    if unresolved and (unknown == "error" or len(unresolved) == len(entries)):
        raise BftembedError(
            f"{len(unresolved)} of {len(entries)} names cannot be resolved: {examples(unresolved)}. "
            "bftembed genes resolve shows why; --unknown keep profiles them as they are."
        )
    wanted = [e for e in entries if unknown == "keep" or e.status in RESOLVED_STATUSES]
    if of > 1:
        wanted = [e for e in wanted if int(sha256_text(e.entity)[:8], 16) % of == part - 1]
    first = {entry.entity: entry for entry in reversed(wanted)}
    chosen = [entry for entry in wanted if first[entry.entity] is entry]
    again = sum(names.duplicates.values()) + len(wanted) - len(chosen)
    return Listed(entries, chosen[:limit], again, tuple(unresolved))


def resolve(names: Sequence[str], kind: str) -> list[ListedEntity]:
    """Return what becomes of every name, in their order; cell types and drugs are taken as they are, spaces tidied."""
    if kind not in ("gene", "protein"):
        return [ListedEntity(kind, valid_text(name), " ".join(valid_text(name).split()), "used") for name in names]
    index = GeneIndex.default() if kind == "gene" else ProteinIndex.default()
    found = index.resolve(names)
    return [ListedEntity(kind, valid_text(r.name), valid_text(r.entity), r.status, r.note) for r in found]


def names_of(kind: str, entity: str, name: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the genes that encode a protein, and all that a text may call an entity: symbol, aliases, full name."""
    genes = ProteinIndex.default().resolve([entity])[0].genes if kind == "protein" else ()
    names = [entity, name]
    for symbol in genes or ((entity,) if kind == "gene" else ()):
        record = GeneIndex.default().get(symbol)
        if record is not None:
            names += [record.symbol, record.name, *record.alias_symbols, *record.prev_symbols]
    return genes, tuple(dict.fromkeys(filter(None, names)))


@dataclass(frozen=True)
class ProfileRequest(Request):
    """A request for a profile, with the names that its text may call the entity."""

    names: tuple[str, ...] = ()


def profile_requests(
    entries: Sequence[ListedEntity],
    prompt: Prompt,
    fingerprint: Mapping[str, Any],
    sampling: Sampling,
    context: Mapping[str, str],
) -> Iterator[ProfileRequest]:
    """Return the request of each entity, made as it is needed; what the prompt needs is read at once."""
    summaries = load("refseq-summaries") if prompt.has("summary") else {}

    def request(entry: ListedEntity) -> ProfileRequest:
        genes, names = names_of(entry.kind, entry.entity, entry.name)
        messages = prompt.messages(
            entry.entity, genes, context.get(entry.entity, ""), names, summaries.get(entry.entity, "")
        )
        key = profile_key(entity=entry.entity, kind=entry.kind, messages=messages, fingerprint=fingerprint)
        about = {"entity": entry.entity, "kind": entry.kind, "prompt": prompt.id}
        return ProfileRequest(key, messages, sampling=sampling, metadata=about, names=names)

    return map(request, entries)


def profile_key(
    *, entity: str, kind: str, messages: Sequence[Mapping[str, str]], fingerprint: Mapping[str, Any]
) -> str:
    """Return the sha256 (64 hexadecimal digits) of all that decides a profile.

    Parameters
    ----------
    entity, kind
        What is profiled.
    messages
        The full chat, with the entity filled in.
    fingerprint
        Of `bftembed.llm.generator_fingerprint`.
    """
    values = {"entity": entity, "kind": kind, "species": "human", "messages": [dict(m) for m in messages]}
    return sha256_text(canonical_json({**values, "generator": fingerprint, "postprocessing": POSTPROCESSING_VERSION}))


def read_context(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read name → text from a table without a header: tab-separated, or CSV by its suffix.

    Raises
    ------
    BftembedError
        For a file that cannot be read, a row without two columns, or a name with two texts; names the line.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise BftembedError(f"{file} cannot be read as a table of contexts: {err}.") from err
    found: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines, delimiter="," if file.suffix.lower() == ".csv" else "\t"), 1):
        cells = [" ".join(row[0].split()), *(cell.strip() for cell in row[1:])] if row else []
        if any(cells) and (len(cells) != 2 or not all(cells)):
            raise BftembedError(f"{file}, line {number}: expected a name and a text, found {len(cells)} columns.")
        if any(cells) and found.setdefault(*cells) != cells[1]:
            raise BftembedError(f"{file}, line {number}: {cells[0]!r} has another context already.")
    return found
