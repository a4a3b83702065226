"""Rules for the h5ad files: cell-load reads them with h5py, so what counts is how they lie on disk."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.export.findings import FAIL, WARN, Finding
from bftembed.hdf5 import as_text, open_h5ad, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bftembed.export.expected import Expected
    from bftembed.export.findings import Level

    Say = Callable[[Level, str, str], None]

HVG_KEY = "X_hvg"
TOO_LARGE, FEWEST_DIMENSIONS = 15.0, 8
_BLOCK_NUMBERS = 2**23
#: Cells in which the columns of X_hvg are held against those of X.
_COMPARED = 256


@dataclass(eq=False)
class CellFile:
    """What other rules need to know of a file.

    Attributes
    ----------
    path, name
        The file, and what messages call it.
    labels, cell_types
        Categories of perturbations and of cell types.
    conditions
        Pairs of cell type and label that have cells.
    obsm
        Key → number of columns.
    hvg_names
        Names of the columns of X_hvg, as cell-load takes them; None where they are not told.
    logged
        Whether there is ``uns["log1p"]``.
    """

    path: Path
    name: str
    labels: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    conditions: set[tuple[str, str]] = field(default_factory=set)
    obsm: dict[str, int] = field(default_factory=dict)
    genes: list[str] = field(default_factory=list)
    hvg_names: list[str] | None = None
    logged: bool = False


def read_cell_file(path: Path, name: str, expected: Expected, found: list[Finding]) -> CellFile | None:
    """Check one file, add what is wrong to `found`, and return what it holds; None where it cannot be read."""

    def say(level: Any, what: str, remedy: str) -> None:
        found.append(Finding(level, name, what, remedy))

    one = CellFile(path, name)
    try:
        with open_h5ad(path) as file:
            if not isinstance(file.get("obs"), h5py.Group) or not isinstance(file.get("var"), h5py.Group):
                say(FAIL, "obs or var is no table of anndata 0.7 or later", "Write it again with anndata")
                return None
            _check_labels(file["obs"], one, expected, say)
            n = _n_cells(file["obs"])
            _check_genes(file, one, say)
            one.logged = isinstance(file.get("uns"), h5py.Group) and "log1p" in file["uns"]
            _check_expression(file.get("X"), "X", (n, len(one.genes)), expected, say)
            _check_embeddings(file.get("obsm"), one, n, expected, say)
            _check_variable(file, one, expected, say)
    except (BftembedError, KeyError, ValueError, TypeError, IndexError, AttributeError) as err:
        text = str(err).replace(str(path), name) or type(err).__name__
        say(FAIL, f"it cannot be read ({text.rstrip('.')})", "Write it again")
        return None
    return one


def check_files(cells: Sequence[CellFile], expected: Expected, found: list[Finding]) -> None:
    """Check what must be alike in all files."""
    if len(cells) < 2:
        return
    first, names = cells[0], ", ".join(one.name for one in cells)
    if len({one.logged for one in cells}) > 1:
        without = [one.name for one in cells if not one.logged]
        what = f'uns["log1p"] is in some files and not in others ({examples(without)}): output_space=all fails'
        found.append(Finding(FAIL, without[0], what, "Log all values alike, and set uns['log1p'] in all files"))
    for key in sorted({key for one in cells for key in one.obsm}):
        dims = {one.name: one.obsm.get(key) for one in cells}
        if len(set(dims.values())) > 1:
            told = ", ".join(f"{name} {'none' if dim is None else dim}" for name, dim in dims.items())
            found.append(Finding(FAIL, names, f"obsm[{key!r}] differs in size: {told}", "Export all files together"))
    for one in cells[1:]:
        if one.hvg_names is not None and first.hvg_names is not None and one.hvg_names != first.hvg_names:
            what = f"the columns of {HVG_KEY} are other genes, or in another order, than in {first.name}"
            found.append(Finding(FAIL, one.name, what, "Bring all files to one order of genes"))
        if expected.output_space == "all" and one.genes != first.genes:
            what = f"the genes of X are others, or in another order, than in {first.name}"
            found.append(Finding(FAIL, one.name, what, "Bring all files to one order of genes"))


def _n_cells(obs: Any) -> int:
    from bftembed.cells.tables import n_rows

    return n_rows(obs)


def _check_labels(obs: Any, one: CellFile, expected: Expected, say: Say) -> None:
    codes: dict[str, NDArray[np.int64]] = {}
    categories: dict[str, list[str]] = {}
    members = [name for name in obs if name != _index(obs)]
    for column in (expected.pert, expected.cell_type, expected.batch):
        if column not in members:
            near = difflib.get_close_matches(column, members, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {examples(members)}"
            say(FAIL, f"obs has no column {column!r}{hint}", "Name the column as it is, or rename it")
            continue
        values = obs[column]
        if isinstance(values, h5py.Dataset):
            if column != expected.batch or values.dtype.kind not in "iu":
                say(
                    FAIL, f"obs[{column!r}] is not categorical", f"adata.obs[{column!r}].astype(str).astype('category')"
                )
            continue
        categories[column], codes[column] = strings(values["categories"]), values["codes"][:].astype(np.int64)
        _check_column(column, categories[column], codes[column], expected, say)
    one.labels = tuple(categories.get(expected.pert, ()))
    one.cell_types = tuple(categories.get(expected.cell_type, ()))
    if expected.pert in codes:
        _check_controls(one, codes, categories, expected, say)
    names = strings(obs[_index(obs)])
    if n_double := len(names) - len(set(names)):
        say(WARN, f"{n_double} cell names occur again", "adata.obs_names_make_unique()")


def _check_column(column: str, known: list[str], codes: NDArray[np.int64], expected: Expected, say: Say) -> None:
    if n_missing := int((codes < 0).sum()):
        say(FAIL, f"{n_missing} cells have no value in obs[{column!r}] (NaN)", "Label or remove these cells")
    unused = [name for i, name in enumerate(known) if i not in set(np.unique(codes).tolist())]
    if unused:
        level = WARN if column == expected.batch else FAIL
        become = ": cell-load takes them for perturbations" if column == expected.pert else ""
        what = f"{len(unused)} categories of obs[{column!r}] have no cells ({examples(unused, 3)}){become}"
        say(level, what, f"adata.obs[{column!r}].cat.remove_unused_categories()")
    if odd := [name for name in known if name.strip().lower() in ("nan", "none", "")]:
        say(WARN, f"obs[{column!r}] has a category {odd[0]!r}: is it a missing value?", "Label or remove these cells")


def _check_controls(
    one: CellFile,
    codes: dict[str, NDArray[np.int64]],
    categories: dict[str, list[str]],
    expected: Expected,
    say: Say,
) -> None:
    labels, perturbed = categories[expected.pert], codes[expected.pert]
    place = labels.index(expected.control) if expected.control in labels else -2
    if not (perturbed == place).any():
        near = difflib.get_close_matches(expected.control, labels, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        say(
            FAIL,
            f"no cell is a control ({expected.control!r}){hint}",
            "Each file needs controls, under that very label",
        )
        return
    if len(labels) < 2:
        say(WARN, "there is no perturbation beside the control", "Leave this file out, or add cells")
    types = codes.get(expected.cell_type)
    if types is None:
        return
    names = categories[expected.cell_type]
    lacking = [names[i] for i in np.unique(types[types >= 0]) if not (perturbed[types == i] == place).any()]
    if lacking:
        say(FAIL, f"no control of the cell types {examples(lacking)}", "Controls are taken from the same file alone")
    pairs = np.unique(np.stack([types, perturbed])[:, (types >= 0) & (perturbed >= 0)], axis=1)
    one.conditions = {(names[a], labels[b]) for a, b in pairs.T}


def _index(table: Any) -> str:
    return as_text([table.attrs.get("_index", "_index")])[0]


def _check_genes(file: Any, one: CellFile, say: Say) -> None:
    var, index = file["var"], _index(file["var"])
    has_names = "gene_name" in var
    if index != "_index":
        level = WARN if has_names else FAIL
        say(level, f"the index of var is named {index!r}", "adata.var.index.name = None")
    if not has_names:
        say(FAIL, "var has no column gene_name", "adata.var['gene_name'] = symbols, as text")
    one.genes = strings(var["gene_name"] if has_names else var[index])
    if double := [gene for gene, n in Counter(one.genes).items() if n > 1]:
        say(WARN, f"{len(double)} gene names occur more than once: {examples(double, 3)}", "Sum or remove the doubles")


def _blocks(matrix: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield runs of rows of a dense matrix, or the stored values of a CSR one as one column."""
    if isinstance(matrix, h5py.Group):
        matrix, width = matrix["data"], 1
    else:
        width = max(1, int(np.prod(matrix.shape[1:])))
    height = max(1, _BLOCK_NUMBERS // width)
    for start in range(0, matrix.shape[0], height):
        yield start, np.asarray(matrix[start : start + height])


def _kind(matrix: Any) -> str:
    if isinstance(matrix, h5py.Dataset):
        return "dense"
    return as_text([matrix.attrs.get("encoding-type", "")])[0].removesuffix("_matrix") or "group"


def _check_expression(matrix: Any, what: str, shape: tuple[int, int], expected: Expected, say: Say) -> None:
    if matrix is None or (isinstance(matrix, h5py.Dataset) and matrix.shape is None):
        say(FAIL, f"there is no {what}", "Write log1p expression, dense float32")
        return
    kind = _kind(matrix)
    if kind not in ("dense", "csr"):
        say(FAIL, f"{what} is stored as {kind.upper()}, which cell-load cannot read", "adata.X = adata.X.toarray()")
        return
    if kind == "csr" and what == "X":
        remedy = "Store it dense: with output_space=all, infer cannot load the checkpoint otherwise"
        say(WARN, "X is sparse (CSR)", remedy)
    values = matrix if kind == "dense" else matrix["data"]
    found = tuple(matrix.shape) if kind == "dense" else tuple(int(n) for n in matrix.attrs["shape"])
    if found != shape:
        say(FAIL, f"{what} has shape {found}; expected {shape}", "Write it again")
        return
    if values.dtype.kind not in "fiub":
        say(FAIL, f"{what} holds {values.dtype}", "Write log1p expression, dense float32")
        return
    if values.dtype != np.float32:
        say(WARN, f"{what} is {values.dtype}; STATE reads float32", "Store it as float32")
    _check_values(matrix, what, say)


def _check_values(matrix: Any, what: str, say: Say) -> None:
    smallest, largest, finite, whole = 0.0, 0.0, True, True
    for _, block in _blocks(matrix):
        low, high = (float(f(block, initial=0.0)) for f in (np.min, np.max))  # NaN and infinity show in them
        finite = finite and bool(np.isfinite([low, high]).all())
        smallest, largest = min(smallest, low), max(largest, high)
        whole = whole and bool((block == np.rint(block)).all())
    if not finite:
        say(FAIL, f"{what} has NaN or infinite values", "Repair or remove them")
    if smallest < 0:
        say(FAIL, f"{what} has negative values (down to {smallest:g}): scaled?", "Take log1p values, not scaled ones")
    if finite and whole and largest > 0:
        say(FAIL, f"{what} holds whole numbers (up to {largest:g}): counts, not log1p", "Normalise and take log1p")
    elif largest >= TOO_LARGE:
        say(FAIL, f"{what} reaches {largest:g}; log1p values stay below {TOO_LARGE:g}", "Normalise and take log1p")


def _check_embeddings(obsm: Any, one: CellFile, n_cells: int, expected: Expected, say: Say) -> None:
    keys = list(obsm) if isinstance(obsm, h5py.Group) else []
    for key in expected.embed_keys:
        if key not in keys:
            say(FAIL, f"there is no obsm[{key!r}]", f"Known: {examples(keys) or 'none'}")
    if HVG_KEY not in keys and HVG_KEY not in expected.embed_keys and expected.output_space == "gene":
        say(FAIL, f"there is no obsm[{HVG_KEY!r}], which output_space=gene predicts", "Export again")
    for key in keys:
        matrix, what = obsm[key], f"obsm[{key!r}]"
        kind = _kind(matrix)
        if kind not in ("dense", "csr"):
            say(FAIL, f"{what} is stored as {kind}, not as an array", "adata.obsm[KEY] = frame.to_numpy('float32')")
            continue
        shape = tuple(matrix.shape) if kind == "dense" else tuple(int(n) for n in matrix.attrs["shape"])
        if len(shape) != 2 or shape[0] != n_cells:
            say(FAIL, f"{what} has shape {shape} for {n_cells} cells", "It must be (cells, dimensions)")
            continue
        one.obsm[key] = shape[1]
        values = matrix if kind == "dense" else matrix["data"]
        if values.dtype.kind != "f":
            say(FAIL, f"{what} holds {values.dtype}", "Store it as float32")
            continue
        if values.dtype != np.float32:
            say(WARN, f"{what} is {values.dtype}; STATE reads float32", "Store it as float32")
        if key == HVG_KEY:
            _check_values(matrix, what, say)
            continue
        if not all(bool(np.isfinite(block).all()) for _, block in _blocks(matrix)):
            say(FAIL, f"{what} has NaN or infinite values", "Embed these cells again, or remove them")
        if shape[1] < FEWEST_DIMENSIONS:
            level = FAIL if expected.output_space == "all" else WARN
            say(level, f"{what} has {shape[1]} dimensions; output_space=all takes 8", "Use more dimensions")


def _check_variable(file: Any, one: CellFile, expected: Expected, say: Say) -> None:
    """Hold X_hvg against the genes that cell-load names for its columns."""
    if HVG_KEY not in one.obsm:
        return
    mask = None
    if "highly_variable" in file["var"]:
        stored = file["var/highly_variable"]
        if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "b":
            say(FAIL, "var['highly_variable'] is no plain column of True and False", "Store it as bool, without NaN")
            return
        mask = stored[:]
        one.hvg_names = [gene for gene, is_one in zip(one.genes, mask, strict=True) if is_one]
    elif isinstance(file.get("uns"), h5py.Group) and "hvg_names" in file["uns"]:
        one.hvg_names = strings(file["uns/hvg_names"])
    n = one.obsm[HVG_KEY]
    n_named = len(one.genes) if one.hvg_names is None else len(one.hvg_names)
    if n_named != n:
        what = f"{HVG_KEY} has {n} columns, but {n_named} genes are named for them"
        say(FAIL, what, "Set var['highly_variable'] to the genes of X_hvg, in its order")
        return
    told = strings(file["uns/hvg_names"]) if "uns/hvg_names" in file else None
    if one.hvg_names is not None and told is not None and told != one.hvg_names:
        say(FAIL, "uns['hvg_names'] and var['highly_variable'] name other genes, or in another order", "Export again")
        return
    matrix, variable = file.get("X"), file["obsm"][HVG_KEY]
    if mask is not None and isinstance(matrix, h5py.Dataset) and isinstance(variable, h5py.Dataset):
        step = max(1, matrix.shape[0] // _COMPARED)
        x, hvg = (np.stack([m[row] for row in range(0, m.shape[0], step)]) for m in (matrix, variable))
        if not np.allclose(x[:, mask], hvg, rtol=1e-3, atol=1e-4, equal_nan=True):
            what = f"the columns of {HVG_KEY} are not those of X that var['highly_variable'] marks, in their order"
            say(FAIL, what, "Write X_hvg as X[:, var.highly_variable]")
