"""Putting cell embeddings beside the cells: into an AnnData, or into a copy of a h5ad file that is whole or absent."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np

from bftembed.cells.blocks import Compressed, compressed_format
from bftembed.cells.preflight import check_indices, check_slots
from bftembed.cells.sinks import Dataset, Memory, writing
from bftembed.errors import BftembedError
from bftembed.hdf5 import check_declared_size, open_h5ad
from bftembed.io import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from bftembed.cells.aggregate import Sink

#: The entry of ``.uns`` that holds one provenance per key of ``.obsm``.
UNS = "bftembed"


@dataclass(frozen=True)
class Embedded:
    """What goes beside the vectors.

    Attributes
    ----------
    provenance
        What goes to ``.uns["bftembed"][key]``: text, numbers, booleans, arrays of text.
    coverage
        float64 (n_cells,): share of each cell's expression in genes with an embedding; NaN where it expresses nothing.
    keep
        bool (n_cells,): cells to write; None for all.
    """

    provenance: dict[str, Any]
    coverage: np.ndarray
    keep: np.ndarray | None = None


class Destination(Protocol):
    """An output that is being written."""

    def sink(self, shape: tuple[int, int]) -> Sink:
        """Return where vectors go, float32 (n_cells, d) in all. To be called once, when the input is known to fit."""

    def finish(self, done: Embedded) -> None:
        """Write the rest, when all vectors are there and the input is closed."""


def coverage_column(key: str) -> str:
    """Return the name of the column of ``.obs`` that goes with ``.obsm[key]``."""
    return f"{key}_coverage"


def check_free(cells: h5py.File | AnnData, key: str, overwrite: bool, where: str) -> None:
    """Refuse to replace an embedding or a column of cells that is there already, unless `overwrite`.

    Raises
    ------
    BftembedError
        Naming what is taken, and the remedy.
    """
    column = coverage_column(key)
    for place, name in (("obsm", key), ("obs", column)):
        if not overwrite and _has(cells, place, name):
            raise BftembedError(f"{where} has .{place}[{name!r}] already. Give another key (--key), or overwrite=True.")


def _has(cells: Any, place: str, name: str) -> bool:
    if not isinstance(cells, h5py.File):
        return name in getattr(cells, place)
    member = cells.get(place)
    # Before version 0.7 anndata wrote tables as one data set.
    return name in (member.dtype.names or ()) if isinstance(member, h5py.Dataset) else name in (member or ())


def put(adata: AnnData, key: str, vectors: np.ndarray, done: Embedded) -> AnnData:
    """Set ``.obsm[key]``, ``.obs[key_coverage]`` and ``.uns["bftembed"][key]``. A view becomes a copy of its own.

    Returns
    -------
    AnnData
        The same object, or a copy without the cells that `done` does not keep.

    Raises
    ------
    BftembedError
        When ``.uns["bftembed"]`` holds something else than one entry per key.
    """
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


@contextlib.contextmanager
def copy_of(source: Path, out: Path, key: str, *, overwrite: bool, drop: bool) -> Iterator[Destination]:
    """Write a copy of `source` with an embedding in it. `source` is only read; `out` is whole or untouched.

    The bytes of `source` are copied and the vectors written into their place as they come, so memory does not grow
    with the file. Two cases are read into memory and rewritten as a whole: cells to be left out, and the layout of
    anndata before 0.7.

    Parameters
    ----------
    source, out
        Two different files.
    key
        Key of ``.obsm``.
    overwrite
        Whether it is replaced when it is there.
    drop
        Whether cells may be left out.

    Yields
    ------
    Destination
        To be finished inside the block; `out` is replaced at its end.

    Raises
    ------
    BftembedError
        When the key is taken, `source` is no h5ad of anndata, the disk is full or the folder cannot be written.
    """
    with open_h5ad(source) as handle:
        check_slots(handle)
        check_free(handle, key, overwrite, str(source))
        slots = [handle.get(name) for name in ("obsm", "uns", "obs")]
        rewritten = drop or any(isinstance(slot, h5py.Dataset) for slot in slots)
        occupied = handle.get(f"uns/{UNS}")
        if occupied is not None and not isinstance(occupied, h5py.Group):
            raise _occupied("a value", str(source))
        if rewritten:
            check_whole_file(handle, source)
    with atomic_path(out) as temporary, contextlib.ExitStack() as stack:
        yield (_Rewrite(source, temporary, key) if rewritten else _Copy(source, temporary, key, stack))


class _Copy:
    """The bytes of a file with elements added."""

    def __init__(self, source: Path, temporary: Path, key: str, stack: contextlib.ExitStack) -> None:
        self._source, self._temporary, self._key, self._stack = source, temporary, key, stack

    def sink(self, shape: tuple[int, int]) -> Sink:
        shutil.copyfile(self._source, self._temporary)
        self._copy = self._stack.enter_context(written_hdf5(self._temporary, "r+"))
        with writing():
            return Dataset(_make_place(self._copy, self._key, shape))

    def finish(self, done: Embedded) -> None:
        from anndata.io import write_elem

        with writing():
            write_elem(self._copy[f"uns/{UNS}"], self._key, done.provenance)
            column, obs = coverage_column(self._key), self._copy["obs"]
            write_elem(obs, column, done.coverage)
            order = [
                x.decode() if isinstance(x, bytes) else str(x) for x in np.atleast_1d(obs.attrs.get("column-order", ()))
            ]
            order = [*(x for x in order if x != column), column]
            obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
            self._copy.flush()


class _Rewrite:
    """A file read into memory and written again."""

    def __init__(self, source: Path, temporary: Path, key: str) -> None:
        self._source, self._temporary, self._key = source, temporary, key

    def sink(self, shape: tuple[int, int]) -> Sink:
        self._memory = Memory(*shape)
        return self._memory

    def finish(self, done: Embedded) -> None:
        import anndata

        with warnings.catch_warnings(), writing():
            warnings.simplefilter("ignore")  # anndata's remarks on old layouts and duplicate names: not news here
            try:
                adata = anndata.read_h5ad(self._source)
            except Exception as err:  # anndata lets out whatever a damaged element raises
                raise BftembedError(
                    f"{self._source} cannot be read as a whole, which leaving out cells needs: it is damaged "
                    f"({(str(err) or type(err).__name__).splitlines()[0]}). Keep all cells, or give --sidecar."
                ) from err
            put(adata, self._key, self._memory.vectors, done).write_h5ad(self._temporary)


@contextlib.contextmanager
def written_hdf5(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open a HDF5 file for writing. What is raised inside is not hidden by a file that cannot be closed any more."""
    with writing():
        file = h5py.File(path, mode, locking=False)
    try:
        yield file
    except BaseException:
        with contextlib.suppress(Exception):
            file.close()
        raise
    with writing():
        file.close()


