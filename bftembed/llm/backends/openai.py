"""Chat completions of any OpenAI-compatible server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.llm.api_client import ApiServer, RequestFault, said_in
from bftembed.llm.base import Capabilities, Completion, Request, Sampling
from bftembed.llm.chat import Template
from bftembed.llm.reasoning import read_finish_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: Most likely tokens that are asked for where options are scored; OpenAI gives up to 20.
_TOP = 20
#: A run ends after so many requests in a row without a readable answer.
_MAX_UNANSWERED = 8


@dataclass(eq=False)
class OpenAI(ApiServer):
    """Chat completions of a server, asked concurrently and yielded as they come.

    Parameters
    ----------
    model
        As the server calls it.
    timeout, max_retries
        Seconds per try, and retries per request: of the official client, which waits half a second to 8 s between two,
        or as long as the server says (Retry-After).
    base_url
        Address of the server, such as ``http://127.0.0.1:8000/v1``; empty takes ``$OPENAI_BASE_URL``, else OpenAI.
    token_parameter
        What the server calls `max_new_tokens`; ``"auto"`` is ``"max_completion_tokens"`` at api.openai.com,
        ``"max_tokens"`` elsewhere.
    thinking, template
        As in `bftembed.llm.chat.Template`; sent as ``chat_template_kwargs``, which vLLM and llama.cpp know.
    extra
        Further fields of the request's body: ``extra.reasoning_effort=low``.
    concurrency
        Requests in flight.

    Notes
    -----
    The key comes from ``$OPENAI_API_KEY`` alone. It is in no fingerprint, error or log.
    """

    token_parameter: str = "auto"
    thinking: str = "auto"
    template: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None
    concurrency: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1:
            raise BftembedError(f"{self.engine}: concurrency={self.concurrency} must be at least 1.")
        if self.token_parameter == "auto":
            self.token_parameter = "max_completion_tokens" if self.host == "api.openai.com" else "max_tokens"
        self.batch_size = self.concurrency
        self._template = Template(self.thinking, self.template or {})
        self._capabilities: Capabilities | None = None
        self._unanswered = 0

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the text; no key, and of the address host and path alone."""
        found = {"engine": self.engine, "model": self.model, "server": self.shown, **self._template.fingerprint("")}
        return found | ({"extra": self.extra} if self.extra else {})

    def capabilities(self) -> Capabilities:
        """Return what the server can do, by one answer with log-probabilities and one under a schema."""
        if self._capabilities is None:
            chat, few = ({"role": "user", "content": "Answer A or B."},), Sampling(max_new_tokens=8)
            letters = {"type": "string", "enum": ["A", "B"]}
            asked = [Request("o", chat, options=("A", "B")), Request("s", chat, sampling=few, schema=letters)]
            found = {c.id: c for c in self.generate(asked)}
            self._capabilities = Capabilities(
                options=any(score is not None for score in found["o"].scores),
                schema=found["s"].text.strip().strip('"') in ("A", "B"),
            )
        return self._capabilities

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions as they come, in any order; what would fail every request ends the run."""
        self._unanswered = 0
        return self.stream(self._answer, requests, self.concurrency)

    async def _answer(self, client: Any, put: Callable[[Completion], None], request: Request) -> None:
        completions, needed = client.chat.completions, {"model": self.model, "messages": []}
        if request.prompt:
            completions, needed = client.completions, {"model": self.model, "prompt": ""}
        # In extra_body, since other servers have fields and values that the client does not know.
        call = completions.with_raw_response.create(**needed, extra_body=self._body(request))
        try:
            put(self._completion(request, await self.json(call)))
            self._unanswered = 0
        except RequestFault as fault:
            put(Completion(request.id, finish_reason="error", error=str(fault)))
            self._unanswered = self._unanswered + 1 if fault.unread else 0
            if self._unanswered >= _MAX_UNANSWERED:
                raise BftembedError(
                    f"openai: {self._unanswered} requests in a row got no readable answer from {self.shown}: {fault}. "
                    "The run stops. When the server is mended, --retry-failed goes on."
                ) from None

    def _body(self, request: Request) -> dict[str, Any]:
        """Return the body of a chat completion, or of a raw completion where the request has a prompt."""
        asked: dict[str, Any] = {"model": self.model, **body_of(request, _TOP, chat=not request.prompt)}
        if request.sampling.seed is not None:
            asked["seed"] = request.sampling.seed + request.sample
        if request.prompt:
            asked["prompt"] = request.prompt
        else:
            asked["messages"] = [dict(m) for m in request.messages]
            asked[self.token_parameter] = asked.pop("max_tokens")
            asked |= {"chat_template_kwargs": self._template.options} if self._template.options else {}
        return asked | (self.extra or {})

    def _completion(self, request: Request, answer: dict[str, Any]) -> Completion:
        try:
            choice = answer["choices"][0]
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            text, thought = _text_and_reasoning(message.get("content"))
            usage = answer.get("usage") or {}
            n_prompt, n_answer = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            what = f"{self.shown} answered 200, but its answer holds no choices[0].message with a text"
            raise RequestFault(what, unread=True) from None
        if request.options:
            return Completion(request.id, prompt_tokens=n_prompt, scores=option_scores(choice, request.options))
        thought = _flat(message.get("reasoning_content") or message.get("reasoning")) or thought
        reason, refusal, error = read_finish_reason(choice.get("finish_reason")), message.get("refusal"), ""
        if text is None and reason == "stop" and self.thinking == "off" and not refusal:
            # Some parsers take an answer without the end of a thought for one, though the prompt has closed it.
            text, thought = thought or None, ""
        if reason in ("content_filter", "error") or text is None:
            error = f"the server gave no whole answer (finish reason {choice.get('finish_reason')})"
            if why := choice.get("error") or answer.get("error") or refusal:
                error += f": {said_in(why)[0]}"
            elif reason == "length":
                error += f": all {n_answer} tokens went elsewhere, as into reasoning; raise max_new_tokens"
            elif thought:
                error += ": the server took all of it for reasoning; give thinking=off where the model writes none"
            reason = "content_filter" if reason == "content_filter" else "error"
        return Completion(request.id, text or "", thought, reason, n_prompt, n_answer, error)


def body_of(request: Request, top: int, *, chat: bool) -> dict[str, Any]:
    """Return sampling, options and schema of a request as fields of a body; `top` tokens tell of the options."""
    sampling = request.sampling
    asked: dict[str, Any] = {"temperature": sampling.temperature}
    asked["max_tokens"] = 1 if request.options else sampling.max_new_tokens
    asked |= {"top_p": sampling.top_p} if sampling.top_p != 1 else {}
    asked |= {"stop": list(sampling.stop)} if sampling.stop else {}
    if request.options:
        asked |= {"logprobs": True, "top_logprobs": top} if chat else {"logprobs": top}
    if request.schema:
        schema = {"name": "answer", "strict": True, "schema": dict(request.schema)}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked


def option_scores(choice: Mapping[str, Any], options: Sequence[str]) -> tuple[float | None, ...]:
    """Return the log-likelihood of each option as the first token of an answer, from the most likely tokens.

    None for an option that is not among them, or is no single token.
    """
    found = choice.get("logprobs") or {}
    if found.get("content"):
        tokens = {one["token"]: one["logprob"] for one in found["content"][0].get("top_logprobs") or []}
    else:
        tokens = (found.get("top_logprobs") or [{}])[0]

    def score(option: str) -> float | None:
        if option in tokens:
            return float(tokens[option])
        # A chat's answer begins without the space that comes before an option in a raw prompt.
        alike = [math.exp(value) for token, value in tokens.items() if token.strip() == option.strip()]
        return math.log(sum(alike)) if sum(alike) > 0 else None

    return tuple(map(score, options))


def _text_and_reasoning(content: Any) -> tuple[str | None, str]:
    """Return text and reasoning of a message's content: a text, nothing, or a list of chunks (Mistral)."""
    if content is None or isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError
    texts, thoughts = [], []
    for chunk in ({"text": chunk} if isinstance(chunk, str) else chunk for chunk in content):
        kind = chunk.get("type", "text")
        if kind in ("text", "output_text"):
            texts.append(chunk["text"])
        elif kind in ("thinking", "reasoning", "redacted_thinking"):
            thoughts.append(_flat(chunk))
        else:
            raise TypeError
    return "".join(texts) if texts else None, "".join(thoughts)


def _flat(thought: Any) -> str:
    """Return the text of a thought, whatever its shape."""
    if isinstance(thought, list):
        return "".join(map(_flat, thought))
    if isinstance(thought, dict):
        return _flat(next((thought[name] for name in ("thinking", "text", "summary") if thought.get(name)), ""))
    return thought if isinstance(thought, str) else ""
