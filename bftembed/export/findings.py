"""What a check of an export finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["FAIL", "WARN"]
FAIL: Level = "FAIL"
WARN: Level = "WARN"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    level
        ``"FAIL"``: STATE stops, or goes wrong without a word. ``"WARN"``: it works, and may not be what is meant.
    file
        Path in the folder; ``""`` for the folder itself.
    what, remedy
        What is wrong, and what to do.
    """

    level: Level
    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        stop = "" if self.what.endswith("?") else "."
        return f"{self.level} {self.file or '.'}: {self.what}{stop} {self.remedy}."

    def as_dict(self) -> dict[str, str]:
        """Return every field as what JSON holds."""
        return asdict(self)
