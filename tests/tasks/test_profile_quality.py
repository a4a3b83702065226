"""Quality without a judge: scores against oracles, and baselines that behave as chance does."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

from bftembed.errors import BftembedError
from bftembed.tasks import profile_quality as quality
from bftembed.tasks.base import Result
from bftembed.tasks.profile_quality import KEPT, REMOVED, SYMBOL

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
GENES = list(SUMMARIES)
NAMES = {g: (g,) for g in SUMMARIES}
ROW = functools.partial(Result, "store", task="profile-quality")


def retrieval(texts, summaries=SUMMARIES, names=NAMES, seeds=range(5)):
    return quality._retrieval_results(ROW, {"g": list(texts.values())}, list(texts), summaries, names, seeds)


def get(rows, kind, metric, protocol=KEPT):
    (row,) = [r for r in rows if (r.kind, r.metric, r.protocol) == (kind, metric, protocol)]
    return row


def test_words_of_the_full_name_are_counted():
    texts = ["Of a TUMOR thing.", "EGFR is the epidermal growth factor receptor.", *["nothing"] * 2]
    full = ["tumor protein p53", "epidermal growth factor receptor", "MYC proto-oncogene", "of the"]
    rows = quality._naming_results(ROW, {"g": texts}, GENES[:4], full, range(2))
    own = get(rows, "subject", "full-name-word-recall", "names")
    assert own.n == 3  # "of the" says nothing of a gene
    assert own.value == pytest.approx((1 / 3 + 1) / 3)
    assert own.low <= own.value <= own.high
    assert get(rows, "baseline", "full-name-word-recall", "names").value == pytest.approx((1 / 3) / 3)  # MYC


def test_the_summaries_themselves_are_found_and_shuffled_ones_are_not():
    rows = retrieval(SUMMARIES)
    assert {(r.kind, r.subject) for r in rows} == {("subject", "g"), ("shuffled", "g"), ("baseline", SYMBOL)}
    for protocol in (KEPT, REMOVED):
        for metric in ("median-rank", "recall@10"):
            assert get(rows, "subject", metric, protocol).value == 1
        assert get(rows, "shuffled", "median-rank", protocol).value > 2


def test_the_symbol_cannot_win_when_names_are_removed():
    rows = retrieval({g: f"{g} is a gene." for g in GENES}, {g: f"{g} is here. {t}" for g, t in SUMMARIES.items()})
    assert get(rows, "baseline", "median-rank").value == 1
    assert get(rows, "subject", "median-rank").value == 1
    removed = get(rows, "baseline", "median-rank", REMOVED)
    assert (removed.value, removed.low, removed.high) == (4.5, 4.5, 4.5)  # all eight as good: the middle


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
    orders = [np.arange(20), *(quality._others(20, seed) for seed in range(5))]
    ranks = np.array([rankdata(-similar[at].round(10), axis=1)[np.arange(20), right] for at in orders])
    rows = retrieval(profiles, candidates, {})
    assert get(rows, "subject", "median-rank").value == np.median(ranks[0])
    assert get(rows, "subject", "recall@10").value == (ranks[0] <= 10).mean()
    assert get(rows, "shuffled", "median-rank").value == np.median(ranks[1:], axis=1).mean()


@given(st.integers(2, 60), st.integers(0, 5))
def test_a_shuffle_gives_every_gene_another_one(n, seed):
    others = quality._others(n, seed)
    assert sorted(others) == list(range(n))
    assert (others != np.arange(n)).all()


def test_the_interval_holds_the_value_and_narrows_with_more_genes():
    values = np.tile(np.arange(10.0), 50)
    row = functools.partial(ROW, subject=SYMBOL, protocol="p", metric="m")
    few, many = (quality._results(row, some[None], np.mean, 0)[0] for some in (values[:10], values))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 4
    # The standard error of a mean, times 1.96 to both sides.
    assert many.high - many.low == pytest.approx(2 * 1.96 * np.arange(10.0).std() / math.sqrt(500), rel=0.1)


def test_summaries_without_a_word_are_an_error():
    with pytest.raises(BftembedError, match="holds a word"):
        retrieval({"TP53": "", "ALB": ""}, {"TP53": "the", "ALB": "of"})
