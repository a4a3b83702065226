"""Whether `embed_cells` would work on a h5ad file: from its structure, its gene names and a sample of its values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from bftembed.cells.blocks import Columns, Compressed, compressed_format
from bftembed.cells.check_report import CellCheck, GenesFound, MatrixFound, ValuesFound
from bftembed.cells.matching import match_genes
from bftembed.cells.normalize import NORMALIZE, decide
from bftembed.cells.preflight import check_key, check_slots
from bftembed.cells.reading import expression_of_file
from bftembed.cells.sampling import sample
from bftembed.cells.writing import UNS, check_free
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.var_names import read_var_names
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import check_declared_size, open_h5ad

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from bftembed.cells.reading import Expression
    from bftembed.cells.sampling import Sample


def check_cells(
    data: str | os.PathLike[str],
    genes: GeneEmbeddings | str | os.PathLike[str] | None = None,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    normalize: Literal["auto", "log1p-cp10k", "none"] = "auto",
    key: str = "X_bft",
    overwrite: bool = False,
    sample_cells: int = 2048,
) -> CellCheck:
    """Check in seconds whether `cells embed` would work on a file, and what it would do.

    Values outside the sample are not seen, nor vectors that overflow or cancel out.

    Parameters
    ----------
    data
        Cells × genes: a h5ad file or builtin:NAME. It is only read.
    genes
        Gene embeddings (.safetensors). By default genes are looked up in HGNC.
    layer
        Layer with the expression. By default .X.
    use_raw
        Take expression and genes from .raw.
    gene_column
        Column of .var with the gene names. By default the index.

    Other Parameters
    ----------------
    normalize
        Normalization, as in `bftembed.cells.embed.embed_cells`.
    key
        Key of .obsm for the vectors.
    overwrite
        Whether ``.obsm[key]`` would be replaced.
    sample_cells
        Number of evenly spaced cells to read. Of a CSC matrix all cells are read, of at most 8 million values in evenly
        spaced genes.

    Returns
    -------
    CellCheck
        What is wrong with the files is in `CellCheck.problems`.

    Raises
    ------
    BftembedError
        For options that do not exist.
    """
    check_key(key)
    if normalize not in NORMALIZE:
        raise unknown_name("normalize", str(normalize), NORMALIZE)
    if sample_cells < 1:
        raise BftembedError(f"sample_cells is {sample_cells}; give 1 or more.")
    file = Path(data)
    problems: list[str] = []
    loaded, matched_to = None, "HGNC"
    if genes is not None:
        try:
            loaded = GeneEmbeddings.of(genes)
            matched_to = "embeddings" if loaded is genes else str(genes)
        except BftembedError as err:
            problems.append(str(err))
    n_bytes = file.stat().st_size if file.is_file() else 0
    found = CellCheck(file, n_bytes, key, (), None, None, None, (), ())
    try:
        with open_h5ad(file) as handle:
            check_slots(handle)
            obsm = _obsm_keys(handle)
            found = replace(found, obsm=obsm, notes=tuple(_notes(handle)))
            problems.extend(_problems_of_slots(handle, key, overwrite))
            expression, named = _expression(handle, layer, use_raw, gene_column, problems)
            if expression is None:
                return replace(found, problems=tuple(dict.fromkeys(problems)))
            found = replace(found, matrix=_matrix(expression))
            rows = np.full(expression.n_genes, -1)
            if named:
                matched, rows = _match(expression, loaded, matched_to, problems)
                found = replace(found, genes=matched)
            looked = sample(expression.matrix, rows.astype(np.int32), sample_cells)
            found = _with_values(found, expression, looked, bool((rows >= 0).any()), normalize, problems)
    except BftembedError as err:
        problems.append(str(err))
    return replace(found, problems=tuple(dict.fromkeys(problems)))


def _obsm_keys(handle: h5py.File) -> tuple[str, ...]:
    obsm = handle.get("obsm")
    if isinstance(obsm, h5py.Dataset):
        return tuple(obsm.dtype.names or ())
    return tuple(obsm) if isinstance(obsm, h5py.Group) else ()


def _is_rewritten(handle: h5py.File) -> bool:
    return any(isinstance(handle.get(name), h5py.Dataset) for name in ("obsm", "uns", "obs"))


def _notes(handle: h5py.File) -> Iterator[str]:
    if _is_rewritten(handle):
        yield "written by anndata before 0.7: embed reads the file into memory as a whole, and writes it anew"


def _problems_of_slots(handle: h5py.File, key: str, overwrite: bool) -> Iterator[str]:
    """Yield what stands in the way of the output, beside the matrix."""
    try:
        check_free(handle, key, overwrite, handle.filename)
    except BftembedError as err:
        yield str(err)
    uns = handle.get("uns")
    if isinstance(uns, h5py.Group) and UNS in uns and not isinstance(uns[UNS], h5py.Group):
        yield f"{handle.filename}: .uns[{UNS!r}] is a value, not one entry per embedding. Rename or delete it first."
    if not _is_rewritten(handle):
        return

    found: list[str] = []

    def check(name: str, member: Any) -> None:
        try:
            check_declared_size(member, handle.filename)
            if isinstance(member, h5py.Group) and compressed_format(member):
                Compressed.from_hdf5(member, f"{handle.filename}: /{name}")
        except BftembedError as err:
            found.append(str(err))

    handle.visititems(check)
    yield from found


def _expression(
    handle: h5py.File, layer: str | None, use_raw: bool, gene_column: str | None, problems: list[str]
) -> tuple[Expression | None, bool]:
    """Return the matrix, where it can be read at all, and whether its genes have names."""
    try:
        return expression_of_file(handle, layer=layer, use_raw=use_raw, gene_column=gene_column), True
    except BftembedError as err:
        problems.append(str(err))
    try:
        read_var_names(handle, gene_column, use_raw=use_raw)
    except BftembedError as err:
        # Only the names may be wrong, and the values have more to tell.
        problems.append(str(err))
        var = handle.get("raw/var" if use_raw else "var")
        index = var.attrs.get("_index", "_index") if isinstance(var, h5py.Group) else "index"
        try:
            return expression_of_file(handle, layer=layer, use_raw=use_raw, gene_column=str(index)), False
        except BftembedError:
            pass
    return None, False


def _matrix(expression: Expression) -> MatrixFound:
    matrix = expression.matrix.matrix if isinstance(expression.matrix, Columns) else expression.matrix
    sparse = isinstance(matrix, Compressed)
    stored = matrix.data if isinstance(matrix, Compressed) else matrix.values
    form = "dense" if not isinstance(matrix, Compressed) else "CSR" if matrix.by_cell else "CSC"
    filters: list[int] = []
    if isinstance(stored, h5py.Dataset):
        properties = stored.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    return MatrixFound(
        name=expression.name,
        form=form,
        dtype=str(stored.dtype),
        index_dtype=str(matrix.indices.dtype) if isinstance(matrix, Compressed) else "",
        n_cells=expression.n_cells,
        n_genes=expression.n_genes,
        n_other_features=expression.n_other_features,
        n_values=matrix.n_values,
        density=matrix.n_values / (matrix.shape[0] * matrix.shape[1]) if sparse else None,
        compression=getattr(stored, "compression", None) or ", ".join(f"filter {number}" for number in filters),
        chunk=getattr(stored, "chunks", None),
        n_bytes=int(stored.id.get_storage_size()) if isinstance(stored, h5py.Dataset) else 0,
        others=expression.others,
    )


def _match(
    expression: Expression, embeddings: GeneEmbeddings | None, matched_to: str, problems: list[str]
) -> tuple[GenesFound | None, np.ndarray]:
    """Return what became of the genes, and the row of each among the embeddings or the genes of HGNC."""
    from bftembed.entities.genes import GeneIndex

    index = GeneIndex.default()
    ids = list(index) if embeddings is None else list(embeddings.ids)
    try:
        match = match_genes(expression.genes, ids, index.resolve, where=expression.where)
    except BftembedError as err:
        message = str(err)
        if embeddings is None:
            message = (
                f"{expression.where}: none of its {expression.n_genes} genes is known to HGNC: "
                f"{examples(expression.genes)}. Is it another species or another kind of name? A column of .var with "
                f"symbols or Ensembl identifiers can be chosen with gene_column (--gene-column)."
            )
        problems.append(message)
        return None, np.full(expression.n_genes, -1)
    found = GenesFound(
        matched_to=matched_to,
        n_used=match.n_used,
        n_mapped=match.n_mapped,
        n_ambiguous=match.n_ambiguous,
        n_unresolved=match.n_unresolved,
        n_no_embedding=match.n_no_embedding,
        n_duplicates=match.n_duplicates,
        share=(match.n_used + match.n_mapped) / expression.n_genes,
    )
    return found, match.rows


def _with_values(
    found: CellCheck, expression: Expression, looked: Sample, matched: bool, normalize: str, problems: list[str]
) -> CellCheck:
    """Add what the sample tells, and the problems in it."""
    assert found.matrix is not None  # or there would be no sample
    seen, n_cells, n_genes = looked.summary, len(looked.cells), len(looked.genes)
    every_gene = n_genes == expression.n_genes
    whole = every_gene and n_cells == expression.n_cells
    said = "all values" if whole else f"{n_cells:,} of {expression.n_cells:,} cells"
    said = said if every_gene else f"{n_genes:,} of {expression.n_genes:,} genes, in all cells"
    within = "" if whole else f"In a sample ({said}): "
    for n, first, what, cause in (
        (seen.n_not_finite, seen.first_not_finite, "NaN, infinite or beyond float32", "Repair or remove them"),
        (seen.n_negative, seen.first_negative, "negative", "Scaled or regressed values cannot be weights"),
    ):
        if first is not None:
            cell, gene = int(looked.cells[first[0]]), int(looked.genes[first[1]])
            others = f"Other matrices here: {'; '.join(expression.others)}." if expression.others else ""
            remedy = others or "There is no other matrix in the data: go back to the counts or the logged values."
            problems.append(
                f"{expression.where}: {within}{n} values are {what}, the first in row {cell}, gene "
                f"{expression.genes[gene]!r} (column {gene}). {cause}. {remedy}"
            )
    decided, reason = "", ""
    if not seen.bad:
        try:
            decision = decide(
                normalize, seen, logged=expression.logged, where=expression.where, others=expression.others
            )
            decided, reason = decision.normalize, decision.reason + ("" if whole else ", in the sample")
        except BftembedError as err:
            problems.append(str(err) if whole else f"{within}{err}")
    empty = np.flatnonzero(seen.covered <= 0) if every_gene and matched and not seen.bad else None
    if empty is not None and len(empty):
        shown = ", ".join(str(row) for row in looked.cells[empty[:5]]) + (" …" if len(empty) > 5 else "")
        problems.append(
            f"{expression.where}: {within}{len(empty)} of {n_cells} cells (rows {shown}) express no gene with an "
            f"embedding. They can have no vector. Filter them, or choose empty_cells='drop' or 'nan' (--empty-cells "
            f"drop|nan)."
        )
    total = float(seen.totals.sum())
    values = ValuesFound(
        sampled=said,
        whole=whole,
        coverage=float(seen.covered.sum()) / total if total > 0 and matched and not seen.bad else None,
        normalize=decided,
        reason=reason,
        n_empty=None if empty is None else len(empty),
        n_not_finite=seen.n_not_finite,
        n_negative=seen.n_negative,
    )
    density = found.matrix.density
    if density is None and n_cells:
        density = looked.n_filled / (n_cells * n_genes)
    return replace(found, matrix=replace(found.matrix, density=density), values=values)
