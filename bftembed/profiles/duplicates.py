"""Profiles of different entities that say the same, apart from the name."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scipy.sparse import csr_array

#: Words of one shingle.
SHINGLE = 3
THRESHOLD = 0.7
_WORD = re.compile(r"[^\W_]+")
#: Similarities that are held at once.
_BLOCK = 1 << 23
#: The most frequent shingles are multiplied densely, since each would fill a sparse product; so many numbers at most.
_DENSE = 1 << 25
_FREQUENT_SHARE = 0.005


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
    most_shown: int = 10,
) -> NearDuplicates:
    """Find texts of different entities that are nearly the same once each has lost its own names.

    Exact: the Jaccard similarity of the sets of three consecutive words, |A ∩ B| / |A ∪ B|, for every pair of
    distinct texts, in blocks of constant memory. A text shorter than three words is one shingle, and texts of which
    nothing but the name is left are the same.

    Parameters
    ----------
    texts
        Entity → text.
    names
        Entity → its names, which are taken out of its text.
    threshold
        Similarity from which two texts count, in (0, 1].
    most_shown
        Length of `NearDuplicates.closest` and of `NearDuplicates.largest`, and members shown of each group.

    Raises
    ------
    ValueError
        For a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; give a similarity above 0, up to 1.")
    entities = sorted(texts)
    members: dict[bytes, list[int]] = {}
    ids: dict[str, int] = {}
    for i, entity in enumerate(entities):
        shingles = _shingles(words_without(texts[entity], names.get(entity, ())), ids)
        members.setdefault(shingles.tobytes(), []).append(i)
    sets = [np.frombuffer(key, dtype=np.uint64) for key in members]
    copies = list(members.values())
    links = _Links([entities[c[0]] for c in copies], [len(c) for c in copies], most_shown)
    if len(sets) > 1:
        _compare(sets, threshold, links)
    same = [Pair(entities[a], entities[b], 1.0) for c in copies for a, b in pairwise(c[: most_shown + 1])]
    closest = sorted([*same, *links.closest], key=lambda p: (-p.similarity, p.first, p.second))[:most_shown]
    groups: dict[int, list[int]] = {}
    for label, copy in zip(links.labels.tolist(), copies, strict=True):
        groups.setdefault(label, []).extend(copy)
    several = sorted((sorted(g) for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g))
    return NearDuplicates(
        threshold=threshold,
        compared=len(entities),
        with_duplicate=sum(map(len, several)),
        pairs=links.pairs + sum(len(c) * (len(c) - 1) // 2 for c in copies),
        closest=tuple(closest),
        groups=tuple(map(len, several)),
        largest=tuple(tuple(entities[i] for i in g[:most_shown]) for g in several[:most_shown]),
    )


class _Links:
    """Pairs over the threshold, kept as counts, groups and the closest few."""

    def __init__(self, entities: list[str], copies: list[int], most: int) -> None:
        self.entities, self.most = entities, most
        self.copies = np.asarray(copies, dtype=np.int64)
        self.labels = np.arange(len(entities))
        self.pairs = 0
        self.closest: list[Pair] = []

    def add(self, i: np.ndarray, j: np.ndarray, similarity: np.ndarray) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        self.pairs += int((self.copies[i] * self.copies[j]).sum())
        n, a_label, b_label = len(self.entities), self.labels[i], self.labels[j]
        new = a_label != b_label
        if new.any():
            edges = coo_array((np.ones(int(new.sum()), dtype=np.int8), (a_label[new], b_label[new])), shape=(n, n))
            self.labels = connected_components(edges, directed=False)[1][self.labels]
        least = np.partition(similarity, -self.most)[-self.most] if len(similarity) > self.most else similarity.min()
        best = np.concatenate([np.flatnonzero(similarity > least), np.flatnonzero(similarity == least)[: self.most]])
        for a, b, value in zip(i[best].tolist(), j[best].tolist(), similarity[best].tolist(), strict=True):
            first, second = sorted((self.entities[a], self.entities[b]))
            self.closest.append(Pair(first, second, value))
        self.closest = sorted(self.closest, key=lambda p: (-p.similarity, p.first, p.second))[: self.most]


def _shingles(words: list[str], ids: dict[str, int]) -> np.ndarray:
    """Return the sorted set of shingles as numbers; two different shingles hardly ever share one of 64 bits."""
    for word in words:
        if word not in ids:
            code = word.encode("utf-8", "replace")
            ids[word] = zlib.crc32(code) << 32 | zlib.adler32(code)
    codes = np.array([ids[w] for w in words] or [0], dtype=np.uint64)
    size = min(SHINGLE, len(codes))
    mixed = np.zeros(len(codes) - size + 1, dtype=np.uint64)
    for i in range(size):
        mixed = (mixed ^ codes[i : len(codes) - size + 1 + i]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _compare(sets: list[np.ndarray], threshold: float, links: _Links) -> None:
    rare, frequent = _matrices(sets)
    sizes = np.array([len(s) for s in sets], dtype=np.float32)
    turned, n = rare.T.tocsr(), len(sets)
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        # Every pair once: only against the texts from this block on.
        common = frequent[start:stop] @ frequent[start:].T
        product = (rare[start:stop] @ turned[:, start:]).tocoo()
        common[product.row, product.col] += product.data
        # |A ∩ B| >= t |A ∪ B|, where |A ∪ B| = |A| + |B| - |A ∩ B|; of whole numbers, so that a little slack is safe.
        least = np.float32(threshold / (1 + threshold)) * (sizes[start:stop, None] + sizes[None, start:])
        row, column = np.nonzero(common >= least - np.float32(1e-4))
        later = column > row
        row, column = row[later], column[later]
        if len(row):
            both = common[row, column]
            row, column = row + start, column + start
            links.add(row, column, both / (sizes[row] + sizes[column] - both))


def _matrices(sets: list[np.ndarray]) -> tuple[csr_array, np.ndarray]:
    """Return the texts by rare shingles (sparse) and by frequent ones (dense), with ones; shingles of one text go."""
    from scipy.sparse import csr_array

    row = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    _, column, times = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    often = times > max(_FREQUENT_SHARE * len(sets), 8)
    most = max(1, _DENSE // len(sets))
    if often.sum() > most:
        often = np.zeros(len(times), dtype=bool)
        often[np.argsort(-times, kind="stable")[:most]] = True
    shared = (times > 1) & ~often
    frequent = np.zeros((len(sets), int(often.sum())), dtype=np.float32)
    of_often, of_shared = often[column], shared[column]
    frequent[row[of_often], (np.cumsum(often) - 1)[column[of_often]]] = 1
    at = (row[of_shared], (np.cumsum(shared) - 1)[column[of_shared]])
    values = np.ones(int(of_shared.sum()), dtype=np.float32)
    return csr_array((values, at), shape=(len(sets), int(shared.sum()))), frequent
