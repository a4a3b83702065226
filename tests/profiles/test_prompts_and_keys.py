"""Prompts are versioned text; a key changes if and only if something that decides the text changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.io import sha256_text
from bftembed.llm.runner import Keys
from bftembed.profiles.generate import profile_key
from bftembed.profiles.prompts import PROMPTS, get_prompt

#: A changed wording needs a new version: then add its hash here, never change one.
WORDINGS = {
    "bft-gene@1": "0bc052",
    "bft-protein@1": "dd067d",
    "bft-cell-type@1": "4197bc",
    "bft-drug@1": "b35f17",
}


def test_the_wording_of_a_released_version_never_changes():
    from bftembed.io import canonical_json, sha256_text

    found = {p.id: sha256_text(canonical_json(p.messages("X", ("A", "B"))))[:6] for p in PROMPTS.values()}
    assert found == WORDINGS


def test_the_prompt_states_the_limit_and_names_the_entity():
    system, user = get_prompt(None, "gene").messages("CTSL")
    assert system["role"] == "system"
    assert "2000 characters" in system["content"]
    assert user == {"role": "user", "content": "Tell me about the gene CTSL."}
    assert "encoded by CD3D and CD3E" in get_prompt(None, "protein").messages("CD3", ("CD3D", "CD3E"))[1]["content"]


def test_braces_in_a_name_are_data():
    assert "{name} {0} {genes}" in get_prompt(None, "gene").messages("{name} {0} {genes}")[1]["content"]


def test_unknown_or_unfit_prompts_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'bft-gene'"):
        get_prompt("bft-gen", "gene")
    with pytest.raises(BftembedError, match="for kind 'gene'"):
        get_prompt("bft-gene", "protein")


BASE = {
    "entity": "TP53",
    "kind": "gene",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "fingerprint": {"engine": "x", "sampling": {"temperature": 0.0}},
}
CHANGED = {
    "entity": st.text().filter(lambda x: x != "TP53"),
    "kind": st.just("protein"),
    "messages": st.text()
    .filter(lambda x: x != "u")
    .map(lambda x: [BASE["messages"][0], {"role": "user", "content": x}]),
    "fingerprint": st.floats(0.01, 2).map(lambda t: {"engine": "x", "sampling": {"temperature": t}}),
}


@given(st.sampled_from(sorted(CHANGED)).flatmap(lambda f: st.tuples(st.just(f), CHANGED[f])))
def test_a_changed_field_changes_the_key(change):
    field, value = change
    assert profile_key(**{**BASE, field: value}) != profile_key(**BASE)


def test_a_key_is_stable_across_processes_and_hash_seeds():
    code = f"from bftembed.profiles.generate import profile_key; print(profile_key(**{BASE!r}))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {profile_key(**BASE)}


def test_a_context_is_passed_on_where_there_is_a_place_for_it():
    _, user = get_prompt(None, "drug").messages("imatinib", context="given for {name} CML")
    assert user["content"].endswith("effects on cells. Context: given for {name} CML")
    assert get_prompt(None, "cell-type").messages("B cell")[1]["content"] == "Tell me about the cell type B cell."
    with pytest.raises(BftembedError, match="no place for a context"):
        get_prompt(None, "gene").messages("TP53", context="in liver")


def test_compact_keys_are_a_sequence_of_the_keys():
    keys = [sha256_text(str(i)) for i in range(5)]
    compact = Keys(keys)
    assert (list(compact), len(compact), compact[1:3], compact[-1]) == (keys, 5, keys[1:3], keys[4])
    assert keys[2] in compact
    with pytest.raises(IndexError):
        compact[5]
