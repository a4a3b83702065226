"""From the vectors of genes to the features of items: a gene's vector, or what two genes have together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_ROWS = 8192


def summed(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[Any]:
    """Return the vector of each gene, or the sum of each pair's two: (n, d), in the dtype of `vectors`."""
    features = np.take(vectors, items[:, 0], axis=0)
    if items.shape[1] == 2:
        for start in range(0, len(items), _BLOCK_ROWS):
            features[start : start + _BLOCK_ROWS] += vectors[items[start : start + _BLOCK_ROWS, 1]]
    return features


def symmetric(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each gene's vector, or sum | absolute difference | product of each pair: float32 (n, d) or (n, 3 d)."""
    if items.shape[1] == 1:
        return np.take(vectors, items[:, 0], axis=0).astype(np.float32, copy=False)
    d = vectors.shape[1]
    features = np.empty((len(items), 3 * d), np.float32)
    for start in range(0, len(items), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        one, other = vectors[items[rows, 0]], vectors[items[rows, 1]]
        features[rows, :d] = one + other
        features[rows, d : 2 * d] = np.abs(one - other)
        features[rows, 2 * d :] = one * other
    return features
