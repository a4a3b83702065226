"""One h5ad file for STATE: vectors, then expression, block by block into HDF5; nothing is held for all cells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells import compiled
from bftembed.cells.ahead import Behind, ahead
from bftembed.cells.blocks import Dense
from bftembed.cells.compiled import by_rows
from bftembed.cells.examine import Examiner, ValueSummary
from bftembed.cells.normalize import DEPTH
from bftembed.cells.reading import expression_in
from bftembed.cells.rows import Rows
from bftembed.cells.sinks import Dataset, writing
from bftembed.errors import BftembedError, examples
from bftembed.hdf5 import damage_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bftembed.cells.blocks import Matrix
    from bftembed.cells.reading import Expression
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.cells.task import Task
    from bftembed.export.labels import CellLabels, Columns
    from bftembed.progress import Progress

EMBED_KEY, HVG_KEY = "X_bft", "X_hvg"
#: cell-eval refuses values of this size or more: log1p of counts per 10,000 does not reach it.
TOO_LARGE = 15.0
#: Numbers in a block of X, 32 MB, and most cells of one.
_BLOCK_NUMBERS, _MOST_ROWS = 2**23, 2048


@dataclass(frozen=True, eq=False)
class Embedded:
    """What the first pass over a file tells: `sample` are some of its cells, as stored; `provenance` for ``.uns``."""

    report: CellEmbeddingReport
    genes: list[str]
    sample: Rows
    provenance: dict[str, Any]


@dataclass(frozen=True)
class GenePlan:
    """Genes of X, in their order, and which of them are highly variable, bool (n,)."""

    names: tuple[str, ...]
    variable: NDArray[np.bool_]

    @property
    def variable_names(self) -> list[str]:
        """Names of the highly variable genes, in their order: the columns of X_hvg."""
        return [name for name, is_one in zip(self.names, self.variable, strict=True) if is_one]


@dataclass
class _Tee:
    """A matrix that keeps copies of some cells as its blocks pass by."""

    matrix: Matrix
    wanted: NDArray[np.int64]
    kept: list[Rows] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        self.kept.clear()
        for rows in self.matrix.rows(block_rows, cells, scratch=scratch):
            low, high = np.searchsorted(self.wanted, (rows.start, rows.stop))
            for row in self.wanted[low:high] - rows.start:
                part = slice(rows.indptr[row], rows.indptr[row + 1])
                ends = np.array([0, part.stop - part.start], dtype=np.int64)
                self.kept.append(Rows(0, ends, rows.indices[part].copy(), rows.values[part].copy()))
            yield rows

    def sample(self) -> Rows:
        ends = np.cumsum([0, *(len(rows.values) for rows in self.kept)], dtype=np.int64)
        none = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        indices = np.concatenate([rows.indices for rows in self.kept] or none[0])
        values = np.concatenate([rows.values for rows in self.kept] or none[1])
        return Rows(0, ends, indices, values)


def values_per_cell(matrix: Matrix) -> float:
    """Return how many values a cell has stored, on average; all of them in a dense matrix."""
    return matrix.n_values / matrix.shape[0]


def write_vectors(
    path: Path, out: Path, task: Task, choice: dict[str, Any], *, kernel: str, sampled: NDArray[np.int64], key: str
) -> Embedded:
    """Make the file `out` with ``.obsm[key]`` alone, float32 (n_cells, d), and look at every value on the way.

    Parameters
    ----------
    path
        The input; `choice` says which of its matrices.
    task, kernel
        How to embed; a kernel by name, so that the clock chooses nothing.
    sampled
        Rising positions of the cells that `Embedded.sample` is to hold.

    Raises
    ------
    BftembedError
        As `bftembed.cells.embed.embed_cells`; also for a cell that expresses no gene with an embedding, and for gene
        names that occur twice.
    """
    import h5py

    with expression_in(path, **choice) as expression, h5py.File(out, "w") as file:
        _refuse_double_genes(expression.genes, expression.where)
        tee = _Tee(expression.matrix, sampled)
        ready = task.prepare(replace(expression, matrix=tee), scratch=out.parent)  # type: ignore[arg-type]
        for slot in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            file.create_group(slot).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        vectors = _matrix(file["obsm"], key, (expression.n_cells, ready.dim))
        done = task.run(ready, Dataset(vectors), kernel=kernel)
        if done.empty.any():
            names = ready.names_of(np.flatnonzero(done.empty))
            raise BftembedError(
                f"{expression.where}: {len(names)} of {expression.n_cells} cells express no gene with an embedding "
                f"({examples(names)}) and can have no vector. Filter them first."
            )
        provenance = task.provenance(done.report, choice["gene_column"])
        return Embedded(done.report, expression.genes, tee.sample(), provenance)


def write_expression(
    path: Path,
    out: Path,
    plan: GenePlan,
    choice: dict[str, Any],
    *,
    transform: str,
    progress: Progress,
    before: int,
    total: int,
) -> None:
    """Add X (dense float32, log1p) and ``.obsm["X_hvg"]`` to `out`; `before` cells of `total` were written already.

    Raises
    ------
    BftembedError
        For values of 15 or more after the logarithm.
    """
    import h5py

    with expression_in(path, **choice) as expression, h5py.File(out, "r+") as file:
        n, place = expression.n_cells, {name: i for i, name in enumerate(expression.genes)}
        columns = np.array([place[name] for name in plan.names], dtype=np.int64)
        variable = np.flatnonzero(plan.variable)
        height = max(1, min(_MOST_ROWS, _BLOCK_NUMBERS // expression.n_genes))
        whole = _matrix(file, "X", (n, len(columns)))
        part = _matrix(file["obsm"], HVG_KEY, (n, len(variable)))

        def write(start: int, block: NDArray[np.float32], piece: NDArray[np.float32]) -> None:
            with writing():
                whole[start : start + len(block)] = block
                part[start : start + len(block)] = piece

        blocks = _dense_blocks if isinstance(expression.matrix, Dense) else _sparse_blocks
        with Behind(write) as writer:
            for start, block in ahead(blocks(expression, columns, transform, height, out.parent)):
                if float(block.max(initial=0.0)) >= TOO_LARGE:
                    raise BftembedError(
                        f"{expression.where}: values reach {block.max():g}; log1p of normalised counts stays "
                        f"below {TOO_LARGE:g}, and cell-eval refuses more. Are they not logged? Then say so: "
                        "normalize='log1p-cp10k' (--normalize log1p-cp10k)."
                    )
                writer(start, block, _taken(block, variable))
                progress(before + start + len(block), total, "writing expression")


def _taken(block: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    every = len(columns) == block.shape[1] and bool((np.diff(columns) == 1).all())
    return block if every else np.take(block, columns, axis=1)


def _dense_blocks(
    expression: Expression, columns: NDArray[np.int64], transform: str, height: int, scratch: Path
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield rows of a dense matrix as they lie; every value was looked at when it was embedded."""
    for start in range(0, expression.n_cells, height):
        with damage_named(expression.where):
            block = np.asarray(expression.matrix.values[start : start + height])  # type: ignore[union-attr]
        if transform == "log1p-cp10k":
            totals = block.sum(axis=1, keepdims=True, dtype=np.float64)
            part = _taken(block, columns) * (DEPTH / np.maximum(totals, 1e-30))
            yield start, np.log1p(part, dtype=np.float32, casting="same_kind")
        else:
            yield start, _taken(block, columns).astype(np.float32, copy=False)


