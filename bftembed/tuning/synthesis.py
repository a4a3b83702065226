"""Synthesis of training data by a teacher model: questions about texts and their answers, and replies to rubrics.

Each round of requests is made of the stored answers of the round before, so that a stopped run asks nothing twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.datasets.fetch import data_folders, find_data
from bftembed.datasets.parsers import PARSERS
from bftembed.entities.genes import GeneIndex
from bftembed.entities.lists import read_names
from bftembed.errors import BftembedError
from bftembed.io import atomic_path, json_lines, write_json
from bftembed.llm.ask import Ask, AskedModel
from bftembed.llm.base import Request, Sampling
from bftembed.llm.runner import Run
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import names_of
from bftembed.profiles.screening import mentions, screen, words_of
from bftembed.progress import Progress, silent
from bftembed.tuning.tagging import gene_spans
from bftembed.tuning.texts import Chunk, conversation_text, read_chunks

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from bftembed.llm.base import Answer, Message

#: Characters of a text per question.
CHARS_PER_QUESTION = 240
_SAMPLING = Sampling(max_new_tokens=1024)

_ASK_QUESTIONS = """Text about {title}:

{text}

Write {n} exam questions{about} that this text answers: about functions, mechanisms, causes and quantities. Every \
question {names} and ends with a question mark. Write one question per line, and nothing else."""

_ASK_ANSWER = """Answer the question by the facts of the text, in a few complete sentences, with the mechanism or the \
reason where the text has it. Add nothing, and do not speak of the text. Reply NONE if it does not answer the question.

Subject: {title}

Text:
{text}

Question: {question}"""

_ASK_REPLY = """Write the assistant's next reply in the conversation below.

Physicians grade the reply by the criteria that follow the conversation. A criterion with positive points says what \
the reply should do; one with negative points is a fault that it should not have. Write the reply that a good \
physician would give, without a word about criteria, grades or points.

Conversation:
{text}

Criteria:
{criteria}

Write the reply alone."""

_ASK_REASONING = """Below are a question, what is known about it, and the answer of an expert. Write down the expert's \
thoughts on the way from the question to the answer: what is asked, which facts matter, how they lead to the answer. \
Write in the first person and in plain prose. Do not say that an answer or a text is given.

Question:
{question}

Known:
{text}

