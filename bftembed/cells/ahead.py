"""The next item is made, and the last one written, on other threads while this one is worked on."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield what `items` yields, in order, one item ahead of the caller.

    An exception of `items` is raised at its place. When the caller stops early, `items` is closed before this returns.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def offer(more: bool, item: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put((more, item), timeout=0.1)
                return
            except queue.Full:
                continue

    def produce() -> None:
        source = iter(items)
        try:
            for item in source:
                offer(True, item)
                if stop.is_set():
                    return
            offer(False, None)
        except BaseException as err:  # noqa: BLE001  raised again where the caller can see it
            offer(False, err)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if not more:
                if isinstance(item, BaseException):
                    raise item
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


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
