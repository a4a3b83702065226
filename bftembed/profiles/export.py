"""Profiles as a Parquet table with a card, for people and programs that do not read the store."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import atomic_path, write_text
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore

if TYPE_CHECKING:
    import os

_FIELDS = tuple(f.name for f in dataclasses.fields(Answer) if f.name not in ("scores", "sample"))
_NUMBERS = ("prompt_tokens", "completion_tokens", "attempts")
#: Columns that earlier versions did not write.
_LATER = ("generator_id", "reasoning")


def export_profiles(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Write every profile of a store to a Parquet file, with a card.

    Parameters
    ----------
    folder
        Folder of the profile store.
    out
        Parquet file to write; the card is written to NAME.card.md.

    Returns
    -------
    dict
        ``profiles`` (count), ``marks`` (mark → count), ``out`` and ``card``.

    Notes
    -----
    Columns: the fields of `bftembed.llm.base.Answer`, ``marks`` as a list of strings. Equal stores
    give equal bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    with AnswerStore.open(folder) as store:
        profiles, generators, digest = store.answers(), store.generators(), store.digest()
    columns: dict[str, Any] = {name: [getattr(p, name) for p in profiles] for name in _FIELDS}
    columns["marks"] = pa.array([list(p.marks) for p in profiles], pa.list_(pa.string()))
    with atomic_path(out) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    card = out.with_suffix(".card.md")
    write_text(card, _card(profiles, generators, digest))
    return {"profiles": len(profiles), "marks": mark_counts(profiles), "out": str(out), "card": str(card)}


def read_exported(path: str | os.PathLike[str]) -> list[Answer]:
    """Read a table that `export_profiles` wrote.

    Raises
    ------
    BftembedError
        When it is missing, not Parquet, lacks columns, or holds a null or a value of another type (names the row).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).exists():
        raise BftembedError(f"No such file: {path}.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as err:
        raise BftembedError(f"{path} is not a whole Parquet file ({str(err).splitlines()[0]}).") from err
    missing = [name for name in _FIELDS if name not in table.column_names and name not in _LATER]
    if missing:
        raise BftembedError(f"{path} is no table of profiles: it lacks {', '.join(missing)}.")
    rows = table.select([name for name in _FIELDS if name in table.column_names]).to_pylist()
    return [_profile(row, f"{path}, row {i}") for i, row in enumerate(rows)]


def _profile(row: dict[str, Any], where: str) -> Answer:
    for name, value in row.items():
        if name == "marks":
            fits, expected = isinstance(value, list) and all(isinstance(m, str) for m in value), "a list of strings"
        elif name in _NUMBERS:
            fits, expected = isinstance(value, int), "a whole number"
        else:
            fits, expected = isinstance(value, str), "a string"
        if not fits:
            raise BftembedError(
                f"{where}: {name} is {value!r}, expected {expected}. Mend the table, or export it again."
            )
    return Answer(**{**row, "marks": tuple(row["marks"])})


def mark_counts(profiles: list[Answer]) -> dict[str, int]:
    """Return mark → number of profiles that carry it, and ``"ok"`` → number without any."""
    counts = Counter(mark for p in profiles for mark in p.marks)
    return {"ok": sum(not p.marks for p in profiles), **dict(sorted(counts.items()))}


def _card(profiles: list[Answer], generators: list[dict[str, Any]], digest: str) -> str:
    lines = [
        "# Profiles",
        "",
        f"{len(profiles)} profiles written by bftembed. Texts come from language models and may be false.",
        "",
        f"- content sha256: `{digest}`",
        f"- prompts: {', '.join(sorted({p.prompt for p in profiles})) or 'none'}",
        *(f"- generator `{g['spec']}`: `{g['fingerprint']}`" for g in generators),
        "",
        "| mark | profiles |",
        "|---|---|",
        *(f"| {mark} | {count} |" for mark, count in mark_counts(profiles).items()),
    ]
    return "\n".join(lines) + "\n"
