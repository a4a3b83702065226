"""Texts that state the label are found, counted by label, and lose the words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gene_toys import card, pair_task, vectors

from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError
from bftembed.progress import silent
from bftembed.tasks.genes import make_task
from bftembed.tasks.genes.leaks import find_leaks, mask_texts, masked_vectors, match_rows

INFO = card()
WORDS = ("haploinsufficient", "dosage sensitive", "bivalent", "promoter", "haploinsufficiency")


def single(labels=(1, 1, 0, 0), words=WORDS):
    genes = [f"G{i}" for i in range(len(labels))]
    return make_task(INFO, "binary", genes, labels, label_words=words)


def leaks_of(text, words=WORDS):
    return bool(find_leaks(single(words=words), {"G0": text}).leaking[0])


@pytest.mark.parametrize(
    "text",
    [
        "It is haploinsufficient.",
        "HAPLOINSUFFICIENT",
        "a haplo-insufficient gene",
        "a haplo insufficient gene",
        "dosage-sensitive",
        "Dosage  sensitive",
        "the dosage\nsensitive locus",
        "dosagesensitive",
        "dosage‐sensitive",
        "(bivalents)",
        "two promoters",
        "haploinsufficiencies are rare",
        "non-bivalent chromatin",
    ],
)
def test_a_label_word_is_found_however_it_is_spelt(text):
    assert leaks_of(text)


@pytest.mark.parametrize(
    "text", ["", "  ", "ambivalent", "bivalently", "the dosage is sensitive", "promote", "promoterless", "Xpromoter"]
)
def test_a_word_inside_another_is_none(text):
    assert not leaks_of(text)


def test_a_plural_label_word_finds_the_singular_and_a_symbol_no_plural():
    assert leaks_of("one kinase", ("kinases",))
    assert leaks_of("one class", ("class",))
    assert leaks_of("H3K4-me3 marks", ("H3K4me3",)) is False
    assert leaks_of("H3K4 me3 marks", ("H3K4 me3",))
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
    assert mask_texts(single(words=()), {"G0": "bivalent"}) == {}


def test_masked_texts_lose_the_words_alone_and_leak_no_more():
    texts = {
        "G0": "The gene is haplo-insufficient and bivalent, as known.",
        "G1": "dosage dosage sensitive sensitive",
        "G2": "untouched  text",
        "elsewhere": "bivalent",
    }
    masked = mask_texts(single(), texts)
    assert masked == {"G0": "The gene is and , as known.", "G1": ""}
    assert not find_leaks(single(), texts | masked).leaking.any()


def pairs(items, labels=None):
    return pair_task(INFO, items, [1] * len(items) if labels is None else labels, label_words=["interacts"])


@pytest.mark.parametrize(
    ("text", "partner", "named"),
    [
        ("binds EGFR.", "EGFR", True),
        ("binds egfr.", "EGFR", False),
        ("binds EGFRvIII", "EGFR", False),
        ("the REST complex", "REST", True),
        ("the rest of it", "REST", False),
        ("the clock runs", "CLOCK", False),
        ("CLOCK runs", "CLOCK", True),
        ("Notch1 signals", "NOTCH1", True),
        ("an HLA-DRB1-restricted cell", "HLA-DRB1", True),
        ("an HLA-DRB1-restricted cell", "HLA-A", False),
        ("hla-drb1", "HLA-DRB1", True),
        ("EGFR-dependent", "EGFR", True),
        ("C9ORF72 repeats", "C9orf72", True),
        ("the clone RP11-34P13.7, found", "RP11-34P13.7", True),
        ("the clone RP11-34P13.", "RP11-34P13.7", False),
        ("GENE_A.", "GENE_A", True),
        ("it interacts with nothing", "EGFR", False),
    ],
)
def test_a_pair_leaks_when_one_text_names_the_other(text, partner, named):
    task = pairs([("TP53BP1", partner)])
    assert find_leaks(task, {"TP53BP1": text}).leaking.tolist() == [named]
    assert find_leaks(task, {partner: "of TP53BP1"}).leaking.tolist() == [True]
    masked = mask_texts(task, {"TP53BP1": text})
    assert bool(masked) == named
    assert not find_leaks(task, masked).leaking.any()


def test_pairs_are_counted_by_label_and_a_gene_with_itself_never_leaks():
    task = pairs(
        [("EGFR", "GRB2"), ("GRB2", "EGFR"), ("EGFR", "EGFR"), ("TP53", "MDM2"), ("AAA1", "BBB1")], [1, 0, 0, 0, 0]
    )
    leaks = find_leaks(task, {"EGFR": "EGFR binds GRB2 and MDM2", "TP53": "a text"})
    assert leaks.leaking.tolist() == [True, True, False, False, False]
    assert leaks.n_checked == 4
    assert leaks.share_by_label == {"negative": pytest.approx(1 / 3), "positive": 1.0}
    # The names of all other genes go, of the pair or not; the gene's own stays.
    assert mask_texts(task, {"EGFR": "EGFR binds GRB2 and MDM2"}) == {"EGFR": "EGFR binds and"}


@pytest.mark.timeout(60)
def test_many_pairs_and_hostile_texts_take_linear_time():
    rng = np.random.default_rng(0)
    genes = [f"GEN{i}A" for i in range(4000)]
    task = pairs([(genes[a], genes[b]) for a, b in rng.integers(4000, size=(100_000, 2))])
    texts = {g: " ".join(f"GEN{i}A" for i in rng.integers(4000, size=40)) for g in genes}
    leaks = find_leaks(task, texts)
    hostile = "dosage " * 20_000 + "haplo" * 20_000 + "-" * 20_000 + "A-" * 20_000
    find_leaks(single(), {"G0": hostile})
    find_leaks(pairs([("AAAAA", "BBBBB")]), {"AAAAA": hostile})
    assert leaks.leaking.mean() == pytest.approx(0.02, abs=0.005)


def test_a_text_of_which_nothing_is_left_has_no_vector_and_others_keep_theirs():
    task = make_task(card(), "binary", ["H4C1", "TP53", "KRAS"], [1, 0, 1], label_words=["bivalent"])
    mine = vectors(["HIST1H4A", "TP53", "KRAS"], np.ones((3, 4)))  # H4C1 by an earlier name
    texts = {"HIST1H4A": "a bivalent gene", "TP53": "a gene", "KRAS": "bivalent"}
    found = masked_vectors(mine, texts, task, encoder_from_spec("random:dim=4"), silent)
    assert (found[1] == 1).all()
    assert not found[2].any()
    assert not np.isin(found[0], (0, 1)).any()
    assert masked_vectors(mine, {"TP53": "a gene"}, task, encoder_from_spec("random:dim=4"), silent) is None
    with pytest.raises(BftembedError, match="5 dimensions"):
        masked_vectors(mine, texts, task, encoder_from_spec("random:dim=5"), silent)


def test_aliases_are_never_guessed():
    genes = ["HIST1H4A", "TP53", "NOSUCHGENE"]
    assert match_rows(["H4C1", "P53", "NOSUCH"], genes).tolist() == [0, 1, -1]
    assert match_rows(["H4C1", "P53", "NOSUCHGENE"], genes, aliases=False).tolist() == [-1, -1, 2]
    assert match_rows(["TP53"], ["p53x", "TP53"]).tolist() == [1]
