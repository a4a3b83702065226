"""The chat side of an OpenAI-compatible server: what is asked for a profile, and how an answer is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from bftembed.api import ApiServer, TransientFault, UnknownShapeFault, said_in
from bftembed.errors import BftembedError
from bftembed.profiles.records import Completion
from bftembed.profiles.screening import read_finish_reason

if TYPE_CHECKING:
    from bftembed.profiles.records import Request

TOKEN_PARAMETERS = ("auto", "max_tokens", "max_completion_tokens")


class ChatServer(ApiServer):
    """What both OpenAI engines share: one server, one model, one set of sampling parameters.

    Parameters
    ----------
    engine
        Name of the engine, for messages and the fingerprint.
    model, base_url, attempts, backoff
        As for `bftembed.api.ApiServer`.
    max_new_tokens, temperature, seed
        Sampling; None leaves the seed to the server.
    token_parameter
        What the server calls `max_new_tokens`: ``"max_tokens"``, ``"max_completion_tokens"``, or ``"auto"``: the
        latter at api.openai.com, the former elsewhere.

    Raises
    ------
    BftembedError
        For an option out of range, or an address that is none or holds a password.
    """

    what = "generator"
    go_on = "What is committed stays; the same command goes on from there."
    remedies: ClassVar[dict[str, str]] = {
        "temperature": "temperature=1",
        "max_tokens": "token_parameter=max_completion_tokens",
        "max_completion_tokens": "token_parameter=max_tokens",
    }

    def __init__(
        self,
        engine: str,
        model: str,
        *,
        base_url: str,
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
        token_parameter: str,
        attempts: int,
        backoff: float,
    ) -> None:
        if max_new_tokens < 1 or not 0 <= temperature <= 2:
            raise BftembedError(
                f"{engine}: max_new_tokens={max_new_tokens} must be at least 1, temperature={temperature} in [0, 2]."
            )
        if token_parameter not in TOKEN_PARAMETERS:
            raise BftembedError(f"{engine}: token_parameter={token_parameter!r} is none of {TOKEN_PARAMETERS}.")
        super().__init__(engine, model, base_url=base_url, attempts=attempts, backoff=backoff)
        self.sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": float(temperature)}
        if seed is not None:
            self.sampling["seed"] = seed
        if token_parameter == "auto":
            token_parameter = "max_completion_tokens" if self.host == "api.openai.com" else "max_tokens"
        self._token_parameter = token_parameter

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the text; no key, and of the address host and path alone."""
        return {
            "engine": self.engine,
            "model": self.model,
            "server": self.shown,
            "sampling": self.sampling,
        }

    def body(self, request: Request) -> dict[str, Any]:
        """Return the body of a chat completion."""
        asked = {"model": self.model, "messages": list(request.messages), "temperature": self.sampling["temperature"]}
        asked[self._token_parameter] = self.sampling["max_new_tokens"]
        return asked | ({"seed": self.sampling["seed"]} if "seed" in self.sampling else {})

    def completion(self, key: str, answer: dict[str, Any]) -> Completion:
        """Read the body of a chat completion.

        Raises
        ------
        TransientFault
            For a body that holds an error.
        UnknownShapeFault
            For a body of another shape.
        """
        if answer.get("error") and not answer.get("choices"):
            raise TransientFault(f"{self.shown} answered 200, but {said_in(answer)[0]}")
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            text, thought = _text_and_reasoning(message.get("content"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise UnknownShapeFault(
                f"{self.shown} answered 200, but its answer holds no choices[0].message with a text"
            ) from None
        thought = _flat(message.get("reasoning_content") or message.get("reasoning")) or thought
        said = choice.get("finish_reason")
        reason = read_finish_reason(said)
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
        error = ""
        if reason == "content_filter":
            error = "the server's content filter held the answer back"
        elif reason == "error":
            why = choice.get("error") or answer.get("error")
            error = f"the server ended the answer early ({said})" + (f": {said_in(why)[0]}" if why else "")
        elif text is None:
            error = "the answer has no text (null content)"
            if message.get("refusal"):
                error = f"the model refused: {message['refusal']}"
            elif reason == "length":
                error += f": all {counts[1]} tokens went elsewhere, as into reasoning; raise max_new_tokens"
            reason = "error"
        if thought:
            # Screening strips it from the profile; the store keeps it as the raw text.
            text = f"<think>{thought}</think>\n{text or ''}"
        return Completion(key, text or "", reason, *counts, error=error)


def _text_and_reasoning(content: Any) -> tuple[str | None, str]:
    """Return what a message's content holds: a text, nothing, or a list of chunks (Mistral, agent frameworks).

    Raises
    ------
    TypeError, KeyError, AttributeError
        For anything else.
    """
    if content is None or isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError
    texts, thoughts = [], []
    for chunk in content:
        kind = "text" if isinstance(chunk, str) else chunk.get("type", "text")
        if kind in ("thinking", "reasoning", "redacted_thinking"):
            thoughts.append(_flat(chunk))
        elif kind in ("text", "output_text"):
            texts.append(chunk if isinstance(chunk, str) else chunk["text"])
        else:
            raise TypeError(kind)
    return "".join(texts) if texts else None, "".join(thoughts)


def _flat(thought: Any) -> str:
    """Return the text of a thought, whatever its shape."""
    if isinstance(thought, list):
        return "".join(map(_flat, thought))
    if isinstance(thought, dict):
        return _flat(next((thought[name] for name in ("thinking", "text", "summary") if thought.get(name)), ""))
    return thought if isinstance(thought, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
