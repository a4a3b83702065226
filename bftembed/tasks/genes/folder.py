"""A gene task of the user's own: a folder of three text files."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from bftembed.config.loading import check_config
from bftembed.config.strict import Strict
from bftembed.config.yaml_keys import yaml_keys
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.tasks.genes.definition import TEST, TRAIN, UNUSED, GeneTask, pair_task, single_task
from bftembed.tasks.info import TaskInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: A table of every pair of 10,000 genes has about half of this.
_MOST_BYTES = 10**9
_MOST_CARD_BYTES = 10**6
_YES = frozenset(("1", "1.0", "true", "yes"))
_NO = frozenset(("0", "0.0", "false", "no"))
_SYMBOL_COLUMNS = ("symbol", "symbol_a", "symbol_b")


class TaskCard(Strict):
    """The keys of ``task.yaml``.

    Attributes
    ----------
    name
        As in the column ``task`` of the results: letters, digits, spaces and signs other than slashes.
    kind
        ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"pairs"``.
    source, licence, citation
        Where the data come from, and on what terms.
    split
        ``"given"``: the column ``split`` of the entities; ``"random"``: the protocol divides. Unless said, as given
        where there is such a column.
    negatives
        Pairs only: what protocol ``strict`` takes for negatives, ``"degree-matched"`` ones or those ``"given"``.
    positive
        Binary and pairs: which value of the column ``label`` is the positive class. 1, true and yes need not be said.
    label_words
        Words that state the label when they stand in a text about the gene.
    version
        To be raised when the data change.
    """

    name: str = Field(min_length=1, max_length=100)
    kind: Literal["binary", "multiclass", "multilabel", "pairs"]
    source: str = ""
    licence: str = "not stated"
    citation: str = ""
    split: Literal["random", "given"] | None = None
    negatives: Literal["degree-matched", "given"] | None = None
    positive: str | bool | int | float | None = None
    label_words: list[str] = Field(default_factory=list)
    version: int = Field(default=1, ge=1)


def load_task(folder: str | os.PathLike[str]) -> GeneTask:
    """Read a task from a folder.

    Parameters
    ----------
    folder
        Holds ``task.yaml`` (the keys of `TaskCard`; ``name`` and ``kind`` at least), ``entities.csv`` and
        ``outcomes.csv`` (or ``.tsv``), UTF-8 with a header, row by row the same items. The entities have a column
        ``symbol``, for pairs ``symbol_a`` and ``symbol_b``, and may have a column ``split`` with ``train``, ``test``
        or ``unused``; further columns are not read. The outcomes have a column ``label``; for a multilabel task every
        column is a label, 0 or 1. Symbols repeated in the outcomes must equal those of the entities. A gene called
        ``NA`` is a gene.

    Returns
    -------
    GeneTask
        For a binary task with labels in words these are its `label_names`, the negative one first; for a multiclass
        task the labels are sorted.

    Raises
    ------
    BftembedError
        When the folder or a file is missing, is a link that leads out of the folder, is empty, binary, not UTF-8 or
        has more than 1 GB; for a name that could be a path; when the two tables differ in length or symbols; for a
        missing column, an unknown label, a class without a gene, a gene of two classes. Names file and row.
    UnknownNameError
        For an unknown key of ``task.yaml``, a missing column and an unknown `positive`, with "did you mean".
    """
    path = Path(folder)
    if not os.path.lexists(path):
        raise BftembedError(
            f"No such task folder: {path}. A task is a folder with task.yaml, entities.csv, outcomes.csv."
        )
    if not path.is_dir():
        raise BftembedError(f"{path} is no folder. A task is a folder with task.yaml, entities.csv and outcomes.csv.")
    card = _card(_inside(path, ("task.yaml", "task.yml")))
    entities = _Table(_inside(path, ("entities.csv", "entities.tsv")))
    outcomes = _Table(_inside(path, ("outcomes.csv", "outcomes.tsv")))
    pairs = card.kind == "pairs"
    symbols = {name: entities.column(name) for name in (_SYMBOL_COLUMNS[1:] if pairs else _SYMBOL_COLUMNS[:1])}
    for name, values in symbols.items():
        if "" in values:
            raise BftembedError(f"{entities.at(values.index(''))}: the column {name!r} is empty. Every row is a gene.")
    _same_rows(entities, outcomes, symbols)
    split, notes = _split(card, entities)
    info = TaskInfo(
        card.name,
        "pairs" if pairs else "genes",
        card.source or f"folder {path.resolve().name}",
        card.licence,
        "as given by the column 'split'" if split is not None else "by the protocol, at random",
        "roc_auc",
        "higher",
        card.version,
    )
    words = tuple(word.strip() for word in card.label_words if word.strip())
    if card.citation:
        notes.append(f"Cite: {card.citation}")
    labels, label_names = _labels(card, outcomes)
    try:
        if not pairs:
            return single_task(
                info,
                card.kind,
                symbols["symbol"],
                labels,
                label_names=label_names,
                split=split,
                label_words=words,
                notes=notes,
            )
        n_given = int((labels == 0).sum())
        if n_given and card.negatives is None:
            notes.append(
                f"protocol strict draws its own negatives in place of the {n_given} given ones; to keep these, write "
                "'negatives: given' in task.yaml"
            )
        return pair_task(
            info,
            list(zip(symbols["symbol_a"], symbols["symbol_b"], strict=True)),
            labels,
            split=split,
            negatives=card.negatives or "degree-matched",
            label_words=words,
            notes=notes,
        )
    except BftembedError as err:
        raise BftembedError(f"{path}: {err}") from err


class _Table:
    """A CSV or TSV file as columns of text; nothing in it is read as a missing value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _text(path, _MOST_BYTES)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True)
        rows: list[list[str]] = []
        self._lines: list[int] = []
        blank = 0
        try:
            for row in reader:
                if not row:
                    blank = blank or reader.line_num
                    continue
                if blank:
                    raise BftembedError(f"{path}, line {blank} is blank. Remove it, or fill in what it lacks.")
                if rows and len(row) != len(rows[0]):
                    raise BftembedError(
                        f"{path}, line {reader.line_num} has {len(row)} cells, the header {len(rows[0])}. Put a cell "
                        "that holds the separator in quotation marks."
                    )
                rows.append(row)
                self._lines.append(reader.line_num)
        except csv.Error as err:
            raise BftembedError(f"{path}, line {reader.line_num}: {err}. Is a quotation mark left open?") from err
        if len(rows) < 2:
            raise BftembedError(f"{path} has a header, but no rows. A task needs at least one item of each class.")
        self.header = [cell.strip() for cell in rows[0]]
        self._cells = list(zip(*rows[1:], strict=True))

    def __len__(self) -> int:
        return len(self._lines) - 1

    def at(self, row: int) -> str:
        """Return where row `row` (from 0, without the header) stands."""
        return f"{self.path}, line {self._lines[row + 1]}"

    def column(self, name: str) -> list[str]:
        if name not in self.header:
            raise unknown_name("column", name, self.header, where=str(self.path))
        if self.header.count(name) > 1:
            raise BftembedError(f"{self.path} has {self.header.count(name)} columns called {name!r}. Rename one.")
        return [cell.strip() for cell in self._cells[self.header.index(name)]]


