"""Gene-level tasks: genes or pairs of genes with their labels, from arrays or from a folder of three files."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from bftembed.config import Strict
from bftembed.config.loading import check_config, yaml_keys
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

TRAIN, TEST, UNUSED = SPLITS = ("train", "test", "unused")
_BINARY = ("negative", "positive")
_NUMBER_OF = {"1.0": "1", "true": "1", "yes": "1", "0.0": "0", "false": "0", "no": "0"}


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Name of a gene-level task, as in the column ``task`` of the results, and where its labels come from."""

    name: str
    source: str = ""
    license: str = "not stated"


@dataclass(frozen=True, eq=False)
class GeneTask:
    """Items (genes, or pairs of genes) and their labels; made by `make_task` and `load_task`.

    Attributes
    ----------
    info
        Name, source and license.
    kind
        ``"binary"`` (one label of two), ``"multiclass"`` (one of several), ``"multilabel"`` (any number of labels) or
        ``"pairs"`` (one label of two for two genes together).
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
    label_names: tuple[str, ...] = _BINARY
    split: NDArray[Any] | None = None
    negatives: str = "degree-matched"
    label_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def restricted(self, genes: NDArray[np.bool_]) -> GeneTask:
        """Return the items all of whose genes are in a mask, bool (n_genes,), with the genes renumbered."""
        kept = genes[self.items].all(axis=1)
        used, items = np.unique(self.items[kept], return_inverse=True)
        return replace(
            self,
            genes=tuple(self.genes[i] for i in used),
            items=items.reshape(-1, self.items.shape[1]),
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
    label_names: Sequence[str] = _BINARY,
    split: Sequence[str] | None = None,
    negatives: str = "degree-matched",
    label_words: Sequence[str] = (),
    notes: Sequence[str] = (),
    allow_both: bool = False,
) -> GeneTask:
    """Make a task from arrays.

    Parameters
    ----------
    info, kind, label_names, split, negatives, label_words, notes
        As in `GeneTask`.
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

    what, values, many = f"Task {info.name}", np.asarray(labels), kind == "multilabel"
    names = [str(name).strip() for item in items for name in ([item] if isinstance(item, str) else item)]
    width = 2 if kind == "pairs" else 1
    if not names or "" in names:
        raise BftembedError(f"{what}: {names.count('')} of {len(names)} gene names are empty.")
    if len(names) != width * len(values) or (split is not None and len(split) != len(values)):
        raise BftembedError(f"{what}: items, labels and split differ in length.")
    known = range(2 if many else len(label_names))
    shape = (len(values), len(label_names)) if many else (len(values),)
    if values.shape != shape or values.dtype.kind not in "iub" or not np.isin(values, known).all():
        raise BftembedError(f"{what}: labels must be integers from 0 to {known.stop - 1} of shape {shape}.")
    values = values.astype(bool if many else np.int64)
    needed = [1] if kind == "pairs" and negatives != "given" else range(len(label_names))
    empty = [label_names[i] for i in needed if not (values.any() if many else (values == i).any())]
    if empty:
        raise BftembedError(f"{what}: no item has the label {examples(empty)}.")
    codes, unique = pd.factorize(np.array(names, dtype=object))  # in the order of the source
    if kind != "pairs" and not allow_both:
        differ = values[np.unique(codes, return_index=True)[1]][codes] != values
        if differ.any():
            both = dict.fromkeys(names[i] for i in np.flatnonzero(differ.reshape(len(codes), -1).any(axis=1)))
            raise BftembedError(f"{what}: {len(both)} genes have two labels ({examples(both)}); a gene has one class.")
    if split is not None and not {TRAIN, TEST} <= set(split) <= set(SPLITS):
        raise BftembedError(f"{what}: the split holds {examples(sorted(set(split)))}, expected {examples(SPLITS)}.")
    return GeneTask(
        *(info, kind, tuple(unique), codes.astype(np.int64).reshape(-1, width), values, tuple(label_names)),
        *(None if split is None else np.array(split, dtype=object), negatives, tuple(label_words), tuple(notes)),
    )


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
    notes = [f"{n} {reason} left out" for reason, counts in left_out.items() if (n := int(counts.sum()))]
    return unique[~mixed].astype(np.int64), (ones[~mixed] > 0).astype(np.int64), notes


