"""``i/n``: which part of a job this process does; and Ray, where it hands the parts out."""

from __future__ import annotations

import builtins
import contextlib
import re
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require

if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and n of ``"i/n"``.

    Raises
    ------
    BftembedError
        For anything but two whole numbers with 1 ≤ i ≤ n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", str(text).strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise BftembedError(f"shard (--shard) is {text!r}; give i/n with i from 1 to n, for example 2/8.")
    return int(found[1]), int(found[2])


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[Any]:
    """Give Ray, on the cluster that is running or on one of one's own, which ends with the block.

    Ray puts a function of its own in the place of ``print`` in the whole process, and numba can compile nothing that
    prints after that (pynndescent's search, for one). It is put back.

    Parameters
    ----------
    address
        Of a running cluster, such as ``"auto"``; None uses one that `ray.init` was called for, else this machine.

    Raises
    ------
    MissingExtraError
        Without the extra ``ray``.
    """
    ray = require("ray", "ray")
    own_print, started = builtins.print, not ray.is_initialized()
    try:
        if started:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        yield ray
    finally:
        if started:
            ray.shutdown()
        builtins.print = own_print
