"""Runs of one stored vector of a HDF5 file, read past the library where that is faster and safe.

HDF5 decompresses on one thread and holds one lock for the whole process. Vectors without compression are read straight
from their place in the file, and deflated ones chunk by chunk, inflated by isa-l on several threads; anything else goes
through HDF5.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.errors import BftembedError
from bftembed.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable


class Slices:
    """A vector that is read in runs.

    Parameters
    ----------
    vector
        (n,) numbers: a NumPy array, a zarr array, or a HDF5 data set whose file stays open.
    """

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        self.shape: tuple[int, ...] = tuple(vector.shape)
        self.dtype = np.dtype(vector.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return entries `start` to `stop` in the machine's byte order; of an array in memory a view.

        Raises
        ------
        OSError
            When the file ends before them or a chunk is damaged.
        """
        if stop <= start:
            return np.empty(0, self.dtype.newbyteorder("="))
        found = self._way(start, stop)
        return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))

    @cached_property
    def _way(self) -> Callable[[int, int], np.ndarray]:
        if not isinstance(self.vector, h5py.Dataset):
            return lambda start, stop: np.asarray(self.vector[start:stop])
        if hasattr(os, "preadv") and self.vector.id.get_offset() is not None and self._plain_file:
            return self._from_place
        if self._is_deflated:
            return self._from_chunks
        return self._through_hdf5

    @property
    def _plain_file(self) -> bool:
        return bool(self.vector.file.driver == "sec2")

    @property
    def _is_deflated(self) -> bool:
        """Whether deflate is the only filter.

        HDF5 fills a chunk that inflates to too little with whatever lies in memory; `inflate` tells.
        """
        properties, chunks = self.vector.id.get_create_plist(), self.vector.chunks
        return (
            chunks is not None
            and properties.get_nfilters() == 1
            and properties.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
        )

    def _through_hdf5(self, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, self.dtype)
        self.vector.read_direct(out, np.s_[start:stop])
        return out

    def _from_place(self, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, self.dtype)
        left, place = out.view(np.uint8).data, self.vector.id.get_offset() + start * self.dtype.itemsize
        while len(left):
            got = os.preadv(self._descriptor, [left], place)
            if got <= 0:
                raise OSError(f"the file ends before {self.vector.name} does")
            left, place = left[got:], place + got
        return out

    @cached_property
    def _descriptor(self) -> int:
        return int(self.vector.file.id.get_vfd_handle())

    def _from_chunks(self, start: int, stop: int) -> np.ndarray:
        size = self.vector.chunks[0]
        out = np.empty(stop - start, self.dtype)

        def put(number: int) -> None:
            first = number * size
            a, b = max(start, first), min(stop, first + size)
            out[a - start : b - start] = self._chunk(first)[a - first : b - first]

        for _ in self._pool.map(put, range(start // size, -(-stop // size))):
            pass
        return out

    def _chunk(self, first: int) -> np.ndarray:
        size = self.vector.chunks[0]
        if self.vector.id.get_chunk_info_by_coord((first,)).byte_offset is None:  # never written: the fill value
            return self._through_hdf5(first, min(first + size, self.shape[0]))
        skipped, packed = self.vector.id.read_direct_chunk((first,))
        expected = size * self.dtype.itemsize
        try:
            raw = packed if skipped else inflate(packed, expected)  # skipped: stored without its filter
        except ValueError as err:
            raise BftembedError(
                f"{self.vector.file.filename}: a chunk of {self.vector.name} cannot be decompressed ({err}). The file "
                "is damaged; copy or download it again."
            ) from err
        if len(raw) != expected:
            raise BftembedError(
                f"{self.vector.file.filename}: a chunk of {self.vector.name} holds {len(raw)} bytes, not {expected}. "
                "The file is damaged; copy or download it again."
            )
        return np.frombuffer(raw, self.dtype)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(usable_cores(), thread_name_prefix="inflate")


def inflate(packed: bytes, size: int) -> bytes:
    """Return what `packed` (zlib format) holds, at most one byte more than `size`: a chunk may be made to explode."""
    from isal import igzip_lib, isal_zlib

    try:
        return bytes(isal_zlib.decompressobj().decompress(packed, size + 1))
    except igzip_lib.IsalError as err:  # type: ignore[misc]  # its stub names no class
        raise ValueError(str(err)) from err
