"""How a generated text is read: formats of reasoning, the answer without it, and how the answer ended.

A change of what is read here raises `bftembed.llm.base.POSTPROCESSING_VERSION`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class _Format:
    """Markers around the reasoning of families of models: its start (or the end of the answer), and its end."""

    models: str
    opener: re.Pattern[str]
    closer: re.Pattern[str]


def _format(models: str, opener: str, closer: str) -> _Format:
    return _Format(models, re.compile(opener), re.compile(closer))


#: Opener → closer, where it is not ``<x>`` → ``</x>``.
_CLOSERS = {
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>": "<channel|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<unused94>": "<unused95>",
    "[unused16]": "[unused17]",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
}

_TAG = r"(?:[a-z]{2,12}[:_|])?(?:think|thinking|thoughts?|reasoning|scratchpad|analysis|reflection)"
_ANSWER = r"(?:answer|response|output|solution|final[_ ]?(?:answer|response|output))"
_THOUGHT = r"(?:think|thinking|thought|reasoning)"
_START, _END = r"(?:start|begin)", r"(?:end|stop)"

#: One row per format. No pattern starts with a repetition that is not anchored, so that a search is linear.
FORMATS = (
    _format(
        "DeepSeek-R1, Qwen3, QwQ, Seed-OSS (seed:think), MiniMax (mm:think), LongCat (longcat_think)",
        rf"(?i:<\|?\s{{0,3}}{_TAG}\s{{0,3}}\|?>)",
        rf"(?i:<\|?\s{{0,3}}/\s{{0,3}}{_TAG}\s{{0,3}}\|?>)",
    ),
    _format("Hunyuan, ERNIE, Reflection, GRPO recipes", rf"(?i:</{_ANSWER}>)", rf"(?i:<{_ANSWER}>)"),
    _format(
        "Command A, OpenThoughts",
        rf"(?i:<\|(?:{_START}(?:_of)?_{_THOUGHT}|{_THOUGHT}_{_START})\|>)",
        rf"(?i:<\|(?:{_END}(?:_of)?_{_THOUGHT}|{_THOUGHT}_{_END})\|>)",
    ),
    _format(
        "gpt-oss",
        r"(?:<\|start\|>assistant[^<]{0,80})?<\|channel\|>(?!final)\w*(?:<\|message\|>)?",
        r"<\|channel\|>final[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>",
    ),
    _format(
        "gpt-oss, special tokens skipped",
        r"\A\s*(?:analysis|commentary)(?=[A-Z\d\"'*(])|assistant(?:analysis|commentary)(?=\S)",
        r"assistantfinal|\A\s*final(?=[A-Z*#])",
    ),
    _format("Gemma 4", r"<\|channel>(?:thought)?", r"<channel\|>"),
    _format("MedGemma", r"<unused94>(?:thought)?", r"<unused95>"),
    _format("Pangu", r"\[unused16\]", r"\[unused17\]"),
    _format("Magistral", r"\[THINK\]", r"\[/THINK\]"),
    _format("Kimi-VL", r"◁think▷", r"◁/think▷"),
    _format("Apertus", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    _format("s1", r"<\|im_start\|>think\b", r"<\|im_start\|>answer\b"),
    _format("Granite 3.2", r"\A\s*Here(?:['’]s| is) my thought process:", r"Here(?:['’]s| is) my response:"),
    _format("HuatuoGPT-o1", r"\A\s*## Thinking\b", r"## Final Response\b:?"),
    _format("ollama run", r"\A\s*Thinking\.\.\.", r"\.\.\.done thinking\."),
)

#: In every marker of these.
_MAY_HOLD_REASONING = re.compile(r"[<\[◁]|assistant|## |\.\.\.|Here|\A\s*(?:analysis|commentary|final)")
#: Parts of words in markers that are probably of reasoning.
SUSPECT = "think|thought|reasoning|scratchpad|reflect|monolog|deliberat|思考|推理"
_MARK = re.compile(
    rf"[<\[【◁]{{1,2}}[/|]{{0,2}}[\w:.-]{{0,20}}(?:{SUSPECT})[\w:.-]{{0,20}}\|?[>\]】▷]|<\|(?:channel|message)\|>",
    re.IGNORECASE,
)
_ASKS = (
    r"(?:asks?|asked|wants?|wanted|needs?|says?|said|requests?|requested|requires?|provided|gave|likely|probably"
    r"|is (?:asking|requesting|looking|interested)|has (?:asked|requested)|would like)"
)
_TASK = r"(?:question|prompt|request|task|query|instructions?)"
_THINKS = (
    r"(?:think|see|recall|remember|consider|analy[sz]e|break|figure|work through|draft|outline|gather|go through"
    r"|start by|begin by|try to|check|structure)"
)
_FILLER = r"(?:(?:ok(?:ay)?|al(?:l )?right|hmm+|well|so|right|sure|now|first)\b[\s,.!…]{0,4}){0,3}"
_OPENING = re.compile(
    r"[\s*#_>\"]{0,10}(?:"
    rf"{_FILLER}(?:let me|let[’']s|let us) {_THINKS}"
    rf"|{_FILLER}(?:I|we) (?:need|have to|want|should|must(?! decline)|(?:are|am) asked)\b"
    rf"|{_FILLER}I(?:[’']m| am) (?:trying|going|asked|supposed|tasked)\b"
    rf"|{_FILLER}(?:the )?user {_ASKS}"
    rf"|{_FILLER}the {_TASK} (?:asks?|is asking|wants?|requires?|says?|is to)\b"
    r"|(?:okay|ok|alright|hmm+)[,.…]{1,3}\s{0,2}so\b"
    r"|(?:here(?:[’']s| is) )?(?:an? |my |the )?(?:thinking|thought|reasoning) process\b"
    r"|(?:thinking|thoughts?|reasoning|scratchpad|chain of thought)[*_]{0,3}\s{0,2}(?:[:：]|\.\.\.|…|\n)"
    r"|(?-i:analysis|commentary)\s{0,2}\n|/think\b"
    r"|(?:好的?|嗯|首先|那么)?[，,。\s]{0,2}(?:用户|我需要|我应该|我们需要|让我)"
    r")",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    rf"\bthe user {_ASKS}\b"
    r"|(?:^|[.!?]\s{1,3}|\n)(?:wait|hmm+)[,.…]"
    r"|(?:^|[.!?]\s{1,3}|\n)(?:I (?:should|need to|must) (?:also )?(?:write|mention|include|note|keep|make sure|avoid)"
    r"|let me (?:think|recall|check|draft|structure))\b",
    re.IGNORECASE,
)
#: One of these is in every aside.
_ASIDE_WORDS = ("the user", "wait", "hmm", "i should", "i need to", "i must", "let me")
#: Characters of a text that are searched for these.
_WITHIN = 20_000


#: Markers of chat templates, where an engine lets them through; those of reasoning stay, to be flagged.
_CHAT_MARKER = re.compile(
    rf"<\|im_start\|>\w*|<\|(?!\w*(?:{SUSPECT}|channel|message))\w{{2,30}}\|>|<｜[^<>｜]{{1,40}}｜>"
    r"|</?s>|<(?:bos|eos|pad|(?:start|end)_of_turn)>|<turn\|>",
    re.IGNORECASE,
)

#: Our finish reason → those of engines and servers, in lower case.
_FINISH_REASONS = {
    "stop": ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"),
    "length": (
        *("length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length"),
        *("model_length", "token_limit", "limit", "model_context_window_exceeded"),
    ),
    "content_filter": ("content_filter", "content_filtered", "safety", "refusal", "guardrail_intervened"),
    "error": ("error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource"),
}
_FINISH_REASON = {said: reason for reason, words in _FINISH_REASONS.items() for said in words}

_ANSI = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
#: Control characters but newline and tab; byte order marks; what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_answer(text: str, reasoning: str = "") -> tuple[str, str]:
    """Return answer and reasoning of a generated text (and of the `reasoning` that was given apart).

    Markers of chat templates, terminal colors and control characters other than newline and tab are removed; lone
    surrogates become U+FFFD, and outer white space is stripped.
    """
    answer, rest = split_reasoning(text)
    parts = (valid_text(part).strip() for part in (reasoning, rest) if part)
    return valid_text(_CHAT_MARKER.sub("", answer)).strip(), "\n".join(filter(None, parts))


def valid_text(text: str) -> str:
    """Return `text` without control characters (newline and tab stay) and with lone surrogates as U+FFFD."""
    text = _ANSI.sub("", text) if "\x1b" in text else text
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def read_finish_reason(said: object) -> str:
    """Return ``"stop"``, ``"length"``, ``"content_filter"``, ``"error"``, any other word as it is, or ``"unknown"``."""
    word = said.strip().lower() if isinstance(said, str) else ""
    return _FINISH_REASON.get(word, word) or "unknown"


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the answer in a generated text, and the rest.

    Everything before the last closer is reasoning, whether or not it was opened, and so is everything after an opener
    that is never closed.
    """
    if not _MAY_HOLD_REASONING.search(text):
        return text, ""
    begin = max((match.end() for row in FORMATS for match in row.closer.finditer(text)), default=0)
    answer = text[begin:]
    end = min((match.start() for row in FORMATS if (match := row.opener.search(answer))), default=len(answer))
    return answer[:end], text[:begin] + answer[end:]


