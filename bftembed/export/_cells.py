"""Cells and perturbation labels of a screen as STATE reads them: one h5ad per input, in blocks; a vector per label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from bftembed.cells.embed import embed_cells
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.expression.normalize import log_cp10k
from bftembed.expression.source import open_expression
from bftembed.hdf5 import open_h5ad
from bftembed.io import canonical_json
from bftembed.tasks.data import missing_label, read_cells

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.expression.source import Expression
    from bftembed.progress import Progress

#: cell-eval rejects values of this size or more: log1p of counts per 10,000 does not reach it.
TOO_LARGE = 15.0
EMBED_KEY, HVG_KEY = "X_bft", "X_hvg"
FEATURES = "pert_features.pt"
#: Numbers in a block of X, 32 MB, and most cells of one.
_BLOCK_NUMBERS, _MAX_ROWS = 2**23, 2048
#: Most cells, and most stored values, that highly variable genes are chosen from: about 200 MB.
_SAMPLED_CELLS, _SAMPLED_VALUES = 10_000, 25_000_000


@dataclass(frozen=True)
class Columns:
    """Columns of ``.obs``, and the label of unperturbed cells."""

    pert: str
    cell_type: str
    batch: str
    control: str


@dataclass(frozen=True, eq=False)
class Screen:
    """A file: names and labels of its cells, object (n_cells,) of str each; its genes; whether it is simulated."""

    path: Path
    choice: dict[str, Any]
    names: NDArray[Any]
    perturbation: NDArray[Any]
    cell_type: NDArray[Any]
    batch: NDArray[Any]
    genes: list[str]
    n_values: float
    simulated: bool


def read_screen(path: Path, columns: Columns, choice: dict[str, Any]) -> Screen:
    """Read names and labels of a h5ad file; `choice` is layer, use_raw and gene_column of `open_expression`."""
    with open_h5ad(path) as file:
        simulated = "simulated" in file.get("uns", ())
    with open_expression(path, **choice) as expression:
        names, genes, n_values = expression.cell_names(), expression.genes, expression.matrix.n_values
    wanted = (columns.pert, columns.cell_type, columns.batch)
    found, _, _ = read_cells(path, (), wanted)
    for key, values in found.items():
        if n := sum(map(missing_label, values)):
            raise BftembedError(
                f"{path}: {n} of {len(names)} cells have no value in obs[{key!r}]. Label or remove them."
            )
    for what, all_names in (("cell", names), ("gene", genes)):
        if len(set(all_names)) < len(all_names):
            raise BftembedError(f"{path}: {what} names occur more than once. Make them unique, or choose a column.")
    pert, cell_type, batch = (np.array([str(x) for x in found[key]], dtype=object) for key in wanted)
    cells = np.array(names, dtype=object)
    one = Screen(path, choice, cells, pert, cell_type, batch, genes, n_values, simulated)
    is_control = one.perturbation == columns.control
    if not is_control.any():
        raise unknown_name("control", columns.control, sorted(set(one.perturbation)), where=str(path))
    if without := sorted(set(one.cell_type) - set(one.cell_type[is_control])):
        raise BftembedError(
            f"{path}: no control cells ({columns.control!r}) of the cell types {examples(without)}. STATE pairs cells "
            "with controls of the same cell type in the same file: add them, or leave these cell types out."
        )
    texts = {*one.perturbation, *one.cell_type}
    if bad := sorted(text for text in texts if '"' in text or "\\" in text or not text.isprintable()):
        raise BftembedError(f"{path}: the TOML reader of STATE cannot read {examples(bad, 3)}. Rename it.")
    return one


def write_embeddings(
    screen: Screen, out: Path, genes: GeneEmbeddings, normalize: str, progress: Progress
) -> CellEmbeddingReport:
    """Write an h5ad file with ``.obsm["X_bft"]`` alone, float32 (n_cells, d)."""
    options: dict[str, Any] = {"normalize": normalize, "progress": progress, **screen.choice}
    return cast("CellEmbeddingReport", embed_cells(screen.path, genes, sidecar=out, key=EMBED_KEY, **options))


def choose_genes(
    screens: Sequence[Screen], reports: Sequence[CellEmbeddingReport], n_top: int, perturbed: Collection[str], seed: int
) -> tuple[pd.Series[bool], str]:
    """Return gene of X → whether it is highly variable (the others are perturbed ones), and how these were chosen.

    Highly variable are those of scanpy's flavor "seurat" (Satija et al. 2015) on the log1p values of controls and
    perturbed cells of all splits. X_hvg is no input of evaluation alone, so all that leaks is which genes vary.
    """
    if n_top < 1:
        raise BftembedError(f"hvg (--hvg) is {n_top}; give 1 or more.")
    genes = screens[0].genes
    for one in screens:
        if other := sorted(set(one.genes) ^ set(genes)):
            raise BftembedError(
                f"{one.path} and {screens[0].path} have different genes: {examples(other)} are in one alone. STATE "
                "needs the same genes in every file: cut the files to the common ones, or bring them to one reference."
            )
    variable, how = np.ones(len(genes), dtype=bool), f"all {len(genes)} genes: there are no more than {n_top}"
    if n_top < len(genes):
        import scanpy
        from anndata import AnnData
        from scipy.sparse import vstack

        n_cells, n_values = sum(len(one.names) for one in screens), sum(one.n_values for one in screens)
        share = min(1.0, _SAMPLED_CELLS / n_cells, _SAMPLED_VALUES / max(1.0, n_values))
        parts = []
        for i, (one, report) in enumerate(zip(screens, reports, strict=True)):
            draw = np.random.default_rng([seed, 2, i])
            n = len(one.names)
            sampled = np.sort(draw.choice(n, max(1, round(share * n)), replace=False))
            with open_expression(one.path, **one.choice) as expression:
                blocks = [block for _, block in _logged(expression, report, _MAX_ROWS, sampled)]
            parts.append(vstack(blocks, format="csr")[:, _positions(one, genes)])
        cells = AnnData(vstack(parts, format="csr"))
        found: Any = scanpy.pp.highly_variable_genes(cells, flavor="seurat", n_top_genes=n_top, inplace=False)
        variable = found["highly_variable"].to_numpy(dtype=bool)
        of = "all" if share == 1 else "a seeded sample of"
        how = f"scanpy, flavor seurat, {n_top} of {len(genes)} genes, from {of} {cells.n_obs} cells of every split"
    symbols = [found.entity for found in GeneIndex.default().resolve(genes)]
    targeted = [gene in perturbed or symbol in perturbed for gene, symbol in zip(genes, symbols, strict=True)]
    return pd.Series(variable, index=pd.Index(genes, dtype=object))[variable | targeted], how


def _positions(screen: Screen, names: Iterable[str]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(screen.genes)}
    return np.array([place[name] for name in names], dtype=np.int64)


def _logged(
    expression: Expression, report: CellEmbeddingReport, height: int, cells: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, csr_matrix]]:
    """Yield runs of cells × all genes, float32, log1p, and the position of the first; of `cells` alone, sorted."""
    for rows in expression.matrix.rows(height):
        block = rows.to_csr(expression.n_genes)
        if cells is not None:
            low, high = np.searchsorted(cells, (rows.start, rows.stop))
            block = block[cells[low:high] - rows.start]
        block.sum_duplicates()
        if report.normalize == "log1p-cp10k":
            log_cp10k(block)
        yield rows.start, block.astype(np.float32, copy=False)


def write_cells(
    out: Path,
    screen: Screen,
    report: CellEmbeddingReport,
    columns: Columns,
    genes: pd.Series[bool],
    about: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Add X (dense float32, log1p), X_hvg and the tables to a file of `write_embeddings`.

    ``.obs`` has the categories in use alone, ``.var`` an index without a name, as STATE needs them.
    """
    import h5py
    from anndata.io import write_elem

    taken, variable, n = _positions(screen, genes.index), np.flatnonzero(genes), len(screen.names)
    with open_expression(screen.path, **screen.choice) as expression, h5py.File(out, "r+") as file:
        for name, width in (("X", len(taken)), (f"obsm/{HVG_KEY}", len(variable))):
            stored = file.create_dataset(name, shape=(n, width), dtype=np.float32)
            stored.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        height = max(1, min(_MAX_ROWS, _BLOCK_NUMBERS // expression.n_genes))
        for start, cells in _logged(expression, report, height):
            block = cells[:, taken].toarray()
            if (largest := float(block.max(initial=0.0))) >= TOO_LARGE:
                raise BftembedError(
                    f"{expression.where}: values reach {largest:g}; log1p of normalized counts stays below "
                    f"{TOO_LARGE:g}. Are they not logged? Then say so: --normalize log1p-cp10k."
                )
            rows = slice(start, start + len(block))
            file["X"][rows] = block
            file["obsm"][HVG_KEY][rows] = block[:, variable]
            progress(rows.stop, n, "writing expression")
        found = (
            (columns.pert, screen.perturbation),
            (columns.cell_type, screen.cell_type),
            (columns.batch, screen.batch),
        )
        labels = {key: pd.Categorical(values) for key, values in found}
        write_elem(file, "obs", pd.DataFrame(labels, index=pd.Index(screen.names, dtype=object)))
        index = genes.index
        var = {"gene_name": pd.Series(index.to_numpy(), index, dtype=object), "highly_variable": genes.to_numpy()}
        write_elem(file, "var", pd.DataFrame(var, index=index))
        write_elem(file["uns"], "log1p", {})
        write_elem(file["uns"], "hvg_names", index[variable].to_numpy())
        write_elem(file["uns"], "state_export", canonical_json({**about, "source": screen.path.name}))
        if about["simulated"]:
            write_elem(file["uns"], "simulated", True)


@dataclass(frozen=True)
class Target:
    """Meaning of a perturbation label, which is the key of its vector."""

    label: str
    #: Ids of embeddings, approved symbols, or the name as it is where nothing is known; none for the control.
    genes: tuple[str, ...]
    #: ``"control"``, ``"used"`` (ids of embeddings), ``"mapped"`` (found by another name) or ``"missing"``.
    status: str
    #: By what it was mapped, or why it is missing.
    note: str = ""


def resolve_label(label: str, embeddings: GeneEmbeddings, control: str) -> Target:
    """Return what a label perturbs.

    A label that is the id of an embedding is taken as it is; else it is resolved by `GeneIndex` (aliases, previous
    symbols, Ensembl ids, case). A label that is neither is split at ``+``; a part that is the control is no gene:
    ``"TP53+ctrl"`` is TP53. An ambiguous name is not guessed.
    """
    if label == control:
        return Target(label, (), "control")
    gene, status, note = _gene(label, embeddings)
    if status != "missing" or "+" not in label:
        return Target(label, (gene,), status, note)
    parts = [_gene(part, embeddings) for part in map(str.strip, label.split("+")) if part != control]
    genes = tuple(dict.fromkeys(gene for gene, _, _ in parts)) or (label,)
    worst = min((s for _, s, _ in parts), key=("missing", "mapped", "used").index, default="missing")
    return Target(label, genes, worst, "; ".join(note for _, _, note in parts if note))


def _gene(name: str, embeddings: GeneEmbeddings) -> tuple[str, str, str]:
    if name in embeddings:
        return name, "used", ""
    (found,) = GeneIndex.default().resolve([name])
    if found.symbol is None:
        why = f"ambiguous ({', '.join(found.candidates)})" if found.status == "ambiguous" else "no known gene"
        return name, "missing", f"{name} is {why}"
    if found.symbol not in embeddings:
        return found.symbol, "missing", f"{found.symbol} has no embedding"
    return found.symbol, "mapped", f"{name} is {found.symbol} ({found.via})"


def write_features(path: Path, targets: Mapping[str, Target], embeddings: GeneEmbeddings) -> None:
    """Write the vector of every label, a float32 tensor (d,) with a storage of its own, for ``weights_only=True``.

    That of a combination is the sum of its genes' vectors: effects of two genes add, to first order, and the control,
    which perturbs nothing, is the empty sum: the zero vector that cell-load itself would give it. What is missing is
    zero too.
    """
    torch: Any = require("torch", "local")
    vectors = {label: np.zeros(embeddings.dim, dtype=np.float32) for label in targets}
    for label, target in targets.items():
        for gene in target.genes if target.status != "missing" else ():
            vectors[label] += embeddings.vector(gene)
    torch.save({str(label): torch.from_numpy(vector).clone() for label, vector in vectors.items()}, path)
