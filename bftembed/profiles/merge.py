"""Joining the stores of shards into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError, examples
from bftembed.llm.store import SCHEMA_VERSION, AnswerStore

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


@dataclass(frozen=True)
class MergeReport:
    """What was joined.

    Attributes
    ----------
    out
        Folder of the joined store.
    parts
        Folders that were read.
    added
        Profiles that were new in `out`.
    same
        Profiles that several stores hold alike.
    """

    out: str
    parts: tuple[str, ...]
    added: int
    same: int


def merge_stores(parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> MergeReport:
    """Copy the profiles of several stores into one.

    A profile that failed in one store gives way to one that did not. Nothing is removed: merging again adds nothing.

    Parameters
    ----------
    parts
        Folders of the profile stores of the shards.
    out
        Folder of the profile store to create or add to.

    Raises
    ------
    BftembedError
        When a part is no store or is `out` itself, or two stores hold different texts under one key; `out` then has
        the profiles of the parts before it.
    """
    target, folders = Path(out), [Path(part) for part in parts]
    if not folders:
        raise BftembedError("There is nothing to merge: name the folders of the shards.")
    if any(target.exists() and folder.exists() and folder.samefile(target) for folder in folders):
        raise BftembedError(f"{target} is one of the parts. Choose another folder for --out.")
    for folder in folders:
        with AnswerStore.open(folder) as part:  # all are looked at before the first is copied
            old = part.schema < SCHEMA_VERSION
        if old:
            with AnswerStore.writing(folder):
                pass  # brought to today's schema
    added = same = 0
    with AnswerStore.writing(target) as store:
        for folder in folders:
            differing = store.differing(folder)
            if differing:
                raise BftembedError(
                    f"{folder} holds other texts than the stores before it for {examples(differing)}, under the same "
                    "keys. They are not shards of one run: merge them into separate folders."
                )
            new, known = store.absorb(folder)
            added, same = added + new, same + known
    return MergeReport(str(target), tuple(str(folder) for folder in folders), added, same)
