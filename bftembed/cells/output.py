"""Cell embeddings as output: in an AnnData, in a copy of a h5ad file, or in a sidecar; written atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.errors import BftembedError
from bftembed.expression.matrix import Compressed, compressed_format, stored_matrix
from bftembed.expression.source import is_cell_ranger, open_expression
from bftembed.hdf5 import as_text, check_declared_size, open_h5ad
from bftembed.io import atomic_path, refuse_input_as_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from bftembed.cells.aggregate import Sink
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.expression.source import Expression

#: Shape (n_cells, d) → where the vectors go; called once, when the input fits.
SinkOf = Callable[[tuple[int, int]], "Sink"]
#: The entry of ``.uns`` that holds one provenance per key of ``.obsm``.
UNS = "bftembed"
#: Numbers of vectors that are moved at a time: 8 MB.
_NUMBERS = 2**21
#: Bytes of a sidecar beside the vectors: per cell (name, coverage), and in all.
_BYTES_PER_CELL, _BYTES = 64, 2**16


@dataclass(frozen=True)
class Embedded:
    """Result of a run but for its vectors.

    Attributes
    ----------
    report
        See `bftembed.cells.report`.
    provenance
        For ``.uns["bftembed"][key]``: text, numbers, booleans, arrays of text; the same for the same input at any time.
    coverage
        float64 (n_cells,): share of each cell's expression in genes that were used; NaN where it expresses nothing.
    empty
        bool (n_cells,): cells without a vector.
    cells
        Positions of the n_cells cells in the matrix.
    total
        Sum of all values.
    """

    report: CellEmbeddingReport
    provenance: dict[str, Any]
    coverage: np.ndarray
    empty: np.ndarray
    cells: range
    total: float

    @property
    def keep(self) -> np.ndarray | None:
        """Cells to write, bool (n_cells,); None for all."""
        return ~self.empty if self.report.empty_policy == "drop" and self.empty.any() else None


def embed_into(
    data: AnnData | str | os.PathLike[str],
    embed: Callable[[Expression, SinkOf | None, Path | None], Embedded],
    key: str,
    choice: dict[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    sidecar: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    drop: bool = False,
    dry_run: bool = False,
    inputs: Sequence[object] = (),
) -> CellEmbeddingReport | AnnData:
    """Embed the cells of `data` and put the vectors where they belong: into the AnnData, a copy, or a sidecar.

    `embed` takes the expression, where the vectors go (None: embed the first block alone), and a folder for scratch.
    `choice` are the options of `open_expression`, `inputs` files that must not be written; `drop` is whether cells may
    be left out. The report for files and for a dry run, else the AnnData.
    """
    if not isinstance(data, str | os.PathLike):
        if not hasattr(data, "obsm"):
            raise BftembedError(f"data is a {type(data).__name__}; give the path of a h5ad file or an AnnData.")
        if out is not None or sidecar is not None:
            raise BftembedError("out and sidecar are for files; of an AnnData call adata.write_h5ad(path) afterwards.")
        _check_free(data, key, overwrite, "The AnnData")
        with open_expression(data, **choice) as expression:
            memory = Memory()
            done = embed(expression, None if dry_run else memory.sink, None)
        done.provenance["gene_column"] = choice["gene_column"] or ""
        return done.report if dry_run else _put(data, key, memory.vectors, done)
    source = Path(data)
    if out is not None and sidecar is not None:
        raise BftembedError("Give either out (--out) or a sidecar (--sidecar), not both.")
    if (place := out if sidecar is None else sidecar) is None and not dry_run:
        raise BftembedError(
            f"{source} is read from disk and never modified: give out=PATH (--out) for a copy with the embedding, or "
            f"sidecar=PATH (--sidecar) for the vectors alone."
        )
    target = None if place is None else check_target(place, source, *inputs)
    if out is not None and (source.is_dir() or choice.get("modality") is not None):
        raise _no_copy(source)
    rewritten = out is not None and _check_source(source, key, overwrite=overwrite, drop=drop)
    if dry_run or target is None:
        with open_expression(source, **choice) as expression:
            return embed(expression, None, None).report
    with atomic_path(target) as temporary, contextlib.ExitStack() as stack:
        output: _Copy | _Rewrite | _Sidecar
        if sidecar is not None:
            output = _Sidecar(stack.enter_context(_written(temporary, "w")), key, drop)
        else:
            output = _Rewrite(source, temporary, key) if rewritten else _Copy(source, temporary, key, stack)
        with open_expression(source, **choice) as expression:
            done = embed(expression, output.sink, target.parent)
            names = expression.cell_names(done.cells) if sidecar is not None else ()
        done.provenance["gene_column"] = choice["gene_column"] or ""
        output.finish(done, names)
    return replace(done.report, out=target)


@contextlib.contextmanager
def sidecar_of(target: Path, key: str) -> Iterator[_Sidecar]:
    """Write cell embeddings to an AnnData without X, atomically and in constant memory but for names of cells."""
    with atomic_path(target) as temporary, _written(temporary, "w") as file:
        yield _Sidecar(file, key, drop=False)


class Memory:
    """Vectors in an array, float32 (n_cells, d)."""

    vectors: np.ndarray

    def sink(self, shape: tuple[int, int]) -> Memory:
        """Make room for them."""
        self.vectors = np.empty(shape, dtype=np.float32)
        return self

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Keep the vectors of the cells from `start`."""
        self.vectors[start : start + len(vectors)] = vectors


