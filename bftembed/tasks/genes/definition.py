"""Gene-level tasks: genes or pairs of genes with their labels, from arrays or from a folder of three files."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import AliasChoices, Field

from bftembed.config.base import Strict, yaml_keys
from bftembed.config.loading import check_config
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.tasks.base import TaskInfo

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

#: One label of two; one label of several; any number of labels; one label of two for two genes together.
KINDS = ("binary", "multiclass", "multilabel", "pairs")
TRAIN, TEST, UNUSED = SPLITS = ("train", "test", "unused")
BINARY_LABELS = ("negative", "positive")
_NUMBER_OF = dict.fromkeys(("1", "1.0", "true", "yes"), "1") | dict.fromkeys(("0", "0.0", "false", "no"), "0")
_SYMBOL_COLUMNS = ("symbol", "symbol_a", "symbol_b")


@dataclass(frozen=True, eq=False, repr=False)
class GeneTask:
    """Items (genes, or pairs of genes) and their labels; made by `make_task` and `load_task`.

    Attributes
    ----------
    info
        The card: name, source, license …
    kind
        One of `KINDS`.
    genes
        Names of the genes, each once, as the source spells them; approved symbols where the source had identifiers.
    items
        int64 (n, 1), or (n, 2) for pairs: positions in `genes`, in the order of the source, repeats included.
    labels
        int64 (n,): 0 or 1; for multiclass the position in `label_names`. bool (n, n_labels) for multilabel.
    label_names
        Names of the labels.
    split
        ``"train"``, ``"test"`` or ``"unused"`` for each item, (n,); None where the source does not divide them.
    negatives
        Negative pairs under protocol ``strict``: ``"degree-matched"`` (sampled) or ``"given"``.
    label_words
        Words that state the label when they occur in a text about the gene.
    notes
        What happened to the data on the way (identifiers that could not be mapped …).
    """

    info: TaskInfo
    kind: str
    genes: tuple[str, ...]
    items: NDArray[np.int64]
    labels: NDArray[Any]
    label_names: tuple[str, ...] = BINARY_LABELS
    split: NDArray[Any] | None = None
    negatives: str = "degree-matched"
    label_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"GeneTask({self.info.name}: {self.kind}, {len(self)} items of {len(self.genes)} genes)"

    def restricted(self, genes: NDArray[np.bool_]) -> GeneTask:
        """Return the items all of whose genes are in a mask, bool (n_genes,), with the genes renumbered."""
        kept = genes[self.items].all(axis=1)
        used = np.zeros(len(self.genes), dtype=bool)
        used[self.items[kept]] = True
        return replace(
            self,
            genes=tuple(g for g, u in zip(self.genes, used, strict=True) if u),
            items=(np.cumsum(used) - 1)[self.items[kept]],
            labels=self.labels[kept],
            split=None if self.split is None else self.split[kept],
        )

    def of_both_labels(self) -> NDArray[np.bool_]:
        """Return which genes of a binary task are both negative and positive, bool (n_genes,)."""
        if self.kind != "binary":
            return np.zeros(len(self.genes), dtype=bool)
        n = len(self.genes)
        negative, positive = (np.bincount(self.items[self.labels == y, 0], minlength=n) > 0 for y in (0, 1))
        return np.asarray(negative & positive)

    def unambiguous(self) -> GeneTask:
        """Return the task without the genes of both labels; a note counts and names them."""
        both = self.of_both_labels()
        if not both.any():
            return self
        names = sorted(np.array(self.genes, dtype=object)[both])
        note = f"{len(names)} genes of both classes are left out of both: {examples(names)}"
        return replace(self.restricted(~both), notes=(*self.notes, note))


def make_task(
    info: TaskInfo,
    kind: str,
    items: Sequence[str] | Sequence[tuple[str, str]],
    labels: ArrayLike,
    *,
    label_names: Sequence[str] = BINARY_LABELS,
    split: Sequence[str] | None = None,
    negatives: str = "degree-matched",
    label_words: Sequence[str] = (),
    notes: Sequence[str] = (),
    allow_both: bool = False,
) -> GeneTask:
    """Make a task from arrays.

    Parameters
    ----------
    info, label_names, split, negatives, label_words, notes
        As in `GeneTask`.
    kind
        One of `KINDS`.
    items
        n names of genes, or n pairs of names, whose order means nothing. Pairs are kept as they are, with repeats and
        pairs of both labels: protocol ``strict`` cleans and counts them (`cleaned_pairs`).
    labels
        (n,) integers, or (n, n_labels) for multilabel.
    allow_both
        Keep a gene with several labels as one item per label, see `GeneTask.of_both_labels`; an error otherwise.

    Raises
    ------
    BftembedError
        For lengths that differ, a label that is not among `label_names`, a class without an item, and a gene of two
        classes.
    """
    import pandas as pd

    what, values = f"Task {info.name}", np.asarray(labels)
    width = 2 if kind == "pairs" else 1
    names = [str(name).strip() for item in items for name in ([item] if isinstance(item, str) else item)]
    if not names or "" in names:
        raise BftembedError(f"{what}: {names.count('')} of {len(names)} gene names are empty.")
    if len(names) != width * len(values) or (split is not None and len(split) != len(values)):
        raise BftembedError(f"{what}: items, labels and split differ in length.")
    if kind == "multilabel":
        if values.ndim != 2 or values.shape[1] != len(label_names):
            raise BftembedError(f"{what}: labels have shape {values.shape}, expected (n, {len(label_names)}).")
        values = values.astype(bool)
        empty = [] if values.any() else list(label_names)
    else:
        if values.ndim != 1 or values.dtype.kind not in "iub" or not np.isin(values, range(len(label_names))).all():
            raise BftembedError(f"{what}: labels are not integers from 0 to {len(label_names) - 1}, (n,).")
        values = values.astype(np.int64)
        empty = [name for i, name in enumerate(label_names) if not (values == i).any()]
        if kind == "pairs" and negatives != "given":
            empty = [name for name in empty if name == label_names[1]]
    if empty:
        raise BftembedError(f"{what}: no item has the label {examples(empty)}.")
    codes, unique = pd.factorize(np.array(names, dtype=object))  # in the order of the source
    rows = codes.astype(np.int64).reshape(-1, width)
    if kind != "pairs" and not allow_both:
        differ = values[np.unique(codes, return_index=True)[1]][codes] != values
        if differ.any():
            both = dict.fromkeys(names[i] for i in np.flatnonzero(differ.reshape(len(codes), -1).any(axis=1)))
            raise BftembedError(f"{what}: {len(both)} genes have two labels ({examples(both)}); a gene has one class.")
    if split is not None and not {TRAIN, TEST} <= set(split) <= set(SPLITS):
        raise BftembedError(f"{what}: the split holds {examples(sorted(set(split)))}, expected {examples(SPLITS)}.")
    parts = None if split is None else np.array(split, dtype=object)
    told = negatives, tuple(label_words), tuple(notes)
    return GeneTask(info, kind, tuple(unique), rows, values, tuple(label_names), parts, *told)


def cleaned_pairs(
    items: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Return each pair once, without self-pairs and pairs of both labels.

    From int64 (n, 2) and (n,), the same, sorted and with the smaller position first, and counts of what was left out.
    """
    selves = items[:, 0] == items[:, 1]
    pairs, values = np.sort(items[~selves], axis=1), labels[~selves]
    unique, position, times = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    ones = np.bincount(position.ravel(), weights=values, minlength=len(unique))
    mixed = (ones > 0) & (ones < times)
    left_out = {"self-pairs": selves, "repeats": times[~mixed] - 1, "contradicting": times[mixed]}
    told = [f"{n} {reason} left out" for reason, counts in left_out.items() if (n := int(counts.sum()))]
    return unique[~mixed].astype(np.int64), (ones[~mixed] > 0).astype(np.int64), told


