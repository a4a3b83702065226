"""The language-model seam: chats (or raw prompts) in; texts, reasoning and likelihoods out.

Profiles, evaluations, judges, agents and rollouts all send `Request` and get `Completion`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bftembed.errors import BftembedError
from bftembed.io import sha256_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``.
Message = Mapping[str, str]

#: Part of every key: a change of how answers are read makes new ones, it does not change those that are stored.
POSTPROCESSING_VERSION = 3

#: As `bftembed.io.canonical_json`, with an encoder that is made once: it is called for every request.
to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True)
class Sampling:
    """How an answer is sampled.

    Attributes
    ----------
    max_new_tokens
        Maximum length of the answer, in tokens; an answer that reaches it has finish reason ``"length"``.
    temperature
        0 is greedy.
    top_p
        Nucleus in (0, 1].
    stop
        Texts that end the answer; they are not part of it.
    seed
        Each request is sampled from the seed and its id, whatever else is in the batch. None sends no seed to a
        server, and is 0 for a local model.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.max_new_tokens < 1 or not 0 <= self.temperature <= 2 or not 0 < self.top_p <= 1:
            raise BftembedError(
                f"max_new_tokens={self.max_new_tokens} must be at least 1, temperature={self.temperature} in [0, 2] "
                f"and top_p={self.top_p} in (0, 1]."
            )

    def seed_of(self, request: Request) -> int:
        """Return the seed of one request (31 bits)."""
        return ((self.seed or 0) ^ int(sha256_text(f"{request.id}:{request.sample}")[:8], 16)) & 0x7FFFFFFF

    def fingerprint(self, *, server: bool = False) -> dict[str, Any]:
        """Return what decides the text, as JSON values; a `server` decides by itself what it was not sent."""
        found: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": float(self.temperature)}
        if server:
            found |= {"top_p": self.top_p} if self.top_p != 1 else {}
            found |= {"seed": self.seed} if self.seed is not None else {}
        elif self.temperature > 0:
            found |= {"top_p": self.top_p, "seed": self.seed or 0}
        return found | ({"stop": list(self.stop)} if self.stop else {})


@dataclass(frozen=True)
class Request:
    """A question to a language model.

    Attributes
    ----------
    id
        The caller's key, unique in a run; in a store it is the key of the answer.
    messages, prompt
        The chat, oldest message first; or raw text, for base models and few-shot likelihood, which reaches the model
        without a chat template.
    sampling
        How the answer is sampled.
    options
        Continuations to score in place of writing one: their log-likelihoods are `Completion.scores`.
    schema
        JSON schema that the answer has to meet.
    sample
        Which repeat of the same question; each is sampled under a seed of its own.
    attempt
        1 for the first try, counted up by each retry of a failed request.
    metadata
        The caller's own values, such as entity and kind of a profile. They are never sent to the model.
    """

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    sampling: Sampling = Sampling()
    options: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    sample: int = 0
    attempt: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("A request has messages or a prompt.")

    def content(self) -> dict[str, Any]:
        """Return what is sent, as JSON values."""
        sent: dict[str, Any] = {"messages": [dict(m) for m in self.messages]} if self.messages else {}
        optional = {"prompt": self.prompt, "options": list(self.options), "schema": self.schema, "sample": self.sample}
        return sent | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True)
class Completion:
    """What a model gives back for one request.

    Attributes
    ----------
    text
        As generated, with reasoning between its markers; `bftembed.llm.reasoning.read_answer` separates them.
    reasoning
        Where the backend gives it apart from the text.
    finish_reason
        As the backend says it, ``""`` where it does not.
    prompt_tokens, completion_tokens
        Counted by the backend, 0 where it does not count.
    error
        Why there is no answer; ``""`` for a success.
    scores
        Log-likelihood (natural logarithm) of each of the request's options, summed over its tokens; None for an option
        that the backend did not report.
    """

    id: str
    text: str = ""
    reasoning: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    scores: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A stored completion; scores and tokens as in `Completion`. A profile is an answer about an entity.

    Attributes
    ----------
    key
        Identity: the same key means the same stored answer, never generated twice.
    entity, kind
        A gene (kind ``"gene"``), or a question of a task.
    text, reasoning
        The answer, and what the model wrote beside it; control characters removed.
    finish_reason
        ``"stop"``, ``"length"`` (the token limit cut it), ``"content_filter"``, ``"error"``, or the backend's own word.
    marks
        Quality flags, subset of `bftembed.profiles.screening.MARKS`; empty for an answer without one.
    prompt, generator, generator_id
        Prompt (``name@version``), spec of the model, and id of its fingerprint: the same spec has another id after an
        upgrade of its engine.
    attempts, sample
        How often it was tried, and which repeat of the same question it is.
    """

    key: str
    entity: str
    kind: str
    text: str
    finish_reason: str
    marks: tuple[str, ...]
    prompt: str
    generator: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    attempts: int = 1
    reasoning: str = ""
    generator_id: str = ""
    scores: tuple[float | None, ...] = ()
    sample: int = 0


@dataclass(frozen=True)
class Capabilities:
    """What a model can be asked for: chats, scores of options, answers under a JSON schema."""

    chat: bool = True
    options: bool = False
    schema: bool = False

    def check(self, request: Request, model: str) -> None:
        """Raise before anything runs where a request needs what the model cannot do."""
        for name in ("options", "schema"):
            if getattr(request, name) and not getattr(self, name):
                able = ", ".join(n for n, yes in asdict(self).items() if yes)
                raise BftembedError(f"{model} cannot do what the run asks for: {name}. It can do: {able or 'nothing'}.")


class LanguageModel(Protocol):
    """A backend: local weights, an engine, or a server.

    A request that cannot be answered is a completion with an error; an exception ends the run.
    """

    #: How many requests the backend works on at once; the runner commits in units of it.
    batch_size: int

    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides an answer but the request: engine, model, version, dtype; nothing is loaded."""

    def capabilities(self) -> Capabilities:
        """Return what the backend can do, by one cheap probe where it has to ask."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield a completion for every request, in any order; weights are loaded on first use."""


def request_key(request: Request, generator: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hexadecimal digits) of all that decides an answer, and of the request's metadata.

    `generator` is the fingerprint of the model and the sampling; id, attempt and sampling of the request are not
    looked at.
    """
    values = {"metadata": dict(request.metadata), "postprocessing": POSTPROCESSING_VERSION}
    return sha256_text(to_json({**request.content(), "generator": dict(generator), **values}))
