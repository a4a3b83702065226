"""Parts of a list that several machines can work on."""

from __future__ import annotations

from dataclasses import dataclass

from bftembed.io import sha256_text
from bftembed.shards import parse_shard


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
        return cls() if text is None else cls(*parse_shard(text))

    def __contains__(self, entity: object) -> bool:
        return self.of == 1 or int(sha256_text(str(entity))[:8], 16) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
