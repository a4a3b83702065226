"""The values that pass between prompts, generators, the store and the encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``.
Message = dict[str, str]

#: Marks that screening gives a profile; "failed" is a profile that a generator could not write at all.
MARKS = ("empty", "truncated", "unknown-finish", "reasoning", "refusal", "looping", "off-topic", "failed")


@dataclass(frozen=True)
class Request:
    """What a generator is asked for.

    Attributes
    ----------
    key
        Identity of the profile (64 hexadecimal digits), see `bftembed.profiles.keys`.
    messages
        The chat, oldest first.
    entity
        Identifier of what is profiled: an HGNC symbol, an antibody name, or a name as given.
    kind
        ``"gene"`` or ``"protein"``.
    attempt
        1 for the first try, counted up by each retry of a failed item.
    """

    key: str
    messages: tuple[Message, ...]
    entity: str
    kind: str = "gene"
    attempt: int = 1


@dataclass(frozen=True)
class Completion:
    """What a generator gives back for one request.

    Attributes
    ----------
    key
        The request's key.
    text
        As generated, reasoning included; behind the opener of reasoning with which the prompt ended, if it did.
    finish_reason
        As the engine says it, ``""`` where it does not; see `bftembed.profiles.screening.read_finish_reason`.
    prompt_tokens, completion_tokens
        Counted by the engine, 0 where it does not count.
    error
        Why nothing was written; ``""`` for a success.
    """

    key: str
    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True)
class Profile:
    """A stored profile.

    Attributes
    ----------
    key, entity, kind
        As in `Request`.
    text
        What is embedded: reasoning stripped, control characters removed.
    finish_reason
        ``"stop"``, ``"length"`` (the token limit cut it), ``"content_filter"``, ``"error"``, or the engine's own word.
    marks
        Subset of `MARKS`; empty for a profile without a complaint.
    prompt
        ``name@version`` of the prompt.
    generator
        The generator's spec as it is shown to people, for example ``transformers:builtin:smollm2-135m-instruct``.
    prompt_tokens, completion_tokens
        As in `Completion`.
    error
        Why it failed; ``""`` otherwise.
    attempts
        How often it was tried.
    raw_text
        The text of the completion, where it differs from `text`, else ``""``.
    generator_id
        Id of the generator's fingerprint in the store: the same spec has another id after an upgrade of its engine.
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
    raw_text: str = ""
    generator_id: str = ""


class Generator(Protocol):
    """The generator seam: an engine that answers chats.

    `fingerprint` is cheap (no weights are loaded) and names all that decides the text: engine, model,
    revision, backend version, dtype, device and sampling parameters. `generate` yields one completion per
    request, in any order; it loads what it needs on first use. An item that cannot be written is a completion
    with an error; an exception ends the run.
    """

    #: How many requests the engine works on at once; the runner commits in units of it.
    batch_size: int

    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides the text, as JSON values."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield a completion for every request."""
