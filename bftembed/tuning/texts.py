"""Texts that training data are synthesized from: files cut into parts, tables of genes, prompts with rubrics."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.datasets.fetch import FILES, find_file
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.io import json_lines, sha256_text
from bftembed.tuning.data import gene_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from bftembed.llm.base import Message

_TEXTS, _TABLES = (".txt", ".md", ".markdown", ".pdf"), (".tsv", ".csv", ".tsv.gz", ".csv.gz")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#]*$")


@dataclass(frozen=True)
class Chunk:
    """What a teacher sees at once: a part of a text, the text about a gene, or a conversation with its rubrics.

    Attributes
    ----------
    id, source
        Its place (``"guide.md#3"``, ``"summaries.tsv:17"``, the id of a prompt), and the name of its source.
    title
        What the text is about: file and headings, or the gene.
    text
        The text; of a prompt, its conversation.
    gene
        Symbol, of a text about one gene.
    messages, criteria
        Of a prompt with rubrics, the conversation, and each criterion with its points in front (``"[+5] …"``).
    """

    id: str
    source: str
    title: str
    text: str
    gene: str = ""
    messages: tuple[Message, ...] = ()
    criteria: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of what the teacher sees."""
        return sha256_text("\n".join((self.title, self.text, *self.criteria)))


def read_chunks(
    source: str | os.PathLike[str], *, min_chars: int = 2500, max_chars: int = 4000
) -> tuple[list[Chunk], dict[str, str]]:
    """Return the chunks of a source, and file → why it could not be read.

    Parameters
    ----------
    source
        As in `bftembed.tuning.synthesis.synthesize`.
    min_chars, max_chars
        As in `split_text`.

    Raises
    ------
    BftembedError
        For a source of no known kind, a table or prompts that cannot be read, and files of which none can.
    """
    path, name = Path(source), str(source)
    if not path.exists():
        summaries = [known for known, file in FILES.items() if file.parser == "summaries"]
        if name not in summaries:
            raise unknown_name("file, folder or data file of gene summaries", name, summaries)
        return _gene_chunks(find_file(name), name), {}
    if name.endswith(_TABLES):
        return _gene_chunks(path, path.name), {}
    if name.endswith(".jsonl"):
        return _rubric_chunks(path), {}
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _TEXTS) if path.is_dir() else [path]
    if not all(f.suffix.lower() in _TEXTS for f in files):
        raise BftembedError(f"{path} is none of {', '.join((*_TEXTS, *_TABLES))} and .jsonl (prompts with rubrics).")
    found, unreadable = [], {}
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            parts = split_text(_read(file), min_chars=min_chars, max_chars=max_chars)
        except (OSError, ValueError) as err:
            unreadable[name] = str(err)
            continue
        for i, (headings, part) in enumerate(parts, 1):
            found.append(Chunk(f"{name}#{i}", name, " > ".join((Path(name).stem, *headings)), part))
        if not parts:
            unreadable[name] = "it holds no text"
    if not found:
        why = f"{examples(unreadable)}: {next(iter(unreadable.values()))}" if unreadable else f"no {', '.join(_TEXTS)}"
        raise BftembedError(f"{path} holds no text that can be read ({why}).")
    return found, unreadable


def _read(file: Path) -> str:
    if file.suffix.lower() != ".pdf":
        return file.read_text(encoding="utf-8-sig")
    pypdf = require("pypdf", "train")
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(file).pages)
    except Exception as err:  # whatever it raises for a damaged or encrypted file
        raise ValueError(f"not a readable PDF: {err}") from err


def _gene_chunks(path: Path, name: str) -> list[Chunk]:
    rows = [
        (row.where.rpartition(":")[2], *(t.content for t in row.turns)) for row in gene_texts(path, prompt="{name}")
    ]
    return [Chunk(f"{name}:{line}", name, f"the human gene {gene}", text, gene) for line, gene, text in rows]


def _rubric_chunks(path: Path) -> list[Chunk]:
    found = []
    for number, row in enumerate(json_lines(path), 1):
        try:
            messages = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in row["prompt"])
            criteria = tuple(f"[{r['points']:+g}] {' '.join(r['criterion'].split())}" for r in row["rubrics"])
            id, text = str(row["prompt_id"]), conversation_text(messages)
        except (KeyError, TypeError, AttributeError, ValueError) as err:
            raise BftembedError(
                f"{path}, row {number}: expected prompt, prompt_id and rubrics with criterion and points ({err!r})."
            ) from err
        found.append(Chunk(id, path.name, "", text, messages=messages, criteria=criteria))
    if not found:
        raise BftembedError(f"{path} holds no prompt.")
    return found


def conversation_text(messages: tuple[Message, ...]) -> str:
    """Return a conversation as text, its single message without the role."""
    texts = [m["content"] if len(messages) == 1 else f"{m['role']}: {m['content']}" for m in messages]
    return "\n\n".join(texts)


def split_text(text: str, *, min_chars: int = 2500, max_chars: int = 4000) -> list[tuple[tuple[str, ...], str]]:
    """Cut a text into parts: at headings of Markdown, else between paragraphs, sentences, words.

    Parameters
    ----------
    text
        Plain text or Markdown.
    min_chars
        Length from which a part ends before a heading; shorter sections are joined.
    max_chars
        Length of the longest part.

    Returns
    -------
    list of tuple
        The headings of the beginning of each part, outermost first, and the part. No word is lost.
    """
    parts: list[tuple[tuple[str, ...], str]] = []
    title: tuple[str, ...] = ()
    current = ""
    for headings, block in _blocks(text):
        joint, ends = "\n\n", len(current) >= min_chars and bool(_HEADING.match(block.partition("\n")[0]))
        for piece in _pieces(block, max_chars):
            if current and (ends or len(current) + len(joint) + len(piece) > max_chars):
                parts.append((title, current))
                current = ""
            title, current = (title, current + joint + piece) if current else (headings, piece)
            joint, ends = " ", False
    return [*parts, (title, current)] if current else parts


def _blocks(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield paragraphs, with the heading before them, under their headings; code is not broken at blank lines."""
    path: dict[int, str] = {}  # level → heading
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line)
        ended = not line.strip() and not fenced and not (len(lines) == 1 and _HEADING.match(lines[0]))
        if lines and (heading or ended):
            yield tuple(path.values()), "\n".join(lines)
            lines = []
        if heading:
            path = {level: title for level, title in path.items() if level < len(heading[1])}
            path[len(heading[1])] = heading[2]
        if line.strip():
            lines.append(line.rstrip())
    if lines:
        yield tuple(path.values()), "\n".join(lines)


def _pieces(block: str, max_chars: int) -> list[str]:
    """Return a block; one that is too long by sentences, and of these by words."""
    if len(block) <= max_chars:
        return [block]
    sentences = re.split(r"(?<=[.!?])\s+|(?<=[。！？])", block)
    return [
        piece for s in sentences for piece in ([s] if len(s) <= max_chars else textwrap.wrap(s, max_chars)) if piece
    ]
