"""One resumable loop: requests in, answers stored batch by batch, in constant memory."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.llm.base import Answer, Completion
from bftembed.llm.reasoning import read_answer, read_finish_reason, valid_text
from bftembed.progress import Progress, duration, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from bftembed.llm.base import LanguageModel, Request
    from bftembed.llm.store import AnswerStore

#: Batches that a model sees at once, so that it can sort prompts by length.
_BATCHES_PER_WINDOW = 16
#: Requests that the store is asked for at once.
_LOOKED_UP_AT_ONCE = 2048
#: Answers wait for a whole batch, but not longer than so many seconds.
_COMMIT_SECONDS = 10.0
#: A run that has no answer yet stops after so many equal failures.
MAX_EQUAL_FAILURES = 25


class Keys(Sequence[str]):
    """Keys of answers in 32 bytes each: a million of them are 32 MB instead of 120."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._bytes = bytearray().join(map(bytes.fromhex, keys))

    def append(self, key: str) -> None:
        """Add a key (64 hexadecimal digits)."""
        self._bytes += bytes.fromhex(key)

    def __len__(self) -> int:
        return len(self._bytes) // 32

    def __getitem__(self, index: Any) -> Any:
        at = range(len(self))[index]
        if isinstance(at, range):
            return [self[i] for i in at]
        return self._bytes[32 * at : 32 * at + 32].hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Run:
    """Counts of a run.

    Attributes
    ----------
    keys
        Of the answers to all requests, stored now or earlier.
    written, stored
        Answers written by this run, and found from earlier ones.
    marks
        Quality flag → count; ``"ok"`` counts answers without one.
    failed, failures
        Entities without an answer; message without numbers and entity → (count, a message, its entity).
    tokens, seconds
        Generated tokens and wall time.
    """

    keys: Keys = field(default_factory=Keys)
    written: int = 0
    stored: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    failures: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def count(self, entity: str, marks: Iterable[str], error: str) -> None:
        """Count an answer."""
        self.marks.update(marks or ("ok",))
        if error:
            self.failed.add(entity)
            kind = _kind_of(error.replace(entity, "") if entity else error)
            n, message, first = self.failures.get(kind, (0, error, entity))
            self.failures[kind] = n + 1, message, first

    def rate(self, total: int) -> str:
        """Return speed, time left and failures in words, for a progress bar."""
        if self.seconds <= 0 or self.written == 0:
            return ""
        n, unit = (self.tokens, "tok/s") if self.tokens else (self.written, "items/s")
        left = (total - self.written - self.stored) * self.seconds / self.written
        parts = [f"{n / self.seconds:.0f} {unit}", *([f"{duration(left)} left"] if left > 1 else [])]
        return ", ".join([*parts, *([f"{len(self.failed)} failed"] if self.failed else [])])


def run_requests(
    requests: Iterable[Request],
    model: LanguageModel,
    store: AnswerStore,
    *,
    spec: str,
    generator_id: str,
    flags: Callable[[Request, str, str], Iterable[str]] = lambda request, text, reason: (),
    retry_failed: bool = False,
    total: int = 0,
    progress: Progress = silent,
) -> Run:
    """Answer what is not stored yet, and store it. SIGINT and SIGTERM keep what was answered before.

    Parameters
    ----------
    requests
        Read as they are needed. The id of each is the key of its answer; its metadata may name ``entity``, ``kind`` and
        ``prompt`` for the store.
    model, spec, generator_id
        What answers, its spec, and its id in the store.
    store
        Opened for writing.
    flags
        Quality flags of an answer, from request, text and finish reason.
    retry_failed
        Ask again where the stored answer is a failure.
    total
        Number of requests, for the progress; 0 where it is not known.
    progress
        Called with the number of answers.

    Raises
    ------
    BftembedError
        When the model cannot do what a request asks for, or fails `MAX_EQUAL_FAILURES` times in the same way without an
        answer. What was answered stays.
    """
    run, started = Run(), time.monotonic()
    committed = started
    batch: list[tuple[Answer, Request]] = []
    equal: Counter[str] | None = Counter()  # failures until the first answer

    def commit() -> None:
        nonlocal committed
        done, batch[:] = batch[:], []
        committed = time.monotonic()
        if done:
            store.add([answer for answer, _ in done], {answer.key: _sent(request) for answer, request in done})
        run.written += len(done)
        for answer, _ in done:
            run.tokens += answer.completion_tokens
            run.count(answer.entity, answer.marks, answer.error)
        run.seconds = time.monotonic() - started
        n = run.written + run.stored
        progress(n, max(total, n), run.rate(max(total, n)))

    with _stopped_by_signals():
        pending = _pending(requests, store, run, retry_failed)
        try:
            while window := list(islice(pending, _BATCHES_PER_WINDOW * model.batch_size)):
                for request in window:
                    if request.options or request.schema:  # a server is asked what it can do, where that matters
                        model.capabilities().check(request, spec)
                for completion, request in _completions(model, window, spec):
                    answer = _answer(completion, request, spec, generator_id, flags)
                    batch.append((answer, request))
                    if len(batch) >= model.batch_size or time.monotonic() - committed > _COMMIT_SECONDS:
                        commit()
                    equal = _equal_failures(equal, answer) if answer.error else None
        finally:
            # Also after Ctrl-C or an exception of the model: what came before it is kept.
            commit()
    return run


