"""Lists of names: read from where people keep them (text, CSV, TSV, Excel, h5ad, typed), resolved and counted."""

from __future__ import annotations

import csv
import gzip
import os
import re
import zlib
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.entities.var_names import read_var_names
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import atomic_path, refuse_input_as_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bftembed.entities.genes import Resolution
    from bftembed.entities.proteins import ProteinResolution

#: A list of every human transcript has 10 MB; more than this is an expression matrix or a bomb.
_MAX_BYTES = 256 * 2**20
_HDF5, _GZIP, _WORKBOOKS = b"\x89HDF\r\n\x1a\n", b"\x1f\x8b", (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_FILE_SUFFIX = re.compile(r"\.(txt|list|csv|tsv|tab|h5ad|h5|gz|parquet|xlsx?|json|ya?ml|gmt|zarr)", re.IGNORECASE)
_HEADER = re.compile(
    r"genes?|((gene|hgnc|approved)_)?symbols?|(external_)?gene_?names?|gene_short_name|features?|feature_names?"
    r"|ensembl(_gene)?|ensg|entrez(_?gene)?|uniprot|(gene|hgnc|ensembl(_gene)?|entrez(_?gene)?|ncbi_gene|uniprot)_?ids?"
    r"|accessions?|proteins?|protein_(names?|ids?)|antibod(y|ies)|adt"
)
#: Words that head a single column, but beside others may mean anything.
_LONE_HEADER = re.compile(rf"{_HEADER.pattern}|names?|ids?|x|markers?|targets?")


@dataclass(frozen=True)
class NameList:
    """Names in the order of their first occurrence, without duplicates and without surrounding spaces.

    `n_read` counts duplicates too: ``len(names) + sum(duplicates.values())``; `duplicates` has the number of further
    times by name, `blank` the number of empty lines or cells. `source` is the file, or ``"list"``, and `column` the
    column that was read, ``""`` where there are no columns.
    """

    names: tuple[str, ...]
    n_read: int
    duplicates: dict[str, int]
    blank: int
    source: str
    column: str = ""


def read_names(source: str | os.PathLike[str] | Iterable[object], *, column: str | None = None) -> NameList:
    """Read names of genes or proteins.

    Parameters
    ----------
    source
        A path to text (one name per line; lines that start with ``#`` are comments), CSV or TSV, any of these in gzip,
        an Excel workbook (its first sheet), or a h5ad (its var names); names as a list; or names as one string,
        separated by commas (``"TP53,EGFR"``), where no file is called so and nothing about it looks like a file.
    column
        Column of the table or of the h5ad's var. A table of one column, or with one well-known column (``gene``,
        ``symbol``, ``ensembl_id`` …), needs none.

    Returns
    -------
    NameList
        At least one name.

    Raises
    ------
    BftembedError
        For a file that cannot be read, a column that is unknown or has to be chosen, and a list without names.
    """
    if isinstance(source, os.PathLike) or (isinstance(source, str) and source.strip() and _is_file(source)):
        return _read_file(Path(source), column)
    if column is not None:
        raise BftembedError(f"A column ({column!r}) can be chosen in a table or a h5ad only, not in a list of names.")
    items = source.split(",") if isinstance(source, str) else source
    return _name_list(["" if item is None or item != item else str(item) for item in items], "list")


def _is_file(text: str) -> bool:
    try:
        if Path(text).exists():
            return True
    except OSError:  # longer than a path can be
        pass
    return "/" in text or "\\" in text or _FILE_SUFFIX.fullmatch(Path(text).suffix) is not None


def _read_file(path: Path, column: str | None) -> NameList:
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
            if path.suffix.lower() == ".h5ad" or start == _HDF5:
                return _name_list(read_var_names(path, column), str(path), column or "")
            if start.startswith(_WORKBOOKS):
                return _from_rows(_workbook(path), path, column)
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if start.startswith(_GZIP) else file).read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise BftembedError(f"{path} holds more than {_MAX_BYTES:,} bytes: no list of names. Cut out the column.")
        # Not splitlines(), which would break names at characters that are no line ends (form feed, U+2028).
        lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
        lines = [line for line in (lines if lines[-1] else lines[:-1]) if not line.lstrip().startswith("#")]
        delimiter = _delimiter(Path(path.stem if path.suffix == ".gz" else path).suffix.lower(), lines, column)
        if not delimiter:
            return _from_rows([[re.sub(r'^"(.*)"$', r"\1", line.strip())] for line in lines], path, column)
        return _from_rows(list(csv.reader(lines, delimiter=delimiter, strict=True)), path, column)
    except FileNotFoundError as err:
        raise BftembedError(f"No such file: {path}. Check the path, or give names separated by commas.") from err
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as err:
        why = getattr(err, "strerror", None) or err
        raise BftembedError(f"{str(path)!r} cannot be read as a list of names in UTF-8: {why}.") from err


def _workbook(path: Path) -> list[list[str]]:
    import pandas as pd

    try:
        return pd.read_excel(path, header=None, dtype=str, na_filter=False).to_numpy().tolist()
    except Exception as err:  # a missing package, or whatever it raises for a damaged file
        raise BftembedError(f"{path} cannot be read as an Excel workbook ({err}). Save the sheet as CSV.") from err


