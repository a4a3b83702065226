"""Producing the next item on another thread while this one is worked on."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
