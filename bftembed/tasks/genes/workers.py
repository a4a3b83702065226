"""Fits side by side in processes. Threads would wait for each other: the fits are many and small."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Workers:
    """Run calls in `jobs` processes, or here when it is 1. Each call computes on one thread either way.

    Sums in another order give other last digits, so that more threads inside a fit would change results.

    Parameters
    ----------
    jobs
        Processes. Above 1, a script that is run as a program needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: Any = None
        self._limits: Any = None

    def __enter__(self) -> Workers:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        if self._jobs > 1:
            self._pool = ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn"), initializer=_begin)
        self._limits = _one_thread()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._limits.restore_original_limits()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Start ``call(*arguments)`` and return a function that waits for its result."""
        if self._pool is None:
            result = call(*arguments)
            return lambda: result
        return self._pool.submit(call, *arguments).result


def _begin() -> None:
    _one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait in a process of its own for the end of the one that asked: a killed one cannot say that it is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one_thread() -> Any:
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)
