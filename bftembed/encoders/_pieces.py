"""Checks of texts and vectors that encoders share; texts beyond a limit, cut into pieces and their vectors averaged."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Tokens of a text as (first character, one past the last), special tokens left out.
Offsets = list[tuple[int, int]]


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list; none at all, an empty one, or one that is not Unicode text is a `BftembedError`."""
    if isinstance(texts, str):
        raise BftembedError("encode takes a list of texts, but got one string. Write [text].")
    checked = list(texts)
    if not checked:
        raise BftembedError("There are no texts to encode.")
    for i, text in enumerate(checked):
        if not isinstance(text, str) or not text.strip():
            raise BftembedError(f"Text {i} is empty ({text!r}); an empty text has no vector. Leave it out.")
        try:
            text.encode()
        except UnicodeEncodeError as err:
            raise BftembedError(f"Text {i} is not valid Unicode text ({err.reason} at {err.start}).") from err
    return checked


def check_vectors(vectors: np.ndarray, texts: Sequence[str], name: str) -> np.ndarray:
    """Return `vectors` as float32 (n, d); NaN or infinite values are a `BftembedError`."""
    result = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = ~np.isfinite(result).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise BftembedError(
            f"The encoder {name} gave NaN or infinite values for {int(bad.sum())} of {len(texts)} texts; the first is "
            f"text {first}: {texts[first][:60]!r}. Try dtype=fp32, and check that the model's weights are whole."
        )
    return result


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return `vectors` (n, d) with rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def versions(*packages: str) -> dict[str, str]:
    """Return package → installed version."""
    return {name: importlib.metadata.version(name) for name in packages}


@dataclass(frozen=True)
class Pieces:
    """What a model is given: pieces (those of a text follow each other), tokens of each, and index of its text."""

    texts: list[str]
    tokens: np.ndarray
    owners: np.ndarray


def split_text(text: str, offsets: Offsets, room: int, tokenize: Callable[[str], Offsets]) -> list[tuple[str, int]]:
    """Cut a text into consecutive pieces of at most `room` tokens that together are the text; return their tokens too.

    The cuts lie between words; inside a word only where the word alone fills a piece. `offsets` are the tokens of the
    text, and `tokenize` gives those of a piece, which can have others at its edges than it had inside the text.
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


def vectors_of_texts(vectors: np.ndarray, pieces: Pieces, n_texts: int, *, normalised: bool) -> np.ndarray:
    """Return the mean of the vectors (n_pieces, d) of each text's pieces, weighted by tokens, float32 (n_texts, d).

    Where `normalised`, the means have length 1. A text in one piece keeps the model's own bits in any case.
    """
    totals = np.bincount(pieces.owners, weights=pieces.tokens, minlength=n_texts)
    shares = pieces.tokens / totals[pieces.owners]
    means = np.zeros((n_texts, vectors.shape[1]), dtype=np.float32)
    np.add.at(means, pieces.owners, vectors * shares[:, None].astype(np.float32))
    if normalised:
        several = np.bincount(pieces.owners, minlength=n_texts) > 1
        means[several] = unit_rows(means[several])
    return means
