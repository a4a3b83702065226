"""Word diffs of profiles: both texts can be read out of one, and the chosen ones come in the order asked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import UnknownNameError
from bftembed.profiles.diff import chosen, compare, word_diff
from bftembed.profiles.records import Profile


def profile(text, prompt="bft-gene@1", generator="facts", identity="aaaaaaaaaaaaaaaa"):
    return Profile(
        f"{prompt}{generator}{identity}", "TP53", "gene", text, "stop", (), prompt, generator, generator_id=identity
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a b c", "a b c", "a b c"),
        ("a b c", "a x c", "a [-b-]{+x+} c"),
        ("a c", "a b c", "a {+b+} c"),
        ("a b c", "a c", "a [-b-] c"),
        ("", "a b", "{+a b+}"),
        ("a b", "", "[-a b-]"),
        ("", "", ""),
        ("a\nb", "a  \n b", "a\nb"),
    ],
)
def test_words_are_marked(old, new, expected):
    assert word_diff(old, new) == expected


WORDS = st.lists(st.sampled_from(["a", "b", "gene", "cell", "x-y"]), max_size=25).map(" ".join)


@given(WORDS, WORDS)
def test_both_texts_can_be_read_out_of_a_diff(old, new):
    found = word_diff(old, new)
    assert re.sub(r"\{\+.*?\+\}", " ", found.replace("[-", " ").replace("-]", " ")).split() == old.split()
    assert re.sub(r"\[-.*?-\]", " ", found.replace("{+", " ").replace("+}", " ")).split() == new.split()


def test_long_texts_are_compared():
    """In the square of their length, that would take hours."""
    found = word_diff("ab cd " * 60_000, "cd ab ef " * 40_000)
    assert found.count("ef") == 40_000


def test_the_first_is_whole_and_the_others_are_marked():
    first, second = compare([profile("a b c d"), profile("a b x d", generator="x")])
    assert (first.diff, first.same) == ("a b c d", 1.0)
    assert (second.diff, second.same) == ("a b [-c-]{+x+} d", 0.75)
    assert compare([]) == []


def test_generators_and_prompts_are_chosen_in_the_order_asked_for():
    profiles = [
        profile("1", generator="facts", identity="a" * 16),
        profile("2", generator="transformers:builtin:smollm2-135m-instruct,max_new_tokens=8", identity="b" * 16),
        profile("3", prompt="other@1", identity="c" * 16),
    ]
    texts = lambda **by: [p.text for p in chosen(profiles, **by)]  # noqa: E731
    assert texts() == ["1", "2", "3"]
    assert texts(generators=["builtin:smollm2-135m-instruct", "facts"]) == ["2", "1", "3"]
    assert texts(generators=["cccccc", "aaaaaa"]) == ["3", "1"]
    assert texts(prompts=["other", "bft-gene"]) == ["3", "1", "2"]
    assert texts(generators=["facts", "aaaaaaaa"]) == ["1", "3"]
    with pytest.raises(UnknownNameError, match="generator 'fact'"):
        chosen(profiles, generators=["fact"])
    with pytest.raises(UnknownNameError, match="prompt"):
        chosen(profiles, prompts=["none"])
