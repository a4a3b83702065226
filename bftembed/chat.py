"""How a chat becomes the tokens that a model reads: one way for tuning and for generation.

What a model is tuned to continue must be, token for token, what it will be asked to continue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def has_template(tokenizer: Any, template: str = "auto") -> bool:
    """Say whether chats are rendered by the tokenizer's own template.

    Parameters
    ----------
    tokenizer
        Of transformers.
    template
        ``"auto"`` (when there is one), ``"chat"`` (must be there) or ``"none"``.

    Raises
    ------
    BftembedError
        For ``"chat"`` and a tokenizer without one.
    """
    if template == "chat" and not tokenizer.chat_template:
        raise BftembedError(
            "The tokenizer has no chat template. Set template to 'none' (texts are joined as paragraphs), or take the "
            "instruction-tuned variant of the model."
        )
    return template != "none" and bool(tokenizer.chat_template)


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str = "auto") -> str:
    """Return the text after which the model answers.

    By the chat template, with the opening of the answer; without one, the contents as paragraphs. A template that
    refuses a system message (Gemma's) gets it at the head of the first user message.
    """
    if not has_template(tokenizer, template):
        return "\n\n".join(m["content"] for m in messages) + "\n\n"
    try:
        return _rendered(tokenizer, messages)
    except Exception:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise
        first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return _rendered(tokenizer, [{"role": "user", "content": first}, *messages[2:]])


def prompt_tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str = "auto") -> list[int]:
    """Return the tokens of `prompt_text`. A template writes its own special tokens; paragraphs get the tokenizer's."""
    text = prompt_text(tokenizer, messages, template)
    return list(tokenizer(text, add_special_tokens=not has_template(tokenizer, template))["input_ids"])


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
