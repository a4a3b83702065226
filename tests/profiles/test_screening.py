"""A table of bad texts, each with the marks it has to get; good texts get none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_tools import answer_of

from bftembed.llm.reasoning import read_finish_reason
from bftembed.profiles.screening import loops, mentions, screen

NAMES = ("TP53", "tumor protein p53", "LFS1")
GOOD = (
    "TP53 encodes a tumor suppressor that responds to DNA damage. It halts the cell cycle at G1/S, induces "
    "apoptosis through BAX and PUMA, and is mutated in about half of all human cancers. Germline variants cause "
    "Li-Fraumeni syndrome. MDM2 is its main negative regulator; p53 itself cannot bind DNA as a monomer."
)
BAD = [
    ("", "stop", {"empty"}),
    ("   \n\t ", "stop", {"empty"}),
    ("…", "stop", {"empty", "off-topic"}),
    (GOOD, "length", {"truncated"}),
    ("I'm sorry, but I can't help with TP53.", "stop", {"refusal"}),
    ("I cannot provide information about the gene TP53.", "stop", {"refusal"}),
    ("As an AI language model, I have no access to data on TP53.", "stop", {"refusal"}),
    ("I am not familiar with a gene called TP53.", "stop", {"refusal"}),
    ("I do not have specific information about TP53.", "stop", {"refusal"}),
    ("There is no information available on TP53 in my records.", "stop", {"refusal"}),
    ("I don’t have information on TP53.", "stop", {"refusal"}),
    (GOOD, "content_filter", {"refusal"}),
    ("TP53 is a gene. " * 20, "stop", {"looping"}),
    (GOOD + " " + "It is also involved in the regulation of the cell cycle. " * 3, "stop", {"looping"}),
    ("TP53 " + "regulates the growth of cells and " * 12, "length", {"truncated", "looping"}),
    ("TP53 GGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGG", "stop", {"looping"}),
    ("TP53 基因基因基因基因基因基因基因基因基因基因基因基因基因", "stop", {"looping", "language"}),
    ("BRCA1 is a gene of DNA repair on chromosome 17.", "stop", {"off-topic"}),
    ("TP53BP1 binds chromatin at double-strand breaks.", "stop", {"off-topic"}),
]


@pytest.mark.parametrize(("text", "reason", "marks"), BAD)
def test_bad_texts_get_their_marks(text, reason, marks):
    assert set(screen(answer_of(text), reason, NAMES)) == marks


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.lower(),
        "The tumor protein p53 guards the genome.",
        "LFS1 (li-Fraumeni syndrome 1) is an old name.",
        "(TP53): a gene.",
        "TP53 is a gene.\n\n- role: repair\n- role: apoptosis\n- place: nucleus",
        GOOD + " Cells with two bad copies cannot stop; I/O of the pathway is well known.",
        "TP53 sequence motifs such as GGGCATGTCC and RRRCWWGYYY lie in promoters.",
    ],
)
def test_good_texts_get_no_mark(text):
    assert screen(answer_of(text), "stop", NAMES) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think>TP53 is a gene.", "TP53 is a gene."),
        ("hm, let me see</think>\n\nTP53 is a gene.", "TP53 is a gene."),
        ("<think>a</think>x<think>b</think> TP53.", "TP53."),
        ("<think>never ends", ""),
        ("TP53 is a gene. <think>now what", "TP53 is a gene."),
        ("<Thinking>a</THINKING>TP53", "TP53"),
        ("<reasoning>a</reasoning>TP53", "TP53"),
        ("</think>", ""),
        ("a\x00b\x07c\r\nd\te", "abc\nd\te"),
        ("bad \ud800 surrogate", "bad � surrogate"),
        ("p < 0.05 and x > y", "p < 0.05 and x > y"),
    ],
)
def test_reasoning_and_control_characters_are_stripped(text, expected):
    assert answer_of(text) == expected


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((word, "stop") for word in ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "STOP", "COMPLETE")),
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens")),
        *((word, "error") for word in ("error", "abort", "cancelled")),
        *((word, "content_filter") for word in ("content_filter", "SAFETY", "refusal")),
        *((word, "unknown") for word in ("", None, 3, {"type": "stop"})),
        ("tool_calls", "tool_calls"),
    ],
)
def test_only_known_endings_are_whole(said, reason):
    assert read_finish_reason(said) == reason
    marks = screen(GOOD, reason, NAMES)
    if reason != "error":
        assert (marks == ()) == (reason == "stop")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=300))
def test_cleaning_gives_valid_text_and_is_idempotent(text):
    once = answer_of(text)
    once.encode("utf-8")
    assert answer_of(once) == once
    screen(once, "stop", ("TP53",))


def test_a_megabyte_of_text_is_screened():
    assert "looping" in screen(answer_of("ab " * 350_000), "stop", NAMES)
    assert loops("x" * 1_000_000)


def test_names_are_text_not_patterns():
    assert mentions("HLA-DRA (class II)", ["HLA-DRA"])
    assert mentions("a+b", ["a+b"])
    assert not mentions("aaab", ["a+b"])
    assert mentions("anything", [])
