"""Screening: the table of bad texts, and a megabyte of anything."""

from __future__ import annotations

import random
import re

import pytest
from bad_texts import BAD_TEXTS, GOOD, NAMES
from hypothesis import given
from hypothesis import strategies as st
from llm_tools import answer_of
from tests_paths import REPOSITORY

from bftembed.llm.reasoning import FORMATS, read_finish_reason, split_reasoning, with_reasoning_markers
from bftembed.profiles.generate import get_prompt
from bftembed.profiles.screening import MARKS, screen

PROMPT = "\n".join(m["content"] for m in get_prompt(None, "gene").messages("TP53"))


@pytest.mark.parametrize("row", BAD_TEXTS, ids=lambda row: row.name)
def test_a_text_is_cleaned_and_marked_as_the_table_says(row):
    text = answer_of(row.text)
    assert (text, screen(text, row.reason, NAMES, PROMPT)) == (
        row.text.strip() if row.cleaned is None else row.cleaned,
        row.marks,
    )


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.models)
def test_every_format_of_reasoning_is_tried_and_documented(row):
    texts = [bad.text for bad in BAD_TEXTS if bad.cleaned == GOOD]
    assert any(row.closer.search(text) for text in texts)
    assert any(row.opener.search(text) for text in texts)
    documented = (REPOSITORY / "docs" / "language-models.md").read_text(encoding="utf-8")
    assert f"| {row.models} |" in documented


#: As tokenizers have them: what a decoder that skips special tokens leaves out.
SPECIAL = re.compile(r"<\|[^<>|]*\|?>|<[^<>|]*\|>|\[/?THINK\]|<unused\d+>|\[unused\d+\]|◁/?think▷|</?[a-z_:]*think>")
MARKED = [
    bad
    for bad in BAD_TEXTS
    if SPECIAL.search(bad.text) and answer_of(bad.text) == bad.cleaned and split_reasoning(bad.text)[1]
]


@pytest.mark.parametrize("row", MARKED, ids=lambda row: row.name)
def test_reasoning_is_read_where_special_tokens_were_skipped(row):
    plain = SPECIAL.sub("", row.text)
    assert answer_of(with_reasoning_markers(plain, row.text, "")) == row.cleaned


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((word, "stop") for word in ("stop", "eos", "end_turn", "stop_sequence", "STOP", "COMPLETE")),
        *((word, "length") for word in ("length", "MAX_TOKENS", "model_length", "max_output_tokens")),
        *((word, "error") for word in ("error", "abort", "cancelled")),
        *((word, "content_filter") for word in ("content_filter", "SAFETY", "refusal")),
        *((word, "unknown") for word in ("", None, 3, {"type": "stop"})),
        ("tool_calls", "tool_calls"),
    ],
)
def test_only_known_endings_are_whole(said, reason):
    assert read_finish_reason(said) == reason
    assert (screen(GOOD, reason, NAMES) == ()) == (reason == "stop")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=300))
def test_cleaning_gives_valid_text_and_is_idempotent(text):
    once = answer_of(text)
    once.encode("utf-8")
    assert answer_of(once) == once
    screen(once, "stop", ("TP53",))


def megabytes():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    yield "words", " ".join(draw.choice(words) for _ in range(200_000))
    pieces = {
        "one letter": "x",
        "line ends": "\n",
        "openers": "<think>",
        "half tags": "<thin",
        "almost refusals": "I cannot ",
        "sentences": "One two three. ",
        "a near name": "TP53BP1",
        "surrogates": "\ud800",
        "control characters": "\x00",
        "tail": "ab" * 39 + "c",
        "no spaces": "基因",
    }
    for name, piece in pieces.items():
        yield name, piece * (1_000_000 // len(piece))


@pytest.mark.parametrize(("name", "text"), list(megabytes()), ids=lambda value: value if len(value) < 99 else "")
def test_a_megabyte_is_screened(name, text):
    """In the square of its length, that would take hours."""
    assert set(screen(answer_of(text), "stop", NAMES)) <= set(MARKS)