def open_reasoning(prompt: str) -> str:
    """Return the opener with which a rendered prompt ends (``<think>``), or ``""``; the answer begins inside of it."""
    tail = prompt[-200:].rstrip()
    if any(match.end() == len(tail) for row in FORMATS for match in row.closer.finditer(tail)):
        return ""
    found = (match for row in FORMATS for match in row.opener.finditer(tail))
    return next((match.group() for match in found if match.end() == len(tail)), "")


def leading_opener(text: str) -> str:
    """Return the opener with which a text begins, or ``""``."""
    return next((match.group() for row in FORMATS if (match := row.opener.match(text))), "")


def closer_of(opener: str) -> str:
    """Return what closes a thought that `opener` opens."""
    return next((c for o, c in _CLOSERS.items() if opener.startswith(o)), opener.replace("<", "</", 1))


def with_reasoning_markers(text: str, raw: str, prompt: str) -> str:
    """Return an answer with the markers of its reasoning that are special tokens, or the end of the `prompt`.

    `text` and `raw` are the answer without and with special tokens.
    """
    hidden = split_reasoning(raw)[1] and not split_reasoning(text)[1]
    if hidden or (looks_like_reasoning(raw) and not looks_like_reasoning(text)):
        text = raw
    return open_reasoning(prompt) + text


def looks_like_reasoning(text: str) -> bool:
    """Return whether an answer probably still contains reasoning: unknown markers, sentences about user or task."""
    text = text[:_WITHIN]
    if _OPENING.match(text) or _MARK.search(text):
        return True
    lower = text.lower()
    return any(words in lower for words in _ASIDE_WORDS) and bool(_ASIDE.search(text))
