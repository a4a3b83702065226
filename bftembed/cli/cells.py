"""`bftembed cells …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import ERROR, Shown, command, group
from bftembed.errors import examples


def _embedded(report: Any, _: Any) -> Shown:
    lines = [
        f"cells      {report.n_cells} × {report.dim} dimensions, from {report.matrix}",
        f"values     {report.normalize} ({report.reason})",
        f"genes      {_counts(report, 'have an embedding')}",
        f"coverage   {report.coverage:.1%} of all expression lies in genes with an embedding",
    ]
    if report.n_other_features:
        lines.append(f"features   {report.n_other_features} of another type by .var left out, also of the totals")
    if report.files:
        parts = [f"{one.file} {one.n_cells} cells, {one.n_matched} genes, {one.coverage:.1%}" for one in report.files]
        lines.append(f"files      {'; '.join(parts)} (genes above: those of the lowest coverage)")
    lines += _empty(report, "gene with an embedding")
    how = [report.weights] + ([f"top {report.top_k} genes"] if report.top_k else [])
    lines.append(f"weights    {', '.join(how)}; gene matrix {report.gene_matrix}; kernel {report.kernel}")
    scaled = "length 1" if report.l2 else f"divided by {report.denominator}"
    return Shown([*lines, f"written    {report.out}: .obsm[{report.key!r}] ({scaled})"])


def _sentences(report: Any, _: Any) -> Shown:
    if isinstance(report, list):
        return Shown(report, {"sentences": report})
    cut = f"; {report.n_cut} cells express more than {report.top_genes}" if report.n_cut else ""
    lines = [
        f"cells      {report.n_cells} × {report.dim} dimensions, from {report.matrix}",
        f"values     {report.normalize} ({report.reason})",
        f"genes      {_counts(report, 'by their approved symbol')}",
        f"sentences  {report.mean_symbols:.1f} symbols on average, {report.coverage:.1%} of all expression{cut}",
        f"encoder    {report.encoder}: {_limit(report)}",
        f"cache      {report.cache or 'none'}: {report.n_encoded} sentences encoded, {report.n_reused} found",
        *([f"features   {report.n_other_features} of another type left out"] if report.n_other_features else []),
        *_empty(report, "gene"),
        f"written    {report.out}: .obsm[{report.key!r}]",
    ]
    return Shown(lines)


def _counts(report: Any, what: str) -> str:
    counts = (
        ("n_mapped", "under another name"),
        ("n_no_embedding", "known but without an embedding"),
        ("n_unresolved", "unknown"),
        ("n_ambiguous", "ambiguous"),
        ("n_unnamed", "without a name"),
        ("n_duplicates", "sharing their gene with another column"),
    )
    aside = [f"{n} {word}" for field, word in counts if (n := getattr(report, field, 0))]
    share = getattr(report, "share", None)
    of = f" of {report.n_genes} {what}" if share is None else f" {what} ({share:.1%} of all)"
    return "; ".join([f"{report.n_used + report.n_mapped}{of}", *aside])


def _empty(report: Any, what: str) -> list[str]:
    done = "left out" if report.empty_policy == "drop" else "NaN"
    told = f"empty      {report.n_empty} cells express no {what}, {done}: {examples(report.empty_cells)}"
    return [told] if report.n_empty else []


def _limit(report: Any) -> str:
    limit = report.encoding["max_tokens"]
    if limit is None or not report.share_over_limit:
        return "no limit of length" if limit is None else f"every sentence is within its {limit} tokens"
    return (
        f"{report.share_over_limit:.1%} of the sentences exceed its {limit} tokens (long={report.long}); about "
        f"{report.mean_symbols_within_limit:.1f} of {report.mean_symbols:.1f} symbols are within"
    )


def _merged(report: Any, _: Any) -> Shown:
    lines = [
        f"shards     {report.n_shards} joined",
        f"cells      {report.n_cells} × {report.dim} dimensions",
        f"written    {report.out}: .obsm[{report.key!r}]",
    ]
    return Shown(lines)


def _checked(found: Any, _: Any) -> Shown:
    lines = [f"file       {found.path} ({found.n_bytes:,} bytes)"]
    if found.matrix is not None:
        m = found.matrix
        density = "" if m.density is None else f", {m.density:.1%} filled"
        kind = " and ".join(filter(None, (m.dtype, m.index_dtype)))
        chunks = f"in chunks of {' × '.join(f'{n:,}' for n in m.chunk)}" if m.chunk else "in one piece"
        lines += [
            f"matrix     {m.name}: {m.n_cells:,} cells × {m.n_genes:,} genes, {m.form} of {kind}",
            *([f"features   {m.n_other_features} of another type by .var left out"] if m.n_other_features else []),
            f"stored     {m.n_values:,} values{density}; {m.compression or 'not compressed'}, {chunks}",
            f"others     {'; '.join(m.others) or 'no other matrix'}",
        ]
    lines.append(f"obsm       {', '.join(found.obsm) or 'nothing'}")
    if found.genes is not None:
        what = "known to HGNC" if found.genes.matched_to == "HGNC" else "with an embedding"
        lines.append(f"genes      {_counts(found.genes, what)}")
    if found.values is not None:
        v, estimate = found.values, "" if found.values.whole else ", an estimate"
        lines.append(f"sample     {v.sampled}")
        if v.coverage is not None:
            lines.append(f"coverage   {v.coverage:.1%} of the expression lies in these genes{estimate}")
        if v.normalize:
            lines.append(f"values     {v.normalize} ({v.reason})")
        empty = "unknown" if v.n_empty is None else f"{v.n_empty:,} cells express none of these genes{estimate}"
        lines.append(f"empty      {empty}")
    lines += [f"note       {note}" for note in found.notes]
    lines.append("result     cells embed would " + ("work" if found.ok else "refuse this"))
    return Shown(lines, code=0 if found.ok else ERROR, errors=[f"error: {problem}" for problem in found.problems])


def _mapped(report: Any, _: Any) -> Shown:
    of = f" of {report.of:,}" if report.cells < report.of else ""
    lines = [f"drawn: {report.cells:,} cells{of}, {len(report.keys)} × {len(report.categories)} pictures"]
    lines += [f"{key}: {n} cells without a usable vector left out" for key, n in report.left_out.items() if n]
    return Shown([*lines, *(str(file) for file in (report.out, report.points) if file)])


app = group(
    "cells",
    embed=command("bftembed.cells.embed:embed_cells", _embedded, bar="cells"),
    check=command("bftembed.cells.check:check_cells", _checked),
    merge=command("bftembed.cells.merge:merge_shards", _merged, bar="cells"),
    sentences=command("bftembed.cells.sentences:embed_cells_as_sentences", _sentences, bar="cells"),
    umap=command("bftembed.maps:map_cells", _mapped, bar="maps"),
)
