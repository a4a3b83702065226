"""Screening: the table of bad texts, and a megabyte of anything."""

from __future__ import annotations

import random

import pytest
from bad_texts import BAD_TEXTS, NAMES
from llm_tools import answer_of

from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.screening import MARKS, screen

PROMPT = "\n".join(m["content"] for m in get_prompt(None, "gene").messages("TP53"))
ROWS = [
    pytest.param(row, id=row.name, marks=[pytest.mark.xfail(strict=True, reason=row.wrong)] if row.wrong else [])
    for row in BAD_TEXTS
]


def test_the_table_is_large_and_its_rows_are_told_apart():
    assert len(BAD_TEXTS) >= 40
    assert len({row.name for row in BAD_TEXTS}) == len({(row.text, row.reason) for row in BAD_TEXTS}) == len(BAD_TEXTS)
    marks = {mark for row in BAD_TEXTS if not row.wrong for mark in row.marks}
    assert marks == set(MARKS) - {"failed"}


@pytest.mark.parametrize("row", ROWS)
def test_a_text_is_cleaned_and_marked_as_the_table_says(row):
    text = answer_of(row.text)
    assert (text, screen(text, row.reason, NAMES, PROMPT)) == (
        row.text.strip() if row.cleaned is None else row.cleaned,
        row.marks,
    )


def megabytes():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    yield "words", " ".join(draw.choice(words) for _ in range(200_000))
    yield "letters", "".join(draw.choice("ab") for _ in range(1_000_000))
    pieces = {
        "one letter": "x",
        "space": " ",
        "line ends": "\n",
        "openers": "<think>",
        "closers": "</think>",
        "half tags": "<thin",
        "the speaker": "I ",
        "almost refusals": "I cannot ",
        "sentences": "One two three. ",
        "a near name": "TP53BP1",
        "surrogates": "\ud800",
        "tail": "ab" * 39 + "c",
        "no spaces": "基因",
    }
    for name, piece in pieces.items():
        yield name, piece * (1_000_000 // len(piece))


@pytest.mark.parametrize(("name", "text"), list(megabytes()), ids=lambda value: value if len(value) < 99 else "")
def test_a_megabyte_is_screened(name, text):
    """In the square of its length, that would take hours."""
    assert set(screen(answer_of(text), "stop", NAMES)) <= set(MARKS)
