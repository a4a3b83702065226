"""The summary of a store, counted by hand, and the names that are taken out of texts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore, ListedEntity
from bftembed.profiles.report import report_profiles
from bftembed.profiles.screening import words_of, words_without


def report(folder, names, texts):
    """`texts`: entity, text, marks and finish reason."""
    with AnswerStore.writing(folder) as store:
        identity = store.add_generator("a", {})
        store.add_entities([ListedEntity("gene", *name) for name in names])
        made = [Answer(f"{i:064x}", e, "gene", t, reason, m, "p@1", "a") for i, (e, t, m, reason) in enumerate(texts)]
        store.add([replace(one, generator_id=identity) for one in made], {one.key: [] for one in made})
    found = json.loads(json.dumps(report_profiles(folder), allow_nan=False))
    return found["names"], found["origins"]


def test_counts_coverage_and_lengths(tmp_path):
    names = [("P53", "TP53", "mapped"), *((g, g, "used") for g in ("TP53", "EGFR", "MYC")), ("x", "x", "missing")]
    texts = [
        ("TP53", "TP53 is a gene.", (), "stop"),
        ("EGFR", "ErbB1 signals", ("truncated",), "length"),  # an alias
        ("MYC", "", ("failed",), "error"),
        ("KRAS", "Weather is fine today.", ("off-topic",), "stop"),
    ]
    counts, (one,) = report(tmp_path, names, texts)
    assert counts == {"gene": {"mapped": 1, "missing": 1, "used": 3}}
    del one["generator_id"]
    assert one == {
        **{"kind": "gene", "prompt": "p@1", "generator": "a", "profiles": 4, "with_text": 3, "unmarked": 1},
        **{"resolvable": 4, "covered": 2, "coverage": 0.5, "words": {"median": 4, "low": 2.2, "high": 4}},
        "finish_reasons": {"error": 1, "length": 1, "stop": 2},
        "marks": {"ok": 1, "failed": 1, "off-topic": 1, "truncated": 1},
        **{"naming_itself": 2, "repeated": 0},
    }
    with pytest.raises(BftembedError, match="No profile store"):
        report_profiles(tmp_path / "none")


def test_texts_that_differ_in_the_name_alone_are_repeated(tmp_path):
    same = "{} is a gene that encodes a protein of the cell, " + "and so on " * 9
    texts = [(g, same.format(g), (), "stop") for g in ("TP53", "HLA-DRA")]
    texts += [("EGFR", same.format("EGFR") + "until it is cut", (), "length"), ("MYC", "MYC binds DNA.", (), "stop")]
    _, (one,) = report(tmp_path, [("ENSG00000136997", "MYC", "mapped")], texts)
    assert one["repeated"] == 3


@pytest.mark.parametrize(
    ("text", "names", "left"),
    [
        ("IL-6 and IL6 and il 6 act", ["IL6"], "and and act"),
        ("IL60 and IL-60 act", ["IL6"], "il60 and il 60 act"),
        ("the tumor protein p53 acts, p53 too", ["p53", "tumor protein p53"], "the acts too"),
        ("p53's role, α-synuclein", ["p53", "α-Synuclein", "", "-"], "s role"),
    ],
)
def test_own_names_go_however_they_are_spelt(text, names, left):
    assert " ".join(words_without(text, names)) == left


@given(st.text(max_size=80), st.lists(st.text(max_size=6), max_size=3))
def test_what_is_left_was_there_and_holds_no_name(text, names):
    left = words_without(text, names)
    there = iter(words_of(text))
    assert all(word in there for word in left)
    assert not {"".join(words_of(n)) for n in names} & set(left)
