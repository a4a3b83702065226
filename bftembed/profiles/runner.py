"""The verb of this room: write a profile for every entity of a list, resumably and in constant memory."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.profiles.generators import generator_from_spec, generator_spec
from bftembed.profiles.keys import Keys
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import Completion, Profile
from bftembed.profiles.screening import clean, read_finish_reason, screen, valid_text
from bftembed.profiles.shards import Shard
from bftembed.profiles.store import ProfileStore
from bftembed.profiles.wanted import Asked, Wanted, asked_of, check_kind
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the keys."""
        return {name: value for name, value in asdict(replace(self, keys=())).items() if name != "keys"}


def generate_profiles(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    generator: str = "builtin:smollm2-135m-instruct",
    out: str | os.PathLike[str],
    prompt: str | None = None,
    kind: str = "gene",
    column: str | None = None,
    context: Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    unknown: str = "skip",
    retry_failed: bool = False,
    shard: str | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> GenerationReport:
    """Write a profile for every gene, protein, cell type or drug of a list into the store at `out`.

    A profile that the store holds already is never written again; a run that was killed goes on where it
    stopped, at most the batch in flight is repeated. SIGINT and SIGTERM keep what came out before them. Beside the
    list of names, memory does not grow with its length.

    Parameters
    ----------
    genes
        Names, or a file of them: text, CSV/TSV, or a h5ad's var names (see `bftembed.entities.lists`).
    generator
        Spec, for example ``facts``, ``builtin:smollm2-135m-instruct`` or ``transformers:/models/x,dtype=bf16``.
    out
        Folder of the store; made when missing.
    prompt
        Name of the prompt; default ``bft-`` and the kind.
    kind
        ``"gene"``, ``"protein"``, ``"cell-type"`` or ``"drug"``.
    column
        Column of a table or of a h5ad's var that holds the names.
    context
        Name → free text that the prompt passes on (a tissue, a drug's indication); for prompts with a place for it.
    max_new_tokens
        Overrides the generator's option of that name.
    unknown
        What to do with names that cannot be resolved (ambiguous ones too): ``"skip"`` them and say so,
        ``"keep"`` them under the name as given, or ``"error"``.
    retry_failed
        Try failed items again; without it they stay failed.
    shard
        ``"i/n"``: only the i-th of n parts of the entities (1 to n), by a hash of their names, so that a longer list
        moves none of them. Each shard has a store of its own; `bftembed.profiles.merge.merge_stores` joins them.
    limit
        Only so many entities, the first of the list (of the shard).
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
    part = Shard.parse(shard)
    check_kind(kind)
    template = get_prompt(prompt, kind)
    spec = generator_spec(generator, max_new_tokens=max_new_tokens)
    wanted = Wanted.of(genes, kind=kind, column=column, unknown=unknown, shard=part, limit=limit)
    engine = generator_from_spec(spec)
    fingerprint = engine.fingerprint()
    with ProfileStore.writing(out) as store, _stopped_by_signals():
        run = _Run(store, engine, store.add_generator(str(spec), fingerprint), str(spec), template, fingerprint)
        run.generate(wanted, context or {}, retry_failed=retry_failed, progress=progress)
    return GenerationReport(
        out=str(Path(out)),
        generator=str(spec),
        prompt=template.id,
        listed=wanted.n_names,
        duplicates=wanted.duplicates,
        resolution=dict(wanted.statuses),
        skipped=tuple(wanted.skipped),
        entities=len(run.keys),
        written=run.written,
        already_stored=len(run.keys) - run.written,
        failed=tuple(sorted(run.failed)),
        marks=dict(run.marks) | {"ok": run.marks["ok"]},
        tokens=run.tokens,
        seconds=run.seconds,
        keys=run.keys,
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
        told += f", {_duration(left)} left" if left > 1 else ""
        return told + (f", {len(self.failed)} failed" if self.failed else "")


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s" if minutes else f"{whole} s"


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
