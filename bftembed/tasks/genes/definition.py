"""What a gene-level task is: genes or pairs of genes, their labels, and where these come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from bftembed.tasks.info import TaskInfo

#: One label of two; one label of several; any number of labels; one label of two for two genes together.
KINDS = ("binary", "multiclass", "multilabel", "pairs")
TRAIN, TEST, UNUSED = "train", "test", "unused"


@dataclass(frozen=True, eq=False, repr=False)
class GeneTask:
    """Items (genes, or pairs of genes) and their labels. Made by `single_task` and `pair_task`, which check.

    Attributes
    ----------
    info
        The card: name, source, licence …
    kind
        One of `KINDS`.
    genes
        Names of the genes, each once, as the source spells them; approved symbols where the source had identifiers.
    items
        int64 (n, 1), or (n, 2) for pairs: positions in `genes`, in the order of the source. Repeats are kept: a
        protocol says what it does with them.
    labels
        int64 (n,): 0 or 1; for multiclass the position in `label_names`. bool (n, n_labels) for multilabel.
    label_names
        Names of the labels: ``("negative", "positive")`` unless the source has others.
    split
        For each item ``"train"``, ``"test"`` or ``"unused"``, where the source divides them; None else.
    negatives
        For pairs, what protocol ``strict`` takes for negatives: ``"degree-matched"`` (drawn anew) or ``"given"``.
    label_words
        Words that state the label when they stand in a text about the gene, for the leak check.
    notes
        What happened to the data on the way (identifiers that could not be mapped …).
    """

    info: TaskInfo
    kind: str
    genes: tuple[str, ...]
    items: NDArray[np.int64]
    labels: NDArray[Any]
    label_names: tuple[str, ...] = ("negative", "positive")
    split: NDArray[Any] | None = None
    negatives: str = "degree-matched"
    label_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"GeneTask({self.info.name}: {self.kind}, {len(self)} items of {len(self.genes)} genes)"


def single_task(
    info: TaskInfo,
    kind: str,
    genes: Sequence[str],
    labels: ArrayLike,
    *,
    label_names: Sequence[str] = ("negative", "positive"),
    split: Sequence[str] | None = None,
    label_words: Sequence[str] = (),
    notes: Sequence[str] = (),
    allow_both: bool = False,
) -> GeneTask:
    """Make a task of single genes.

    Parameters
    ----------
    info
        The card.
    kind
        ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
    genes
        n names; a name may repeat, with the same label.
    labels
        (n,) whole numbers, or (n, n_labels) for multilabel.
    label_names, split, label_words, notes
        As in `GeneTask`.
    allow_both
        Keep a gene with several labels as one item per label, see `of_both_labels`; an error otherwise.

    Raises
    ------
    BftembedError
        When there are no genes, lengths differ, a label is not among `label_names`, one class is empty, or a gene has
        two labels. Names the genes.
    """
    what = f"Task {info.name}"
    if kind not in KINDS[:3]:
        raise BftembedError(f"{what}: the kind {kind!r} is not one of {examples(KINDS[:3])}.")
    values = np.asarray(labels)
    names = _names(genes, what)
    _same_length(names, values, split, what)
    if kind == "multilabel":
        if values.ndim != 2 or values.shape[1] != len(label_names):
            raise BftembedError(
                f"{what}: labels have shape {values.shape}, expected ({len(names)}, {len(label_names)})."
            )
        values = values.astype(bool)
        if not values.any():
            raise BftembedError(f"{what}: no gene has any of the {len(label_names)} labels.")
    else:
        values = _codes(values, len(label_names), what)
        _every_class(values, label_names, what)
    unique, first, position = np.unique(np.array(names, dtype=object), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # in the order of the source
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    items = rank[position.ravel()].reshape(-1, 1)
    of_first = values[first[order]][items[:, 0]]
    differ = np.flatnonzero((of_first != values).reshape(len(values), -1).any(axis=1))
    if len(differ) and not allow_both:
        both = list(dict.fromkeys(names[i] for i in differ))
        raise BftembedError(
            f"{what}: {len(both)} genes have two labels ({examples(both)}). A gene belongs to one class: remove these "
            "rows from one of them."
        )
    return GeneTask(
        info,
        kind,
        tuple(str(x) for x in unique[order]),
        items.astype(np.int64),
        values,
        tuple(label_names),
        _split(split, what),
        label_words=tuple(label_words),
        notes=tuple(notes),
    )


def pair_task(
    info: TaskInfo,
    pairs: Sequence[tuple[str, str]],
    labels: ArrayLike,
    *,
    split: Sequence[str] | None = None,
    negatives: str = "degree-matched",
    label_words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> GeneTask:
    """Make a task of gene pairs. Order within a pair means nothing.

    Self-pairs, mirrored, repeated and contradicting pairs are kept here: protocol ``genept`` takes the file as it is,
    protocol ``strict`` cleans it (`cleaned_pairs`) and counts.

    Raises
    ------
    BftembedError
        When there are no pairs, lengths differ, a label is not 0 or 1, there is no positive pair, `negatives` is not
        known, or ``"given"`` though there are none.
    """
    what = f"Task {info.name}"
    if negatives not in ("degree-matched", "given"):
        raise BftembedError(f"{what}: negatives are 'degree-matched' or 'given', not {negatives!r}.")
    if not len(pairs):
        raise BftembedError(f"{what} has no pairs.")
    names = _names([g for pair in pairs for g in pair], what)
    values = np.asarray(labels)
    _same_length(pairs, values, split, what)
    values = _codes(values, 2, what)
    if not (values == 1).any():
        raise BftembedError(f"{what} has no positive pair.")
    if negatives == "given" and not (values == 0).any():
        raise BftembedError(f"{what} takes its negatives as given, but has none (label 0).")
    row = {name: i for i, name in enumerate(dict.fromkeys(names))}
    items = np.array([row[name] for name in names], dtype=np.int64).reshape(-1, 2)
    return GeneTask(
        info,
        "pairs",
        tuple(row),
        items,
        values,
        split=_split(split, what),
        negatives=negatives,
        label_words=tuple(label_words),
        notes=tuple(notes),
    )


def of_both_labels(task: GeneTask) -> NDArray[np.bool_]:
    """Return which genes of a binary task are both negative and positive, bool (n_genes,); none of another kind."""
    if task.kind != "binary":
        return np.zeros(len(task.genes), dtype=bool)
    has_label = [np.bincount(task.items[task.labels == label, 0], minlength=len(task.genes)) > 0 for label in (0, 1)]
    return np.asarray(has_label[0] & has_label[1])


@dataclass(frozen=True)
class CleanPairs:
    """Pairs of a task, each once, and what was left out.

    Attributes
    ----------
    items
        int64 (n, 2), the smaller position first, sorted.
    labels
        int64 (n,).
    left_out
        Reason → number of pairs: ``"self-pairs"``, ``"repeats"`` (mirrored ones too), ``"contradicting"`` (all of a
        pair with both labels).
    """

    items: NDArray[np.int64]
    labels: NDArray[np.int64]
    left_out: Mapping[str, int]


def cleaned_pairs(items: NDArray[np.int64], labels: NDArray[np.int64]) -> CleanPairs:
    """Return every pair once, without self-pairs and pairs of both labels; all that is left out is counted."""
    selves = items[:, 0] == items[:, 1]
    pairs, values = np.sort(items[~selves], axis=1), labels[~selves]
    unique, position, times = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    ones = np.bincount(position.ravel(), weights=values, minlength=len(unique))
    mixed = (ones > 0) & (ones < times)
    left_out = {
        "self-pairs": int(selves.sum()),
        "repeats": int((times[~mixed] - 1).sum()),
        "contradicting": int(times[mixed].sum()),
    }
    return CleanPairs(
        unique[~mixed].astype(np.int64),
        (ones[~mixed] > 0).astype(np.int64),
        {reason: n for reason, n in left_out.items() if n},
    )


def _names(genes: Sequence[str], what: str) -> list[str]:
    if not len(genes):
        raise BftembedError(f"{what} has no genes.")
    names = [str(g).strip() for g in genes]
    empty = [i for i, name in enumerate(names) if not name]
    if empty:
        raise BftembedError(f"{what}: {len(empty)} gene names are empty, the first in row {empty[0] + 1}.")
    return names


def _same_length(genes: Sequence[Any], labels: NDArray[Any], split: Sequence[str] | None, what: str) -> None:
    if len(labels) != len(genes):
        raise BftembedError(f"{what}: {len(genes)} rows of genes, but {len(labels)} labels. They must be one to one.")
    if split is not None and len(split) != len(genes):
        raise BftembedError(f"{what}: {len(genes)} rows of genes, but {len(split)} of the split.")


def _codes(labels: NDArray[Any], n_classes: int, what: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise BftembedError(f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected whole numbers, (n,).")
    values = labels.astype(np.int64)
    wrong = values[(values < 0) | (values >= n_classes)]
    if len(wrong):
        raise BftembedError(f"{what}: the label {wrong[0]} is not one of 0 to {n_classes - 1} ({len(wrong)} rows).")
    return values


def _every_class(values: NDArray[np.int64], label_names: Sequence[str], what: str) -> None:
    counts = Counter(values.tolist())
    empty = [name for i, name in enumerate(label_names) if not counts[i]]
    if empty:
        raise BftembedError(f"{what}: no gene has the label {examples(empty)}. A task needs every class that it names.")


def _split(split: Sequence[str] | None, what: str) -> NDArray[Any] | None:
    if split is None:
        return None
    values = np.array([str(s) for s in split], dtype=object)
    wrong = sorted(set(values) - {TRAIN, TEST, UNUSED})
    if wrong:
        raise BftembedError(f"{what}: the split names {examples(wrong)}; known are 'train', 'test' and 'unused'.")
    for part in (TRAIN, TEST):
        if part not in values:
            raise BftembedError(f"{what}: the split has no {part!r} row.")
    return values
