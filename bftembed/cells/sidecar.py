"""Cell embeddings in a file of their own, without the expression: h5ad, zarr or Parquet, in constant memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bftembed.cells.sinks import Dataset, Shifted, Spool, writing
from bftembed.cells.writing import UNS, coverage_column, make_vectors, written_hdf5
from bftembed.errors import BftembedError
from bftembed.io import atomic_folder, atomic_path, refuse_input_as_output

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from bftembed.cells.aggregate import Sink
    from bftembed.cells.names import Table

FORMATS = (".h5ad", ".zarr", ".parquet")

#: Numbers of vectors that are copied at a time, and of a chunk of zarr: 8 MB.
_NUMBERS = 2**21


class Sidecar(Protocol):
    """A file that is being written, from one input after the other."""

    def sink(self, shape: tuple[int, int]) -> Sink:
        """Return where the vectors of the next input go, float32 (n_cells, d) in all."""

    def take(self, table: Table) -> None:
        """Write what goes beside them; the input is still open."""

    def finish(self, provenance: dict[str, Any]) -> None:
        """Write the rest, when all inputs have been taken."""


def check_sidecar(sidecar: str | os.PathLike[str], *inputs: object) -> Path:
    """Return `sidecar` as a path, after making sure that writing it touches no input and nothing else of value.

    Raises
    ------
    BftembedError
        For another suffix than the three, an input (by any name), and a folder that is no zarr store.
    """
    target = Path(sidecar)
    if target.suffix not in FORMATS:
        raise BftembedError(
            f"{target} has the suffix {target.suffix!r}; a sidecar (--sidecar) is written as {', '.join(FORMATS)}."
        )
    refuse_input_as_output(target, *inputs)
    for source in inputs:
        if isinstance(source, str | Path) and Path(source).resolve() in target.resolve().parents:
            raise BftembedError(f"{target} lies inside of the input {source}. Choose another path for the output.")
    if target.suffix != ".zarr" and target.is_dir():
        raise BftembedError(f"{target} is a folder: give the path of the file to write.")
    if target.suffix == ".zarr" and target.exists():
        if target.is_symlink() or not any((target / mark).is_file() for mark in (".zgroup", "zarr.json")):
            raise BftembedError(f"{target} is there and is no zarr store, so it is not replaced. Choose another path.")
        for source in inputs:
            if isinstance(source, str | Path) and target.resolve() in Path(source).resolve().parents:
                raise BftembedError(f"The input {source} lies inside of {target}. Choose another path for the output.")
    return target


@contextlib.contextmanager
def sidecar_of(
    target: Path, key: str, n_cells: int, *, files: Sequence[str] = (), drop: bool = False
) -> Iterator[Sidecar]:
    """Write cell embeddings to a file of their own; it is whole or untouched.

    Parameters
    ----------
    target
        From `check_sidecar`. Its suffix says the format.
    key
        Key of ``.obsm``, or name of the column.
    n_cells
        Cells of all inputs.
    files
        A label per input, for a column ``file``; none for no such column.
    drop
        Whether cells may be left out.

    Yields
    ------
    Sidecar
        To be finished inside the block; `target` is replaced at its end.

    Raises
    ------
    BftembedError
        When the disk is full or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if target.suffix == ".zarr":
            root = _zarr_group(stack.enter_context(atomic_folder(target, replace=True)))
            layout: Sidecar = _Layout(root, key, None, files, target.parent, stack)
        elif target.suffix == ".h5ad":
            root = stack.enter_context(written_hdf5(stack.enter_context(atomic_path(target)), "w"))
            layout = _Layout(root, key, None if drop else n_cells, files, target.parent, stack)
        else:
            from bftembed.cells.parquet import ParquetSidecar

            layout = ParquetSidecar(stack.enter_context(atomic_path(target)), key, files, target.parent, stack)
        yield layout


def _zarr_group(folder: Path) -> Any:
    try:
        import zarr
    except ModuleNotFoundError as err:
        raise BftembedError('zarr is not installed. Install it with: pip install "zarr>=3"') from err
    with writing():
        return zarr.open_group(str(folder), mode="w", zarr_format=2)  # every anndata reads version 2