def make_vectors(parent: h5py.Group, key: str, shape: tuple[int, int]) -> h5py.Dataset:
    """Make a float32 data set as anndata does, not filled yet."""
    vectors = parent.create_dataset(key, shape=shape, dtype=np.float32)
    vectors.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return vectors


def _make_place(copy: h5py.File, key: str, shape: tuple[int, int]) -> h5py.Dataset:
    from anndata.io import write_elem

    for name in ("obsm", "uns", f"uns/{UNS}"):
        if name not in copy:
            write_elem(copy, name, {})
    if key in copy["obsm"]:
        del copy["obsm"][key]
    return make_vectors(copy["obsm"], key, shape)


def check_whole_file(handle: h5py.File, path: Path) -> None:
    """Check every sparse matrix and every declared size of a file, before anndata reads it as a whole.

    Row slicing of a damaged matrix in any slot crashes the interpreter.

    Raises
    ------
    BftembedError
        Naming the file and the member.
    """

    def check(name: str, member: Any) -> None:
        check_declared_size(member, str(path))
        if isinstance(member, h5py.Group) and compressed_format(member):
            where = f"{path}: /{name}"
            matrix = Compressed.from_hdf5(member, where)
            for start in range(0, matrix.n_values, 2**22):
                check_indices(np.asarray(matrix.indices[start : start + 2**22]), matrix.n_minor, where)

    handle.visititems(check)


def _occupied(kind: str, where: str) -> BftembedError:
    return BftembedError(f"{where}: .uns[{UNS!r}] is {kind}, not one entry per embedding. Rename or delete it first.")


def as_json(provenance: dict[str, Any]) -> str:
    """Return provenance as JSON, arrays as lists."""
    plain = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in provenance.items()}
    return json.dumps(plain, ensure_ascii=False)
