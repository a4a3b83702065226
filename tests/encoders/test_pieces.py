"""Cutting long texts: nothing lost, nothing doubled, every piece fits."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from bftembed.encoders._pieces import split_text


def word_tokens(text: str) -> list[tuple[int, int]]:
    """Tokens of up to four characters inside words, punctuation apart: like word pieces."""
    return [m.span() for m in re.finditer(r"\w{1,4}|[^\w\s]", text)]


def byte_tokens(text: str) -> list[tuple[int, int]]:
    """One token per byte, several of which share a character: like byte-level tokenizers."""
    return [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]


texts = st.text(st.sampled_from("abcd  .,\n\tβ🙂"), min_size=1, max_size=120)


@given(text=texts, room=st.integers(4, 20), tokenize=st.sampled_from([word_tokens, byte_tokens]))
def test_pieces_join_to_the_text_and_fit(text: str, room: int, tokenize) -> None:
    pieces = split_text(text, tokenize(text), room, tokenize)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(count == len(tokenize(piece)) <= room for piece, count in pieces)


def test_cuts_lie_between_words() -> None:
    text = "aaaa bbbbcc dd. eeee"
    pieces = split_text(text, word_tokens(text), 3, word_tokens)
    assert pieces == [("aaaa bbbbcc ", 3), ("dd. eeee", 3)]


def test_word_longer_than_a_piece_is_cut_at_a_token() -> None:
    text = "ab " + "x" * 22
    pieces = split_text(text, word_tokens(text), 3, word_tokens)
    assert [piece for piece, _ in pieces] == ["ab ", "x" * 12, "x" * 10]


def test_piece_that_grows_when_cut_out_is_cut_again() -> None:
    def tokenize(text: str) -> list[tuple[int, int]]:
        # At the beginning of a piece a letter costs a token more than inside.
        spans = [(i, i + 1) for i in range(len(text))]
        return [spans[0], *spans] if text.startswith("x") else spans

    text = "y" + "x" * 9
    pieces = split_text(text, tokenize(text), 4, tokenize)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(count <= 4 for _, count in pieces)
