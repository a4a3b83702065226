"""Division of the items of a gene task into training and test parts: protocols ``strict`` and ``genept``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.tasks.genes.definition import TEST, TRAIN, cleaned_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

N_FOLDS = 5
#: Of GenePT's notebooks: the seed, and the largest gene type that they drop.
GENEPT_SEED, RARE_TYPE = 2023, 75
# Labels with fewer genes than this, or all but fewer, are left out.
_MIN_GENES = 2 * N_FOLDS
# Pairs of a fold beyond these are left out at random, so that a task of a million pairs takes no longer.
_MAX_TRAIN_PAIRS, _MAX_TEST_PAIRS = 10_000, 5_000
_TRIES, _EXCHANGES = 20, 200


@dataclass(frozen=True, eq=False)
class Fold:
    """Items that are fitted and items that are scored, with their labels, as in `GeneTask`."""

    seed: int
    fold: int
    train_items: NDArray[np.int64]
    train_labels: NDArray[Any]
    test_items: NDArray[np.int64]
    test_labels: NDArray[Any]

    def permuted(self) -> Fold:
        """Return the fold with its training labels permuted over the same items."""
        order = np.random.default_rng([self.seed, self.fold, 1]).permutation(len(self.train_labels))
        return replace(self, train_labels=self.train_labels[order])


@dataclass(frozen=True, eq=False)
class Plan:
    """All folds of a task, and what was left out or sampled."""

    folds: tuple[Fold, ...]
    #: Of the columns of multilabel labels that are scored.
    label_names: tuple[str, ...]
    #: Distinct items that are divided; for pairs with sampled negatives, the positive ones.
    n_items: int
    notes: tuple[str, ...]


def plan_genept(task: GeneTask) -> Plan:
    """Divide a task as GenePT's notebooks do; items keep the order and the repeats of the source.

    Single genes: five stratified folds, not shuffled; a gene in the lists of both classes is an item of each. Gene
    types and pairs: one random split. A task that brings its split is divided by it, as the notebooks do with GGI.

    Raises
    ------
    BftembedError
        When a class has fewer items than folds, one side has one class, or the notebooks have no such kind of task.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    what, rows, notes = f"Task {task.info.name}", np.arange(len(task)), []
    if task.kind == "multilabel":
        raise BftembedError(f"{what}: the GenePT notebooks have no multilabel task. Use protocol strict.")
    if both := [task.genes[i] for i in np.flatnonzero(task.of_both_labels())]:
        notes.append(f"{len(both)} genes of both classes, once with each label as in the notebook: {examples(both)}")
    if task.split is not None:
        parts = [_given(task, notes)]
        train, test = parts[0]
        if shared := len(np.intersect1d(task.items[train], task.items[test])):
            notes.append(f"{shared} genes on both sides of the split")
    elif task.kind == "binary":
        _check_classes(task, task.labels)
        parts = list(StratifiedKFold(N_FOLDS, shuffle=False).split(rows, task.labels))
    else:
        if task.kind == "multiclass":
            often = np.bincount(task.labels, minlength=len(task.label_names)) > RARE_TYPE
            rows = np.flatnonzero(often[task.labels])
            notes.append(f"{int(often.sum())} types with more than {RARE_TYPE} genes")
            if int(often.sum()) < 2:
                raise BftembedError(f"{what}: fewer than two types have more than {RARE_TYPE} genes.")
        parts = [tuple(train_test_split(rows, test_size=0.30, random_state=GENEPT_SEED))]
    folds = [
        Fold(GENEPT_SEED, i, task.items[train], task.labels[train], task.items[test], task.labels[test])
        for i, (train, test) in enumerate(parts)
    ]
    _check_sides(task, folds)
    n_items = len(rows) if len(folds) > 1 else sum(map(len, parts[0]))
    return Plan(tuple(folds), task.label_names, n_items, tuple(notes))


