"""Texts that state the label are found and counted by label."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gene_toys import card, pair_task

from bftembed.tasks.genes import make_task
from bftembed.tasks.genes._leaks import find_leaks

INFO = card()
WORDS = ("haploinsufficient", "dosage sensitive", "bivalent", "promoter", "haploinsufficiency")


def single(labels=(1, 1, 0, 0), words=WORDS):
    genes = [f"G{i}" for i in range(len(labels))]
    return make_task(INFO, "binary", genes, labels, label_words=words)


def leaks_of(text, words=WORDS):
    return bool(find_leaks(single(words=words), {"G0": text}).leaking[0])


FOUND = (
    *("It is haploinsufficient.", "HAPLOINSUFFICIENT", "the dosage\nsensitive locus", "dosagesensitive"),
    *("dosage\u2010sensitive", "(bivalents)", "haploinsufficiencies are rare", "non-bivalent chromatin"),
)
ABSENT = ("  ", "ambivalent", "bivalently", "the dosage is sensitive", "promoterless", "Xpromoter")


def test_a_label_word_is_found_however_it_is_spelt_and_not_inside_another():
    assert [text for text in FOUND if not leaks_of(text)] == []
    assert [text for text in ABSENT if leaks_of(text)] == []
    assert leaks_of("one class", ("class",))
    assert not leaks_of("anything (at) all.", ("(", "?"))
    assert leaks_of("bivalent", ("...", "bivalent"))


def test_the_shares_are_of_the_texts_and_of_each_label():
    task = single(labels=(1, 1, 1, 0, 0, 0))
    texts = {"G0": "bivalent and dosage sensitive", "G1": "bivalent", "G2": " ", "G3": "bivalent", "G4": "other"}
    leaks = find_leaks(task, texts)
    assert leaks.leaking.tolist() == [True, True, False, True, False, False]
    assert leaks.n_checked == 4
    assert leaks.share_by_label == {"negative": 0.5, "positive": 1.0}
    assert leaks.words == ("bivalent", "dosage sensitive")


def test_without_words_or_texts_nothing_leaks():
    leaks = find_leaks(single(words=()), {"G0": "bivalent"})
    assert (leaks.leaking.any(), leaks.n_checked, leaks.words) == (False, 1, ())
    nothing = find_leaks(single(), {})
    assert nothing.n_checked == 0
    assert all(math.isnan(v) for v in nothing.share_by_label.values())


def pairs(items, labels=None):
    return pair_task(INFO, items, [1] * len(items) if labels is None else labels, label_words=["interacts"])


@pytest.mark.parametrize(
    ("text", "partner", "named"),
    [
        ("binds EGFR.", "EGFR", True),
        ("binds egfr.", "EGFR", False),
        ("the rest of it", "REST", False),
        ("the clock runs", "CLOCK", False),
        ("Notch1 signals", "NOTCH1", True),
        ("an HLA-DRB1-restricted cell", "HLA-DRB1", True),
        ("C9ORF72 repeats", "C9orf72", True),
        ("the clone RP11-34P13.7, found", "RP11-34P13.7", True),
    ],
)
def test_a_pair_leaks_when_one_text_names_the_other(text, partner, named):
    task = pairs([("TP53BP1", partner)])
    assert find_leaks(task, {"TP53BP1": text}).leaking.tolist() == [named]
    assert find_leaks(task, {partner: "of TP53BP1"}).leaking.tolist() == [True]


def test_pairs_are_counted_by_label_and_a_gene_with_itself_never_leaks():
    task = pairs(
        [("EGFR", "GRB2"), ("GRB2", "EGFR"), ("EGFR", "EGFR"), ("TP53", "MDM2"), ("AAA1", "BBB1")], [1, 0, 0, 0, 0]
    )
    leaks = find_leaks(task, {"EGFR": "EGFR binds GRB2 and MDM2", "TP53": "a text"})
    assert leaks.leaking.tolist() == [True, True, False, False, False]
    assert leaks.n_checked == 4
    assert leaks.share_by_label == {"negative": pytest.approx(1 / 3), "positive": 1.0}


@pytest.mark.timeout(60)
def test_many_pairs_and_hostile_texts_take_linear_time():
    rng = np.random.default_rng(0)
    genes = [f"GEN{i}A" for i in range(1000)]
    task = pairs([(genes[a], genes[b]) for a, b in rng.integers(1000, size=(50_000, 2))])
    texts = {g: " ".join(f"GEN{i}A" for i in rng.integers(1000, size=10)) for g in genes}
    leaks = find_leaks(task, texts)
    hostile = "dosage " * 20_000 + "haplo" * 20_000 + "-" * 20_000 + "A-" * 20_000
    find_leaks(single(), {"G0": hostile})
    find_leaks(pairs([("AAAAA", "BBBBB")]), {"AAAAA": hostile})
    assert leaks.leaking.mean() == pytest.approx(0.02, abs=0.005)
