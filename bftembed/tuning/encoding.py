"""From conversations to tokens and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples
from bftembed.llm.chat import has_template, prompt_text, within_thought

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.tuning.data import Conversation

#: The label of tokens that are not learnt.
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes
    ----------
    where
        File and row.
    input_ids
        Tokens of prompt and response.
    labels
        As long, not shifted: the token itself where it is learnt (the assistant's turns and the token that ends each),
        -100 elsewhere.
    """

    where: str
    input_ids: list[int]
    labels: list[int]

    @property
    def n_learnt(self) -> int:
        """Tokens that are learnt; the first of a row never is, since nothing comes before it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class EncodedData:
    """Rows that can be learnt from, and what became of the others.

    Attributes
    ----------
    rows
        Each with at least one token that is learnt.
    dropped, truncated, empty
        Where rows were left out as too long, were cut, or had no token left to learn (and were left out).
    """

    rows: list[Encoded]
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return what to tell a person about rows that are not learnt as they are: one line per kind."""
        kinds = (
            (self.dropped, "longer than data.max_length, left out"),
            (self.truncated, "longer than data.max_length, their end was cut (the model learns no ending from them)"),
            (self.empty, "without a token to learn after cutting, left out"),
        )
        return [f"{len(found)} rows {what}: {examples(found)}" for found, what in kinds if found]


def encode(conversation: Conversation, tokenizer: Any, *, template: str = "auto") -> Encoded:
    """Return the tokens and labels of a conversation.

    The prompt is what generation with this tokenizer feeds (`bftembed.llm.chat`), the response is tokenized by itself,
    as generation would give it, and the end token follows it. No answer is learnt inside of a thought that the template
    opens: it brings the thought along, or the thought is closed before it.

    Parameters
    ----------
    conversation
        Turns that end with the assistant's.
    tokenizer
        Of transformers, with an end token.
    template
        As in `bftembed.llm.chat.has_template`.

    Raises
    ------
    BftembedError
        When the chat template refuses the conversation, or rewrites earlier turns so that what was learnt first is no
        longer what comes before the next turn (templates of reasoning models drop earlier thoughts).
    """
    chat = has_template(tokenizer, template)
    messages = [{"role": t.role, "content": t.content} for t in conversation.turns]
    ids: list[int] = []
    labels: list[int] = []
    past = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            prompt = prompt_text(tokenizer, messages[:i], template)
        except Exception as err:
            raise BftembedError(f"{conversation.where}: the chat template refuses it: {err}") from err
        if not prompt.startswith(past):
            raise BftembedError(
                f"{conversation.where}: the chat template rewrites earlier turns, so one row cannot teach them. "
                "Give each answer as a row of its own."
            )
        answer = message["content"].strip() if chat else message["content"]
        if chat:
            prompt, answer = within_thought(prompt, answer)
        before = tokenizer(prompt[len(past) :], add_special_tokens=not chat and not ids)["input_ids"]
        response = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids += [*before, *response]
        labels += [IGNORED] * len(before) + response
        past = prompt + answer + (tokenizer.eos_token if chat else "")
    return Encoded(conversation.where, ids, labels)


def encode_all(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    template: str = "auto",
    max_length: int,
    over_long: str = "error",
) -> EncodedData:
    """Encode conversations and settle what is too long.

    Parameters
    ----------
    conversations, tokenizer, template
        As in `encode`.
    max_length
        Longest row, in tokens.
    over_long
        ``"error"``, ``"truncate"`` (the end is cut) or ``"drop"``.

    Raises
    ------
    BftembedError
        For rows that are too long under ``"error"``, with the five longest named, and when no row is left.
    """
    kept: list[Encoded] = []
    found: dict[str, list[str]] = {"dropped": [], "truncated": [], "empty": []}
    long: Counter[str] = Counter()
    for conversation in conversations:
        row = encode(conversation, tokenizer, template=template)
        if len(row.input_ids) > max_length:
            long[row.where] = len(row.input_ids)
            if over_long == "drop":
                found["dropped"].append(row.where)
                continue
            found["truncated"].append(row.where)
            row = Encoded(row.where, row.input_ids[:max_length], row.labels[:max_length])
        if row.n_learnt:
            kept.append(row)
        else:
            found["empty"].append(row.where)
    if long and over_long == "error":
        named = ", ".join(f"{where} ({n} tokens)" for where, n in long.most_common(5))
        raise BftembedError(
            f"{len(long)} of {len(conversations)} rows are longer than data.max_length={max_length}; the longest: "
            f"{named}. Raise max_length, or set data.over_long to 'truncate' or 'drop'."
        )
    data = EncodedData(kept, **found)
    if not kept:
        raise BftembedError("No row is left to learn from. " + " ".join(data.lines()))
    return data