def _delimiter(suffix: str, lines: list[str], column: str | None) -> str:
    first = next((line for line in lines if line.strip()), "")
    if suffix in (".tsv", ".tab") or "\t" in first:
        return "\t"
    if suffix == ".csv":
        return ";" if ";" in first and "," not in first else ","
    known_header = any(_HEADER.fullmatch(_plain(cell)) for cell in first.split(","))
    return "," if "," in first and (known_header or column is not None) else ""


def _from_rows(rows: list[list[str]], path: Path, column: str | None) -> NameList:
    blank = next((i for i, row in enumerate(rows) if any(cell.strip() for cell in row)), len(rows))
    header = [cell.strip() for cell in rows[blank]] if blank < len(rows) else []
    if not header or (len(header) == 1 and column is None and not _LONE_HEADER.fullmatch(_plain(header[0]))):
        return _name_list([row[0] if row else "" for row in rows], str(path))
    if column is None and len(header) > 1:
        known = [name for name in header if _HEADER.fullmatch(_plain(name))]
        if len(set(known)) != 1:
            why = f"{examples(known)} all could hold the names" if known else "none is called gene or symbol"
            listed = examples(header, 30)
            raise BftembedError(f"{path} has several columns and {why}. Choose one with --column (column=): {listed}.")
        column = known[0]
    chosen = header[0] if column is None else column
    if header.count(chosen) != 1:
        raise unknown_name("column", chosen, header, where=str(path))
    at = header.index(chosen)
    return _name_list([row[at] if len(row) > at else "" for row in rows[blank + 1 :]], str(path), chosen)


def _plain(word: str) -> str:
    return re.sub(r"[\s_.-]+", "_", word.strip().lower())


def _name_list(cells: Iterable[str], source: str, column: str = "") -> NameList:
    stripped = [cell.strip() for cell in cells]
    counts = Counter(name for name in stripped if name)
    blank = len(stripped) - counts.total()
    if not counts:
        of_column = f" in the column {column!r}" if column else ""
        raise BftembedError(f"{source} holds no names{of_column} ({blank} blank). A list needs at least one.")
    duplicates = {name: count - 1 for name, count in counts.items() if count > 1}
    return NameList(tuple(counts), counts.total(), duplicates, blank, source, column)


@dataclass(frozen=True)
class Coverage:
    """Counts of a list of resolved names: in all, by status, and of distinct `entities` among used and mapped ones.

    `merged` has, for each entity to which several different names lead, those names.
    """

    total: int
    used: int
    mapped: int
    ambiguous: int
    missing: int
    entities: int
    merged: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ResolvedNames:
    """A list of names (`source` to `duplicates` as in `NameList`) and what each resolves to.

    `rows` has one row of text per name: ``name, status, entity, symbol, genes, via, candidates, note``. Several genes
    are joined by commas, what is absent is ``""``, and bytes that are no text are escapes. `hgnc` is the version of the
    table, `counts` the names by status, `out` the table that was written.
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
        return {**asdict(self), "out": None if self.out is None else str(self.out)}


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
        Names, or a file of them: text, CSV, TSV, Excel, a h5ad file (its var names), or builtin:NAME.
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
    from bftembed.entities.genes import GeneIndex, hgnc_version
    from bftembed.entities.proteins import ProteinIndex

    listed = read_names(genes, column=column)
    index = GeneIndex.default() if kind == "gene" else ProteinIndex.default()
    resolutions = index.resolve(listed.names)
    rows, target = [_row(resolution) for resolution in resolutions], None if out is None else Path(out)
    if target is not None:
        refuse_input_as_output(target, listed.source)
        _write(rows, target)
    return ResolvedNames(
        source=listed.source,
        column=listed.column,
        read=listed.n_read,
        blank=listed.blank,
        duplicates=listed.duplicates,
        hgnc=hgnc_version(),
        counts=_coverage(resolutions),
        rows=rows,
        out=target,
    )


def _coverage(resolutions: Sequence[Resolution] | Sequence[ProteinResolution]) -> Coverage:
    counts = Counter(resolution.status for resolution in resolutions)
    names: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for resolution in resolutions:
        if resolution.status in ("used", "mapped"):
            names[resolution.entity][resolution.name] = None
    merged = {entity: tuple(found) for entity, found in names.items() if len(found) > 1}
    by_status = {status: counts[status] for status in ("used", "mapped", "ambiguous", "missing")}
    return Coverage(counts.total(), **by_status, entities=len(names), merged=merged)


def _row(found: Resolution | ProteinResolution) -> dict[str, str]:
    row = {
        "name": found.name,
        "status": found.status,
        "entity": found.entity,
        "symbol": found.symbol or "",
        "genes": ",".join(getattr(found, "genes", (found.symbol,) if found.symbol else ())),
        "via": found.via,
        "candidates": ",".join(found.candidates),
        "note": found.note,
    }
    return {key: text.encode("utf-8", "backslashreplace").decode() for key, text in row.items()}


def _write(rows: list[dict[str, str]], path: Path) -> None:
    import pandas as pd

    suffix = path.suffix.lower()
    if suffix not in (".tsv", ".csv", ".parquet"):
        raise BftembedError(f"{path}: a table is written as .tsv, .csv or .parquet, not as {suffix or 'no suffix'!r}.")
    table = pd.DataFrame(rows)
    with atomic_path(path) as temporary:
        if suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, sep="\t" if suffix == ".tsv" else ",", index=False)
