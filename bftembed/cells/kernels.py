"""Kernels for the product of a block of cells with the gene matrix, and their choice.

Expression is 5 to 10 % dense. A sparse product does few operations, but reads a row of the gene matrix for each stored
value and cannot use matrix units; filling a dense bfloat16 block and multiplying that does twelve times the arithmetic
and is several times faster where the processor multiplies bfloat16. The choice is by size and processor and never by a
clock, so that the shards of one run agree; the first block shows whether the kernel is accurate enough.
"""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bftembed.errors import BftembedError, require, unknown_name
from bftembed.machine import cpu_has_bf16, usable_cores

#: Largest 1 - cosine to float64 that each precision allows.
TOLERANCE: dict[str, float] = {"fast": 1e-5, "exact": 1e-6}

#: Below this number of multiplications loading torch takes longer than it saves.
_SMALL = 5 * 10**9
#: Below this share of stored values the sparse product does less work than matrix units can make up for.
_MIN_DENSITY = 1 / 70
_ROWS_OF_A_THREAD = 1024
_COMPARED_ROWS = 16


class Kernel(Protocol):
    """A way to multiply. Made once for a gene matrix; holds its work space."""

    name: str

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """Write ``sum of values · matrix[targets]`` of each row to `out`, float32 (n, d).

        `indptr` int64 (n + 1,) with n at most the rows of a block; `targets` int32, -1 for values that do not count;
        `values` float32; a target occurs at most once in a row.
        """


class _SparseFloat32:
    """CSR times dense by SciPy, float32, runs of rows on all cores: exact, and the same for any block size."""

    name = "sparse-float32"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        self._matrix = matrix

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        from scipy.sparse import csr_matrix

        from bftembed.expression.compiled import by_rows

        kept = targets >= 0
        starts = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[indptr]
        rows = csr_matrix((values[kept], targets[kept], starts), shape=(len(out), len(self._matrix)))

        def multiply(first: int, last: int) -> None:
            out[first:last] = rows[first:last] @ self._matrix

        by_rows(multiply, len(out))


