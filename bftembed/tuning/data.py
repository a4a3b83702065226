"""Conversations to learn from: JSON in the common forms, PubMedQA, and tables of texts about genes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import refuse_input_as_output, write_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
#: A small gzip file that unpacks to more is a bomb.
_MAX_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Turn:
    """One message: `role` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns that end with the assistant's, all of which are learnt; `where` is file and row, ``"pairs.jsonl:12"``."""

    where: str
    turns: tuple[Turn, ...]


def read_conversations(path: str | os.PathLike[str]) -> list[Conversation]:
    """Read conversations from JSON Lines or a ``.json`` list, or the questions and answers of PubMedQA.

    Parameters
    ----------
    path
        Each row in one of these forms, also mixed in one file; other keys are ignored::

            {"messages": [{"role": "system|user|assistant", "content": "…"}, …]}
            {"prompt": "…", "completion": "…"}                  (or lists of messages)
            {"instruction": "…", "input": "…", "output": "…"}   (Alpaca; also "system", "history": [[asked, said], …])
            {"conversations": [{"from": "human|gpt|system", "value": "…"}, …]}   (ShareGPT; also "system")

        Or a ``.json`` object of PubMed ids with ``QUESTION``, ``CONTEXTS`` and ``LONG_ANSWER`` (``ori_pqal.json``): the
        question and its contexts are answered by the conclusion; entries without one are skipped. Also ``.gz``.

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or empty, and for rows of another form or without a response: the first five
        are named, with the number of all.
    """
    file = Path(path)
    conversations, mistakes = [], []
    for where, row in _rows(file):
        try:
            turns = _turns(json.loads(row) if isinstance(row, bytes) else row)
            if turns:
                conversations.append(Conversation(where, turns))
        except KeyError as err:
            mistakes.append(f"{where}: the key {err} is missing")
        except (ValueError, TypeError, AttributeError, RecursionError) as err:
            mistakes.append(f"{where}: {err}")
    if mistakes:
        shown = "\n".join([*mistakes[:5], *["…"] * (len(mistakes) > 5)])
        n = len(mistakes) + len(conversations)
        raise BftembedError(f"{len(mistakes)} of {n} rows of {file} cannot be learnt from:\n{shown}")
    if not conversations:
        raise BftembedError(
            f'{file} holds no conversation. Expected rows such as {{"prompt": "…", "completion": "…"}}.'
        )
    return conversations


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place of each row, and the row: parsed, or the bytes of its line."""
    content = _content(file)
    if _suffix(file) != ".json":
        # Bytes are split at newlines alone: str.splitlines would also split at U+2028, which JSON allows in a text.
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.strip(b"\xef\xbb\xbf \t\r"):
                yield f"{file.name}:{number}", line
        return
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise BftembedError(f"{file} is not JSON: {err}. (JSON Lines have the suffix .jsonl.)") from err
    if not isinstance(rows, list | dict):
        raise BftembedError(f"{file} holds a JSON {type(rows).__name__}; expected a list of conversations or PubMedQA.")
    for key, row in rows.items() if isinstance(rows, dict) else enumerate(rows, 1):
        yield f"{file.name}:{key}", row


def _suffix(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _content(file: Path) -> bytes:
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as handle:
            content = handle.read(_MAX_BYTES + 1)
    except FileNotFoundError as err:
        raise BftembedError(f"No such data file: {file}.") from err
    except (OSError, EOFError, zlib.error) as err:
        raise BftembedError(f"{file} cannot be read: {err}.") from err
    if len(content) > _MAX_BYTES:
        raise BftembedError(f"{file} holds more than {_MAX_BYTES:,} bytes unpacked. Cut it into parts.")
    return bytes(content)


def _turns(row: Any) -> tuple[Turn, ...]:
    """Return the turns of a row; none for an entry of PubMedQA without an answer."""
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; expected an object")
    turns = [("system", row["system"])] if row.get("system") else []
    if "messages" in row:
        turns = _listed(row["messages"])
    elif "conversations" in row:
        turns += _listed(row["conversations"])
    elif "prompt" in row:
        for key, role in (("prompt", "user"), ("completion", "assistant")):
            turns += _listed(row[key]) if isinstance(row[key], list) else [(role, row[key])]
    elif "instruction" in row:
        for asked, said in row.get("history") or []:
            turns += [("user", asked), ("assistant", said)]
        asked = f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]
        turns += [("user", asked), ("assistant", row["output"])]
    elif "QUESTION" in row:
        turns = [("user", "\n\n".join([row["QUESTION"], *row["CONTEXTS"]])), ("assistant", row["LONG_ANSWER"])]
        if not row["LONG_ANSWER"].strip():
            return ()
    else:
        raise ValueError(f"the keys {examples(list(row))} are none of the forms of read_conversations")
    found = tuple(Turn(_ROLES.get(str(role), role), content) for role, content in turns)
    for turn in found:
        if turn.role not in ("system", "user", "assistant"):
            raise ValueError(f"the role {turn.role!r} is not system, user or assistant")
        if not isinstance(turn.content, str) or (turn.role == "assistant" and not turn.content.strip()):
            raise ValueError(f"a turn of the {turn.role} has no text")
        turn.content.encode("utf-8")  # half a surrogate pair is a ValueError
    if not found or found[-1].role != "assistant":
        raise ValueError("no response: the last turn is not the assistant's")
    if found[0].role == "assistant":
        raise ValueError("no prompt: the first turn is the assistant's")
    return found


def _listed(messages: list[Any]) -> list[tuple[Any, Any]]:
    return [(m.get("role", m.get("from")), m.get("content", m.get("value"))) for m in messages]


def write_conversations(conversations: Iterable[Conversation], path: str | os.PathLike[str]) -> None:
    """Write conversations as JSON Lines in the form ``messages``, atomically."""
    rows = ({"messages": [{"role": t.role, "content": t.content} for t in c.turns]} for c in conversations)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def gene_texts(
    table: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    entity: str = "symbol",
    text: str = "summary",
    prompt: str = "Tell me about the gene {name}.",
    leave_out: Collection[str] | str | os.PathLike[str] = (),
) -> list[Conversation]:
    """Make instruction pairs from a table of texts about genes, such as NCBI summaries.

    Parameters
    ----------
    table
        Table with a header: .tsv (without quoting) or .csv, also .gz.
    out
        Conversations to write (.jsonl).
    entity
        Column with the gene symbols. Rows without one are skipped.
    text
        Column with the texts. Rows without one are skipped.
    prompt
        The question; {name} is replaced by the gene.
    leave_out
        File of genes to leave out, one per line: those of a test set.

        Also the genes themselves.

    Returns
    -------
    list of Conversation
        In the order of the file; `where` names file and line.

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or not a table, a missing column, a prompt without ``{name}``, and a table
        that leaves no row.
    """
    import pandas as pd

    if out is not None:
        refuse_input_as_output(out, table, leave_out)
    if "{name}" not in prompt:
        raise BftembedError(f"The prompt {prompt!r} does not name the gene. Put {{name}} where its name belongs.")
    if isinstance(leave_out, str | os.PathLike):
        leave_out = _content(Path(leave_out)).decode("utf-8-sig").split()
    left_out, file = frozenset(leave_out), Path(table)
    form: dict[str, Any] = {} if _suffix(file) == ".csv" else {"sep": "\t", "quoting": csv.QUOTE_NONE}
    form |= {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            rows = pd.read_csv(io.BytesIO(_content(file)), index_col=False, **form)
    except (ValueError, pd.errors.ParserWarning) as err:
        raise BftembedError(f"{file} is not a table in UTF-8: {err}.") from err
    for column in (entity, text):
        if column not in rows:
            raise unknown_name("column", column, rows.columns, where=str(file))
    conversations = []
    for line, name, body in zip(rows.index + 2, rows[entity].str.strip(), rows[text].str.strip(), strict=True):
        if name and body and name not in left_out:
            turns = (Turn("user", prompt.replace("{name}", name)), Turn("assistant", body))
            conversations.append(Conversation(f"{file.name}:{line}", turns))
    if not conversations:
        raise BftembedError(f"{file} leaves no row with a {entity!r} and a {text!r} ({len(left_out)} left out).")
    if out is not None:
        write_conversations(conversations, out)
    return conversations