def _card(path: Path) -> TaskCard:
    expected = "lines such as 'name: my task' and 'kind: binary'"
    values = yaml_keys(_text(path, _MOST_CARD_BYTES), where=str(path), expected=expected)
    card: TaskCard = check_config(TaskCard, values, where=str(path))
    name = card.name
    if name != name.strip() or not name.isprintable() or ".." in name or set(name) & set("/\\"):
        raise BftembedError(
            f"{path}: key 'name': {name!r} could be a path, or cannot be read. Use letters, digits, spaces, '-', '_'."
        )
    if card.negatives is not None and card.kind != "pairs":
        raise BftembedError(f"{path}: key 'negatives' is for pairs, not for a {card.kind} task. Remove it.")
    if card.positive is not None and card.kind not in ("binary", "pairs"):
        raise BftembedError(f"{path}: key 'positive' is for binary tasks and pairs, not for {card.kind}. Remove it.")
    return card


def _inside(folder: Path, names: Sequence[str]) -> Path:
    """Return the one file of these names, which must not lead out of the folder."""
    there = [folder / name for name in names if (folder / name).is_symlink() or (folder / name).exists()]
    if not there:
        held = sorted(p.name for p in folder.iterdir())
        raise BftembedError(f"{folder} holds no {' or '.join(names)}; it holds {examples(held) or 'nothing'}.")
    if len(there) > 1:
        raise BftembedError(f"{folder} holds both {' and '.join(p.name for p in there)}. Remove one.")
    path = there[0]
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as err:
        raise BftembedError(f"{path} is a link that leads nowhere. Put the file itself into the folder.") from err
    if not real.is_relative_to(folder.resolve()):
        raise BftembedError(f"{path} is a link that leads out of the folder. Put the file itself into the folder.")
    if not real.is_file():
        raise BftembedError(f"{path} is no regular file. Put a text file in its place.")
    return path


