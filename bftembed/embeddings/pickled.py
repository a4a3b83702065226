"""Gene vectors out of a pickle, such as GenePT's: a dict of gene → list of numbers or flat NumPy array.

It runs in Python's restricted unpickler, in a process of its own with a limit on memory. Each of the six names that
arrays need stands for a few lines here; NumPy itself is not called, and every other name is rejected.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS = {f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248")) for size in sizes}


def pickled_vectors(file: Path) -> tuple[list[str], np.ndarray]:
    """Return the genes of a pickled dict, and their vectors: float64 where any is a list or an array of float64.

    Raises
    ------
    BftembedError
        When it asks for anything but numbers, is damaged, or holds vectors of different length.
    """
    with tempfile.TemporaryDirectory(prefix="bftembed-") as folder:
        made = Path(folder) / "vectors.npz"
        command = [sys.executable, "-m", __name__, str(file.resolve()), str(made)]
        # The child finds this very package, wherever it lies.
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False, errors="replace"
        )
        if done.returncode:
            reason = " ".join(done.stderr.split()) if done.returncode == 1 else "it crashed"
            raise BftembedError(f"{file} is a pickle that is not read: {reason[-300:]}. Nothing of it was run.")
        with np.load(made) as arrays:
            return arrays["ids"].item().decode("utf-8", "surrogatepass").split("\0"), arrays["matrix"]


class _Refused(Exception):
    """The reason why a pickle is not read."""


class _Function:
    """Something that a pickle can call, and do nothing else with."""

    def __init__(self, do: Callable[..., Any]) -> None:
        self._do = do

    def __call__(self, *arguments: Any) -> Any:
        return self._do(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("it changes the inside of an object")


class _NumberType:
    """A NumPy type of numbers; its state says the byte order."""

    def __init__(self, name: str, *flags: object) -> None:
        if name.lstrip("<>=|") not in _NUMBERS:
            raise _Refused(f"it holds NumPy values of the type {name[:20]!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A flat NumPy array; its state says the numbers."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, _, raw = state[-4:]
        self.fill(raw, kind, shape)

    def fill(self, raw: bytes | str, kind: _NumberType, shape: tuple[int, ...], order: str = "C") -> _Array:
        if type(kind) is not _NumberType or len(shape) != 1 or not isinstance(raw, bytes | bytearray | str):
            raise _Refused("it holds a NumPy array that is no flat array of numbers")
        self.values = np.frombuffer(raw.encode("latin-1") if isinstance(raw, str) else raw, kind.dtype)
        if self.values.shape != shape:
            raise _Refused("it holds a NumPy array whose shape does not fit its bytes")
        return self


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _Refused("it encodes something else than the bytes of an array")
    return text.encode("latin-1")


class _Restricted(pickle.Unpickler):
    known: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy", "dtype"): _NumberType,
        ("numpy", "ndarray"): _Array,
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = lambda *_: _Array()
        known[f"{core}.numeric", "_frombuffer"] = lambda *given: _Array().fill(*given)
        known[f"{core}.multiarray", "scalar"] = lambda kind, raw: _Array().fill(raw, kind, (1,)).values[0].item()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise _Refused(f"it asks for {f'{module}.{name}'[:120]!r}")
        return _Function(self.known[module, name])


def _vectors(table: Any, size: int) -> tuple[list[str], np.ndarray]:
    if type(table) is not dict or not table or not all(type(gene) is str for gene in table):
        raise _Refused("it holds no dict of gene → numbers")
    for gene, value in table.items():
        # A list in a list may stand for any amount of numbers.
        if type(value) is _Array and hasattr(value, "values"):
            table[gene] = value.values
        elif type(value) is not list or not set(map(type, value)) <= {int, float}:
            raise _Refused(f"the value of {gene[:60]!r} is no list and no flat array of numbers")
    lengths = {len(value): gene for gene, value in reversed(table.items())}
    if len(lengths) > 1:
        raise _Refused(f"its vectors differ in length: {', '.join(f'{g!r} has {n}' for n, g in lengths.items())[:200]}")
    dim = next(iter(lengths))
    arrays = [value.dtype for value in table.values() if isinstance(value, np.ndarray)]
    # A number takes a byte or more in the file; a vector that many genes share may claim any amount.
    if len(table) * dim > size:
        raise _Refused(f"{len(table)} genes × {dim} numbers do not fit its {size:,} bytes: genes share one vector")
    wide = len(arrays) < len(table) or any(kind.kind == "f" and kind.itemsize > 4 for kind in arrays)
    matrix = np.empty((len(table), dim), np.float64 if wide else np.float32)
    for row, value in zip(matrix, table.values(), strict=True):
        row[:] = value
    return list(table), matrix


def _main(source: str, target: str) -> None:
    size = Path(source).stat().st_size
    with contextlib.suppress(ImportError, OSError, ValueError):  # where the system can
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30 + 16 * size,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with Path(source).open("rb") as handle:
            table = _Restricted(handle, encoding="latin-1").load()
            if handle.read(1):
                raise _Refused("more follows after its end")
        genes, matrix = _vectors(table, size)
        if any("\0" in gene for gene in genes):
            raise _Refused("a gene's name holds a zero byte")
        np.savez(target, ids="\0".join(genes).encode("utf-8", "surrogatepass"), matrix=matrix)
    except _Refused as err:
        sys.exit(str(err))
    except Exception as err:  # noqa: BLE001 - whatever a damaged pickle brings about
        sys.exit(f"it is damaged ({type(err).__name__}: {err})")


if __name__ == "__main__":
    _main(*sys.argv[1:])
