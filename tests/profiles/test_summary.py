"""The summary of a store: counts, coverage and lengths by hand, near-duplicates against a naive comparison."""

from __future__ import annotations

import json
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.llm.base import Answer
from bftembed.llm.store import ListedEntity
from bftembed.profiles import duplicates
from bftembed.profiles.duplicates import near_duplicates, words_of, words_without
from bftembed.profiles.report import summarize_profiles


def profile(entity, text, *, generator="a", marks=(), reason="stop", kind="gene", key="", error="", identity="1"):
    return Answer(
        key or f"{generator}{identity}{entity}",
        entity,
        kind,
        text,
        reason,
        marks,
        "bft-gene@1",
        generator,
        error=error,
        generator_id=identity,
    )


def listed(name, entity=None, status="used", kind="gene"):
    return ListedEntity(kind, name, entity or name, status)


def naive(texts, names, threshold):
    """The definition: sets of three words in a row, compared pair by pair."""

    def shingles(entity):
        words = words_without(texts[entity], names.get(entity, ()))
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    sets = {e: shingles(e) for e in texts}
    values = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in combinations(sorted(texts), 2)}
    return {pair: value for pair, value in values.items() if value >= threshold - 1e-9}


def groups_of(pairs):
    groups = {}
    for a, b in pairs:
        joined = groups.get(a, {a}) | groups.get(b, {b})
        groups |= dict.fromkeys(joined, joined)
    return sorted({tuple(sorted(g)) for g in groups.values()}, key=lambda g: (-len(g), g))


def assert_as_naive(texts, names, threshold):
    found = near_duplicates(texts, names, threshold=threshold, max_shown=10_000)
    pairs = naive(texts, names, threshold)
    groups = groups_of(pairs)
    assert found.pairs == len(pairs)
    assert found.with_duplicate == len({e for pair in pairs for e in pair})
    assert found.groups == tuple(map(len, groups))
    assert list(found.largest) == groups
    for shown in found.closest:
        assert shown.similarity == pytest.approx(pairs[shown.first, shown.second])
    assert [p.similarity for p in found.closest] == sorted((p.similarity for p in found.closest), reverse=True)


@given(
    st.dictionaries(st.text("GHIJ", min_size=1, max_size=4), st.text("ab c", max_size=40), max_size=14),
    st.sampled_from([0.2, 0.5, 0.7, 1.0]),
)
def test_near_duplicates_are_those_of_the_definition(texts, threshold):
    assert_as_naive(texts, {e: [e] for e in texts}, threshold)


@pytest.mark.parametrize("dense", [1, 1 << 25])
def test_blocks_and_dense_shingles_change_nothing(monkeypatch, dense):
    draw = random.Random(1)
    first = [f"w{i}" for i in range(12)]
    texts = {f"G{i}": f"G{i} is a gene of " + " ".join(draw.choices(first, k=draw.randint(0, 6))) for i in range(150)}
    monkeypatch.setattr(duplicates, "_BLOCK", 700)
    monkeypatch.setattr(duplicates, "_DENSE", dense)
    assert_as_naive(texts, {e: [e] for e in texts}, 0.6)


def test_a_template_is_the_same_text_for_every_name():
    texts = {g: f"{g} is a human gene, also known as {g}-like." for g in ("TP53", "EGFR", "HLA-DRA")}
    texts["MYC"] = "MYC drives growth of cells and amplifies what is transcribed."
    found = near_duplicates(texts, {g: [g] for g in texts})
    assert (found.pairs, found.with_duplicate, found.groups, found.share) == (3, 3, (3,), 0.75)
    assert found.largest == (("EGFR", "HLA-DRA", "TP53"),)
    assert near_duplicates(texts, {}).pairs == 0


def test_nothing_and_one_text_have_no_duplicate():
    assert near_duplicates({}, {}).share == 0
    assert near_duplicates({"TP53": "TP53"}, {"TP53": ["TP53"]}).groups == ()
    assert near_duplicates({"TP53": "TP53", "EGFR": "EGFR."}, {g: [g] for g in ("TP53", "EGFR")}).pairs == 1
    with pytest.raises(BftembedError, match="threshold"):
        near_duplicates({}, {}, threshold=0)


