"""Question-answer pairs out of public data: PubMedQA, and tables of texts about genes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.tuning.data import Conversation, Turn, write_conversations

if TYPE_CHECKING:
    from collections.abc import Collection

#: More than any set of answers has; a small gzip file that unpacks to more is a bomb.
_MOST_BYTES = 2 * 2**30
_PUBMEDQA = ("QUESTION", "CONTEXTS", "LONG_ANSWER")


def is_pubmedqa(path: str | os.PathLike[str]) -> bool:
    """Return whether a JSON file (or its gzip) is an object whose entries have a ``QUESTION``, as PubMedQA's have."""
    entries = _json(Path(path))
    first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
    return isinstance(first, dict) and "QUESTION" in first


def pubmedqa(path: str | os.PathLike[str]) -> list[Conversation]:
    """Read PubMedQA: the question and the contexts of its abstract, answered by the abstract's conclusion.

    Parameters
    ----------
    path
        ``ori_pqal.json`` or the like, also as ``.json.gz``: PubMed id → ``QUESTION``, ``CONTEXTS`` (a list of texts)
        and ``LONG_ANSWER``.

    Returns
    -------
    list of Conversation
        In the order of the file; `where` names file and PubMed id. Entries without an answer are skipped.

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or of another form, and one without answers.
    """
    file = Path(path)
    entries = _json(file)
    if not isinstance(entries, dict) or not entries:
        raise BftembedError(f"{file} is not PubMedQA: expected an object of PubMed ids, found {_kind(entries)}.")
    conversations = []
    for key, entry in entries.items():
        where = f"{file.name}:{key}"
        fields = entry if isinstance(entry, dict) else {}
        question, contexts, answer = (fields.get(key) for key in _PUBMEDQA)
        if not (isinstance(question, str) and isinstance(contexts, list) and isinstance(answer, str)) or not all(
            isinstance(part, str) for part in contexts
        ):
            raise BftembedError(
                f"{where} is no entry of PubMedQA: expected the texts QUESTION and LONG_ANSWER and the list of texts "
                f"CONTEXTS, found {examples(list(fields), 9) if fields else _kind(entry)}."
            )
        if answer.strip():
            prompt = "\n\n".join([question, *contexts])
            conversations.append(Conversation(where, (Turn("user", prompt), Turn("assistant", answer))))
    if not conversations:
        raise BftembedError(f"None of the {len(entries)} entries of {file} has a LONG_ANSWER.")
    return conversations


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
        For a file that is missing, damaged, not UTF-8 or no table, a column that is not there or there twice, a prompt
        without ``{name}``, and a table that leaves no row.
    """
    if out is not None:
        refuse_input_as_output(out, table, leave_out)
    left_out = (
        frozenset(_text(Path(leave_out)).split()) if isinstance(leave_out, str | os.PathLike) else frozenset(leave_out)
    )
    file = Path(table)
    if "{name}" not in prompt:
        raise BftembedError(f"The prompt {prompt!r} does not name the gene. Put {{name}} where its name belongs.")
    comma = file.name.lower().removesuffix(".gz").endswith(".csv")
    lines = io.StringIO(_text(file), newline="")
    form: dict[str, Any] = {"delimiter": ","} if comma else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, strict=True, **form)
    conversations = []
    try:
        header = next(reader, [])
        name_at, text_at = (_column(header, column, file) for column in (entity, text))
        line = reader.line_num + 1
        for row in reader:
            here, line = line, reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                raise BftembedError(f"{file}, line {here}: {len(row)} cells, but the header has {len(header)}.")
            name, body = row[name_at].strip(), row[text_at].strip()
            if name and body and name not in left_out:
                turns = (Turn("user", prompt.replace("{name}", name)), Turn("assistant", body))
                conversations.append(Conversation(f"{file.name}:{here}", turns))
    except csv.Error as err:
        raise BftembedError(f"{file}, line {reader.line_num}: {err}. Is a quotation mark left open?") from err
    if not conversations:
        raise BftembedError(f"{file} leaves no row with a {entity!r} and a {text!r} ({len(left_out)} left out).")
    if out is not None:
        write_conversations(conversations, out)
    return conversations


def _column(header: list[str], column: str, file: Path) -> int:
    if header.count(column) > 1:
        raise BftembedError(f"{file} has {header.count(column)} columns called {column!r}. Rename one.")
    if column not in header:
        raise unknown_name("column", column, header, where=str(file))
    return header.index(column)


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError) as err:
        raise BftembedError(f"{file} is not JSON: {err}.") from err


def _text(file: Path) -> str:
    try:
        if file.name.lower().endswith(".gz"):
            with gzip.open(file) as packed:
                data = packed.read(_MOST_BYTES + 1)
        else:
            data = file.read_bytes()
    except FileNotFoundError as err:
        raise BftembedError(f"No such data file: {file}.") from err
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise BftembedError(f"{file} is a damaged gzip file ({err}). Copy it again.") from err
    except OSError as err:
        raise BftembedError(f"{file} cannot be read: {err.strerror or err}.") from err
    if len(data) > _MOST_BYTES:
        raise BftembedError(f"{file} holds more than {_MOST_BYTES:,} bytes unpacked. Cut it into parts.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise BftembedError(f"{file} is not UTF-8 at byte {err.start} (line {line}). Save it as UTF-8.") from err


def _kind(value: Any) -> str:
    return "an empty object" if value == {} else f"a JSON {type(value).__name__}"