def _sparse_blocks(
    expression: Expression, columns: NDArray[np.int64], transform: str, height: int, scratch: Path
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    target_of = np.full(expression.n_genes, -1, dtype=np.int32)
    target_of[columns] = np.arange(len(columns))
    examiner = Examiner(target_of, 0, ValueSummary.of(expression.n_cells))
    for rows in expression.matrix.rows(height, scratch=scratch):
        placed = examiner.place(rows)
        if transform == "log1p-cp10k":
            totals = examiner.summary.totals[rows.start : rows.stop]
            by_rows(compiled.scale, len(rows), placed.indptr, placed.values, DEPTH / np.maximum(totals, 1e-30))
            np.log1p(placed.values, out=placed.values)
        block = np.empty((len(rows), len(columns)), dtype=np.float32)
        by_rows(compiled.fill_float32, len(rows), placed.indptr, placed.targets, placed.values, block)
        yield rows.start, block


def write_tables(
    out: Path, labels: CellLabels, columns: Columns, plan: GenePlan, about: dict[str, Any], *, simulated: bool
) -> None:
    """Add ``.obs`` (categories in use alone), ``.var`` (an index without a name) and ``.uns`` to `out`."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    obs = pd.DataFrame(
        {
            columns.pert: pd.Categorical(labels.perturbation),
            columns.cell_type: pd.Categorical(labels.cell_type),
            columns.batch: pd.Categorical(labels.batch),
        },
        index=pd.Index(labels.names, dtype=object),
    )
    names = np.array(plan.names, dtype=object)
    var = pd.DataFrame({"gene_name": names, "highly_variable": plan.variable}, index=pd.Index(names, dtype=object))
    uns = {
        "log1p": {},
        "hvg_names": np.array(plan.variable_names, dtype=object),
        "bftembed": about,
        **({"simulated": True} if simulated else {}),
    }
    with h5py.File(out, "r+") as file:
        write_elem(file, "obs", obs)
        write_elem(file, "var", var)
        write_elem(file, "uns", uns)


def _matrix(group: Any, name: str, shape: tuple[int, int]) -> Any:
    stored = group.create_dataset(name, shape=shape, dtype=np.float32)
    stored.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return stored


def _refuse_double_genes(genes: Sequence[str], where: str) -> None:
    distinct, times = np.unique(np.array(genes, dtype=str), return_counts=True)
    if len(distinct) < len(genes):
        raise BftembedError(
            f"{where}: {int((times > 1).sum())} gene names occur more than once ({examples(distinct[times > 1], 3)}). "
            "STATE knows genes by their names: sum or remove the doubles, or choose another column (--gene-column)."
        )