@pytest.mark.parametrize(
    ("text", "names", "left"),
    [
        ("IL-6 and IL6 and il 6 act", ["IL6"], "and and act"),
        ("IL60 and IL-60 act", ["IL6"], "il60 and il 60 act"),
        ("the tumor protein p53 acts, p53 too", ["p53", "tumor protein p53"], "the acts too"),
        ("tumor protein acts", ["tumor protein p53"], "tumor protein acts"),
        ("p53's role", ["p53"], "s role"),
        ("α-synuclein acts", ["α-Synuclein"], "acts"),
        ("nothing", ["", "-"], "nothing"),
        ("", ["TP53"], ""),
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


def test_twenty_thousand_texts_are_compared():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    texts = {f"G{i}": f"G{i} encodes a protein that {' '.join(draw.choices(words, k=60))}" for i in range(20_000)}
    assert near_duplicates(texts, {e: (e,) for e in texts}).pairs == 0


def test_counts_coverage_and_lengths():
    entities = [
        listed("TP53"),
        listed("P53", "TP53", "mapped"),
        listed("EGFR"),
        listed("MYC"),
        listed("x", "x", "missing"),
    ]
    profiles = [
        profile("TP53", "TP53 is a gene."),
        profile("EGFR", "ErbB1 signals", marks=("truncated",), reason="length"),
        profile("MYC", "", marks=("failed",), reason="error", error="broken"),
        profile("KRAS", "Weather is fine today.", marks=("off-topic",)),
    ]
    found = summarize_profiles(entities, profiles)
    assert found["names"] == {"gene": {"mapped": 1, "missing": 1, "used": 3}}
    (one,) = json.loads(json.dumps(found, allow_nan=False))["origins"]
    near = one.pop("near_duplicates")
    assert (near["compared"], near["pairs"], near["share"], near["groups"]) == (3, 0, 0, [])
    assert one == {
        **{"kind": "gene", "prompt": "bft-gene@1", "generator": "a", "generator_id": "1"},
        **{"entities": 4, "profiles": 4, "with_text": 3, "unmarked": 1},
        **{"resolvable": 4, "covered": 3, "covered_unmarked": 2, "coverage": 0.5, "text_coverage": 0.75},
        "characters": {
            "median": 15,
            "low": pytest.approx(13.2),
            "high": pytest.approx(21.3),
            "shortest": 13,
            "longest": 22,
        },
        "words": {"median": 4, "low": 2.2, "high": 4, "shortest": 2, "longest": 4},
        "finish_reasons": {"error": 1, "length": 1, "stop": 2},
        "marks": {"ok": 1, "failed": 1, "off-topic": 1, "truncated": 1},
        **{"naming_itself": 2, "naming_itself_share": pytest.approx(2 / 3)},  # ErbB1 is an alias of EGFR
    }


def test_origins_are_apart_and_sorted():
    profiles = [
        profile("TP53", "TP53 x", generator="b"),
        profile("TP53", "TP53 y", generator="a", identity="2"),
        profile("TP53", "TP53 z", generator="a", identity="1"),
        profile("T cell", "The T cell helps.", kind="cell-type"),
        profile("CD3", "CD3 is a complex.", kind="protein"),
    ]
    origins = summarize_profiles([], profiles)["origins"]
    assert [(o["kind"], o["generator"], o["generator_id"]) for o in origins] == [
        ("cell-type", "a", "1"),
        ("gene", "a", "1"),
        ("gene", "a", "2"),
        ("gene", "b", "1"),
        ("protein", "a", "1"),
    ]
    assert all(o["coverage"] is None and o["naming_itself"] == 1 for o in origins)


def test_several_profiles_of_an_entity_are_no_duplicates_of_one_another():
    twice = [profile("TP53", "TP53 is a gene of cells.", key=key) for key in ("1", "2")]
    (one,) = summarize_profiles([listed("TP53")], twice)["origins"]
    near = one["near_duplicates"]
    assert (one["entities"], one["profiles"], near["compared"], near["pairs"]) == (1, 2, 1, 0)


def test_a_name_as_given_counts_as_the_entitys_own():
    entities = [listed("ENSG00000141510", "TP53", "mapped")]
    (one,) = summarize_profiles(entities, [profile("TP53", "ENSG00000141510 acts.")])["origins"]
    assert one["naming_itself"] == 1
