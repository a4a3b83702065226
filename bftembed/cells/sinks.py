"""Where the vectors of cells go while they are made: memory, a data set of a HDF5 file, or a nameless file."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Raise what HDF5 raises when a write fails as an OSError of ours.

    HDF5 says RuntimeError or KeyError of a full disk at times; and an error of its own would pass for one of reading.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError) as err:
        raise OSError(getattr(err, "errno", None) or errno.EIO, str(err)) from err


class Memory:
    """Vectors in an array, float32 (n_cells, d)."""

    def __init__(self, n_cells: int, dim: int) -> None:
        self.vectors = np.empty((n_cells, dim), dtype=np.float32)

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Keep the vectors of the cells from `start`."""
        self.vectors[start : start + len(vectors)] = vectors


class Dataset:
    """Vectors in a data set (HDF5 or zarr) of the same shape."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Write the vectors of the cells from `start`."""
        with writing():
            self.dataset[start : start + len(vectors)] = vectors


class Shifted:
    """Vectors of one of several inputs, `first` places further on in a sink of all."""

    def __init__(self, sink: Dataset, first: int) -> None:
        self._sink, self._first = sink, first

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Write the vectors of the cells from `start`."""
        self._sink.write(self._first + start, vectors)


class Spool:
    """Vectors in a file without a name, for formats that are written once and in order. A context manager."""

    def __init__(self, n_cells: int, dim: int, folder: Path) -> None:
        self.n_cells, self.dim = n_cells, dim
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the space on disk back."""
        self._file.close()

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Keep the vectors of the cells from `start`."""
        self._file.seek(start * self.dim * 4)
        left = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data
        while len(left):
            left = left[self._file.write(left) :]

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield position and vectors of runs of cells, in order."""
        for start in range(0, self.n_cells, rows):
            height = min(rows, self.n_cells - start)
            self._file.seek(start * self.dim * 4)
            raw = self._file.read(height * self.dim * 4)
            if len(raw) != height * self.dim * 4:
                raise BftembedError("The scratch file of the vectors was cut short. Is the disk full?")
            yield start, np.frombuffer(raw, dtype=np.float32).reshape(height, self.dim)
