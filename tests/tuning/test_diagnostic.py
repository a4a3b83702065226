"""Window statistics against naive programs, enrichment against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.tuning.diagnostic import (
    DiagnosticOptions,
    diagnose,
    in_group,
    longest_runs,
    low_tokens,
    window_starts,
)

ENTITY, CONNECTIVE, OTHER = 0, 1, 2


def naive_run(low):
    best = now = 0
    for x in low:
        now = now + 1 if x else 0
        best = max(best, now)
    return best


def naive_starts(n, window, stride):
    if n == 0:
        return []
    if n <= window:
        return [0]
    starts = []
    at = 0
    while at + window <= n:
        starts.append(at)
        at += stride
    return starts if starts[-1] == n - window else [*starts, n - window]


lows = st.lists(st.booleans(), max_size=60)
sizes = st.integers(1, 70)


@given(lows, sizes, st.integers(1, 12))
def test_windows_equal_a_naive_program(low, window, stride):
    starts = window_starts(len(low), window, stride).tolist()
    assert starts == naive_starts(len(low), window, stride)
    runs = longest_runs(np.array(low, dtype=bool), window, stride)
    assert runs.tolist() == [naive_run(low[s : s + window]) for s in starts]


@given(st.lists(st.floats(0, 1, width=32), max_size=50), st.floats(0.01, 0.99))
def test_low_tokens_lie_below_the_quantile(confidence, q):
    values = np.array(confidence, dtype=np.float32)
    low = low_tokens(values, q)
    assert low.shape == values.shape
    if len(values):
        assert not low[values.argmax()]
        assert low.sum() <= np.ceil(q * len(values))
        assert low.tolist() == [c < np.quantile(values, q) for c in values]


def random_responses(seed, n=8, longest=90):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, longest, size=n)
    return [generator.random(k) for k in lengths], [generator.integers(0, 3, size=k) for k in lengths]


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5))
def test_the_result_equals_a_naive_program(seed, window, stride):
    confidences, tags = random_responses(seed)
    options = DiagnosticOptions(window=window, stride=stride, resamples=10)
    try:
        result = diagnose(confidences, tags, options)
    except BftembedError:
        return
    rows = []
    for i, (c, tag) in enumerate(zip(confidences, tags, strict=True)):
        low = [x < np.median(c) for x in c]
        for s in naive_starts(len(c), window, stride):
            part = low[s : s + window]
            counts = [sum(1 for x, t in zip(part, tag[s : s + window], strict=True) if x and t == k) for k in range(3)]
            rows.append((i, s, len(part), sum(part) / len(part), naive_run(part), counts))
    found = result.windows
    assert found.response.tolist() == [r[0] for r in rows]
    assert found.start.tolist() == [r[1] for r in rows]
    assert found.length.tolist() == [r[2] for r in rows]
    assert found.low_fraction.tolist() == [r[3] for r in rows]
    assert found.longest_run.tolist() == [r[4] for r in rows]
    assert found.low_tags.tolist() == [r[5] for r in rows]
    cuts = [np.quantile([r[k] for r in rows], q) for q in (0.25, 0.75) for k in (3, 4)]
    groups = ["A" if r[3] <= cuts[0] and r[4] <= cuts[1] else "B" if r[3] >= cuts[2] and r[4] >= cuts[3] else ""
              for r in rows]  # fmt: skip
    assert found.group.tolist() == groups
    shares = {g: np.sum([r[5] for r, of in zip(rows, groups, strict=True) if of == g], axis=0) for g in "AB"}
    for k, row in enumerate(result.enrichment):
        for g, share in (("A", row.share_sparse), ("B", row.share_dense)):
            expected = shares[g][k] / shares[g].sum() if shares[g].sum() else None
            assert share == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_the_tokens_of_a_group_equal_a_naive_program(seed, window):
    confidences, tags = random_responses(seed)
    try:
        result = diagnose(confidences, tags, DiagnosticOptions(window=window, resamples=1))
    except BftembedError:
        return
    w = result.windows
    for group in "AB":
        for i, inside in enumerate(in_group(w, [len(c) for c in confidences], group)):
            expected = [
                any(
                    w.response[j] == i and w.group[j] == group and w.start[j] <= t < w.start[j] + w.length[j]
                    for j in range(len(w.group))
                )
                for t in range(len(confidences[i]))
            ]
            assert inside.tolist() == expected
    low = [low_tokens(c) for c in confidences]
    held = in_group(w, [len(c) for c in confidences], "B")
    for k, row in enumerate(result.enrichment):
        pairs = list(zip(low, held, tags, strict=True))
        assert row.low_dense == sum(int((x & h & (t == k)).sum()) for x, h, t in pairs)
        assert row.low_tokens == sum(int((x & (t == k)).sum()) for x, _, t in pairs)
        assert row.tokens == sum(int((t == k).sum()) for t in tags)


def responses(*texts):
    """Windows of 4 written as tags: a capital letter is a low-confidence token."""
    tags = [np.array(["eco".index(x.lower()) for x in t.replace(" ", "")]) for t in texts]
    confidences = [np.array([0.1 if x.isupper() else 0.9 for x in t.replace(" ", "")]) for t in texts]
    return confidences, tags


#: Nine of sixteen tokens are low, so the median is a low one's 0.1 and nothing lies below it; the 0.7 quantile is 0.9.
BY_FOURS = DiagnosticOptions(window=4, stride=4, tau_quantile=0.7, dense_quantile=0.6)


def test_enrichment_worked_out_by_hand():
    result = diagnose(*responses("Eooo EECO oCoo EOOo"), BY_FOURS)
    assert result.windows.group.tolist() == ["A", "B", "A", "B"]
    assert result.thresholds == {
        "A": {"low_fraction": 0.25, "longest_run": 1.0},
        "B": {"low_fraction": pytest.approx(0.65), "longest_run": pytest.approx(2.6)},
    }
    entity, connective, other = result.enrichment
    assert (entity.share_sparse, entity.share_dense) == (1 / 2, 3 / 7)
    assert entity.ratio == pytest.approx(6 / 7)
    assert connective.ratio == pytest.approx(2 / 7)
    assert (entity.tokens, entity.low_tokens, entity.low_sparse, entity.low_dense) == (4, 4, 1, 3)
    # One response: every resample is itself.
    assert entity.low == entity.high == entity.ratio
    # "other" is never low in A: more than any number, and no interval.
    assert (other.share_sparse, other.ratio, other.low, other.high, other.undefined) == (0.0, None, None, None, 0)


def test_windows_that_overlap_count_a_token_once_each():
    confidences, tags = responses("EooooooEEEEEE")
    result = diagnose(confidences, tags, DiagnosticOptions(window=4, tau_quantile=0.7))
    w = result.windows
    sums = w.low_tags[w.group == "B"].sum(axis=0)
    assert sums[ENTITY] > result.enrichment[ENTITY].low_dense == 6
    assert sums[CONNECTIVE] == sums[OTHER] == 0


def test_responses_are_resampled_not_windows():
    """Two responses: a resample holds both, or one of them twice; so three ratios are possible."""
    texts = ("Eooo EOOO oOoo EEEO", "Eooo OOOO oCoo OOOE")
    result = diagnose(*responses(*texts), dataclasses.replace(BY_FOURS, resamples=400))
    alone = [diagnose(*responses(t), BY_FOURS).enrichment[ENTITY].ratio for t in texts]
    entity = result.enrichment[ENTITY]
    assert result.windows.group.tolist() == ["A", "B"] * 4
    assert (entity.low, entity.high) == (min(alone), max(alone))
    assert min(alone) < entity.ratio < max(alone)
    again = diagnose(*responses(*texts), dataclasses.replace(BY_FOURS, resamples=400))
    assert again.enrichment == result.enrichment


def test_resamples_without_a_value_are_counted_and_left_out():
    """One response holds every connective: where it is not drawn, the ratio is 0 / 0."""
    result = diagnose(*responses("Cooo CCOO oOoo OOOO", "Eooo OOOO oOoo OOOE"), BY_FOURS)
    connective = result.enrichment[CONNECTIVE]
    assert 300 < connective.undefined < 700
    assert connective.low is not None


def test_a_tag_that_never_occurs_has_no_ratio():
    result = diagnose(*responses("Eooo EEOO oOoo OOOO"), BY_FOURS)
    row = result.enrichment[CONNECTIVE]
    assert (row.tokens, row.share_sparse, row.share_dense, row.ratio, row.low, row.high) == (
        0,
        0.0,
        0.0,
        None,
        None,
        None,
    )
    assert row.undefined == BY_FOURS.resamples


def test_the_interval_covers_a_known_ratio():
    """Tags drawn without regard to confidence: the ratio is 1, and 95 % intervals hold it mostly."""
    held = 0
    for seed in range(40):
        confidences, tags = random_responses(seed, n=30, longest=120)
        row = diagnose(confidences, tags, DiagnosticOptions(window=8, resamples=300)).enrichment[ENTITY]
        held += row.low <= 1 <= row.high
    assert held >= 34


def test_blocks_of_the_bootstrap_change_nothing(monkeypatch):
    from bftembed.tuning import diagnostic

    texts = ("Eooo EOOO oOoo EEEO", "Eooo OOOO oCoo OOOE")
    whole = diagnose(*responses(*texts), BY_FOURS)
    monkeypatch.setattr(diagnostic, "_BLOCK", 7)
    assert diagnose(*responses(*texts), BY_FOURS).enrichment == whole.enrichment


def test_short_and_empty_responses_are_counted():
    confidences, tags = random_responses(0, n=20)
    confidences += [np.array([]), np.array([0.1, 0.9, 0.2])]
    tags += [np.array([], dtype=int), np.array([0, 1, 2])]
    result = diagnose(confidences, tags, DiagnosticOptions(window=8, resamples=10))
    lengths = np.array([len(c) for c in confidences])
    assert result.counts["responses"] == 22
    assert result.counts["empty_responses"] == (lengths == 0).sum()
    assert result.counts["short_responses"] == ((lengths > 0) & (lengths < 8)).sum()
    w = result.windows
    assert (w.response[-1], w.start[-1], w.length[-1], w.longest_run[-1]) == (21, 0, 3, 1)
    assert 20 not in w.response
    assert result.counts["windows"] == len(w.group)


def test_the_result_is_json_and_names_its_options():
    result = diagnose(*responses("Eooo EECO oCoo EOOo"), BY_FOURS)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["options"]["window"] == 4
    assert told["enrichment"][2]["ratio"] is None
    assert told["counts"]["windows_dense"] == 2


def test_confidences_that_are_all_equal_are_an_error():
    with pytest.raises(BftembedError, match=r"too alike.*smaller window"):
        diagnose([np.full(50, 0.5)], [np.zeros(50, dtype=int)])


def test_an_empty_group_is_an_error_with_counts_and_remedy():
    # The window with the longest run is not the one with the most low tokens.
    confidences, tags = responses("OOOoooooo", "OoOoOoOoO", "OOooOooOo")
    options = DiagnosticOptions(window=9, tau_quantile=0.7, sparse_quantile=0.0, dense_quantile=1.0)
    with pytest.raises(BftembedError, match=r"Of 3 windows, 0 are in group A .* 0 in group B .*towards 0.5"):
        diagnose(confidences, tags, options)


@pytest.mark.parametrize(
    ("confidences", "tags", "words"),
    [
        ([], [], "None of the 0 responses"),
        ([np.array([])], [np.array([], dtype=int)], "None of the 1 responses"),
        ([np.ones(3)], [], "1 arrays of confidences, but 0 of tags"),
        ([np.ones(3)], [np.zeros(2, dtype=int)], "Response 0"),
        ([np.array([0.1, np.nan])], [np.zeros(2, dtype=int)], "Response 0 has a confidence"),
        ([np.array([0.1, 1.5])], [np.zeros(2, dtype=int)], "Response 0 has a confidence"),
        ([np.array([0.1, 0.5])], [np.array([0, 3])], "Response 0 has a tag"),
    ],
)
def test_arrays_that_do_not_fit_are_errors(confidences, tags, words):
    with pytest.raises(BftembedError, match=words):
        diagnose(confidences, tags)


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 0},
        {"stride": 0},
        {"resamples": 0},
        {"seed": -1},
        {"tau_quantile": 0.0},
        {"tau_quantile": float("nan")},
        {"sparse_quantile": 0.8},
        {"dense_quantile": 1.5},
    ],
)
def test_options_that_mean_nothing_are_errors(bad):
    with pytest.raises(BftembedError, match=next(iter(bad))):
        DiagnosticOptions(**bad)
