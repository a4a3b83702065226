"""Reading one item ahead and writing one item behind, each on a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_END = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield what `items` yields, in order, one item ahead of the caller.

    An exception of `items` is raised at its place. When the caller stops early, `items` is closed before this returns.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        pending: Future[Any] = pool.submit(next, source, _END)
        try:
            while (item := pending.result()) is not _END:
                pending = pool.submit(next, source, _END)
                yield item
                del item
        finally:
            pool.submit(getattr(source, "close", lambda: None)).result()


class Behind:
    """Calls a function on another thread, one call behind the caller. A context manager; all is done when it ends.

    An exception of the function is raised by the next call, or at the end.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._pending: Future[Any] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()

    def __call__(self, *arguments: Any) -> None:
        """Begin a call when the one before is done; `arguments` must not change until the call after the next."""
        self._wait()
        self._pending = self._pool.submit(self._function, *arguments)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