def _pending(requests: Iterable[Request], store: AnswerStore, run: Run, retry_failed: bool) -> Iterator[Request]:
    """Yield the requests without a stored answer; what is stored is counted on the way."""
    source = iter(requests)
    while window := list(islice(source, _LOOKED_UP_AT_ONCE)):
        stored = store.outcomes([request.id for request in window])
        for request in window:
            run.keys.append(request.id)
            tried, error, marks = stored.get(request.id, (0, "", ()))
            if tried and not (error and retry_failed):
                run.stored += 1
                run.count(request.metadata.get("entity", ""), marks, error)
            else:
                yield request if request.attempt == tried + 1 else replace(request, attempt=tried + 1)


def _completions(model: LanguageModel, window: list[Request], spec: str) -> Iterator[tuple[Completion, Request]]:
    asked = {request.id: request for request in window}
    for completion in model.generate(window):
        request = asked.pop(completion.id, None)
        if request is None:
            raise BftembedError(f"{spec} answered a request that was not made ({completion.id[:12]}…).")
        yield completion, request
    for request in asked.values():
        yield Completion(request.id, finish_reason="error", error="the model gave no completion"), request


def _answer(
    completion: Completion,
    request: Request,
    spec: str,
    generator_id: str,
    flags: Callable[[Request, str, str], Iterable[str]],
) -> Answer:
    error, reason = valid_text(completion.error), read_finish_reason(completion.finish_reason)
    if reason == "error" and not error:
        error = f"the engine ended the answer early ({completion.finish_reason})"
    text, reasoning = read_answer(completion.text, completion.reasoning)
    if error:
        text, reasoning = "", "\n".join(filter(None, (reasoning, text)))
    about = request.metadata
    return Answer(
        key=request.id,
        entity=about.get("entity", ""),
        kind=about.get("kind", ""),
        text=text,
        finish_reason=reason,
        marks=("failed",) if error else tuple(flags(request, text, reason)),
        prompt=about.get("prompt", ""),
        generator=spec,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        error=error,
        attempts=request.attempt,
        reasoning=reasoning,
        generator_id=generator_id,
        scores=completion.scores,
        sample=request.sample,
    )


def _sent(request: Request) -> Any:
    content = request.content()
    return content["messages"] if list(content) == ["messages"] else content


def _equal_failures(equal: Counter[str] | None, answer: Answer) -> Counter[str] | None:
    """Count a failure before the first answer, and raise when nothing but one kind comes."""
    if equal is None or (answer.entity and re.search(rf"(?<!\w){re.escape(answer.entity)}(?!\w)", answer.error)):
        return equal  # a failure that names its item is of that item alone
    kind = _kind_of(answer.error)
    equal[kind] += 1
    if equal[kind] >= MAX_EQUAL_FAILURES:
        raise BftembedError(
            f"{equal[kind]} requests failed in the same way and none was answered, the last for "
            f"{answer.entity!r}: {answer.error}. The run stops; mend the cause, then --retry-failed goes on."
        )
    return equal


def _kind_of(error: str) -> str:
    """Return a message without its counts, times and ids."""
    return re.sub(r"[\w:.-]*\d[\w:.-]*", "N", error)


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