def plan_strict(task: GeneTask, seeds: Iterable[int]) -> Plan:
    """Divide a task into shuffled stratified folds of genes; for pairs, into folds that share no gene.

    Single genes, each once: five stratified folds for each seed; one train and test part when the task brings its
    split. Multiclass labels become one column each; a column with fewer than 10 genes is left out.

    Pairs, each once, no self-pairs, none of both labels: for each seed the genes are divided into five groups. Fold i
    is scored on the pairs inside group i and fitted on the pairs outside of it; a pair between is in neither.
    Negatives, unless given ones are wanted, are sampled in each part by the configuration model.

    Raises
    ------
    BftembedError
        When a class has fewer items than folds, a fold has one class only on a side, or the split of the task has a
        gene on both sides.
    """
    plan = (_plan_pairs if task.kind == "pairs" else _plan_single)(task, [int(s) for s in seeds])
    if plan.folds[0].train_labels.ndim == 1:
        _check_sides(task, plan.folds)
    return plan


def _plan_single(task: GeneTask, seeds: list[int]) -> Plan:
    from sklearn.model_selection import KFold, StratifiedKFold

    what, names = f"Task {task.info.name}", task.label_names
    notes: list[str] = []
    used = np.arange(len(task)) if task.split is None else np.sort(np.concatenate(_given(task, notes)))
    items, first = np.unique(task.items[used, 0], return_index=True)
    first = used[first]
    labels = task.labels[first]
    if repeats := len(used) - len(items):
        notes.append(f"{repeats} repeated genes counted once")
    if task.kind == "multiclass":
        labels = labels[:, None] == np.arange(len(names))
    if labels.ndim == 2:
        often = np.minimum(labels.sum(axis=0), (~labels).sum(axis=0)) >= _MIN_GENES
        if rare := int((~often).sum()):
            notes.append(f"{rare} of {len(names)} labels left out: fewer than {_MIN_GENES} genes with or without")
        if not often.any():
            raise BftembedError(f"{what}: no label has {_MIN_GENES} genes with it and without it.")
        labels, names = labels[:, often], tuple(n for n, o in zip(names, often, strict=True) if o)
        divide, stratified = KFold, None
    else:
        _check_classes(task, labels)
        divide, stratified = StratifiedKFold, labels
    if task.split is not None:
        if len(both := np.intersect1d(task.items[task.split == TRAIN], task.items[task.split == TEST])):
            named = examples(task.genes[i] for i in both)
            raise BftembedError(f"{what}: {len(both)} genes are on both sides of its split ({named}).")
        split = task.split[first]
        parts = [(0, 0, np.flatnonzero(split == TRAIN), np.flatnonzero(split == TEST))]
        notes.append("one split, as the task brings it")
    else:
        parts = [
            (seed, i, *part)
            for seed in seeds
            for i, part in enumerate(divide(N_FOLDS, shuffle=True, random_state=seed).split(items, stratified))
        ]
    column = items[:, None]
    folds = [Fold(s, i, column[train], labels[train], column[test], labels[test]) for s, i, train, test in parts]
    return Plan(tuple(folds), names, len(items), tuple(notes))


