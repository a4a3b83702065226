"""Cutting a long text into pieces that an encoder can read whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Tokens of a text as (first character, one past the last), special tokens left out.
Offsets = list[tuple[int, int]]


def token_offsets(tokenizer: Any, texts: Sequence[str]) -> list[Offsets]:
    """Return the tokens of every text, none cut off, as spans of characters.

    Parameters
    ----------
    tokenizer
        A fast tokenizer of transformers.
    texts
        Any texts.
    """
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [list(offsets) for offsets in encoded["offset_mapping"]]


def split_text(text: str, offsets: Offsets, room: int, tokenize: Callable[[str], Offsets]) -> list[tuple[str, int]]:
    """Cut a text into consecutive pieces of at most `room` tokens that together are the text.

    The cuts lie between words; inside a word only where the word alone fills a piece.

    Parameters
    ----------
    text
        The text.
    offsets
        Its tokens.
    room
        Most tokens of a piece, at least 1.
    tokenize
        Gives the tokens of a piece: a piece can have others at its edges than it had inside the text.

    Returns
    -------
    list of (str, int)
        Pieces and their numbers of tokens. Joined, the pieces are `text`.
    """
    if len(offsets) <= room:
        return [(text, len(offsets))]
    pieces: list[tuple[str, int]] = []
    start = first = 0
    while first < len(offsets):
        after = _cut(text, offsets, first, min(first + room, len(offsets)))
        end = offsets[after][0] if after < len(offsets) else len(text)
        piece = text[start:end]
        tokens = tokenize(piece)
        # Shorter than its whole, so the recursion ends; a piece of one character is kept as it is.
        pieces += split_text(piece, tokens, room, tokenize) if 1 < len(piece) < len(text) else [(piece, len(tokens))]
        start, first = end, after
    return [(piece, count) for piece, count in pieces if piece]


def _cut(text: str, offsets: Offsets, first: int, limit: int) -> int:
    """Return the token before which to cut: the last one in (first, limit] that begins a word."""
    if limit == len(offsets):
        return limit
    inside = 0
    for i in range(limit, first, -1):
        begin, before = offsets[i][0], offsets[i - 1][1]
        if begin > before or (begin == before and text[begin : begin + 1].isspace()):
            return i
        # Several tokens can share one character (bytes of an emoji); no cut falls inside it.
        if not inside and begin >= before and begin > offsets[first][0]:
            inside = i
    return inside or limit
