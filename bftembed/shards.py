"""``i/n``: which part of a job this process does."""

from __future__ import annotations

import re

from bftembed.errors import BftembedError


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and n of ``"i/n"``.

    Raises
    ------
    BftembedError
        For anything but two integers with 1 ≤ i ≤ n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", str(text).strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise BftembedError(f"shard (--shard) is {text!r}; give i/n with i from 1 to n, for example 2/8.")
    return int(found[1]), int(found[2])
