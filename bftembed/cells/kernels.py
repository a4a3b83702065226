"""The product of a block of cells with the gene matrix, by the way that is fastest here.

Expression is 5 to 10 % dense. A sparse product does few operations, but reads a row of the gene matrix for each stored
value and cannot use matrix units; filling a dense bfloat16 block and multiplying that does twelve times the arithmetic
and is several times faster where the processor multiplies bfloat16. Which way wins depends on the machine, the density
and the width, so it is measured on the first block, never assumed.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from bftembed.errors import BftembedError, unknown_name
from bftembed.machine import cpu_has_bf16, usable_cores

#: Largest 1 - cosine to float64 that each precision allows.
TOLERANCE: dict[str, float] = {"fast": 1e-5, "exact": 1e-6}

#: Below so many multiplications in all, choosing would take longer than multiplying.
_SMALL = 2 * 10**9
_ROWS_OF_A_THREAD = 1024
_TRIED_ROWS, _COMPARED_ROWS = 64, 16


class Kernel(Protocol):
    """A way to multiply. Made once for a gene matrix; holds its work space."""

    name: str

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """Write ``sum of values · matrix[targets]`` of each row to `out`, float32 (n, d).

        `indptr` int64 (n + 1,) with n at most the rows of a block; `targets` int32, -1 for values that do not count;
        `values` float32; a target occurs at most once in a row.
        """


def _kept(indptr: np.ndarray, targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `indptr`, `targets` and `values` of the values that count alone."""
    from bftembed.cells.compiled import by_rows, count_kept, keep

    n = len(indptr) - 1
    starts = np.zeros(n + 1, dtype=np.int64)
    by_rows(count_kept, n, indptr, targets, starts[1:])
    np.cumsum(starts, out=starts)
    if starts[-1] == len(targets):
        return indptr, targets, values
    kept = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.float32)
    by_rows(keep, n, indptr, targets, values, starts, *kept)
    return starts, *kept


class SciPy:
    """CSR times dense, float32, one thread."""

    name = "scipy"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        self._matrix = matrix

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """See `Kernel`."""
        from scipy.sparse import csr_matrix

        starts, kept_targets, kept_values = _kept(indptr, targets, values)
        out[:] = csr_matrix((kept_values, kept_targets, starts), shape=(len(out), len(self._matrix))) @ self._matrix


class TorchCSR:
    """CSR times dense by torch (MKL), float32, all threads."""

    name = "torch-csr"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        import torch

        self._matrix = torch.from_numpy(matrix)

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """See `Kernel`."""
        import torch

        starts, kept_targets, kept_values = _kept(indptr, targets, values)
        parts = (starts.astype(np.int32), kept_targets, kept_values)  # 64-bit indices run on one thread
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(False):
            warnings.filterwarnings("ignore", message=".*CSR tensor support.*")
            rows = torch.sparse_csr_tensor(*map(torch.from_numpy, parts), size=(len(out), len(self._matrix)))
            torch.from_numpy(out).copy_(rows @ self._matrix)


class Axpy:
    """One scaled vector added per stored value, float32, all threads."""

    name = "axpy"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        self._matrix = matrix

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """See `Kernel`."""
        from bftembed.cells.compiled import axpy, by_rows

        by_rows(axpy, len(out), indptr, targets, values, self._matrix, out)


class DenseFloat32:
    """Rows made dense, then a float32 product."""

    name = "dense-float32"

    def __init__(self, matrix: np.ndarray, block_rows: int) -> None:
        self._matrix = matrix
        self._block = np.zeros((block_rows, len(matrix)), dtype=np.float32)
        self._product = np.empty((block_rows, matrix.shape[1]), dtype=np.float32)

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """See `Kernel`."""
        from bftembed.cells.compiled import by_rows, fill_float32

        by_rows(fill_float32, len(out), indptr, targets, values, self._block)
        # The whole block, whatever is in its last rows: a product rounds by its height, and shards have to agree.
        np.matmul(self._block, self._matrix, out=self._product)
        out[:] = self._product[: len(out)]


class DenseBf16:
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
        """See `Kernel`."""
        import torch

        from bftembed.cells.compiled import fill_bf16

        def multiply(first: int) -> None:
            last = min(first + self._height, len(out))
            fill_bf16(first, last, indptr, targets, values.view(np.uint32), self._bits)
            whole = slice(first, first + self._height)  # see `DenseFloat32`
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


class DenseCuda:
    """Rows made dense in bfloat16 on a CUDA device, then a bfloat16 product there; values travel from pinned memory."""

    name = "dense-cuda"

    def __init__(self, matrix: np.ndarray, block_rows: int, device: str = "cuda") -> None:
        import torch

        self._device, self._pin = device, device == "cuda"
        self._matrix = torch.from_numpy(matrix).to(device, torch.bfloat16)
        self._block = torch.empty((block_rows, len(matrix)), dtype=torch.bfloat16, device=device)

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
        """See `Kernel`."""
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


