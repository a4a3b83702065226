"""The verb of this room: write a profile for every entity of a list, resumably and in constant memory."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.errors import BftembedError
from bftembed.profiles.context import read_context
from bftembed.profiles.estimate import Estimate, estimate, record_seconds
from bftembed.profiles.generators import generator_from_spec, generator_spec
from bftembed.profiles.keys import Keys
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import Completion, Profile
from bftembed.profiles.screening import clean, read_finish_reason, screen, valid_text
from bftembed.profiles.shards import Shard
from bftembed.profiles.store import ProfileStore
from bftembed.profiles.wanted import Asked, Wanted, asked_of, check_kind
from bftembed.progress import Progress, duration, silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType

    from bftembed.profiles.prompts import Prompt
    from bftembed.profiles.records import Generator, Request

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
    written: int
    already_stored: int
    failed: tuple[str, ...]
    marks: dict[str, int] = field(default_factory=dict)
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
        Name of the prompt. By default bft- and the kind.
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
    part = Shard.parse(shard)
    check_kind(kind)
    template = get_prompt(prompt, kind)
    spec = generator_spec(generator)
    wanted = Wanted.of(genes, kind=kind, column=column, unknown=unknown, shard=part, limit=limit)
    engine = generator_from_spec(spec)
    fingerprint = engine.fingerprint()
    texts = context if isinstance(context, Mapping) else read_context(context) if context is not None else {}
    if dry_run:
        known = estimate(wanted, spec, engine, template, out, texts, price)
        return _report(
            out,
            spec,
            template,
            wanted,
            entities=known.entities,
            written=0,
            already_stored=known.already_stored,
            failed=(),
            estimate=known,
        )
    with ProfileStore.writing(out) as store, _stopped_by_signals():
        run = _Run(store, engine, store.add_generator(str(spec), fingerprint), str(spec), template, fingerprint)
        run.generate(wanted, texts, retry_failed=retry_failed, progress=progress)
    record_seconds(fingerprint, run.written, run.seconds)
    return _report(
        out,
        spec,
        template,
        wanted,
        entities=len(run.keys),
        written=run.written,
        already_stored=len(run.keys) - run.written,
        failed=tuple(sorted(run.failed)),
        marks=dict(run.marks) | {"ok": run.marks["ok"]},
        tokens=run.tokens,
        seconds=run.seconds,
        keys=run.keys,
    )


def _report(
    out: str | os.PathLike[str], spec: object, template: Prompt, wanted: Wanted, **counts: Any
) -> GenerationReport:
    """Return the report on `wanted`, whose names have all been read; `counts` are the fields that the run decides."""
    return GenerationReport(
        out=str(Path(out)),
        generator=str(spec),
        prompt=template.id,
        listed=wanted.n_names,
        duplicates=wanted.duplicates,
        resolution=dict(wanted.statuses),
        skipped=tuple(wanted.skipped),
        **counts,
    )


class _Run:
    """One pass over the entities; asks for what is not stored yet, and commits batch by batch."""

    def __init__(
        self,
        store: ProfileStore,
        engine: Generator,
        generator_id: str,
        spec: str,
        template: Prompt,
        fingerprint: dict[str, Any],
    ) -> None:
        self.store, self.engine, self.generator_id, self.spec = store, engine, generator_id, spec
        self.template, self.fingerprint = template, fingerprint
        self.keys, self.marks, self.failed = Keys(), Counter[str](), set[str]()
        self.written = self.tokens = self.done = 0
        self.seconds = 0.0
        self._batch: list[tuple[Profile, Request]] = []

    def generate(self, wanted: Wanted, context: Mapping[str, str], *, retry_failed: bool, progress: Progress) -> None:
        started = time.monotonic()

        def tell() -> None:
            progress(self.done, max(wanted.total, self.done), self._rate(time.monotonic() - started, wanted.total))

        pending = self._pending(wanted, context, retry_failed)
        try:
            while window := list(islice(pending, _BATCHES_PER_WINDOW * self.engine.batch_size)):
                for completion, asked in self._completions(window):
                    self._batch.append((self._profile(completion, asked), asked.request))
                    if len(self._batch) >= self.engine.batch_size:
                        self._commit()
                        tell()
        finally:
            # Also after Ctrl-C or an engine's error: what came out before it is kept.
            self._commit()
            self.seconds = time.monotonic() - started
        wanted.total = self.done  # names of one entity were counted each
        tell()

    def _pending(self, wanted: Wanted, context: Mapping[str, str], retry_failed: bool) -> Iterator[Asked]:
        """Yield what is to be asked for; what is stored is counted on the way."""
        for entries, subjects in wanted.parts():
            self.store.add_entities(entries)
            asked = asked_of(subjects, self.template, self.fingerprint, context)
            for key in asked:
                self.keys.append(key)
            stored = self.store.outcomes(list(asked))
            for key, one in asked.items():
                tried, failed, marks = stored.get(key, (0, False, ()))
                if tried and not (failed and retry_failed):
                    self._count(one.request.entity, marks, failed=failed)
                else:
                    one.request = replace(one.request, attempt=tried + 1)
                    yield one

    def _completions(self, window: list[Asked]) -> Iterator[tuple[Completion, Asked]]:
        asked = {one.request.key: one for one in window}
        for completion in self.engine.generate([one.request for one in window]):
            one = asked.pop(completion.key, None)
            if one is None:
                raise BftembedError(f"{self.spec} answered a request that was not made ({completion.key[:12]}…).")
            yield completion, one
        for one in asked.values():
            error = "the generator gave no completion"
            yield Completion(one.request.key, "", finish_reason="error", error=error), one

    def _profile(self, completion: Completion, asked: Asked) -> Profile:
        request, error = asked.request, completion.error
        reason = read_finish_reason(completion.finish_reason)
        if reason == "error" and not error:
            error = f"the engine ended the answer early ({completion.finish_reason})"
        text = "" if error else clean(completion.text)
        marks = ("failed",) if error else screen(text, reason, asked.names)
        raw = valid_text(completion.text)
        return Profile(
            key=request.key,
            entity=request.entity,
            kind=request.kind,
            text=text,
            finish_reason=reason,
            marks=marks,
            prompt=self.template.id,
            generator=self.spec,
            generator_id=self.generator_id,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            error=valid_text(error),
            attempts=request.attempt,
            raw_text=raw if raw != text else "",
        )

    def _commit(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            messages = {profile.key: request.messages for profile, request in batch}
            self.store.add_profiles([p for p, _ in batch], generator_id=self.generator_id, messages=messages)
        for profile, _ in batch:
            self.written += 1
            self.tokens += profile.completion_tokens
            self._count(profile.entity, profile.marks, failed=bool(profile.error))

    def _count(self, entity: str, marks: Iterable[str], *, failed: bool) -> None:
        self.done += 1
        self.marks.update(tuple(marks) or ("ok",))
        if failed:
            self.failed.add(entity)

    def _rate(self, seconds: float, total: int) -> str:
        if seconds <= 0 or self.written == 0:
            return ""
        told = f"{self.tokens / seconds:.0f} tok/s" if self.tokens else f"{self.written / seconds:.0f} items/s"
        left = (total - self.done) * seconds / self.written
        told += f", {duration(left)} left" if left > 1 else ""
        return told + (f", {len(self.failed)} failed" if self.failed else "")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, with what came out committed; in the main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
