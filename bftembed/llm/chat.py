"""Chats as the text and tokens that a model reads, for tuning and for generation alike."""

from __future__ import annotations

import datetime
import json
import warnings
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.llm.reasoning import closer_of, leading_opener, open_reasoning, split_reasoning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bftembed.llm.base import Message, Request

THINKING = ("auto", "on", "off")
_PROBE = ({"role": "user", "content": "Hello"},)


class Template:
    """How a model's chat template is used.

    Parameters
    ----------
    thinking
        ``"auto"`` leaves it to the template. ``"off"`` and ``"on"`` set ``enable_thinking``, which many templates know;
        where ``"off"`` still leaves a thought open at the end of the prompt (DeepSeek-R1's template ends in
        ``<think>``), it is closed.
    options
        Variables of the template, such as ``enable_thinking`` or ``date_string``.
    """

    def __init__(self, thinking: str, options: Mapping[str, Any]) -> None:
        if thinking not in THINKING:
            raise BftembedError(f"thinking={thinking!r} is not one of {', '.join(THINKING)}.")
        self.thinking = thinking
        self.options = dict(options)
        if thinking != "auto":
            self.options.setdefault("enable_thinking", thinking == "on")

    def fingerprint(self, source: str) -> dict[str, Any]:
        """Return what decides the prompt beside the model's files: settings, and the date that the `source` writes."""
        found = self.options | ({"thinking": "off"} if self.thinking == "off" else {})
        if "date_string" not in found and "strftime_now" in source:
            found["date"] = datetime.date.today().isoformat()
        return {"template": found} if found else {}

    def apply(self, tokenizer: Any, model: str) -> None:
        """Set the template of a tokenizer that was loaded; a model without one is named in a warning."""
        if not tokenizer.chat_template:
            warn_of_no_template(model)
        elif self.thinking == "off":
            close_thought(tokenizer, self.options)


def warn_of_no_template(model: str) -> None:
    """Say once that a model has no chat template."""
    warnings.warn(
        f"{model} has no chat template: messages are joined as paragraphs. Take its instruction-tuned variant if there "
        "is one.",
        stacklevel=3,
    )


def close_thought(tokenizer: Any, options: Mapping[str, Any] | None = None) -> bool:
    """Let the template of a tokenizer close the thought that it opens at the end of a prompt; return whether it did."""
    closing = closing_of(_rendered(tokenizer, _PROBE, options or {}))
    if closing:
        tokenizer.chat_template = with_closing(tokenizer.chat_template, closing)
    return bool(closing)


def closing_of(prompt: str) -> str:
    """Return what closes the thought with which a rendered prompt ends, ``""`` where it ends in none."""
    opener = open_reasoning(prompt)
    if not opener:
        return ""
    return ("" if prompt.endswith("\n") else "\n") + f"{closer_of(opener)}\n\n"


def within_thought(prompt: str, answer: str) -> tuple[str, str]:
    """Return prompt and answer of a row to learn, where the prompt ends in an open thought.

    An answer that closes a thought goes on in it, without an opener of its own; one without a thought comes after the
    thought is closed.
    """
    closing = closing_of(prompt)
    if not closing:
        return prompt, answer
    if not split_reasoning(answer)[1]:
        return prompt + closing, answer
    own = leading_opener(answer)
    answer = answer.removeprefix(own)
    return prompt, answer.removeprefix("\n") if own and prompt.endswith("\n") else answer


def with_closing(template: str, closing: str) -> str:
    """Return a chat template that writes `closing` at the end of every prompt."""
    return f"{template}{{% if add_generation_prompt %}}{{{{ {json.dumps(closing)} }}}}{{% endif %}}"


def template_in(folder: Path) -> str:
    """Return the chat template that stands in the folder of a model, ``""`` without one."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    if (file := folder / "tokenizer_config.json").is_file():
        return str(json.loads(file.read_text(encoding="utf-8")).get("chat_template") or "")
    return ""


def has_template(tokenizer: Any, template: str = "auto") -> bool:
    """Say whether chats are rendered by the tokenizer's own template.

    `template` is ``"auto"`` (when there is one), ``"chat"`` (must be there) or ``"none"``.
    """
    if template == "chat" and not tokenizer.chat_template:
        raise BftembedError(
            "The tokenizer has no chat template. Set template to 'none' (texts are joined as paragraphs), or take the "
            "instruction-tuned variant of the model."
        )
    return template != "none" and bool(tokenizer.chat_template)


def prompt_text(tokenizer: Any, messages: Sequence[Message], template: str = "auto", **options: Any) -> str:
    """Return the text after which the model answers.

    By the chat template, with the opening of the answer; without one, the contents as paragraphs. A system message that
    the template rejects (Gemma's) or leaves out silently stands at the head of the first user message.

    A template that leaves out the content of another message is a `BftembedError`.

    Parameters
    ----------
    tokenizer, template
        As for `has_template`.
    messages
        The chat.
    **options
        Variables of the chat template.
    """
    if not has_template(tokenizer, template):
        return paragraphs(messages)
    error: Exception | None = None
    for chat in (list(messages), without_system(messages)):
        try:
            text = _rendered(tokenizer, chat, options)
        except Exception as err:  # noqa: BLE001 - templates raise what they like
            error = error or err
            continue
        # Templates of reasoning models drop the thoughts of earlier answers.
        contents = [split_reasoning(m["content"])[0] if m["role"] == "assistant" else m["content"] for m in chat]
        dropped = [m["role"] for m, content in zip(chat, contents, strict=True) if content.strip() not in text]
        if not dropped:
            return text
    if error is not None:
        raise error
    raise BftembedError(f"The chat template leaves out the content of a message ({', '.join(dropped)}).")


def paragraphs(messages: Sequence[Message]) -> str:
    """Return the contents of a chat as paragraphs, for a model without a chat template."""
    return "\n\n".join(m["content"] for m in messages) + "\n\n"


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return a chat whose system message stands at the head of the first user message."""
    if messages[0]["role"] != "system" or len(messages) < 2:
        return list(messages)
    first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": first}, *messages[2:]]


def _prompt_tokens(tokenizer: Any, messages: Sequence[Message], template: str = "auto", **options: Any) -> list[int]:
    """Return the tokens of `prompt_text`. A template writes its own special tokens; paragraphs get the tokenizer's."""
    text = prompt_text(tokenizer, messages, template, **options)
    return list(tokenizer(text, add_special_tokens=not has_template(tokenizer, template))["input_ids"])


def request_tokens(tokenizer: Any, request: Request, template_options: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a request's prompt: raw text, or its chat as `prompt_text` gives it."""
    if request.prompt:
        return list(tokenizer(request.prompt, add_special_tokens=True)["input_ids"])
    return _prompt_tokens(tokenizer, request.messages, **template_options)


def option_tokens(
    tokenizer: Any, request: Request, template_options: Mapping[str, Any]
) -> tuple[list[int], list[list[int]]]:
    """Return the tokens of a request's prompt, and for each option those of prompt and option together.

    As in lm-evaluation-harness, both are tokenized in one piece, and a space that ends a raw prompt is of the option.
    """
    text = request.prompt or prompt_text(tokenizer, request.messages, **template_options)
    special = bool(request.prompt) or not has_template(tokenizer)
    head = text.rstrip() if request.prompt else text
    context = list(tokenizer(head, add_special_tokens=special)["input_ids"])
    return context, [list(tokenizer(text + o, add_special_tokens=special)["input_ids"]) for o in request.options]


def _rendered(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **options))
