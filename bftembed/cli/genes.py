"""`bftembed genes …`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, columns, command, group
from bftembed.errors import examples

_SHOWN_ROWS = 40


def _resolved(found: Any, _: Any) -> Shown:
    counts = found.counts
    lines = [*_open_rows(found.rows), f"{counts}; {counts.entities} distinct"]
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
    return Shown(lines, code=FAILED_ITEMS if counts.resolved < counts.total else 0)


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
    counts, encoding = made["counts"], made["encoding"]
    data = {
        "out": given["out"],
        "dim": embeddings.dim,
        "counts": counts,
        "left_out": {mark: len(ids) for mark, ids in made["left_out"].items()},
        "encoder": made["encoder"],
        "encoding": encoding,
        "cache": made.get("cache"),
        "fingerprint": embeddings.fingerprint(),
    }
    lines = [f"embedded: {counts['embedded']} of {counts['profiles']} profiles, {embeddings.dim} dimensions each"]
    lines += [f"left out, {mark}: {len(ids)} ({examples(ids)})" for mark, ids in made["left_out"].items()]
    if encoding["n_chunked"] or encoding["n_truncated"]:
        lines.append(
            f"longer than {encoding['max_tokens']} tokens: {encoding['n_chunked']} texts averaged over pieces, "
            f"{encoding['n_truncated']} cut ({encoding['n_tokens_dropped']} of {encoding['n_tokens_total']} tokens)"
        )
    if "cache" in made:
        lines.append(f"vectors from the cache: {made['cache']['reused']}, new in it: {made['cache']['encoded']}")
    return Shown([*lines, f"embeddings: {given['out']}"], data)


def _mapped(report: Any, _: Any) -> Shown:
    of = f" of {report.of:,}" if report.genes < report.of else ""
    classes = ", ".join(f"{label} {n:,}" for label, n in report.classes.items())
    files = [str(file) for file in (report.out, report.points) if file]
    return Shown([f"drawn: {report.genes:,} genes{of}", classes, *files])


app = group(
    "genes",
    resolve=command("bftembed.entities.coverage:resolve_names", _resolved),
    embed=command(
        "bftembed.embeddings.embed:embed_genes", _embedded, bar="texts", bar_with_json=True, required=("out",)
    ),
    umap=command("bftembed.maps:map_genes", _mapped),
)