def _given(task: GeneTask, notes: list[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the items of both parts of the split that a task brings, and note how many it leaves unused."""
    train, test = np.flatnonzero(task.split == TRAIN), np.flatnonzero(task.split == TEST)
    if unused := len(task) - len(train) - len(test):
        notes.append(f"{unused} items that the split leaves unused")
    return train, test


def _check_classes(task: GeneTask, labels: NDArray[Any]) -> None:
    """Raise when a class of `labels`, (n,), has fewer items than there are folds."""
    for value, name in enumerate(task.label_names):
        if (n := int((labels == value).sum())) < N_FOLDS:
            raise BftembedError(
                f"Task {task.info.name}: the class {name!r} has {n} genes with a vector, fewer than {N_FOLDS} folds."
            )


def _check_sides(task: GeneTask, folds: Iterable[Fold]) -> None:
    """Raise when a side of a fold has items of one class only."""
    for fold in folds:
        for side, labels in (("train", fold.train_labels), ("test", fold.test_labels)):
            if len(np.unique(labels)) < 2:
                where = f"the {side} part of fold {fold.fold} (seed {fold.seed})"
                raise BftembedError(
                    f"Task {task.info.name}: {where} has items of one class only: too few with vectors."
                )


def _plan_pairs(task: GeneTask, seeds: list[int]) -> Plan:
    items, labels, notes = cleaned_pairs(task.items, task.labels)
    sampled = task.negatives == "degree-matched"
    known = items[labels == 1]
    if sampled:
        items, labels = known, np.ones(len(known), np.int64)
    folds, short = [], 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        group = rng.permutation(len(task.genes)) % N_FOLDS
        for i in range(N_FOLDS):
            inside = group[items] == i
            sides = []
            for chosen, most in (((~inside).all(axis=1), _MAX_TRAIN_PAIRS), (inside.all(axis=1), _MAX_TEST_PAIRS)):
                part, values = items[chosen], labels[chosen]
                most = most // 2 if sampled else most
                if len(part) > most:
                    kept = np.sort(rng.choice(len(part), most, replace=False))
                    part, values = part[kept], values[kept]
                if sampled:
                    negatives = _matched_negatives(part, known, rng)
                    short += len(part) - len(negatives)
                    values = np.r_[values, np.zeros(len(negatives), np.int64)]
                    part = np.concatenate([part, negatives])
                sides += [part, values]
            folds.append(Fold(seed, i, *sides))
    if sampled:
        notes.append("negatives sampled, with the degrees of the positives")
    if short:
        notes.append(f"{short} negatives fewer than positives over all folds: no free pair was left")
    return Plan(tuple(folds), task.label_names, len(items), tuple(notes))


def _matched_negatives(
    positives: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sample as many pairs as `positives`, in which each gene occurs as often, and none of which is a known positive.

    The second genes of the positives are permuted (the configuration model); self-pairs, known positives and repeats
    are permuted again among all, 20 times; what then still clashes changes partners with pairs that do not, wherever
    both new ones are free, and is left out after 200 rounds of it. So a probe cannot score by knowing which genes have
    many partners.

    `positives` (n, 2) holds each pair once, `known` (m, 2) also the positive pairs of other parts. The result, at most
    (n, 2), has the smaller position first.
    """
    if len(positives) < 2:
        return np.empty((0, 2), np.int64)
    width = int(max(positives.max(), known.max())) + 1

    def codes_of(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return pairs.min(axis=-1) * width + pairs.max(axis=-1)

    def clashes(pairs: NDArray[np.int64]) -> NDArray[np.intp]:
        codes = codes_of(pairs)
        repeated = np.ones(len(codes), dtype=bool)
        repeated[np.unique(codes, return_index=True)[1]] = False
        known_pair = taken[np.minimum(np.searchsorted(taken, codes), len(taken) - 1)] == codes
        return np.flatnonzero((pairs[:, 0] == pairs[:, 1]) | known_pair | repeated)

    taken = np.unique(codes_of(known))
    flip = rng.random(len(positives)) < 0.5  # which gene of a pair comes first means nothing
    pairs = np.where(flip[:, None], positives[:, ::-1], positives)
    pairs[:, 1] = pairs[rng.permutation(len(pairs)), 1]
    for _ in range(_TRIES):
        clash = clashes(pairs)
        if not len(clash):
            break
        # Each clashing pair is permuted with another, chosen at random, so that it has somewhere to go.
        others = np.setdiff1d(rng.choice(len(pairs), min(len(pairs), 2 * len(clash)), replace=False), clash)
        among = np.concatenate([clash, others])
        pairs[among, 1] = pairs[rng.permutation(among), 1]
    for _ in range(_EXCHANGES):
        clash = clashes(pairs)
        fine = np.setdiff1d(np.arange(len(pairs)), clash)
        n = min(len(clash), len(fine))
        if not n:
            break
        one, other = rng.permutation(clash)[:n], rng.permutation(fine)[:n]
        turned = other[rng.random(n) < 0.5]
        pairs[turned] = pairs[turned, ::-1]
        # Both new pairs, (2, n, 2); they are taken where both are free, so clashes never grow.
        ends = np.stack([pairs[one], pairs[other]])
        new = np.stack([ends[..., 0], ends[::-1, :, 1]], axis=-1)
        codes = codes_of(new)
        occupied = np.concatenate([taken, codes_of(pairs[fine])])
        _, position, times = np.unique(codes, return_inverse=True, return_counts=True)
        alone = times[position.reshape(codes.shape)] == 1
        free = ((new[..., 0] != new[..., 1]) & ~np.isin(codes, occupied) & alone).all(axis=0)
        pairs[one[free]], pairs[other[free]] = new[0, free], new[1, free]
    return np.sort(np.delete(pairs, clashes(pairs), axis=0), axis=1)
