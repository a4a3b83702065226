"""Specs parse; unknown names come with a suggestion; options are checked against the class."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, MissingExtraError, UnknownNameError, require
from bftembed.registry import Registry, Spec, parse_spec

REGISTRY = Registry(
    "colour", {"counter": "collections:Counter", "thing": "tests_registry_thing:Thing"}, "bftembed.none"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("facts", Spec("facts")),
        ("scripted:delay=0.02,fail=0.1", Spec("scripted", "", {"delay": 0.02, "fail": 0.1})),
        ("scripted,delay=1", Spec("scripted", "", {"delay": 1})),
        ("builtin:all-minilm-l6-v2", Spec("builtin", "all-minilm-l6-v2")),
        ("transformers:/a/b,dtype=fp32,flag=true", Spec("transformers", "/a/b", {"dtype": "fp32", "flag": True})),
        ("st:dmis-lab/biobert-v1.1", Spec("st", "dmis-lab/biobert-v1.1")),
        ("transformers:builtin:smollm2", Spec("transformers", "builtin:smollm2")),
    ],
)
def test_specs_parse(text, expected):
    assert parse_spec(text) == expected


names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
options = st.dictionaries(
    st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True),
    st.integers(-99, 99) | st.booleans() | st.just("x/y"),
    max_size=3,
)


@given(names, st.just("") | names, options)
def test_a_spec_survives_being_written_and_read(engine, model, given_options):
    spec = Spec(engine, model, given_options)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize("text", ["", ":x", "a:model,novalue"])
def test_broken_specs_are_refused(text):
    with pytest.raises(BftembedError):
        parse_spec(text)


def test_an_unknown_name_gets_a_suggestion_and_the_list():
    with pytest.raises(
        UnknownNameError, match=r"Unknown colour 'countr'. Did you mean 'counter'\? Known: counter, thing"
    ):
        REGISTRY.load("countr")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scripted:dely=1", "Did you mean 'delay'"),
        ("facts:gpt", "takes no model"),
        ("transformers", "needs a model: write transformers:MODEL"),
        ("transformer:x", "Did you mean 'transformers'"),
        ("scripted:delay=abc", "delay='abc' of the generator 'scripted' must be a number"),
        ("scripted:batch=2.5", "batch=2.5"),
        ("scripted:delay=nan", "must be a number"),
        ("scripted:fail=true", "must be a number"),
    ],
)
def test_a_wrong_option_or_model_is_named(spec, message):
    from bftembed.llm import model_from_spec

    with pytest.raises(BftembedError, match=message):
        model_from_spec(spec)


def test_numbers_may_be_whole_and_names_may_look_like_numbers():
    from bftembed.llm import model_from_spec

    assert model_from_spec("scripted:delay=1,fail=0")[0].batch_size == 8
    assert model_from_spec("scripted:log=5")[0].log == "5"


def test_a_missing_package_names_its_install_line():
    with pytest.raises(MissingExtraError, match=r'pip install "bftembed\[local\]"'):
        require("no_such_package_at_all", "local")