class TaskCard(Strict):
    """The keys of ``task.yaml``."""

    #: As in the column ``task`` of the results.
    name: str = Field(min_length=1, max_length=100)
    kind: Literal["binary", "multiclass", "multilabel", "pairs"]
    source: str = ""
    license: str = "not stated"
    #: Negative pairs under protocol ``strict``: ``"degree-matched"`` (sampled) or ``"given"``.
    negatives: Literal["degree-matched", "given"] = "degree-matched"
    #: Binary and pairs: value of the column ``label`` that is the positive class. Default: 1, true or yes.
    positive: str | bool | int | float | None = None
    #: Words that state the label when they occur in a text about the gene.
    label_words: list[str] = Field(default_factory=list)


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
    file = path / "task.yaml"
    if not file.is_file():
        raise BftembedError(f"{path} has no task.yaml.")
    expected = "lines such as 'name: my task', 'kind: binary'"
    keys = yaml_keys(file.read_text("utf-8-sig", "replace"), where=str(file), expected=expected)
    card: TaskCard = check_config(TaskCard, keys, where=str(file))
    entities, outcomes = _table(path, "entities"), _table(path, "outcomes")
    columns = ("symbol_a", "symbol_b") if card.kind == "pairs" else ("symbol",)
    symbols = [_column(entities, name, f"{path}, entities") for name in columns]
    if len(entities) != len(outcomes):
        raise BftembedError(f"{path}: entities have {len(entities)} rows, outcomes {len(outcomes)}.")
    if differ := [n for n, own in zip(columns, symbols, strict=True) if n in outcomes and (outcomes[n] != own).any()]:
        raise BftembedError(f"{path}: {differ[0]} differs between entities and outcomes; put both into one order.")
    labels, label_names = _labels(card, outcomes.drop(columns=[*columns], errors="ignore"), str(path))
    try:
        return make_task(
            TaskInfo(card.name, card.source or f"folder {path.resolve().name}", card.license),
            card.kind,
            list(zip(*symbols, strict=True)) if card.kind == "pairs" else symbols[0].tolist(),
            labels,
            label_names=label_names,
            split=_column(entities, "split", f"{path}, entities").tolist() if "split" in entities else None,
            negatives=card.negatives,
            label_words=[word.strip() for word in card.label_words if word.strip()],
        )
    except BftembedError as err:
        raise BftembedError(f"{path}: {err}") from err


def _table(folder: Path, name: str) -> pd.DataFrame:
    """Return a CSV or TSV file as columns of text, in which a gene called NA is a gene."""
    import pandas as pd

    path = next((file for suffix in ("csv", "tsv") if (file := folder / f"{name}.{suffix}").is_file()), None)
    if path is None:
        raise BftembedError(f"{folder} has no {name}.csv and no {name}.tsv.")
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


def _column(table: pd.DataFrame, name: str, where: str) -> NDArray[Any]:
    if name not in table:
        raise unknown_name("column", name, table.columns, where=where)
    values = table[name].to_numpy(dtype=object)
    if "" in values:
        raise BftembedError(f"{where}: the column {name!r} is empty in row {values.tolist().index('') + 1}.")
    return values


def _labels(card: TaskCard, outcomes: pd.DataFrame, where: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the labels as in `GeneTask`, and their names."""
    if card.kind == "multilabel":
        columns = {name: _positives(_column(outcomes, name, where), None, where)[0] for name in outcomes}
        if not columns:
            raise BftembedError(f"{where}: outcomes have no column of a label.")
        return np.array(list(columns.values())).T, tuple(columns)
    values = _column(outcomes, "label", where)
    if card.kind == "multiclass":
        classes, codes = np.unique(values.astype(str), return_inverse=True)
        if len(classes) == 1:
            raise BftembedError(f"{where}: each gene has the label {classes[0]!r}; a task needs two classes.")
        return codes.astype(np.int64), tuple(classes.tolist())
    codes, names = _positives(values, None if card.positive is None else str(card.positive).strip(), where)
    return codes, _BINARY if card.kind == "pairs" else names


def _positives(values: NDArray[Any], positive: str | None, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return 1 for the positive label and 0 for the other one, and the names of both."""
    words = np.array([_NUMBER_OF.get(value.lower(), value) for value in values], dtype=object)
    wanted = "1" if positive is None else _NUMBER_OF.get(positive.lower(), positive)
    others = sorted(set(words) - {wanted})
    of_numbers = {wanted, *others} <= {"0", "1"}
    if not of_numbers and (positive is None or wanted not in words or len(others) > 1):
        hint = "1 and 0, or the key 'positive' in task.yaml" if positive is None else f"{positive!r} and one other"
        raise BftembedError(f"{where}: labels {examples(sorted(set(values)))}; expected {hint}.")
    return (words == wanted).astype(np.int64), _BINARY if of_numbers else (*(others or _BINARY[:1]), wanted)
