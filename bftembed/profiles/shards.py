"""Parts of a list that several machines can work on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bftembed.errors import BftembedError
from bftembed.io import sha256_text


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `of` parts, counted from 1; an entity belongs to one by a hash of its name."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Read ``"i/n"``; None is the whole.

        Raises
        ------
        BftembedError
            For anything but two whole numbers with 1 ≤ i ≤ n.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise BftembedError(f"shard (--shard) is {text!r}; give i/n with i from 1 to n, such as 2/8.")
        return shard

    def __contains__(self, entity: object) -> bool:
        return self.of == 1 or int(sha256_text(str(entity))[:8], 16) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