class TaskCard(Strict):
    """The keys of ``task.yaml``."""

    #: As in the column ``task`` of the results.
    name: str = Field(min_length=1, max_length=100)
    kind: Literal["binary", "multiclass", "multilabel", "pairs"]
    source: str = ""
    license: str = Field(default="not stated", validation_alias=AliasChoices("license", "licence"))
    citation: str = ""
    #: ``"given"``: the column ``split`` of the entities; ``"random"``: by the protocol. Default: given where it exists.
    split: Literal["random", "given"] | None = None
    #: Negative pairs under protocol ``strict``: ``"degree-matched"`` (sampled) or ``"given"``.
    negatives: Literal["degree-matched", "given"] | None = None
    #: Binary and pairs: value of the column ``label`` that is the positive class. Default: 1, true or yes.
    positive: str | bool | int | float | None = None
    #: Words that state the label when they occur in a text about the gene.
    label_words: list[str] = Field(default_factory=list)
    #: To be raised when the data change.
    version: int = Field(default=1, ge=1)


def load_task(folder: str | os.PathLike[str]) -> GeneTask:
    """Read a task from a folder.

    Parameters
    ----------
    folder
        Holds ``task.yaml`` (the keys of `TaskCard`; ``name`` and ``kind`` at least), ``entities.csv`` and
        ``outcomes.csv`` (or ``.tsv``) with a header, row by row the same items. The entities have a column ``symbol``,
        for pairs ``symbol_a`` and ``symbol_b``, and may have a column ``split`` (``train``, ``test``, ``unused``).
        The outcomes have a column ``label``; for a multilabel task each column is a label, 0 or 1. Symbols repeated in
        the outcomes must equal those of the entities.

    Raises
    ------
    BftembedError
        For a missing file or column, tables whose rows do not correspond, an unknown label, a class without a gene and
        a gene of two classes.
    """
    path = Path(folder)
    file = _file(path, "task.yaml", "task.yml")
    expected = "lines such as 'name: my task', 'kind: binary'"
    keys = yaml_keys(file.read_text("utf-8-sig", "replace"), where=str(file), expected=expected)
    card: TaskCard = check_config(TaskCard, keys, where=str(file))
    entities, outcomes = (_table(_file(path, f"{name}.csv", f"{name}.tsv")) for name in ("entities", "outcomes"))
    columns = _SYMBOL_COLUMNS[1:] if card.kind == "pairs" else _SYMBOL_COLUMNS[:1]
    symbols = [_column(entities, name, path, "entities") for name in columns]
    if len(entities) != len(outcomes):
        raise BftembedError(f"{path}: entities have {len(entities)} rows, outcomes {len(outcomes)}.")
    for name, values in zip(columns, symbols, strict=True):
        if name in outcomes and (outcomes[name] != values).any():
            raise BftembedError(f"{path}: {name} differs between entities and outcomes; put both into one order.")
    given = card.split == "given" or (card.split is None and "split" in entities)
    labels, label_names = _labels(card, outcomes, path)
    notes = [f"Cite: {card.citation}"] if card.citation else []
    if card.kind == "pairs" and card.negatives is None and not labels.all():
        notes.append(
            f"protocol strict samples its own negatives in place of the {int((labels == 0).sum())} given ones; to keep "
            "these, write 'negatives: given' in task.yaml"
        )
    kind, source = "pairs" if card.kind == "pairs" else "genes", card.source or f"folder {path.resolve().name}"
    rule = "as given by the column 'split'" if given else "by the protocol, at random"
    info = TaskInfo(card.name, kind, source, card.license, rule, "roc_auc", "higher", card.version)
    items = list(zip(*symbols, strict=True)) if card.kind == "pairs" else symbols[0].tolist()
    try:
        return make_task(
            info,
            card.kind,
            items,
            labels,
            label_names=label_names,
            split=_column(entities, "split", path, "entities").tolist() if given else None,
            negatives=card.negatives or "degree-matched",
            label_words=[word.strip() for word in card.label_words if word.strip()],
            notes=notes,
        )
    except BftembedError as err:
        raise BftembedError(f"{path}: {err}") from err


