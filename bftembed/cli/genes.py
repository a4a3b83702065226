"""`bftembed genes …`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, columns, command, group

_SHOWN_ROWS = 40


def _resolved(found: Any, _: Any) -> Shown:
    counts = found.counts
    by_status = f"{counts.used} used, {counts.mapped} mapped, {counts.ambiguous} ambiguous, {counts.missing} missing"
    names = f"{counts.total} name{'' if counts.total == 1 else 's'}"
    lines = [*_open_rows(found.rows), f"{names}: {by_status}; {counts.entities} distinct"]
    if found.column:
        lines.append(f"names from the column {found.column!r} of {found.source}")
    if found.duplicates or found.blank:
        repeats = sum(found.duplicates.values())
        lines.append(f"dropped: {repeats} repeats of {len(found.duplicates)} names, {found.blank} blank")
    if counts.merged:
        some = [f"{e} ({', '.join(_fit(n, 30) for n in names)})" for e, names in list(counts.merged.items())[:5]]
        lines.append(f"several names for one: {', '.join(some)}" + (" …" if len(counts.merged) > 5 else ""))
    if found.out is not None:
        lines.append(f"written: {found.out}")
    return Shown(lines, code=FAILED_ITEMS if counts.used + counts.mapped < counts.total else 0)


def _open_rows(rows: list[dict[str, str]]) -> list[str]:
    """Return a table of the names that need a look: those without an answer first, and of these the rare cases."""
    order = ("ambiguous", "missing", "mapped", "used")
    notes = Counter(row["note"] for row in rows)
    todo = [row for row in rows if row["status"] != "used"]
    chosen = sorted(todo, key=lambda row: (order.index(row["status"]), notes[row["note"]]))[:_SHOWN_ROWS]
    if not chosen:
        return []
    table = [("NAME", "STATUS", "GENE", "VIA", "NOTE")]
    for row in chosen:
        gene = row["genes"] or " or ".join(row["candidates"].split(","))
        table.append((_fit(row["name"], 30), row["status"], _fit(gene, 40), row["via"], row["note"]))
    rest = len(todo) - len(chosen)
    return [*columns(table), *([f"… and {rest} more: --out FILE.tsv writes them all"] if rest else []), ""]


def _fit(text: str, width: int) -> str:
    """Return `text` fit for a terminal: no control characters, not wider than the column."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= width else f"{plain[: width - 1]}…"


def _embedded(embeddings: Any, given: dict[str, Any]) -> Shown:
    made = embeddings.provenance
    data = {
        "out": given["out"],
        "dim": embeddings.dim,
        "counts": made["counts"],
        "left_out": {mark: len(ids) for mark, ids in made["left_out"].items()},
        "encoder": made["encoder"],
        "encoding": made["encoding"],
        "cache": made.get("cache"),
        "fingerprint": embeddings.fingerprint(),
    }
    return Shown(data=data)


app = group(
    "genes",
    resolve=command("bftembed.entities.lists:resolve_names", _resolved),
    embed=command(
        "bftembed.embeddings.embed:embed_genes", _embedded, bar="texts", bar_with_json=True, required=("out",)
    ),
    umap=command("bftembed.maps:map_genes"),
)