def _text(path: Path, most: int) -> str:
    try:
        size = path.stat().st_size
        if size > most:
            raise BftembedError(f"{path} has {size:,} bytes, more than the {most:,} that are read. Make it smaller.")
        data = path.read_bytes()
    except OSError as err:
        raise BftembedError(f"{path} cannot be read: {err.strerror or err}.") from err
    if not data.strip():
        raise BftembedError(f"{path} is empty. Fill it, or write it again.")
    if b"\0" in data:
        raise BftembedError(
            f"{path} is a binary file (a zero at byte {data.index(0)}), no text. Save it as UTF-8 text."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise BftembedError(f"{path} is not UTF-8 at byte {err.start} (line {line}). Save it as UTF-8.") from err


def _delimiter(path: Path, text: str) -> str:
    header = text.partition("\n")[0]
    if path.suffix == ".tsv" or "\t" in header:
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _same_rows(entities: _Table, outcomes: _Table, symbols: Mapping[str, Sequence[str]]) -> None:
    if len(entities) != len(outcomes):
        longer = max(entities, outcomes, key=len)
        shorter = min(len(entities), len(outcomes))
        raise BftembedError(
            f"{outcomes.path} has {len(outcomes)} rows, {entities.path.name} {len(entities)}. They must be one to one: "
            f"{longer.at(shorter)} is the first without a partner."
        )
    for name, of_entities in symbols.items():
        if name not in outcomes.header:
            continue
        for i, (ours, theirs) in enumerate(zip(of_entities, outcomes.column(name), strict=True)):
            if ours != theirs:
                raise BftembedError(
                    f"{outcomes.at(i)}: {name} is {theirs!r}, but {ours!r} in the same row of {entities.path.name}. "
                    "Put both tables into one order."
                )


def _split(card: TaskCard, entities: _Table) -> tuple[list[str] | None, list[str]]:
    """Return the split, if the folder gives one, and notes on it."""
    if card.split == "random" or (card.split is None and "split" not in entities.header):
        unused = "split" in entities.header
        return None, ["the column 'split' is not used (split: random)"] if unused else []
    values = entities.column("split")
    for i, value in enumerate(values):
        if value not in (TRAIN, TEST, UNUSED):
            raise BftembedError(f"{entities.at(i)}: the split is {value!r}; known are 'train', 'test' and 'unused'.")
    return values, []


def _labels(card: TaskCard, outcomes: _Table) -> tuple[NDArray[np.int64 | np.bool_], tuple[str, ...]]:
    if card.kind == "multilabel":
        names = [name for name in outcomes.header if name not in _SYMBOL_COLUMNS]
        if not names:
            raise BftembedError(f"{outcomes.path} has no column of a label. Add one column, 0 or 1, per label.")
        if "" in names:
            raise BftembedError(f"{outcomes.path} has a column without a name. Name it, or write it without its index.")
        columns = [_yes_or_no(outcomes, name, outcomes.column(name)) for name in names]
        empty = [name for name, column in zip(names, columns, strict=True) if not any(column)]
        if empty:
            raise BftembedError(f"{outcomes.path}: no gene has the label {examples(empty)}. Remove the column.")
        return np.array(columns, dtype=bool).T, tuple(names)
    values = outcomes.column("label")
    if "" in values:
        raise BftembedError(f"{outcomes.at(values.index(''))}: the label is empty. Fill it in, or remove the row.")
    distinct = sorted(set(values))
    if card.kind == "multiclass":
        if len(distinct) == 1:
            raise BftembedError(f"{outcomes.path}: every gene has the label {distinct[0]!r}. A task needs two classes.")
        code = {name: i for i, name in enumerate(distinct)}
        return np.array([code[value] for value in values], dtype=np.int64), tuple(distinct)
    default = ("negative", "positive")
    if card.positive is None:
        return np.array(_yes_or_no(outcomes, "label", values), dtype=np.int64), default
    positive = str(card.positive).strip()  # YAML reads yes as true, and 1 as a number
    if isinstance(card.positive, bool) or {label.casefold() for label in (positive, *distinct)} <= _YES | _NO:
        ones = np.array(_yes_or_no(outcomes, "label", values), dtype=np.int64)
        return (ones if positive.casefold() in _YES else 1 - ones), default
    if positive not in distinct:
        raise unknown_name("label", positive, distinct, where=f"{outcomes.path} (key 'positive' of task.yaml)")
    others = [name for name in distinct if name != positive]
    if len(others) > 1:
        rare = min(others, key=values.count)
        raise BftembedError(
            f"{outcomes.at(values.index(rare))}: a third label, {rare!r}, beside {positive!r} and others "
            f"({examples(distinct)}). Correct it, or write 'kind: multiclass'."
        )
    codes = np.array([value == positive for value in values], dtype=np.int64)
    return codes, (others[0] if others else "negative", positive)


def _yes_or_no(outcomes: _Table, column: str, values: Sequence[str]) -> list[bool]:
    folded = [value.casefold() for value in values]
    for i, value in enumerate(folded):
        if value not in _YES and value not in _NO:
            remedy = " or say in task.yaml which label is 'positive'" if column == "label" else ""
            raise BftembedError(
                f"{outcomes.at(i)}: the label {values[i]!r} of the column {column!r} is not known. Write 0 and 1, true "
                f"and false, or yes and no{',' + remedy if remedy else ''}."
            )
    return [value in _YES for value in folded]
