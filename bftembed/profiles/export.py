"""Profiles as a Parquet table with a card."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import atomic_path, write_text
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

#: Columns that earlier versions did not write.
_LATER = {"generator_id", "reasoning"}


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
    Columns: the fields of `bftembed.llm.base.Answer` but scores and sample. Equal stores give equal bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    with AnswerStore.open(folder) as store:
        profiles, generators, digest = store.answers(), store.generators(), store.digest()
    with atomic_path(out) as temporary:
        table = pa.Table.from_pylist([asdict(p) for p in profiles], schema=_schema())
        pq.write_table(table, temporary, compression="zstd")
    card, marks = out.with_suffix(".card.md"), mark_counts(profiles)
    lines = [
        "# Profiles\n",
        f"{len(profiles)} profiles written by bftembed. Texts come from language models and may be false.\n",
        f"- content sha256: `{digest}`",
        f"- prompts: {', '.join(sorted({p.prompt for p in profiles})) or 'none'}",
        *(f"- generator `{g['spec']}`: `{g['fingerprint']}`" for g in generators),
        "\n| mark | profiles |",
        "|---|---|",
        *(f"| {mark} | {n} |" for mark, n in marks.items()),
    ]
    write_text(card, "\n".join(lines) + "\n")
    return {"profiles": len(profiles), "marks": marks, "out": str(out), "card": str(card)}


def read_exported(path: str | os.PathLike[str]) -> list[Answer]:
    """Read a table that `export_profiles` wrote.

    Raises
    ------
    BftembedError
        When it is missing, not Parquet, lacks columns, or has a null or a column of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        schema = pa.schema([f for f in _schema() if f.name in table.column_names or f.name not in _LATER])
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as err:
        raise BftembedError(f"{path} is not a Parquet table of profiles: {str(err).splitlines()[0]}.") from err
    if gaps := [name for name in table.column_names if table[name].null_count]:
        raise BftembedError(f"{path} has rows without {', '.join(gaps)}. Complete the table, or export it again.")
    return [Answer(**{**row, "marks": tuple(row["marks"])}) for row in table.to_pylist()]


def _schema() -> Any:
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64(), "tuple[str, ...]": pa.list_(pa.string())}
    return pa.schema([(f.name, types[str(f.type)]) for f in fields(Answer) if f.name not in ("scores", "sample")])


def has_text(profile: Answer) -> bool:
    """Return whether a profile was written, with quality flags or without."""
    return bool(profile.text.strip()) and not profile.error


def mark_counts(profiles: Sequence[Answer]) -> dict[str, int]:
    """Return mark → number of profiles that carry it, and ``"ok"`` → number without any."""
    counts = Counter(mark for p in profiles for mark in p.marks)
    return {"ok": sum(not p.marks for p in profiles), **dict(sorted(counts.items()))}