class _DenseBf16:
    """Rows made dense in bfloat16, then a bfloat16 product with float32 sums, rounded to bfloat16 in the end.

    Two threads of ours work on 1,024 rows each. torch's own threads go on spinning after a product, and whatever comes
    next has to share the cores with them: a third of the time on two cores.
    """

    name = "dense-bf16"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        import torch

        self._matrix = torch.empty(matrix.shape, dtype=torch.bfloat16)
        for start in range(0, len(matrix), 4096):  # no second float32 copy
            self._matrix[start : start + 4096] = torch.from_numpy(matrix[start : start + 4096])
        self._height = min(_ROWS_OF_A_THREAD, -(-block_rows // 2))
        rows = -(-block_rows // self._height) * self._height
        self._block = torch.zeros((rows, len(matrix)), dtype=torch.bfloat16)
        self._bits = self._block.view(torch.int16).numpy().view(np.uint16)
        self._product = torch.empty((rows, matrix.shape[1]), dtype=torch.bfloat16)

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        import torch

        from bftembed.expression.compiled import fill_bf16

        def multiply(first: int) -> None:
            last = min(first + self._height, len(out))
            fill_bf16(first, last, indptr, targets, values.view(np.uint32), self._bits)
            # Whole blocks, whatever is in their last rows: a product rounds by its height, and shards have to agree.
            whole = slice(first, first + self._height)
            torch.mm(self._block[whole], self._matrix, out=self._product[whole])
            torch.from_numpy(out[first:last]).copy_(self._product[first:last])

        for _ in _multipliers(os.getpid()).map(multiply, range(0, len(out), self._height)):
            pass


@functools.cache
def _multipliers(pid: int) -> ThreadPoolExecutor:
    """Return two threads that share the cores between them, in the products that torch does for them too."""
    import torch

    n, before = min(2, usable_cores()), torch.get_num_threads()
    started = threading.Barrier(n)
    pool = ThreadPoolExecutor(n, "multiply", torch.set_num_threads, (max(1, usable_cores() // 2),))
    list(pool.map(lambda _: started.wait(), range(n)))
    torch.set_num_threads(before)  # what a thread sets is also the start of threads to come
    return pool


class _DenseCuda:
    """Rows made dense in bfloat16 on a CUDA device, then a bfloat16 product there; values travel from pinned memory."""

    name = "dense-cuda"

    def __init__(self, matrix: np.ndarray, block_rows: int, device: str = "cuda") -> None:
        import torch

        self._device, self._pin = device, device == "cuda"
        self._matrix = torch.from_numpy(matrix).to(device, torch.bfloat16)
        self._block = torch.empty((block_rows, len(matrix)), dtype=torch.bfloat16, device=device)

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        import torch

        n, counts = len(out), targets >= 0
        rows = np.repeat(np.arange(n), np.diff(indptr))[counts]
        places = torch.from_numpy(rows * self._block.shape[1] + targets[counts])
        weights = torch.from_numpy(values[counts]).to(torch.bfloat16)
        if self._pin:
            places, weights = places.pin_memory(), weights.pin_memory()
        block = self._block.zero_()
        block.view(-1).put_(places.to(self._device, non_blocking=True), weights.to(self._device, non_blocking=True))
        torch.from_numpy(out).copy_(torch.mm(block, self._matrix)[:n])


KERNELS: dict[str, type[Any]] = {kind.name: kind for kind in (_SparseFloat32, _DenseBf16, _DenseCuda)}


def steady(work: float, precision: str = "fast", density: float = 1.0) -> str:
    """Return the name of the kernel for a run, the same every time on a machine.

    Parameters
    ----------
    work
        Multiplications of the sparse product: stored values times dimensions.
    precision
        ``"fast"`` or ``"exact"``; the latter is float32 throughout.
    density
        Share of the values of genes with an embedding that are stored.
    """
    if precision != "fast" or work < _SMALL or density < _MIN_DENSITY or find_spec("torch") is None:
        return _SparseFloat32.name
    if _has_cuda():
        return _DenseCuda.name
    return _DenseBf16.name if cpu_has_bf16() else _SparseFloat32.name


def checked_kernel(
    name: str,
    matrix: np.ndarray,
    block_rows: int,
    block: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    precision: str,
    requested: bool,
) -> Kernel:
    """Return a kernel that is accurate on some rows of a block; the sparse one where another is not.

    Parameters
    ----------
    name
        Of `KERNELS`.
    matrix
        Gene matrix, float32 (n_targets, d), C-contiguous.
    block_rows
        Maximum number of cells of a block.
    block
        `indptr`, `targets` and `values` of the first block.
    precision
        See `TOLERANCE`.
    requested
        Whether the caller named the kernel: then one that is not accurate enough is an error.

    Raises
    ------
    BftembedError
        For an unknown name, one that cannot run here, and a requested one that is not accurate enough.
    """
    if name not in KERNELS:
        raise unknown_name("kernel", name, KERNELS)
    if name == _DenseCuda.name and not _has_cuda():
        raise BftembedError("kernel 'dense-cuda' needs torch and a CUDA device; there is none. Leave the kernel out.")
    if name == _SparseFloat32.name:
        return _SparseFloat32(matrix, block_rows)
    require("torch", "local")
    kernel: Kernel = KERNELS[name](matrix, block_rows)
    indptr, targets, values = block
    n = min(len(indptr) - 1, 64)
    out, worst = np.empty((n, matrix.shape[1]), dtype=np.float32), 0.0
    kernel(indptr[: n + 1], targets[: indptr[n]], values[: indptr[n]], out)
    for row in range(0, n, max(1, n // _COMPARED_ROWS)):
        part = slice(indptr[row], indptr[row + 1])
        counts = targets[part] >= 0
        exact = values[part][counts].astype(np.float64) @ matrix[targets[part][counts]].astype(np.float64)
        found = out[row].astype(np.float64)
        length = np.sqrt((exact @ exact) * (found @ found))
        worst = max(worst, 1 - float(exact @ found) / float(length)) if length > 0 else worst
    if worst <= TOLERANCE[precision]:
        return kernel
    if requested:
        raise BftembedError(
            f"The kernel {name!r} is not accurate enough for precision {precision!r}: 1 - cosine {worst:.1e}. Choose "
            "another kernel, or none."
        )
    return _SparseFloat32(matrix, block_rows)


def _has_cuda() -> bool:
    # Loading torch takes seconds, and is in vain where there is no device.
    if find_spec("torch") is None or not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")):
        return False
    import torch

    return bool(torch.cuda.is_available())
