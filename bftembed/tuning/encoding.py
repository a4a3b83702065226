"""Tokens and labels of conversations, and the default window for responses of their length."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.llm.chat import has_template, prompt_text, within_thought

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.tuning.data import Conversation

#: The label of tokens that are not learnt.
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    `labels` are as many as `input_ids`, not shifted: the token itself where it is learnt (the assistant's turns and the
    token that ends each), -100 elsewhere. `answers` are the texts of the assistant as they were tokenized.
    """

    where: str
    input_ids: list[int]
    labels: list[int]
    answers: tuple[str, ...] = ()

    @property
    def n_learnt(self) -> int:
        """Number of learnt tokens, without the first of a row, which nothing predicts."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class EncodedData:
    """Rows with a token to learn, and where the others were `dropped`, `truncated`, or left `empty` by cutting."""

    rows: list[Encoded]
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return a warning per kind of row that is not learnt as it is."""
        kinds = {
            "longer than data.max_length, left out": self.dropped,
            "longer than data.max_length, cut (the model learns no ending from them)": self.truncated,
            "without a token to learn after cutting, left out": self.empty,
        }
        return [f"{len(found)} rows {what}: {examples(found)}" for what, found in kinds.items() if found]


@dataclass(frozen=True)
class TrainingSet:
    """A set of rows to learn from, with its held-out rows; `weight` is None for its number of rows."""

    name: str
    weight: float | None
    learnt: EncodedData
    held_out: EncodedData | None = None


def mixed_order(rows: Sequence[int], shares: Sequence[float], total: int, seed: int) -> NDArray[np.int64]:
    """Return the order in which the rows of several sets, laid end to end, are learnt: int64 (total,).

    A set of ``rows[i]`` rows gives ``shares[i]`` (they add up to 1) of the places, spread evenly, so that every step
    has about its share. Its rows come in passes, each shuffled anew; the last is cut.
    """
    rng = np.random.default_rng(seed)
    counts = np.diff(np.rint(np.cumsum([0, *shares]) * total)).astype(int)
    drawn, places = [], []
    for start, n, count in zip(np.cumsum([0, *rows]), rows, counts, strict=False):
        passes = [rng.permutation(n) for _ in range(-(-count // n))]
        drawn.append(start + np.concatenate([np.empty(0, int), *passes])[:count])
        places.append((np.arange(count) + rng.random(count)) / count)
    return np.concatenate(drawn)[np.concatenate(places).argsort(kind="stable")]


def default_window(lengths: Sequence[int]) -> int:
    """Return the paper's window of 256 where the median response is longer than that, else 32 tokens."""
    return 256 if statistics.median(lengths) > 256 else 32


def encode(conversation: Conversation, tokenizer: Any, *, template: str = "auto") -> Encoded:
    """Return the tokens and labels of a conversation.

    The prompt is what generation with this tokenizer feeds (`bftembed.llm.chat`), the response is tokenized by itself,
    as generation would give it, and the end token follows it. No answer is learnt inside of a thought that the template
    opens: it brings the thought along, or the thought is closed before it.

    `tokenizer` has an end token; `template` is as in `bftembed.llm.chat.has_template`.

    Raises
    ------
    BftembedError
        When the chat template rejects the conversation, or rewrites earlier turns so that what was learnt first is no
        longer what comes before the next turn (templates of reasoning models drop earlier thoughts).
    """
    chat = has_template(tokenizer, template)
    messages = [{"role": t.role, "content": t.content} for t in conversation.turns]
    ids: list[int] = []
    labels: list[int] = []
    answers = []
    past = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            prompt = prompt_text(tokenizer, messages[:i], template)
        except Exception as err:
            raise BftembedError(f"{conversation.where}: the chat template rejects it: {err}") from err
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
        answers.append(answer)
        past = prompt + answer + (tokenizer.eos_token if chat else "")
    return Encoded(conversation.where, ids, labels, tuple(answers))


def encode_all(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    template: str = "auto",
    max_length: int,
    over_long: str = "error",
) -> EncodedData:
    """Encode conversations of up to `max_length` tokens.

    `over_long` is ``"error"`` (the five longest are named), ``"truncate"`` (the end is cut) or ``"drop"``. No row left
    is an error.
    """
    data = EncodedData([])
    long: Counter[str] = Counter()
    for conversation in conversations:
        row = encode(conversation, tokenizer, template=template)
        if len(row.input_ids) > max_length:
            long[row.where] = len(row.input_ids)
            if over_long == "drop":
                data.dropped.append(row.where)
                continue
            data.truncated.append(row.where)
            row = replace(row, input_ids=row.input_ids[:max_length], labels=row.labels[:max_length])
        if row.n_learnt:
            data.rows.append(row)
        else:
            data.empty.append(row.where)
    if long and over_long == "error":
        named = ", ".join(f"{where} ({n} tokens)" for where, n in long.most_common(5))
        raise BftembedError(
            f"{len(long)} of {len(conversations)} rows are longer than data.max_length={max_length}; the longest: "
            f"{named}. Raise max_length, or set data.over_long to 'truncate' or 'drop'."
        )
    if not data.rows:
        raise BftembedError("No row is left to learn from. " + " ".join(data.lines()))
    return data