class _Layout:
    """The layout of an AnnData without X, in HDF5 or zarr.

    Vectors go into their place as they come where there are `n_cells` of them for certain (HDF5 alone), else through
    a nameless file.
    """

    def __init__(
        self,
        root: Any,
        key: str,
        n_cells: int | None,
        files: Sequence[str],
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self._root, self._key, self._n_cells, self._files = root, key, n_cells, files
        self._folder, self._stack = folder, stack
        self._spool: Spool | None = None
        self._vectors: Any = None
        self._names: Any = None
        self._done = 0
        self._coverage: list[np.ndarray] = []

    def sink(self, shape: tuple[int, int]) -> Sink:
        if self._vectors is None:
            with writing():
                self._start(shape[1])
        if self._n_cells is not None:
            return Shifted(Dataset(self._vectors), self._done)
        self._spool = self._stack.enter_context(Spool(*shape, self._folder))
        return self._spool

    def take(self, table: Table) -> None:
        before = self._done
        for names, coverage, _ in table.parts():
            self._append_names(names)
            self._coverage.append(coverage)
            self._done += len(names)
        if self._spool is not None:
            for start, vectors in self._spool.parts(self._rows):
                kept = vectors if table.keep is None else vectors[table.keep[start : start + len(vectors)]]
                _append(self._vectors, kept)
            self._spool.close()
        if self._files:
            with writing():
                _append(self._root["obs/file/codes"], np.full(self._done - before, self._next, dtype=np.int32))
            self._next += 1

    def finish(self, provenance: dict[str, Any]) -> None:
        from anndata.io import write_elem

        column = coverage_column(self._key)
        with writing():
            write_elem(self._root["obs"], column, np.concatenate(self._coverage))
            columns = np.array(["file", column] if self._files else [column], dtype=object)
            self._root["obs"].attrs.update({"column-order": columns if self._hdf5 else columns.tolist()})
            write_elem(self._root[f"uns/{UNS}"], self._key, provenance)

    @property
    def _hdf5(self) -> bool:
        return hasattr(self._root, "flush")

    @property
    def _rows(self) -> int:
        return max(1, _NUMBERS // self._vectors.shape[1])

    def _start(self, dim: int) -> None:
        from anndata.io import write_elem

        self._root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp", f"uns/{UNS}"):
            write_elem(self._root, name, {})
        for table in ("obs", "var"):
            group = self._root.create_group(table)
            order: Any = np.array([], dtype=np.float64) if self._hdf5 else []
            group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            group.attrs.update({"column-order": order})
        write_elem(self._root["var"], "_index", np.array([], dtype=object))
        if self._n_cells is not None:
            self._vectors = make_vectors(self._root["obsm"], self._key, (self._n_cells, dim))
        else:
            self._vectors = self._growing(self._root["obsm"], self._key, (0, dim), np.float32)
        if self._files:
            column = self._root["obs"].create_group("file")
            column.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
            write_elem(column, "categories", np.array(self._files, dtype=object))
            self._growing(column, "codes", (0,), np.int32)
            self._next = 0

    def _growing(self, parent: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        dim = shape[1] if len(shape) == 2 else 1
        chunks = (max(1, (2**18 if self._hdf5 else _NUMBERS) // dim), *shape[1:])
        if self._hdf5:
            array = parent.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunks)
        else:
            array = parent.create_array(name, shape=shape, dtype=dtype, chunks=chunks)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return array

    def _append_names(self, names: list[str]) -> None:
        from anndata.io import write_elem

        obs, values = self._root["obs"], np.array(names, dtype=object)
        with writing():
            if self._names is not None:
                _append(self._names, values)
                return
            grows = {"maxshape": (None,), "chunks": (10_000,)} if self._hdf5 else {}
            write_elem(obs, "_index", values, dataset_kwargs=grows)
            self._names = obs["_index"]


def _append(array: Any, values: np.ndarray) -> None:
    with writing():
        before = array.shape[0]
        array.resize((before + len(values), *array.shape[1:]))
        if len(values):
            array[before:] = values
