"""`bftembed genes …`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bftembed.cli.common import JsonOption, finish
from bftembed.cli.genes_embed import embed
from bftembed.cli.genes_umap import umap

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Resolve names of genes; embed their profiles; draw a map."
)

_SHOWN_ROWS = 40


@app.command("resolve")
def resolve(
    genes: Annotated[
        str,
        typer.Argument(metavar="GENES", help="Names: text, CSV/TSV, h5ad (its var names), builtin:NAME, or TP53,EGFR."),
    ],
    column: Annotated[str | None, typer.Option("--column", help="Column of the table or of the h5ad's var.")] = None,
    kind: Annotated[Literal["gene", "protein"], typer.Option("--kind", help="What the names name.")] = "gene",
    out: Annotated[Path | None, typer.Option("--out", help="Write every row: .tsv, .csv or .parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what becomes of every name of a list. Exit code 3 when some are ambiguous or missing."""
    from bftembed.datasets import data_path
    from bftembed.entities.coverage import coverage, rows, write_rows
    from bftembed.entities.genes import GeneIndex
    from bftembed.entities.hgnc import hgnc_version
    from bftembed.entities.lists import read_names
    from bftembed.entities.proteins import ProteinIndex
    from bftembed.errors import BftembedError

    listed = read_names(data_path(genes), column=column)
    index = GeneIndex.default() if kind == "gene" else ProteinIndex.default()
    resolutions = index.resolve(listed.names)
    counts, table = coverage(resolutions), rows(resolutions)
    if out is not None:
        if out.exists() and out.resolve() == Path(listed.source).resolve():
            raise BftembedError(f"{out} is the list itself and would be overwritten. Choose another file for --out.")
        write_rows(table, out)
    summary = {
        "source": listed.source,
        "column": listed.column,
        "read": listed.n_read,
        "blank": listed.blank,
        "duplicates": listed.duplicates,
        "hgnc": hgnc_version(),
        "out": None if out is None else str(out),
        "counts": counts.to_dict(),
        "rows": table,
    }
    lines = _table([row for row in table if row["status"] != "used"])
    lines.append(f"{counts}; {counts.entities} distinct")
    if listed.column:
        lines.append(f"names from the column {listed.column!r} of {listed.source}")
    if listed.duplicates or listed.blank:
        repeats = sum(listed.duplicates.values())
        lines.append(f"dropped: {repeats} repeats of {len(listed.duplicates)} names, {listed.blank} blank")
    if counts.merged:
        lines.append(f"several names for one: {_merged(counts.merged)}")
    if out is not None:
        lines.append(f"written: {out}")
    finish(summary, lines, as_json=as_json, failed=counts.resolved < counts.total)


def _table(table: Sequence[dict[str, str]]) -> list[str]:
    """Lay out the names that need a look: those without an answer first, and of these the rare cases first."""
    order = ("ambiguous", "missing", "mapped")
    notes = Counter(row["note"] for row in table)
    chosen = sorted(table, key=lambda row: (order.index(row["status"]), notes[row["note"]]))[:_SHOWN_ROWS]
    if not chosen:
        return []
    cells = [("NAME", "STATUS", "GENE", "VIA", "NOTE")]
    for row in chosen:
        gene = row["genes"] or " or ".join(row["candidates"].split(","))
        cells.append((_shown(row["name"], 30), row["status"], _shown(gene, 40), row["via"], row["note"]))
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]).rstrip() for line in cells]
    if len(table) > len(chosen):
        lines.append(f"… and {len(table) - len(chosen)} more: --out FILE.tsv writes them all")
    return [*lines, ""]


def _merged(merged: dict[str, tuple[str, ...]]) -> str:
    some = [f"{entity} ({', '.join(_shown(n, 30) for n in names)})" for entity, names in list(merged.items())[:5]]
    return ", ".join(some) + (f" … ({len(merged)} in all)" if len(merged) > 5 else "")


def _shown(text: str, width: int) -> str:
    """Return `text` fit for a terminal: no control characters, not wider than the column."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= width else f"{plain[: width - 1]}…"


app.command("embed")(embed)
app.command("umap")(umap)