def _file(folder: Path, *names: str) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        raise BftembedError(f"{folder} has {len(found)} of {examples(names)}; a task needs one.")
    return found[0]


def _table(path: Path) -> pd.DataFrame:
    """Return a CSV or TSV file as columns of text, in which a gene called NA is a gene."""
    import pandas as pd

    try:
        text = path.read_text("utf-8-sig").rstrip()
        mark = max(",\t;", key=text.partition("\n")[0].count)
        # A skipped line would shift one table against the other.
        frame = pd.read_csv(io.StringIO(text), sep=mark, dtype=str, na_filter=False, skip_blank_lines=False)
    except ValueError as err:  # of pandas and the decoder
        raise BftembedError(f"{path} cannot be read as a table of UTF-8 text ({err}).") from err
    if not isinstance(frame.index, pd.RangeIndex):
        raise BftembedError(f"{path}: the rows have more cells than the header.")
    return frame.rename(columns=str.strip).apply(lambda column: column.str.strip())


def _column(table: pd.DataFrame, name: str, path: Path, file: str) -> NDArray[Any]:
    if name not in table:
        raise unknown_name("column", name, table.columns, where=f"{path}, {file}")
    values = table[name].to_numpy()
    if "" in values:
        raise BftembedError(f"{path}: the column {name!r} of {file} is empty in row {values.tolist().index('') + 1}.")
    return values


def _labels(card: TaskCard, outcomes: pd.DataFrame, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    if card.kind == "multilabel":
        names = [name for name in outcomes if name not in _SYMBOL_COLUMNS]
        columns = [_column(outcomes, name, path, "outcomes") for name in names]
        if not names:
            raise BftembedError(f"{path}: outcomes have no column of a label.")
        return np.array([_is_positive(values, None, path)[0] for values in columns], dtype=bool).T, tuple(names)
    values = _column(outcomes, "label", path, "outcomes")
    if card.kind == "multiclass":
        classes, codes = np.unique(values.astype(str), return_inverse=True)
        if len(classes) == 1:
            raise BftembedError(f"{path}: each gene has the label {classes[0]!r}; a task needs two classes.")
        return codes.astype(np.int64), tuple(classes.tolist())
    codes, both = _is_positive(values, None if card.positive is None else str(card.positive).strip(), path)
    return codes, BINARY_LABELS if card.kind == "pairs" else both


def _is_positive(values: NDArray[Any], positive: str | None, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return 1 for the positive label and 0 for the other one, and the names of both."""
    words = [_NUMBER_OF.get(value.lower(), value) for value in values]
    wanted = "1" if positive is None else _NUMBER_OF.get(positive.lower(), positive)
    others = sorted(set(words) - {wanted})
    in_words = bool({wanted, *others} - {"0", "1"})
    if in_words and positive is None:
        raise BftembedError(f"{path}: labels {examples(others)}; expected 0 and 1, or the key 'positive' in task.yaml.")
    if in_words and wanted not in words:
        raise unknown_name("positive label", str(positive), sorted(set(values)), where=str(path))
    if len(others) > 1:
        raise BftembedError(f"{path}: labels {examples(others)} beside {positive!r}; expected one. Is it multiclass?")
    names = (*(others or BINARY_LABELS[:1]), wanted) if in_words else BINARY_LABELS
    return np.array([word == wanted for word in words], dtype=np.int64), names