Answer:
{answer}"""

#: What may stand before a question in a list that is not JSON.
_BULLET = re.compile(r"^\s*(?:[-*•>]+\s*|\(?\d{1,3}[.):]\s*|Q(?:uestion)?\s*\d*\s*[.:)]\s*)*[\[\s\"“*]*", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"(?<=\?)\s+(?=[A-Z])|(?<=？)(?=.)")
_AFTER_QUESTION = " \t\"”',*]"
#: "In the context of" and "the passage of ions" are biology.
_NAMES_TEXT = re.compile(
    r"\b(?:the|this|that)\s(?:(?:given|provided|above|following)\s)?"
    r"(?:text|passage(?!\s(?:of|through|from|into|across|to|between))|excerpt|paragraph|article|document)\b"
    r"|\b(?:given|provided|above|following)\s(?:context|information|summary|description)\b"
    r"|\baccording to the (?:context|information|summary|description|author)"
    r"|\bthe context (?:says|states|mentions|describes|provides|does)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


@dataclass(frozen=True)
class SynthesisReport:
    """What a synthesis did. Its questions are the rows and those that were dropped.

    Attributes
    ----------
    out, pairs, teacher
        Folder, the file of conversations in it, and the spec of the teacher.
    chunks, left_out, duplicate_chunks
        Texts that were asked about, those that `leave_out` leaves out, and those that came before.
    unread
        Texts for which no question could be read in the teacher's answer.
    questions, rows
        Questions (or prompts with rubrics), and conversations that were written.
    dropped
        Reason → number of questions: ``"no-question"`` (empty, or a statement), ``"duplicate-question"``,
        ``"unnamed-gene"`` (a question about a gene that does not name it), ``"names-source"`` (question or answer speak
        of the text, or the reply repeats a criterion), ``"no-answer"`` (the text has none), a quality flag of
        `bftembed.profiles.screening.MARKS`, and these after ``"reasoning-"`` for thoughts.
    failures
        Failed requests: message, number, and a text with it, the most frequent first.
    unreadable
        File → why it could not be read.
    tokens, seconds
        Generated tokens and time of this run.
    estimate
        Questions, requests and tokens of a dry run.
    """

    out: str
    pairs: str
    teacher: str
    chunks: int
    left_out: int = 0
    duplicate_chunks: int = 0
    unread: int = 0
    questions: int = 0
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failures: tuple[tuple[str, int, str], ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    estimate: dict[str, int] | None = None


def synthesize(
    source: str | os.PathLike[str],
    *,
    teacher: str,
    out: str | os.PathLike[str],
    leave_out: Sequence[str] | str | os.PathLike[str] | None = None,
    reasoning: bool = False,
    questions: int = 0,
    min_chars: int = 2500,
    max_chars: int = 4000,
    limit: int = 0,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> SynthesisReport:
    """Make training conversations of texts: a teacher asks questions about each part and answers them from it.

    Every answer of the teacher is stored as it comes: a stopped run goes on with the same command. The command exits
    with 3 when requests failed or files could not be read.

    Parameters
    ----------
    source
        A file of text, Markdown or PDF, or a folder of them; a table with the columns symbol and summary (.tsv, .csv,
        also .gz), or the name of one in bftembed data list (refseq-summaries); or prompts with rubrics in the form of
        HealthBench (.jsonl), to which the teacher writes replies.
    teacher
        Spec of the model that asks and answers, with its options: openai:MODEL, llamacpp:FILE,context=4096, ….
    out
        Folder of the teacher's answers, pairs.jsonl and synthesis.json.
    leave_out
        File of genes (list, table or .gmt) whose texts are left out, or the prompts of an evaluation in the form of
        HealthBench (.jsonl), which may not be among the training data.

        Also the genes themselves.
    reasoning
        Put thoughts before each answer, in <think>: those of the teacher, or written by it afterwards.
    questions
        Number of questions per part of a text; 0 is one per 240 characters.
    min_chars, max_chars
        Length of the parts that a text is cut into, at headings, paragraphs and sentences. The text about a gene is one
        part.
    limit
        Number of parts, the first ones; 0 is all.
    retry_failed
        Ask again where the stored answer is a failure.
    dry_run
        Count requests and tokens, and write nothing.

    Other Parameters
    ----------------
    progress
        Called with the number of answers of a round.

    Raises
    ------
    BftembedError
        For a source without a readable text, a wrong spec, prompts that are the evaluation's, and when no conversation
        is left. What was answered stays.
    """
    if not 0 < min_chars <= max_chars or min(questions, limit) < 0:
        raise BftembedError(f"min_chars={min_chars} must be in [1, {max_chars}], questions and limit at least 0.")
    evaluation = Path(str(leave_out)) if str(leave_out).endswith(".jsonl") else None
    found, unreadable = read_chunks(source, min_chars=min_chars, max_chars=max_chars)
    _check_prompts(found, evaluation)
    unique = {chunk.sha256: chunk for chunk in reversed(found)}  # the first of equal ones
    chunks = list(reversed(unique.values()))
    if leave_out and not evaluation:
        chunks = [*filter(_not_about(leave_out), chunks)]
    left_out, chunks = len(unique) - len(chunks), chunks[: limit or None]
    n_asked = {c.sha256: 0 if c.messages else questions or max(1, len(c.text) // CHARS_PER_QUESTION) for c in chunks}
    folder, model, counts = Path(out), AskedModel.of(teacher), _Counts()
    report = SynthesisReport(
        out=str(folder),
        pairs=str(folder / "pairs.jsonl"),
        teacher=teacher,
        chunks=len(chunks),
        left_out=left_out,
        duplicate_chunks=len(found) - len(unique),
        unreadable=unreadable,
    )
    if dry_run:
        return replace(report, estimate=_estimate(chunks, n_asked, reasoning))
    model.schema = any(n_asked.values()) and model.model is not None and model.model.capabilities().schema
    with AnswerStore.writing(folder) as store:
        kinds = ("questions", "answer", "reasoning")
        rounds = [Ask(store, model, f"synthesis/{kind}", progress, retry_failed) for kind in kinds]
        items = [_reply_item(chunk) for chunk in chunks if chunk.messages]
        items += _ask_questions([chunk for chunk in chunks if not chunk.messages], n_asked, rounds[0], counts)
        answers = rounds[1]({item.id: item.request for item in items})
        items = [item for item in items if counts.keeps(item, answers[item.id])]
        texts = {item.id: answers[item.id].text for item in items}
        if reasoning:
            thoughts = _ask_thoughts(items, answers, rounds[2], counts)
            texts = {id: f"<think>\n{thought}\n</think>\n\n{texts[id]}" for id, thought in thoughts.items()}
    rows = [_row(item, texts[item.id], teacher) for item in items if item.id in texts]
    failures = sorted(counts.failed.failures.values(), reverse=True)
    report = replace(
        report,
        unread=counts.unread,
        questions=len(rows) + counts.dropped.total(),
        rows=len(rows),
        dropped=dict(counts.dropped.most_common()),
        failures=tuple((message, n, where) for n, message, where in failures),
        tokens=sum(one.tokens for one in rounds),
        seconds=sum(one.seconds for one in rounds),
    )
    if not rows:
        why = [f"{report.unread} without a list of questions", *(f"{n} {why}" for why, n in report.dropped.items())]
        why += [f"{n} failed, such as {where}: {message}" for message, n, where in report.failures[:2]]
        raise BftembedError(f"No conversation is left of {len(chunks)} texts: {'; '.join(why)}.")
    with atomic_path(report.pairs) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        at_hand = any((place / "healthbench").exists() for place in data_folders())
        if evaluation or (at_hand and any(n_asked.values())):  # prompts with rubrics may be another part of HealthBench
            check_training_data(temporary, evaluation)
    write_json(folder / "synthesis.json", asdict(report) | {"model": model.identity, "sampling": model.sampling})
    return report


def _estimate(chunks: Sequence[Chunk], n_asked: Mapping[str, int], reasoning: bool) -> dict[str, int]:
    """Count questions, requests and tokens of prompts (4 characters each), as if all questions asked for were given."""
    n_questions = [max(1, n_asked[chunk.sha256]) for chunk in chunks]
    n_requests = [bool(chunk.title) + n * (1 + reasoning) for chunk, n in zip(chunks, n_questions, strict=True)]
    lengths = [len("".join((_ASK_ANSWER, chunk.text, *chunk.criteria))) // 4 for chunk in chunks]
    tokens = sum(length * n for length, n in zip(lengths, n_requests, strict=True))
    return {"questions": sum(n_questions), "requests": sum(n_requests), "prompt_tokens": tokens}


# -- rounds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """A question: the conversation of its row up to the answer, and what the teacher is asked."""

    id: str
    chunk: Chunk
    messages: tuple[Message, ...]
    request: Request

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]


@dataclass
class _Counts:
    """Why questions were dropped, which requests failed, and texts whose questions could not be read."""

    dropped: Counter[str] = field(default_factory=Counter)
    failed: Run = field(default_factory=Run)
    unread: int = 0

    def keeps(self, item: _Item, answer: Answer, *, before: str = "") -> bool:
        """Return whether an answer, or thoughts `before` one, can be learnt; the first reason against it is counted."""
        fault = _fault(item, answer, before)
        if answer.error:
            self.failed.count(item.chunk.id, (), answer.error)
        if fault:
            self.dropped[f"reasoning-{fault}" if before else fault] += 1
        return not fault


def _fault(item: _Item, answer: Answer, before: str) -> str:
    if answer.error:
        return "failed"
    if answer.text.strip(" .\"'*").upper() == "NONE":
        return "no-answer"
    # "I'm sorry to hear that" begins good replies to patients, and thoughts are to look like thoughts.
    ignored = ("reasoning",) if before else ("refusal", "off-topic", "language") if item.chunk.messages else ()
    for flag in screen(answer.text, answer.finish_reason, prompt=f"{item.question}\n{before}"):
        if flag not in ignored:
            return flag
    return "names-source" if _names_source(answer.text, item.chunk) else ""


def _names_source(text: str, chunk: Chunk) -> bool:
    """Return whether a text speaks of the text that it was made of, or repeats a criterion."""
    plain = " ".join(text.lower().split())
    criteria = [criterion.partition("] ")[2].lower() for criterion in chunk.criteria]
    repeats = any(len(criterion) > 20 and criterion in plain for criterion in criteria)
    return repeats or (not chunk.messages and bool(_NAMES_TEXT.search(text)))


def _ask_questions(chunks: Sequence[Chunk], n_asked: Mapping[str, int], ask: Ask, counts: _Counts) -> list[_Item]:
    """Return the questions about texts that are kept."""
    by_id = {chunk.sha256[:16]: chunk for chunk in chunks}
    requests = {}
    for id, chunk in by_id.items():
        n = n_asked[chunk.sha256]
        listed = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": n}
        schema = {"type": "object", "properties": {"questions": listed}, "required": ["questions"]}
        about = f" about {chunk.gene}" if chunk.gene else ""
        names = f"contains the name {chunk.gene}" if chunk.gene else "says by name what it is about"
        text = _ASK_QUESTIONS.format(n=n, title=chunk.title, text=chunk.text, about=about, names=names)
        requests[id] = _request(text, schema | {"additionalProperties": False})
    items, seen = [], set[str]()
    for id, answer in ask(requests).items():
        chunk = by_id[id]
        questions = read_questions(answer.text)[: n_asked[chunk.sha256]]
        if answer.error:
            counts.failed.count(chunk.id, (), answer.error)
        elif not questions:
            counts.unread += 1
        for i, question in enumerate(questions):
            key = " ".join(words_of(question))
            if fault := _fault_of_question(question, key, seen, chunk):
                counts.dropped[fault] += 1
                continue
            seen.add(key)
            text = _ASK_ANSWER.format(title=chunk.title, text=chunk.text, question=question)
            items.append(_Item(f"{id}/{i}", chunk, ({"role": "user", "content": question},), _request(text)))
    return items


def _fault_of_question(question: str, key: str, seen: Collection[str], chunk: Chunk) -> str:
    if not key or not question.endswith(("?", "？")):
        return "no-question"
    if key in seen:
        return "duplicate-question"
    if "looping" in screen(question, "stop"):
        return "looping"
    if _names_source(question, chunk):
        return "names-source"
    return "unnamed-gene" if chunk.gene and not mentions(question, names_of("gene", chunk.gene)) else ""


def read_questions(text: str) -> list[str]:
    """Return the questions in an answer: a JSON list, also in an object, or lines that end in a question mark."""
    given = []
    with suppress(ValueError):
        found = json.loads(text[text.index("[") : text.rindex("]") + 1], strict=False)
        given = found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []
    lines = given or [line for line in text.splitlines() if "?" in line or "？" in line]
    several = (_NEXT_QUESTION.split(_BULLET.sub("", line).rstrip(_AFTER_QUESTION)) for line in lines)
    questions = [" ".join(one.split()) for found in several for one in found]
    return [one for one in questions if given or one.endswith(("?", "？"))]


def _reply_item(chunk: Chunk) -> _Item:
    text = _ASK_REPLY.format(text=chunk.text, criteria="\n".join(chunk.criteria))
    return _Item(chunk.sha256[:16], chunk, chunk.messages, _request(text))


def _ask_thoughts(items: Sequence[_Item], answers: Mapping[str, Answer], ask: Ask, counts: _Counts) -> dict[str, str]:
    """Return id → thoughts before the answer: the teacher's own where they do not speak of the text, else asked for.

    Of replies to rubrics never its own: it thinks about the criteria.
    """
    thoughts, requests = {}, {}
    for item in items:
        own, known = answers[item.id].reasoning, "" if item.chunk.messages else item.chunk.text
        if own and known and not _names_source(own, item.chunk):
            thoughts[item.id] = own
            continue
        question = conversation_text(item.messages)
        text = _ASK_REASONING.format(question=question, text=known or "–", answer=answers[item.id].text)
        requests[item.id] = _request(text)
    found = ask(requests)
    written = (item for item in items if item.id in found)
    kept = (item for item in written if counts.keeps(item, found[item.id], before=answers[item.id].text))
    return thoughts | {item.id: found[item.id].text for item in kept}


def _request(text: str, schema: Mapping[str, Any] | None = None) -> Request:
    return Request("", messages=({"role": "user", "content": text},), sampling=_SAMPLING, schema=schema)


def _row(item: _Item, answer: str, teacher: str) -> dict[str, Any]:
    messages, chunk = [*item.messages, {"role": "assistant", "content": answer}], item.chunk
    about = {"source": chunk.source, "chunk": chunk.id, "sha256": chunk.sha256, "teacher": teacher}
    return {"messages": messages, **about}


# -- what is held out -------------------------------------------------------------------------------------


def _not_about(genes: Sequence[str] | str | os.PathLike[str]) -> Callable[[Chunk], bool]:
    """Return whether a chunk is about none of the genes: its own, or a symbol or alias that is a word of its text."""
    if str(genes).removesuffix(".gz").endswith(".gmt"):
        names: Sequence[str] = [name for members in PARSERS["gmt"](Path(str(genes))).values() for name in members]
    else:
        names = read_names(genes).names
    index = GeneIndex.default()
    symbols = {found.entity for found in index.resolve(names)}
    records = filter(None, map(index.get, symbols))
    aliases = {alias for record in records for alias in (*record.alias_symbols, *record.prev_symbols)}

    def not_about(chunk: Chunk) -> bool:
        if chunk.gene:
            return index.resolve([chunk.gene])[0].entity not in symbols
        text = f"{chunk.title}\n{chunk.text}"
        if symbols & {word for chain in _WORD.findall(text) for word in (chain, *chain.split("-"))}:
            return False
        return not any(symbol in symbols or text[first:end] in aliases for first, end, symbol in gene_spans(text))

    return not_about


def _check_prompts(chunks: Sequence[Chunk], evaluation: Path | None) -> None:
    """Raise for prompts with rubrics that are among those of an evaluation, by id or last message."""
    _, held = _prompts([evaluation] if evaluation else [])
    last = set(held.values())
    both = [c.id for c in chunks if c.messages and (c.id in held or _plain(c.messages[-1]["content"]) in last)]
    if both:
        raise BftembedError(f"{len(both)} of {len(chunks)} prompts are those of {evaluation}, the first is {both[0]}.")


def check_training_data(train: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> int:
    """Check that training data hold nothing of HealthBench.

    Parameters
    ----------
    train
        File of training data, text or JSON lines.
    data
        Data folder with the folder ``healthbench``, or one of its files; default the folders of ``$BFTEMBED_DATA``.

    Returns
    -------
    int
        Number of conversations that were looked for.

    Raises
    ------
    BftembedError
        When the training data hold the canary of HealthBench or the last message of one of its conversations.
    """
    text = Path(train).read_text(encoding="utf-8", errors="replace")
    # As it stands in the file, and as JSON writes it.
    searched = f"{text}\n{text.encode().decode('unicode_escape', 'replace')}" if "\\u" in text else text
    searched = _plain(searched.replace("\\n", " ").replace('\\"', '"'))
    one = data is not None and Path(data).is_file()
    canaries, prompts = _prompts([Path(str(data))] if one else find_data(data, "healthbench").glob("*.jsonl"))
    if any(canary in searched for canary in canaries):
        raise BftembedError("The training data hold the canary of HealthBench: they were made of its rows.")
    held = [id for id, prompt in prompts.items() if len(prompt) > 40 and prompt in searched]
    if held:
        raise BftembedError(f"The training data hold {len(held)} conversations of HealthBench, the first is {held[0]}.")
    return len(prompts)


def _prompts(files: Iterable[Path]) -> tuple[set[str], dict[str, str]]:
    """Return the canaries in files of HealthBench, and prompt id → last message."""
    canaries, prompts = set[str](), dict[str, str]()
    for path in files:
        for row in json_lines(path):
            canaries |= {row["canary"]} if row.get("canary") else set()
            prompts[str(row.get("prompt_id"))] = _plain(row["prompt"][-1]["content"])
    return canaries, prompts


def _plain(text: str) -> str:
    return " ".join(text.split())