class _Dataset:
    """Vectors in a data set."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset

    def write(self, start: int, vectors: np.ndarray) -> None:
        with _writing():
            self._dataset[start : start + len(vectors)] = vectors


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Raise what HDF5 raises when a write fails as an OSError of ours.

    HDF5 says RuntimeError or KeyError of a full disk at times; and an error of its own would pass for one of reading.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError) as err:
        raise OSError(getattr(err, "errno", None) or errno.EIO, str(err)) from err


def coverage_column(key: str) -> str:
    """Return the name of the column of ``.obs`` that goes with ``.obsm[key]``."""
    return f"{key}_coverage"


def check_key(key: str) -> None:
    """Reject an ``.obsm`` key that cannot be written: empty, ``.``, ``..``, or with ``/`` or NUL in it."""
    if not isinstance(key, str) or not key.strip() or key.strip() in (".", "..") or "/" in key or "\0" in key:
        raise BftembedError(f"{key!r} cannot be a key of .obsm: give a name without '/', for example 'X_bft'.")


def check_target(target: str | os.PathLike[str], *inputs: object) -> Path:
    """Return the path of a h5ad to write, after making sure that it is one, and neither a folder nor an input."""
    path = Path(target)
    refuse_input_as_output(path, *inputs)
    if path.is_dir() or path.suffix != ".h5ad":
        raise BftembedError(f"{path} {'is a folder' if path.is_dir() else 'does not end with .h5ad'}: give a .h5ad.")
    folders = [Path(x).resolve() for x in inputs if isinstance(x, str | Path) and Path(x).is_dir()]
    if set(folders) & set(path.resolve().parents):
        raise BftembedError(f"{path} lies inside of an input. Choose another path for the output.")
    return path


def _check_free(cells: h5py.File | AnnData, key: str, overwrite: bool, where: str) -> None:
    for place, name in (("obsm", key), ("obs", coverage_column(key))):
        member = cells.get(place) if isinstance(cells, h5py.File) else getattr(cells, place)
        # Before version 0.7 anndata wrote tables as one data set.
        names = member.dtype.names if isinstance(member, h5py.Dataset) else member
        if not overwrite and name in (() if names is None else names):
            raise BftembedError(f"{where} has .{place}[{name!r}] already. Give another key (--key), or overwrite=True.")


def _put(adata: AnnData, key: str, vectors: np.ndarray, done: Embedded) -> AnnData:
    """Fill the AnnData, or a copy without the cells that are not kept; a view becomes a copy of its own."""
    coverage = done.coverage
    if done.keep is not None:
        adata, vectors, coverage = adata[done.keep].copy(), vectors[done.keep], coverage[done.keep]
    others = adata.uns.get(UNS, {})
    if not isinstance(others, Mapping):
        raise _occupied(type(others).__name__, "the AnnData")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*view.*")
        adata.obsm[key] = vectors
        adata.obs[coverage_column(key)] = coverage
        adata.uns[UNS] = {**others, key: done.provenance}
    return adata


def _check_source(source: Path, key: str, *, overwrite: bool, drop: bool) -> bool:
    """Check that an embedding can be put into a copy of a file; return whether that is to be rewritten as a whole.

    It is where cells are left out, and in the layout of anndata before 0.7.
    """
    with open_h5ad(source) as handle:
        if is_cell_ranger(handle):
            raise _no_copy(source)
        for name in ("obs", "var", "obsm", "uns"):
            slot = handle.get(name)
            # Before anndata 0.7 tables were compound data sets.
            if not (slot is None or isinstance(slot, h5py.Group) or getattr(slot.dtype, "names", None)):
                raise BftembedError(f"{source}: {name} is not a group. Write the file again with anndata.")
        _check_free(handle, key, overwrite, str(source))
        occupied = handle.get(f"uns/{UNS}")
        if occupied is not None and not isinstance(occupied, h5py.Group):
            raise _occupied("a value", str(source))
        rewritten = drop or any(isinstance(handle.get(name), h5py.Dataset) for name in ("obsm", "uns", "obs"))
        if rewritten:
            _check_all(handle, str(source))
        return rewritten


def _no_copy(source: Path) -> BftembedError:
    return BftembedError(
        f"{source} is not a h5ad file, so no copy with the embedding (--out) can be made of it. For a zarr store, "
        "MuData or Cell Ranger's matrix give sidecar=PATH (--sidecar)."
    )


class _Copy:
    """The bytes of a file with elements added."""

    def __init__(self, source: Path, temporary: Path, key: str, stack: contextlib.ExitStack) -> None:
        self._source, self._temporary, self._key, self._stack = source, temporary, key, stack

    def sink(self, shape: tuple[int, int]) -> Sink:
        from anndata.io import write_elem

        shutil.copyfile(self._source, self._temporary)
        self._file = file = self._stack.enter_context(_written(self._temporary, "r+"))
        with _writing():
            for parent, name in ((file, "obsm"), (file, "uns"), (file.get("uns"), UNS)):
                parent = file["uns"] if parent is None else parent
                if name not in parent:
                    write_elem(parent, name, {})
            if self._key in file["obsm"]:
                del file["obsm"][self._key]
            vectors = _vectors(file["obsm"], self._key, shape)
            _check_room(file, shape)
            return _Dataset(vectors)

    def finish(self, done: Embedded, names: Sequence[str]) -> None:
        from anndata.io import write_elem

        with _writing():
            write_elem(self._file["uns"][UNS], self._key, done.provenance)
            column, obs = coverage_column(self._key), self._file["obs"]
            write_elem(obs, column, done.coverage)
            order = as_text(np.atleast_1d(obs.attrs.get("column-order", ())))
            order = [*(x for x in order if x != column), column]
            obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
            self._file.flush()


class _Rewrite:
    """A file read into memory and written again."""

    def __init__(self, source: Path, temporary: Path, key: str) -> None:
        self._source, self._temporary, self._key = source, temporary, key

    def sink(self, shape: tuple[int, int]) -> Sink:
        self._memory = Memory()
        return self._memory.sink(shape)

    def finish(self, done: Embedded, names: Sequence[str]) -> None:
        import anndata

        # What newer versions of anndata wrote, and columns with a slash, may be written again.
        settings = {"allow_write_nullable_strings": True, "disallow_forward_slash_in_h5ad": False}
        known = {name: value for name, value in settings.items() if hasattr(anndata.settings, name)}
        with warnings.catch_warnings(), _writing(), anndata.settings.override(**known):
            warnings.simplefilter("ignore")  # anndata's remarks on old layouts and duplicate names: not news here
            try:
                adata = anndata.read_h5ad(self._source)
            except Exception as err:  # anndata lets out whatever a damaged element raises
                raise BftembedError(
                    f"{self._source} cannot be read as a whole, which leaving out cells needs: it is damaged "
                    f"({(str(err) or type(err).__name__).splitlines()[0]}). Keep all cells, or give --sidecar."
                ) from err
            adata = _put(adata, self._key, self._memory.vectors, done)
            try:
                adata.write_h5ad(self._temporary)
            except (ValueError, TypeError) as err:
                raise BftembedError(
                    f"{self._source} cannot be written again by this anndata ({str(err).splitlines()[0]}). Keep all "
                    f"cells, or give --sidecar."
                ) from err


class _Sidecar:
    """An AnnData without X in HDF5."""

    def __init__(self, file: h5py.File, key: str, drop: bool) -> None:
        self._file, self._key, self._drop = file, key, drop

    def sink(self, shape: tuple[int, int]) -> Sink:
        from anndata.io import write_elem

        with _writing():
            self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
                write_elem(self._file, name, {})
            write_elem(self._file["uns"], UNS, {})
            self._vectors = _vectors(self._file["obsm"], self._key, shape, shrinks=self._drop)
            _check_room(self._file, shape)
        return _Dataset(self._vectors)

    def finish(self, done: Embedded, names: Sequence[str]) -> None:
        """Write the rest, when all vectors have been written."""
        self.write_rest(done.provenance, done.coverage, names, done.keep)

    def write_rest(
        self, provenance: dict[str, Any], coverage: np.ndarray, names: Sequence[str], keep: np.ndarray | None = None
    ) -> None:
        """Write what goes with the vectors; `keep` (bool) leaves out cells."""
        import pandas as pd
        from anndata.io import write_elem

        index = np.array(names, dtype=object)
        with _writing():
            if keep is not None:
                self._close_gaps(keep)
                index, coverage = index[keep], coverage[keep]
            table = pd.DataFrame({coverage_column(self._key): coverage}, index=pd.Index(index, dtype=object))
            write_elem(self._file, "obs", table)
            write_elem(self._file, "var", pd.DataFrame(index=pd.Index([], dtype=object)))
            write_elem(self._file["uns"][UNS], self._key, provenance)

    def _close_gaps(self, keep: np.ndarray) -> None:
        step, written = max(1, _NUMBERS // self._vectors.shape[1]), 0
        for start in range(0, len(keep), step):
            kept = self._vectors[start : start + step][keep[start : start + step]]
            self._vectors[written : written + len(kept)] = kept
            written += len(kept)
        self._vectors.resize(written, axis=0)


def _check_room(file: h5py.File, shape: tuple[int, int]) -> None:
    """Raise where vectors and what goes with them do not fit on the disk: HDF5 crashes where closing a file fails."""
    file.flush()
    path = Path(file.filename)
    before, more = path.stat().st_size, 4 * shape[0] * shape[1] + _BYTES_PER_CELL * shape[0] + _BYTES
    os.truncate(path, before + more)  # fails beyond a limit on files
    os.truncate(path, before)
    if shutil.disk_usage(path.parent).free < more:
        raise OSError(errno.ENOSPC, "the disk is full")


def _vectors(parent: h5py.Group, key: str, shape: tuple[int, int], *, shrinks: bool = False) -> h5py.Dataset:
    """Make a float32 data set as anndata does, not filled yet."""
    grows: dict[str, Any] = {"maxshape": shape, "chunks": (max(1, min(shape[0], 2**18 // shape[1])), shape[1])}
    vectors = parent.create_dataset(key, shape=shape, dtype=np.float32, **(grows if shrinks else {}))
    vectors.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return vectors


@contextlib.contextmanager
def _written(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open a HDF5 file for writing. What is raised inside is not hidden by a file that cannot be closed any more."""
    with _writing():
        file = h5py.File(path, mode, locking=False)
    try:
        yield file
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        raise
    with _writing():
        file.close()


def _check_all(handle: h5py.File, path: str) -> None:
    """Check every sparse matrix and every declared size of a file before anndata reads it as a whole.

    Row slicing of a damaged matrix in any slot crashes the interpreter.
    """

    def check(name: str, member: Any) -> None:
        check_declared_size(member, path)
        if isinstance(member, h5py.Group) and compressed_format(member):
            matrix = stored_matrix(member, f"{path}: /{name}")
            assert isinstance(matrix, Compressed)
            matrix.check_indices()

    handle.visititems(check)


def _occupied(kind: str, where: str) -> BftembedError:
    return BftembedError(f"{where}: .uns[{UNS!r}] is {kind}, not one entry per embedding. Rename or delete it first.")
