"""How much of a list of names was resolved: counts for screens and JSON, a table for files."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.errors import BftembedError
from bftembed.io import atomic_path, refuse_input_as_output

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bftembed.entities.genes import Resolution
    from bftembed.entities.proteins import ProteinResolution


@dataclass(frozen=True)
class Coverage:
    """Counts of a list of resolutions.

    Attributes
    ----------
    used, mapped, ambiguous, missing
        Names of each status; they add up to `total`.
    entities
        Distinct genes (or proteins) among the used and mapped names.
    merged
        Entity → the different names that lead to it, where there are several.
    """

    used: int
    mapped: int
    ambiguous: int
    missing: int
    entities: int
    merged: dict[str, tuple[str, ...]]

    @property
    def total(self) -> int:
        """Return the number of names."""
        return self.used + self.mapped + self.ambiguous + self.missing

    @property
    def resolved(self) -> int:
        """Return the number of names that were used or mapped."""
        return self.used + self.mapped

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "total": self.total,
            "used": self.used,
            "mapped": self.mapped,
            "ambiguous": self.ambiguous,
            "missing": self.missing,
            "entities": self.entities,
            "merged": {entity: list(names) for entity, names in self.merged.items()},
        }

    def __str__(self) -> str:
        """Return one line: ``"765 names: 690 used, 10 mapped, 5 ambiguous, 60 missing"``."""
        counts = f"{self.used} used, {self.mapped} mapped, {self.ambiguous} ambiguous, {self.missing} missing"
        return f"{self.total} name{'' if self.total == 1 else 's'}: {counts}"


@dataclass(frozen=True)
class ResolvedNames:
    """A list of names and what each resolves to.

    Attributes
    ----------
    source, column
        Where the names come from.
    read, blank, duplicates
        Names read, blank ones, and those given several times with the number of repeats.
    hgnc
        Version of the HGNC table.
    counts
        Names by status.
    rows
        One row per name, see `rows`.
    out
        The table that was written.
    """

    source: str
    column: str | None
    read: int
    blank: int
    duplicates: dict[str, int]
    hgnc: str
    counts: Coverage
    rows: list[dict[str, str]]
    out: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**self.__dict__, "counts": self.counts.to_dict(), "out": None if self.out is None else str(self.out)}


def resolve_names(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    column: str | None = None,
    kind: Literal["gene", "protein"] = "gene",
    out: str | os.PathLike[str] | None = None,
) -> ResolvedNames:
    """Resolve a list of names to HGNC symbols. The command exits with 3 when names are ambiguous or missing.

    Parameters
    ----------
    genes
        Names, or a file of them: text, CSV or TSV, a h5ad file (its var names), or builtin:NAME.
    column
        Column of the table, or of .var, with the names.
    kind
        What the names are.
    out
        Table of all names to write: .tsv, .csv or .parquet.

    Raises
    ------
    BftembedError
        For a list that cannot be read, and an output that is the list itself or cannot be written.
    """
    from bftembed.entities.genes import GeneIndex
    from bftembed.entities.hgnc import hgnc_version
    from bftembed.entities.lists import read_names
    from bftembed.entities.proteins import ProteinIndex

    listed = read_names(genes, column=column)
    index = GeneIndex.default() if kind == "gene" else ProteinIndex.default()
    resolutions = index.resolve(listed.names)
    table, target = rows(resolutions), None if out is None else Path(out)
    if target is not None:
        refuse_input_as_output(target, listed.source)
        write_rows(table, target)
    return ResolvedNames(
        source=listed.source,
        column=listed.column,
        read=listed.n_read,
        blank=listed.blank,
        duplicates=listed.duplicates,
        hgnc=hgnc_version(),
        counts=coverage(resolutions),
        rows=table,
        out=target,
    )


def coverage(resolutions: Sequence[Resolution] | Sequence[ProteinResolution]) -> Coverage:
    """Count `resolutions` by status, and find the names that lead to one entity."""
    counts = dict.fromkeys(("used", "mapped", "ambiguous", "missing"), 0)
    names: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for resolution in resolutions:
        counts[resolution.status] += 1
        if resolution.status in ("used", "mapped"):
            names[resolution.entity][resolution.name] = None
    merged = {entity: tuple(found) for entity, found in names.items() if len(found) > 1}
    return Coverage(**counts, entities=len(names), merged=merged)


def rows(resolutions: Sequence[Resolution] | Sequence[ProteinResolution]) -> list[dict[str, str]]:
    """Return one row of text per resolution.

    Returns
    -------
    list of dict
        ``name, status, entity, symbol, genes, via, candidates, note``; several genes are joined by commas, and
        what is absent is ``""``. Bytes that are no text are written as escapes.
    """
    return [
        {
            "name": _text(r.name),
            "status": r.status,
            "entity": _text(r.entity),
            "symbol": r.symbol or "",
            "genes": ",".join(getattr(r, "genes", (r.symbol,) if r.symbol else ())),
            "via": r.via,
            "candidates": ",".join(r.candidates),
            "note": _text(r.note),
        }
        for r in resolutions
    ]


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_rows(table: Sequence[Mapping[str, str]], path: str | os.PathLike[str]) -> None:
    """Write rows as TSV, CSV or Parquet by the suffix of `path`, whole or not at all.

    Raises
    ------
    BftembedError
        For another suffix, or when the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".tsv", ".csv", ".parquet"):
        raise BftembedError(f"{path}: a table is written as .tsv, .csv or .parquet, not as {suffix or 'no suffix'!r}.")
    columns = list(table[0]) if table else []
    with atomic_path(path) as temporary:
        if suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table({c: [row[c] for row in table] for c in columns}), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            delimiter = "\t" if suffix == ".tsv" else ","
            writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