KERNELS: dict[str, type[Any]] = {
    kind.name: kind for kind in (DenseCuda, DenseBf16, DenseFloat32, TorchCSR, Axpy, SciPy)
}
_TRIED = (DenseCuda.name, DenseBf16.name, DenseFloat32.name, TorchCSR.name, Axpy.name)


@dataclass(frozen=True)
class Choice:
    """A kernel and why it was taken.

    Attributes
    ----------
    kernel
        The kernel, made.
    reason
        In words, with the time that each kernel took.
    """

    kernel: Kernel
    reason: str


def choose(
    matrix: np.ndarray,
    block_rows: int,
    n_cells: int,
    block: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    precision: str = "fast",
    asked: str | None = None,
) -> Choice:
    """Choose the kernel for a run.

    Parameters
    ----------
    matrix
        Gene matrix, float32 (n_targets, d), C-contiguous.
    block_rows
        Most cells of a block.
    n_cells
        Cells of the whole run.
    block
        `indptr`, `targets` and `values` of the first block, to try the kernels on.
    precision
        ``"fast"``: 1 - cosine to float64 at most 1e-5; ``"exact"``: at most 1e-6, float32 throughout.
    asked
        Name of a kernel to take whatever the time; its accuracy is checked all the same.

    Raises
    ------
    BftembedError
        For an unknown name, one that cannot run here, or one that is not accurate enough.
    """
    if precision not in TOLERANCE:
        raise unknown_name("precision", precision, TOLERANCE)
    if asked is not None and asked not in KERNELS:
        raise unknown_name("kernel", asked, KERNELS)
    indptr, targets, values = (part[:n] for part, n in zip(block, _lengths(block[0], _TRIED_ROWS), strict=True))
    n_rows = len(indptr) - 1
    if asked is None and len(targets) / max(1, n_rows) * n_cells * matrix.shape[1] < _SMALL:
        return Choice(SciPy(matrix, block_rows), "few values")
    names = [asked] if asked else [name for name in _TRIED if _can_run(name, precision)]
    if asked == DenseCuda.name and not _can_run(asked, "fast"):
        raise BftembedError("kernel 'dense-cuda' needs torch and a CUDA device; there is none. Leave the kernel out.")
    out = np.empty((n_rows, matrix.shape[1]), dtype=np.float32)
    expected = _reference(matrix, indptr, targets, values)
    times: dict[str, float] = {}
    dropped = []
    for name in names:
        kernel = KERNELS[name](matrix, n_rows)
        kernel(indptr, targets, values, out)  # the first call compiles
        error = _error(out, expected)
        if error > TOLERANCE[precision]:
            dropped.append(f"{name} left out: 1 - cosine {error:.1e}")
            continue
        started = time.perf_counter()
        kernel(indptr, targets, values, out)
        times[name] = time.perf_counter() - started
        del kernel  # and its work space, before the next one's
    if not times:
        raise BftembedError(
            f"The kernel asked for is not accurate enough for precision {precision!r}: {'; '.join(dropped)}. Choose "
            "another kernel, or none."
        )
    fastest = min(times, key=lambda name: times[name])
    told = [f"{name} {1e6 * t / max(1, n_rows):.0f} µs" for name, t in sorted(times.items(), key=lambda x: x[1])]
    return Choice(KERNELS[fastest](matrix, block_rows), f"per cell of the first {n_rows}: {', '.join(told + dropped)}")


def steady(work: float, precision: str = "fast") -> str:
    """Return the kernel by the number of multiplications and the processor, never by a clock: the same every time."""
    if work < _SMALL:
        return SciPy.name
    return DenseBf16.name if _can_run(DenseBf16.name, precision) else DenseFloat32.name


def _lengths(indptr: np.ndarray, rows: int) -> tuple[int, int, int]:
    n = min(rows, len(indptr) - 1)
    return n + 1, int(indptr[n]), int(indptr[n])


def _can_run(name: str, precision: str) -> bool:
    if name in (DenseFloat32.name, Axpy.name, SciPy.name):
        return True
    if name == TorchCSR.name:
        return find_spec("torch") is not None
    if precision != "fast" or find_spec("torch") is None:
        return False
    if name == DenseBf16.name:
        return cpu_has_bf16()
    import torch

    return torch.cuda.is_available()


def _reference(
    matrix: np.ndarray, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray
) -> dict[int, np.ndarray]:
    """Return the product of some rows in float64, by row."""
    found = {}
    n = len(indptr) - 1
    for row in range(0, n, max(1, n // _COMPARED_ROWS)):
        part = slice(indptr[row], indptr[row + 1])
        counts = targets[part] >= 0
        found[row] = values[part][counts].astype(np.float64) @ matrix[targets[part][counts]].astype(np.float64)
    return found


def _error(found: np.ndarray, expected: dict[int, np.ndarray]) -> float:
    """Return the largest 1 - cosine of rows of `found` float32 (n, d)."""
    worst = 0.0
    for row, vector in expected.items():
        wide = found[row].astype(np.float64)
        length = np.sqrt((vector @ vector) * (wide @ wide))
        if length > 0:
            worst = max(worst, 1 - float(vector @ wide) / float(length))
    return worst
