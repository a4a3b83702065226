"""Texts that were cut into pieces, and the vectors of the texts from those of the pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bftembed.encoders.base import unit_rows


@dataclass(frozen=True)
class Pieces:
    """What a model is given.

    Attributes
    ----------
    texts
        The pieces, those of one text one after the other.
    tokens
        Tokens of each.
    owners
        Index of the text that each belongs to.
    """

    texts: list[str]
    tokens: np.ndarray
    owners: np.ndarray


def vectors_of_texts(vectors: np.ndarray, pieces: Pieces, n_texts: int, *, normalised: bool) -> np.ndarray:
    """Average the pieces of each text, weighted by their tokens.

    Parameters
    ----------
    vectors
        One per piece, (n_pieces, d).
    pieces
        The pieces.
    n_texts
        Texts that they come from.
    normalised
        Scale the means to length 1. A text in one piece keeps the model's own bits in any case.

    Returns
    -------
    np.ndarray
        float32 (n_texts, d).
    """
    totals = np.bincount(pieces.owners, weights=pieces.tokens, minlength=n_texts)
    shares = pieces.tokens / totals[pieces.owners]
    means = np.zeros((n_texts, vectors.shape[1]), dtype=np.float32)
    np.add.at(means, pieces.owners, vectors * shares[:, None].astype(np.float32))
    if normalised:
        # A mean of unit vectors is shorter than 1.
        several = np.bincount(pieces.owners, minlength=n_texts) > 1
        means[several] = unit_rows(means[several])
    return means
