"""How the items of a task are divided for fitting and scoring under protocol ``strict``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.tasks.genes.definition import TEST, TRAIN, UNUSED, cleaned_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

N_FOLDS = 5
#: Pairs of a fold beyond these are left out at random, so that a task of a million pairs takes no longer.
MOST_TRAIN_PAIRS, MOST_TEST_PAIRS = 10_000, 5_000
_TRIES, _EXCHANGES = 20, 200


@dataclass(frozen=True, eq=False)
class Fold:
    """What is fitted and what is scored.

    Attributes
    ----------
    seed, fold
        Which division, and which part of it.
    train_items, test_items
        int64 (n, 1) or (n, 2): positions of genes.
    train_labels, test_labels
        As in `bftembed.tasks.genes.definition.GeneTask`.
    """

    seed: int
    fold: int
    train_items: NDArray[np.int64]
    train_labels: NDArray[Any]
    test_items: NDArray[np.int64]
    test_labels: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """All folds of a task, and what was left out on the way.

    Attributes
    ----------
    folds
        The folds, by seed.
    label_names
        Of the columns of multilabel labels; those too rare to be scored are gone.
    n_items
        Distinct items that are divided (for pairs with drawn negatives: the positive ones).
    notes
        What was left out or drawn, for the results.
    """

    folds: tuple[Fold, ...]
    label_names: tuple[str, ...]
    n_items: int
    notes: tuple[str, ...]


def plan_strict(task: GeneTask, seeds: Iterable[int]) -> Plan:
    """Divide a task: stratified, shuffled folds of genes; for pairs, folds whose genes do not meet.

    Single genes, each once: five stratified folds for every seed; one train and test part when the task brings its
    split. Multiclass labels become one column each; a column with fewer than 10 genes is left out.

    Pairs, each once, no self-pairs, none of both labels: the genes are dealt into five groups for every seed. Fold i is
    scored on the pairs inside group i, fitted on the pairs outside of it; a pair between is in neither, so no gene is
    on both sides. Negatives, unless the task's own are wanted, are drawn in each part anew by `matched_negatives`.

    Raises
    ------
    BftembedError
        When a class has fewer items than folds, a fold has one class only on a side, or the task's split has a gene
        on both sides. Names the class, the fold, the genes.
    """
    seed_list = [int(s) for s in seeds]
    if task.kind == "pairs":
        return _plan_pairs(task, seed_list)
    return _plan_single(task, seed_list)


def _plan_single(task: GeneTask, seeds: list[int]) -> Plan:
    from sklearn.model_selection import KFold, StratifiedKFold

    used = np.arange(len(task)) if task.split is None else np.flatnonzero(task.split != UNUSED)
    items, first = np.unique(task.items[used, 0], return_index=True)
    first = used[first]
    labels, notes = task.labels[first], []
    if unused := len(task) - len(used):
        notes.append(f"{unused} items that the split leaves unused")
    if repeats := len(used) - len(items):
        notes.append(f"{repeats} repeated genes counted once")
    names = task.label_names
    if task.kind == "multiclass":
        labels = labels[:, None] == np.arange(len(names))
    if labels.ndim == 2:
        often = (labels.sum(axis=0) >= 2 * N_FOLDS) & ((~labels).sum(axis=0) >= 2 * N_FOLDS)
        if rare := int((~often).sum()):
            notes.append(f"{rare} of {len(names)} labels left out: fewer than {2 * N_FOLDS} genes with or without")
        if not often.any():
            raise BftembedError(
                f"Task {task.info.name}: every label has fewer than {2 * N_FOLDS} genes with it, or without it, "
                "that have a vector."
            )
        labels, names = labels[:, often], tuple(n for n, o in zip(names, often, strict=True) if o)
    else:
        enough_genes(task, labels)
    if task.split is not None:
        split = task.split[first]
        both = np.intersect1d(task.items[task.split == TRAIN], task.items[task.split == TEST])
        if len(both):
            raise BftembedError(
                f"Task {task.info.name}: {len(both)} genes are on both sides of its split "
                f"({examples(task.genes[i] for i in both)}). Keep each in one."
            )
        parts = [(0, 0, np.flatnonzero(split == TRAIN), np.flatnonzero(split == TEST))]
        notes.append("one split, as the task brings it")
    else:
        parts = []
        for seed in seeds:
            divide = (KFold if labels.ndim == 2 else StratifiedKFold)(N_FOLDS, shuffle=True, random_state=seed)
            parts += [
                (seed, i, *part) for i, part in enumerate(divide.split(items, None if labels.ndim == 2 else labels))
            ]
    column = items[:, None]
    folds = [Fold(s, i, column[tr], labels[tr], column[te], labels[te]) for s, i, tr, te in parts]
    if labels.ndim == 1:
        both_classes(task, folds)
    n_items = len(items) if task.split is None else sum(map(len, parts[0][2:]))
    return Plan(tuple(folds), names, n_items, tuple(notes))


def enough_genes(task: GeneTask, labels: NDArray[Any]) -> None:
    """Raise when a class of `labels`, (n,), has fewer items than there are folds."""
    for value, name in enumerate(task.label_names):
        if (n := int((labels == value).sum())) < N_FOLDS:
            raise BftembedError(
                f"Task {task.info.name}: the class {name!r} has {n} genes with a vector, fewer than the {N_FOLDS} "
                "folds. Give embeddings of more of its genes."
            )


def both_classes(task: GeneTask, folds: list[Fold]) -> None:
    """Raise when a side of a fold has items of one class only."""
    for fold in folds:
        for side, labels in (("train", fold.train_labels), ("test", fold.test_labels)):
            if len(np.unique(labels)) < 2:
                raise BftembedError(
                    f"Task {task.info.name}: the {side} part of fold {fold.fold} (seed {fold.seed}) has "
                    f"{len(labels)} items of one class only. There are too few items with vectors to divide them."
                )


def _plan_pairs(task: GeneTask, seeds: list[int]) -> Plan:
    clean = cleaned_pairs(task.items, task.labels)
    notes = [f"{n} {reason} left out" for reason, n in clean.left_out.items()]
    drawn = task.negatives == "degree-matched"
    known = clean.items[clean.labels == 1]
    items, labels = (known, np.ones(len(known), np.int64)) if drawn else (clean.items, clean.labels)
    n_genes = len(task.genes)
    folds, short = [], 0
    for seed in seeds:
        draw = np.random.default_rng(seed)
        group = draw.permutation(n_genes) % N_FOLDS
        for i in range(N_FOLDS):
            inside = group[items] == i
            sides = []
            for chosen, most in (((~inside).all(axis=1), MOST_TRAIN_PAIRS), (inside.all(axis=1), MOST_TEST_PAIRS)):
                part, values = _some(items[chosen], labels[chosen], most // 2 if drawn else most, draw)
                if drawn:
                    negatives = matched_negatives(part, known, draw)
                    short += len(part) - len(negatives)
                    values = np.r_[values, np.zeros(len(negatives), np.int64)]
                    part = np.concatenate([part, negatives])
                sides.append((part, values))
            folds.append(Fold(seed, i, *sides[0], *sides[1]))
    both_classes(task, folds)
    if drawn:
        notes.append("negatives drawn, with the degrees of the positives")
    if short:
        notes.append(f"{short} negatives fewer than positives over all folds: no free pair was left")
    return Plan(tuple(folds), task.label_names, len(items), tuple(notes))


def _some(
    items: NDArray[np.int64], labels: NDArray[np.int64], most: int, draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(items) <= most:
        return items, labels
    chosen = np.sort(draw.choice(len(items), most, replace=False))
    return items[chosen], labels[chosen]


def matched_negatives(
    positives: NDArray[np.int64], known: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """Draw as many pairs as `positives`, in which every gene occurs as often, and none of which is a known positive.

    The second genes of the positives are dealt anew to the first ones (the configuration model); self-pairs, known
    positives and repeats are dealt again among all, 20 times; what then still clashes changes partners with pairs that
    do not, wherever both new ones are free, and is left out after 200 rounds of it. So a probe cannot score by knowing
    which genes have many partners.

    Parameters
    ----------
    positives
        int64 (n, 2), each pair once.
    known
        int64 (m, 2): every positive pair, also those that are not in this part.
    draw
        Source of chance.

    Returns
    -------
    ndarray of int64, (at most n, 2)
        The smaller position first.
    """
    if len(positives) < 2:
        return np.empty((0, 2), np.int64)
    width = int(max(positives.max(), known.max())) + 1
    taken = np.unique(_codes(known, width))
    flip = draw.random(len(positives)) < 0.5  # which gene of a pair comes first means nothing
    left = np.where(flip, positives[:, 1], positives[:, 0])
    right = np.where(flip, positives[:, 0], positives[:, 1])
    right = right[draw.permutation(len(right))]
    for _ in range(_TRIES):
        clash = _clashes(left, right, taken, width)
        if not len(clash):
            break
        # Each clashing pair deals with another, chosen at random, so that it has somewhere to go.
        others = np.setdiff1d(draw.choice(len(right), min(len(right), 2 * len(clash)), replace=False), clash)
        among = np.concatenate([clash, others])
        right[among] = right[draw.permutation(among)]
    _exchange(left, right, taken, width, draw)
    free = np.setdiff1d(np.arange(len(left)), _clashes(left, right, taken, width))
    return np.sort(np.stack([left[free], right[free]], axis=1), axis=1)


def _exchange(
    left: NDArray[np.int64], right: NDArray[np.int64], taken: NDArray[np.int64], width: int, draw: np.random.Generator
) -> None:
    """Let clashing pairs change partners with others, in place, where it makes two free pairs: clashes never grow."""
    for _ in range(_EXCHANGES):
        clash = _clashes(left, right, taken, width)
        fine = np.setdiff1d(np.arange(len(left)), clash)
        n = min(len(clash), len(fine))
        if not n:
            return
        one, other = draw.permutation(clash)[:n], draw.permutation(fine)[:n]
        turned = other[draw.random(n) < 0.5]
        left[turned], right[turned] = right[turned], left[turned]
        new = np.concatenate([np.stack([left[one], right[other]], axis=1), np.stack([left[other], right[one]], axis=1)])
        codes = _codes(new, width)
        occupied = np.concatenate([taken, _codes(np.stack([left[fine], right[fine]], axis=1), width)])
        _, position, times = np.unique(codes, return_inverse=True, return_counts=True)
        free = (new[:, 0] != new[:, 1]) & ~np.isin(codes, occupied) & (times[position] == 1)
        chosen = free[:n] & free[n:]
        one, other = one[chosen], other[chosen]
        right[one], right[other] = right[other], right[one]


def _codes(pairs: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return pairs.min(axis=1) * width + pairs.max(axis=1)


def _clashes(
    left: NDArray[np.int64], right: NDArray[np.int64], taken: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    codes = _codes(np.stack([left, right], axis=1), width)
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    known = taken[np.minimum(np.searchsorted(taken, codes), len(taken) - 1)] == codes
    return np.flatnonzero((left == right) | known | ~first)
