"""Profiles of different entities that say the same, apart from the name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Words of one shingle.
SHINGLE = 3
THRESHOLD = 0.7
_WORD = re.compile(r"[^\W_]+")
#: Similarities that are held at once.
_BLOCK = 1 << 23
#: Share of the texts from which a shingle is frequent, and numbers of the dense table of frequent ones.
_FREQUENT, _DENSE = 0.005, 1 << 25


@dataclass(frozen=True)
class Pair:
    """Two entities, in the order of their names, and the Jaccard similarity of their profiles in [0, 1]."""

    first: str
    second: str
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """What `near_duplicates` found.

    Attributes
    ----------
    threshold
        Jaccard similarity from which two texts count as near-duplicates.
    compared
        Texts that were compared.
    with_duplicate
        Those that have at least one near-duplicate.
    pairs
        Number of pairs at or over the threshold.
    closest
        Some of these pairs, the most similar first.
    groups
        Sizes of all groups of two or more, the largest first; a group is linked by pairs.
    largest
        Some members of the largest groups, sorted by name.
    """

    threshold: float
    compared: int
    with_duplicate: int
    pairs: int
    closest: tuple[Pair, ...]
    groups: tuple[int, ...]
    largest: tuple[tuple[str, ...], ...]

    @property
    def share(self) -> float:
        """Return the share of texts with a near-duplicate, 0 for no text."""
        return self.with_duplicate / self.compared if self.compared else 0.0


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; everything that is no letter or digit separates."""
    return _WORD.findall(text.lower())


def words_without(text: str, names: Iterable[str]) -> list[str]:
    """Return the words of a text without the given names, whatever separates their parts: ``IL-6`` is ``IL6``.

    Parameters
    ----------
    text
        Any text.
    names
        Names of one entity. Only whole words go, and the longest name that begins at a word.
    """
    keys = {"".join(words_of(name)) for name in names} - {""}
    words = words_of(text)
    if not keys:
        return words
    beginnings = {key[:n] for key in keys for n in range(1, len(key) + 1)}
    kept, i = [], 0
    while i < len(words):
        end, joined, j = i, "", i
        while j < len(words) and (joined := joined + words[j]) in beginnings:
            j += 1
            end = j if joined in keys else end
        if end == i:
            kept.append(words[i])
            end = i + 1
        i = end
    return kept


def near_duplicates(
    texts: Mapping[str, str],
    names: Mapping[str, Sequence[str]],
    *,
    threshold: float = THRESHOLD,
    max_shown: int = 10,
) -> NearDuplicates:
    """Find texts of different entities that are nearly the same once each has lost its own names.

    Exact: the Jaccard similarity of the sets of three consecutive words, |A ∩ B| / |A ∪ B|, for every pair of texts, in
    blocks of constant memory. A text of fewer words is one shingle.

    Parameters
    ----------
    texts
        Entity → text.
    names
        Entity → its names, which are removed from its text.
    threshold
        Similarity from which two texts count, in (0, 1].
    max_shown
        Maximum length of `NearDuplicates.closest` and of `NearDuplicates.largest`, and of each group in it.

    Raises
    ------
    BftembedError
        For a threshold outside (0, 1].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not 0 < threshold <= 1:
        raise BftembedError(f"threshold is {threshold:g}; give a similarity above 0, up to 1.")
    entities = sorted(texts)
    ids: dict[str, int] = {}
    copies: dict[bytes, list[str]] = {}
    for entity in entities:
        shingles = _shingles(words_without(texts[entity], names.get(entity, ())), ids)
        copies.setdefault(shingles.tobytes(), []).append(entity)
    first, n_copies = [of[0] for of in copies.values()], np.array([len(of) for of in copies.values()])
    n_pairs, labels = int((n_copies * (n_copies - 1) // 2).sum()), np.arange(len(first))
    closest = [Pair(a, b, 1.0) for of in copies.values() for a, b in pairwise(of[: max_shown + 1])]
    for i, j, similarity in _similar([np.frombuffer(key, dtype=np.int64) for key in copies], threshold):
        n_pairs += int((n_copies[i] * n_copies[j]).sum())
        links = coo_array((np.ones(len(i)), (labels[i], labels[j])), shape=(len(first), len(first)))
        labels = connected_components(links, directed=False)[1][labels]
        best = np.argsort(-similarity, kind="stable")[:max_shown]
        closest += [Pair(first[i[k]], first[j[k]], float(similarity[k])) for k in best]
    groups: dict[int, list[str]] = {}
    for label, of in zip(labels.tolist(), copies.values(), strict=True):
        groups.setdefault(label, []).extend(of)
    several = sorted((sorted(g) for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g))
    return NearDuplicates(
        threshold=threshold,
        compared=len(entities),
        with_duplicate=sum(map(len, several)),
        pairs=n_pairs,
        closest=tuple(sorted(closest, key=lambda p: (-p.similarity, p.first, p.second))[:max_shown]),
        groups=tuple(map(len, several)),
        largest=tuple(tuple(g[:max_shown]) for g in several[:max_shown]),
    )


def _shingles(words: list[str], ids: dict[str, int]) -> np.ndarray:
    """Return the sorted set of shingles, each as the numbers of its three words in 21 bits each."""
    numbers = [ids.setdefault(word, len(ids) + 1) for word in words] + [0] * (SHINGLE - len(words))
    windows = np.lib.stride_tricks.sliding_window_view(np.array(numbers, dtype=np.int64), SHINGLE)
    return np.unique(windows @ np.array([1 << 42, 1 << 21, 1]))


def _similar(sets: list[np.ndarray], threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions i < j and similarity of the pairs of sets over the threshold, in blocks of i."""
    from scipy.sparse import csr_array

    if len(sets) < 2:
        return
    sizes = np.array([len(one) for one in sets], dtype=np.float32)
    _, column, times = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    starts = np.r_[0, np.cumsum([len(one) for one in sets])]
    table = csr_array((np.ones(len(column), dtype=np.float32), column, starts))
    # A frequent shingle would fill a sparse product.
    often = np.argsort(-times, kind="stable")[: max(1, _DENSE // len(sets))]
    often = often[times[often] > _FREQUENT * len(sets)]
    frequent, rare = table[:, often].toarray(), table[:, np.setdiff1d(np.flatnonzero(times > 1), often)]
    step = max(1, _BLOCK // len(sets))
    for start in range(0, len(sets), step):
        block = slice(start, start + step)
        common = frequent[block] @ frequent[start:].T + rare[block] @ rare[start:].T
        # |A ∩ B| >= t |A ∪ B|, where |A ∪ B| = |A| + |B| - |A ∩ B|; of integers, so that a little slack is safe.
        least = np.float32(threshold / (1 + threshold)) * (sizes[block, None] + sizes[None, start:]) - np.float32(1e-4)
        i, j = np.nonzero(common >= least)
        i, j = i[i < j], j[i < j]
        if len(i):
            both = common[i, j].astype(np.float64)
            yield i + start, j + start, both / (sizes[i + start] + sizes[j + start] - both)
