"""The verb of this room: write a profile for every gene or protein of a list, resumably."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.entities.genes import GeneIndex
from bftembed.entities.lists import read_names
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples
from bftembed.profiles.generators import generator_from_spec, generator_spec
from bftembed.profiles.keys import profile_key
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import Completion, Profile, Request
from bftembed.profiles.screening import clean, screen, valid_text
from bftembed.profiles.store import ListedEntity, ProfileStore
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from bftembed.profiles.prompts import Prompt
    from bftembed.profiles.records import Generator

KINDS = ("gene", "protein")
UNKNOWN = ("skip", "keep", "error")

#: How many batches a generator sees at once, so that it can bucket prompts by length.
_BATCHES_PER_WINDOW = 16


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
    marks
        Mark → count over the entities of this run; ``"ok"`` counts those without a mark.
    tokens, seconds
        Generated tokens and wall time of this run.
    keys
        Keys of the profiles of this run's entities, stored now or earlier.
    """

    out: str
    generator: str
    prompt: str
    listed: int
    duplicates: int
    resolution: dict[str, int]
    skipped: tuple[str, ...]
    entities: int
    written: int
    already_stored: int
    failed: tuple[str, ...]
    marks: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    keys: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the keys."""
        return {name: value for name, value in asdict(self).items() if name != "keys"}


@dataclass(frozen=True)
class _Subject:
    """An entity to profile: what the prompt calls it and what its text may call it."""

    entity: str
    called: str
    genes: tuple[str, ...]
    names: tuple[str, ...]


def generate_profiles(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    generator: str = "builtin:smollm2-135m-instruct",
    out: str | os.PathLike[str],
    prompt: str | None = None,
    kind: str = "gene",
    column: str | None = None,
    max_new_tokens: int | None = None,
    unknown: str = "skip",
    retry_failed: bool = False,
    progress: Progress = silent,
) -> GenerationReport:
    """Write a profile for every gene or protein of a list into the store at `out`.

    A profile that the store holds already is never written again; a run that was killed goes on where it
    stopped, at most the batch in flight is repeated.

    Parameters
    ----------
    genes
        Names, or a file of them: text, CSV/TSV, or a h5ad's var names (see `bftembed.entities.lists`).
    generator
        Spec, for example ``facts``, ``builtin:smollm2-135m-instruct`` or ``transformers:/models/x,dtype=bf16``.
    out
        Folder of the store; made when missing.
    prompt
        Name of the prompt; default ``bft-gene`` or ``bft-protein``.
    kind
        ``"gene"`` or ``"protein"``.
    column
        Column of a table or of a h5ad's var that holds the names.
    max_new_tokens
        Overrides the generator's option of that name.
    unknown
        What to do with names that cannot be resolved (ambiguous ones too): ``"skip"`` them and say so,
        ``"keep"`` them under the name as given, or ``"error"``.
    retry_failed
        Try failed items again; without it they stay failed.
    progress
        Called after every batch.

    Returns
    -------
    GenerationReport
        Counts; ``failed`` and ``skipped`` name what is missing.

    Raises
    ------
    BftembedError
        For a bad list, spec, model or option, a store in use, or a full disk. What was committed stays.
    """
    if kind not in KINDS or unknown not in UNKNOWN:
        raise BftembedError(f"kind is one of {KINDS} and unknown one of {UNKNOWN}; got {kind!r} and {unknown!r}.")
    template = get_prompt(prompt, kind)
    spec = generator_spec(generator, max_new_tokens=max_new_tokens)
    names = read_names(genes, column=column)
    listed = _listed(names.names, kind)
    subjects, skipped = _subjects(listed, kind, unknown)
    engine = generator_from_spec(spec)
    fingerprint = engine.fingerprint()

    with ProfileStore.writing(out) as store:
        store.add_entities(listed)
        generator_id = store.add_generator(str(spec), fingerprint)
        requests = _requests(subjects, template, fingerprint)
        run = _Run(store, engine, generator_id, str(spec), template.id, requests)
        run.generate(retry_failed=retry_failed, progress=progress)
        stored = {p.key: p for p in store.profiles(kind=kind)}

    mine = [stored[key] for key in requests]
    marks = Counter(mark for p in mine for mark in p.marks)
    marks["ok"] = sum(not p.marks for p in mine)
    return GenerationReport(
        out=str(Path(out)),
        generator=str(spec),
        prompt=template.id,
        listed=len(names.names),
        duplicates=sum(names.duplicates.values()) + len(listed) - len(skipped) - len(subjects),
        resolution=dict(Counter(e.status for e in listed)),
        skipped=tuple(skipped),
        entities=len(subjects),
        written=run.written,
        already_stored=len(mine) - run.written,
        failed=tuple(sorted(p.entity for p in mine if p.error)),
        marks=dict(marks),
        tokens=run.tokens,
        seconds=run.seconds,
        keys=tuple(requests),
    )


def _listed(names: Sequence[str], kind: str) -> list[ListedEntity]:
    if kind == "protein":
        proteins = ProteinIndex.default().resolve(names)
        return [ListedEntity(kind, valid_text(p.name), valid_text(p.entity), p.status, p.note) for p in proteins]
    genes = GeneIndex.default().resolve(names)
    return [ListedEntity(kind, valid_text(g.name), valid_text(g.entity), g.status, g.note) for g in genes]


def _subjects(listed: list[ListedEntity], kind: str, unknown: str) -> tuple[list[_Subject], list[str]]:
    resolved = [e for e in listed if e.status in ("used", "mapped")]
    unresolved = [e.name for e in listed if e.status not in ("used", "mapped")]
    if unresolved and unknown == "error":
        raise BftembedError(
            f"{len(unresolved)} of {len(listed)} names cannot be resolved: {examples(unresolved)}. "
            "Mend them (bftembed genes resolve shows why), or choose to skip or keep them."
        )
    wanted = listed if unknown == "keep" else resolved
    if not wanted:
        raise BftembedError(
            f"None of the {len(listed)} names is a known {kind}: {examples(unresolved)}. "
            "bftembed genes resolve shows why; --unknown keep profiles names as they are."
        )
    subjects: dict[str, _Subject] = {}
    for entry in wanted:
        subjects.setdefault(entry.entity, _subject(entry, kind))
    return list(subjects.values()), [] if unknown == "keep" else unresolved


def _subject(entry: ListedEntity, kind: str) -> _Subject:
    index = GeneIndex.default()
    genes: tuple[str, ...] = (entry.entity,)
    if kind == "protein":
        genes = ProteinIndex.default().resolve([entry.entity])[0].genes
    names = [entry.entity, entry.name]
    for symbol in genes:
        record = index.get(symbol)
        if record is not None:
            names += [record.symbol, record.name, *record.alias_symbols, *record.prev_symbols]
    return _Subject(entry.entity, entry.entity, genes if kind == "protein" else (), tuple(dict.fromkeys(names)))


def _requests(
    subjects: list[_Subject], template: Prompt, fingerprint: dict[str, Any]
) -> dict[str, tuple[Request, _Subject]]:
    requests = {}
    for subject in subjects:
        messages = template.messages(subject.called, subject.genes)
        key = profile_key(entity=subject.entity, kind=template.kind, messages=messages, fingerprint=fingerprint)
        requests[key] = (Request(key, messages, subject.entity, template.kind), subject)
    return requests


class _Run:
    """One pass over the requests that are not stored yet; commits batch by batch."""

    def __init__(
        self,
        store: ProfileStore,
        engine: Generator,
        generator_id: str,
        spec: str,
        prompt: str,
        requests: dict[str, tuple[Request, _Subject]],
    ) -> None:
        self.store, self.engine, self.generator_id = store, engine, generator_id
        self.spec, self.prompt, self.requests = spec, prompt, requests
        self.written = self.tokens = 0
        self.seconds = 0.0

    def generate(self, *, retry_failed: bool, progress: Progress) -> None:
        attempts = self.store.attempts()
        pending = []
        for key, (request, _) in self.requests.items():
            tried, failed = attempts.get(key, (0, False))
            if tried == 0 or (failed and retry_failed):
                pending.append(Request(key, request.messages, request.entity, request.kind, tried + 1))
        total, done = len(self.requests), len(self.requests) - len(pending)
        started = time.monotonic()
        batch: list[Profile] = []
        try:
            for completion, request in self._completions(pending):
                batch.append(self._profile(completion, request))
                self.tokens += completion.completion_tokens
                if len(batch) >= self.engine.batch_size:
                    done += self._commit(batch)
                    progress(done, total, _rate(self.tokens, self.written, time.monotonic() - started))
        finally:
            # Also after Ctrl-C or an engine's error: what came out before it is kept.
            done += self._commit(batch)
            self.seconds = time.monotonic() - started
        progress(done, total, _rate(self.tokens, self.written, self.seconds))

    def _completions(self, pending: list[Request]) -> Iterator[tuple[Completion, Request]]:
        window = _BATCHES_PER_WINDOW * self.engine.batch_size
        for start in range(0, len(pending), window):
            asked = {request.key: request for request in pending[start : start + window]}
            for completion in self.engine.generate(list(asked.values())):
                request = asked.pop(completion.key, None)
                if request is None:
                    raise BftembedError(f"{self.spec} answered a request that was not made ({completion.key[:12]}…).")
                yield completion, request
            for request in asked.values():
                error = "the generator gave no completion"
                yield Completion(request.key, "", finish_reason="error", error=error), request

    def _profile(self, completion: Completion, request: Request) -> Profile:
        text = clean(completion.text)
        marks: tuple[str, ...] = ("failed",)
        if not completion.error:
            marks = screen(text, completion.finish_reason, self.requests[request.key][1].names)
        raw = valid_text(completion.text)
        return Profile(
            key=request.key,
            entity=request.entity,
            kind=request.kind,
            text=text,
            finish_reason=completion.finish_reason,
            marks=marks,
            prompt=self.prompt,
            generator=self.spec,
            generator_id=self.generator_id,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            error=valid_text(completion.error),
            attempts=request.attempt,
            raw_text=raw if raw != text else "",
        )

    def _commit(self, batch: list[Profile]) -> int:
        if batch:
            messages = {p.key: self.requests[p.key][0].messages for p in batch}
            self.store.add_profiles(batch, generator_id=self.generator_id, messages=messages)
        n = len(batch)
        self.written += n
        batch.clear()
        return n


def _rate(tokens: int, items: int, seconds: float) -> str:
    if seconds <= 0 or items == 0:
        return ""
    return f"{tokens / seconds:.0f} tok/s" if tokens else f"{items / seconds:.0f} items/s"
