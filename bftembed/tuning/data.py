"""Conversations to learn from, out of JSON files in the forms that people have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples
from bftembed.io import write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

#: Keys by which a form is known, and how an error shows it.
FORMS = {
    "messages": '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    "prompt": '{"prompt": "…", "completion": "…"}',
    "instruction": '{"instruction": "…", "input": "…", "output": "…"}   (Alpaca)',
    "conversations": '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}   (ShareGPT)',
}
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One message: `role` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns that end with the assistant's.

    Attributes
    ----------
    where
        File and row (from 1), such as ``"pairs.jsonl:12"``, for messages.
    turns
        The turns. All of the assistant's are learnt.
    """

    where: str
    turns: tuple[Turn, ...]


def read_conversations(path: str | os.PathLike[str]) -> list[Conversation]:
    """Read the conversations of a JSON Lines file, or of a ``.json`` file that holds a list.

    Parameters
    ----------
    path
        Each row in one of these forms, any of them in one file::

            {"messages": [{"role": "system|user|assistant", "content": "…"}, …]}
            {"prompt": "…", "completion": "…"}                  (or lists of messages)
            {"instruction": "…", "input": "…", "output": "…"}   (Alpaca; also "system", "history": [[asked, said], …])
            {"conversations": [{"from": "human|gpt|system", "value": "…"}, …]}   (ShareGPT; also "system")

        Other keys are ignored. Blank lines are skipped.

    Raises
    ------
    BftembedError
        When the file is missing, empty or not UTF-8, and for rows that are not JSON, have none of the forms, lack the
        response or hold an unknown role: the first five are named by row, with the number of all.
    """
    file = Path(path)
    conversations, mistakes = [], []
    for where, raw in _rows(file):
        try:
            conversations.append(Conversation(where, _turns(raw())))
        except ValueError as err:
            mistakes.append(f"{where}: {err}")
    if mistakes:
        more = f"\n(and {len(mistakes) - 5} more)" if len(mistakes) > 5 else ""
        raise BftembedError(
            f"{len(mistakes)} of {len(mistakes) + len(conversations)} rows of {file} cannot be learnt from:\n"
            + "\n".join(mistakes[:5])
            + more
        )
    if not conversations:
        raise BftembedError(f"{file} is empty. Expected a row per conversation, such as\n{FORMS['prompt']}")
    return conversations


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield where a row is and a function that parses it (errors belong to the row)."""
    if not file.is_file():
        raise BftembedError(f"No such data file: {file}.")
    if file.suffix == ".json":
        try:
            rows = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as err:
            raise BftembedError(f"{file} is not JSON in UTF-8: {err}. (JSON Lines have the suffix .jsonl.)") from err
        if not isinstance(rows, list):
            raise BftembedError(f"{file} holds a JSON {type(rows).__name__}; expected a list of conversations.")
        for number, row in enumerate(rows, 1):
            yield f"{file.name}:{number}", lambda row=row: row
        return
    # Bytes are split at newlines alone: str.splitlines would also split at U+2028, which JSON allows inside a text.
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                yield f"{file.name}:{number}", lambda line=line: _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8 (byte {err.start + 1} is {line[err.start]:#04x}); convert the file") from err
    except (json.JSONDecodeError, RecursionError) as err:
        raise ValueError(f"not JSON ({err})") from err


def _turns(row: Any) -> tuple[Turn, ...]:
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; expected an object")
    if "messages" in row:
        turns = _listed(row["messages"], "messages")
    elif "conversations" in row:
        turns = _system(row) + _listed(row["conversations"], "conversations")
    elif "prompt" in row:
        turns = _prompt_completion(row)
    elif "instruction" in row:
        turns = _alpaca(row)
    else:
        raise ValueError(f"the keys {examples(list(row))} are none of the forms\n  " + "\n  ".join(FORMS.values()))
    if not turns or turns[-1].role != "assistant":
        raise ValueError("no response: the last turn is not the assistant's")
    if any(not t.content.strip() for t in turns if t.role == "assistant"):
        raise ValueError("no response: a turn of the assistant is empty")
    if turns[0].role == "assistant":
        raise ValueError("no prompt: the first turn is the assistant's")
    return turns


def _prompt_completion(row: dict[str, Any]) -> tuple[Turn, ...]:
    if row.get("completion") is None:
        raise ValueError("no response: the key 'completion' is missing")
    sides = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        value = row[key]
        sides.append(
            _listed(value, key)
            if isinstance(value, list)
            else (_system(row) if key == "prompt" else ()) + (Turn(role, _text(value, key)),)
        )
    return sides[0] + sides[1]


def _alpaca(row: dict[str, Any]) -> tuple[Turn, ...]:
    if row.get("output") is None:
        raise ValueError("no response: the key 'output' is missing")
    turns = _system(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("'history' is not a list of pairs [asked, said]")
        turns += (Turn("user", _text(pair[0], "history")), Turn("assistant", _text(pair[1], "history")))
    asked = _text(row["instruction"], "instruction")
    if row.get("input"):
        asked += f"\n{_text(row['input'], 'input')}"
    return (*turns, Turn("user", asked), Turn("assistant", _text(row["output"], "output")))


def _system(row: dict[str, Any]) -> tuple[Turn, ...]:
    return (Turn("system", _text(row["system"], "system")),) if row.get("system") else ()


def _listed(value: Any, key: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key!r} is not a list of messages")
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise ValueError(f"a message of {key!r} is not an object")
        role = message.get("role", message.get("from"))
        role = _ROLES.get(str(role), role)
        if role not in _KNOWN_ROLES:
            raise ValueError(f"the role {role!r} in {key!r} is none of {', '.join(_KNOWN_ROLES)}, human, gpt")
        turns.append(Turn(role, _text(message.get("content", message.get("value")), key)))
    return tuple(turns)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key!r} holds {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as err:
        raise ValueError(f"{key!r} holds half a surrogate pair at character {err.start + 1}, no text") from err
    return value


def write_conversations(conversations: Iterable[Conversation], path: str | os.PathLike[str]) -> None:
    """Write conversations as JSON Lines in the form ``messages``, whole or not at all."""
    rows = ({"messages": [{"role": t.role, "content": t.content} for t in c.turns]} for c in conversations)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
