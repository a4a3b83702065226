"""The texts that gene vectors were made of, from wherever they are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Sequence

Texts = str | os.PathLike[str] | Mapping[str, str]

#: How a set of texts is named that is public data: ``dataset:refseq-summaries``.
DATASET = "dataset:"


def read_texts(source: Texts, allow_marks: Sequence[str] = ()) -> Mapping[str, str]:
    """Return gene → text.

    Parameters
    ----------
    source
        A mapping, which is returned; ``"dataset:NAME"``; a table of gene and text (``.tsv``, ``.csv``, ``.txt``); else
        a profile store or its Parquet.
    allow_marks
        Marks of screening that do not exclude a profile.

    Raises
    ------
    BftembedError
        For data that are not at hand or hold no texts, and files that cannot be read.
    """
    from bftembed.datasets import load
    from bftembed.profiles.context import read_context
    from bftembed.profiles.selection import select_profiles

    if isinstance(source, Mapping):
        return source
    text = str(source)
    if text.startswith(DATASET):
        found = load(text.removeprefix(DATASET))
        if not isinstance(found, dict) or not all(isinstance(t, str) for t in found.values()):
            raise BftembedError(f"{text} is not a set of texts. Known ones: refseq-summaries, geneagent-descriptions.")
        return found
    if Path(text).suffix.lower() in (".tsv", ".csv", ".txt"):
        return read_context(text)
    return select_profiles(text, allow_marks=allow_marks).texts
