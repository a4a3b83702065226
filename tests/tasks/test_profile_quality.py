"""Quality without a judge: scores against oracles, and floors that behave as chance does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.tasks import profile_quality as quality
from bftembed.tasks.profile_quality import KEPT, PROFILES, REMOVED, SHUFFLED, SYMBOL, naming_scores, retrieval_scores

GENES = ("TP53", "EGFR", "MYC", "CD3D", "INS", "ALB", "ACTB", "GNLY")
SUMMARIES = {
    "TP53": "This gene encodes a tumor suppressor that responds to stress and induces arrest and apoptosis.",
    "EGFR": "A receptor tyrosine kinase of the plasma membrane that binds epidermal growth factor.",
    "MYC": "A transcription factor and proto-oncogene, amplified in leukemias and lymphomas.",
    "CD3D": "Part of the T-cell receptor complex of thymocytes, with signal transduction through motifs.",
    "INS": "A hormone of the pancreas that lowers glucose in blood; its lack is diabetes.",
    "ALB": "The most abundant plasma carrier, made in liver, regulates oncotic pressure.",
    "ACTB": "A cytoskeletal filament of motility and structure, ubiquitous.",
    "GNLY": "A saposin-like molecule in cytolytic granules that kills bacteria.",
}
NAMES = {g: (g,) for g in SUMMARIES}


RECORDS = [GeneIndex.default().get(g) for g in GENES]


def retrieval(texts, summaries=SUMMARIES, names=NAMES, **options):
    profiles = {"g": [texts[g] for g in texts]}
    return retrieval_scores(profiles, list(texts), summaries, names, **options)


def get(scores, texts, metric, generator="g", protocol="names"):
    name = "" if texts == SYMBOL else generator
    (score,) = [s for s in scores if (s.texts, s.metric, s.generator, s.protocol) == (texts, metric, name, protocol)]
    return score


def test_names_are_counted_as_hgnc_has_them():
    record = RECORDS[0]
    texts = dict.fromkeys(GENES, "nothing") | {
        "TP53": f"Of {record.alias_symbols[0]}, a TUMOR thing.",
        "EGFR": "EGFR is the epidermal growth factor receptor.",
    }
    scores = naming_scores({"g": [texts[g] for g in GENES]}, RECORDS)
    assert get(scores, PROFILES, "mentions-own-gene").value == 2 / 8
    with_aliases = [r for r in RECORDS if r.alias_symbols]
    aliases = get(scores, PROFILES, "alias-recall")
    assert aliases.n == len(with_aliases)
    assert aliases.value == pytest.approx(1 / len(record.alias_symbols) / len(with_aliases))
    words = get(scores, PROFILES, "full-name-word-recall")
    assert words.value == pytest.approx((2 / 3 + 1) / 8)  # tumor and p53 without protein, and all of EGFR's
    assert words.low <= words.value <= words.high


def test_every_number_has_its_floors():
    profiles = {name: [f"{g} {SUMMARIES[g]}" for g in GENES] for name in ("one", "two")}
    scores = naming_scores(profiles, RECORDS) + retrieval_scores(profiles, GENES, SUMMARIES, NAMES)
    measured = {(s.protocol, s.metric, s.texts, s.generator) for s in scores}
    assert len(measured) == len(scores)
    for protocol, metric, texts, name in measured:
        if texts == PROFILES:
            assert (protocol, metric, SHUFFLED, name) in measured
            assert (protocol, metric, SYMBOL, "") in measured


def test_the_summaries_themselves_are_found_and_shuffled_ones_are_not():
    scores = retrieval(SUMMARIES)
    for protocol in (KEPT, REMOVED):
        for metric in ("median-rank", "mean-reciprocal-rank", "recall@1", "recall@10"):
            assert get(scores, PROFILES, metric, protocol=protocol).value == 1
        assert get(scores, SHUFFLED, "recall@1", protocol=protocol).value == 0
        assert get(scores, SHUFFLED, "median-rank", protocol=protocol).value > 2


def test_the_symbol_cannot_win_when_names_are_removed():
    summaries = {g: f"{g} is here. {t}" for g, t in SUMMARIES.items()}
    scores = retrieval({g: f"{g} is a gene." for g in GENES}, summaries)
    assert get(scores, SYMBOL, "recall@1", protocol=KEPT).value == 1
    assert get(scores, PROFILES, "recall@1", protocol=KEPT).value == 1
    removed = get(scores, SYMBOL, "median-rank", protocol=REMOVED)
    assert (removed.value, removed.low, removed.high) == (4.5, 4.5, 4.5)  # all eight as good: the middle
    assert get(scores, SYMBOL, "recall@1", protocol=REMOVED).value == 0


def test_ranks_are_those_of_scipy(monkeypatch):
    monkeypatch.setattr(quality, "_BLOCK", 20)
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(15)]
    candidates = {f"C{i}": " ".join(rng.choice(words, size=6)) for i in range(40)}
    genes = sorted(candidates)[:20]
    profiles = {g: " ".join(rng.choice(words, size=3)) for g in genes}
    vectors = TfidfVectorizer(sublinear_tf=True).fit(candidates.values())
    similar = (vectors.transform(profiles[g] for g in genes) @ vectors.transform(candidates.values()).T).toarray()
    right = [list(candidates).index(g) for g in genes]
    ranks = rankdata(-similar.round(10), axis=1)[np.arange(20), right]
    scores = retrieval(profiles, candidates, {})
    assert get(scores, PROFILES, "median-rank", protocol=KEPT).value == np.median(ranks)
    assert get(scores, PROFILES, "mean-reciprocal-rank", protocol=KEPT).value == pytest.approx((1 / ranks).mean())
    assert get(scores, PROFILES, "recall@10", protocol=KEPT).value == (ranks <= 10).mean()
    shuffled = []
    for seed in range(5):
        at = quality._others(20, seed)
        shuffled.append((1 / rankdata(-similar[at].round(10), axis=1)[np.arange(20), right]).mean())
    assert get(scores, SHUFFLED, "mean-reciprocal-rank", protocol=KEPT).value == pytest.approx(np.mean(shuffled))


@given(st.integers(2, 60), st.integers(0, 5))
def test_a_shuffle_gives_every_gene_another_one(n, seed):
    others = quality._others(n, seed)
    assert sorted(others) == list(range(n))
    assert (others != np.arange(n)).all()


def test_the_same_seeds_give_the_same_numbers():
    texts = {g: SUMMARIES[g][:40] for g in GENES}
    first, again, other = (retrieval(texts, seeds=s) for s in ((0, 1), (0, 1), (5, 6)))
    assert first == again
    assert first != other
    assert [s.value for s in first if s.texts == PROFILES] == [s.value for s in other if s.texts == PROFILES]


def test_the_interval_holds_the_value_and_narrows_with_more_genes():
    values = np.tile(np.arange(10.0), 50)
    few, many = (quality._scores("", "p", "m", some[None], np.mean, 0)[0] for some in (values[:10], values))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 4
    # The standard error of a mean, times 1.96 to both sides.
    assert many.high - many.low == pytest.approx(2 * 1.96 * np.arange(10.0).std() / math.sqrt(500), rel=0.1)


def test_a_name_that_no_gene_has_gives_no_number():
    scores = naming_scores({"g": ["a", "b"]}, [replace(r, prev_symbols=()) for r in RECORDS[:2]])
    score = get(scores, PROFILES, "previous-symbol-recall")
    assert score.n == 0
    assert math.isnan(score.value)


def test_summaries_without_a_word_are_an_error():
    with pytest.raises(BftembedError, match="holds a word"):
        retrieval({"TP53": "", "ALB": ""}, {"TP53": "the", "ALB": "of"})
