"""Config files: every wrong key or value is named, with its file."""

from __future__ import annotations

import pytest
import yaml
from tests_paths import REPOSITORY

from bftembed.config import RunConfig, dump_config, init_config, load_config, save_config, templates
from bftembed.config.loading import VERBS
from bftembed.errors import BftembedError, UnknownNameError

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
MINIMAL = {
    "cells": "builtin:pbmc68k_reduced",
    "profiles": [{"name": "facts", "generator": "facts"}],
    "benchmarks": [{"task": "clustering", "label": "x"}],
}


def write(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


def run_text(**changes):
    return yaml.safe_dump({"recipe": "run", **MINIMAL, **changes})


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_every_shipped_config_is_right(file):
    load_config(file)


def test_there_is_a_config_for_every_verb():
    recipes = {yaml.safe_load(file.read_text()).get("recipe") for file in CONFIGS}
    assert recipes >= {*VERBS, "run", "tune", "grpo"}


def test_a_config_survives_being_written_and_read(tmp_path):
    config = RunConfig.model_validate({**MINIMAL, "n_genes": 40, "eval": {"evaluations": ["mmlu"]}})
    save_config(config, tmp_path / "a.yaml")
    assert load_config(tmp_path / "a.yaml") == config
    assert yaml.safe_load(dump_config(config))["n_genes"] == 40


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        (run_text(encodrs=["tfidf"]), "encoders"),
        (run_text(profiles=[{"name": "a", "generater": "facts"}]), "profiles.0.generator"),
        (run_text(benchmarks=[{"task": "clustering", "labels": "x"}]), "label"),
        (run_text(aggregations=[{"weight": "rank"}]), "weights"),
        ("recipe: genes embed\nprofils: x\n", "profiles"),
        ("recipe: bench clusterin\n", "bench clustering"),
        ("recipe: rnu\n", "run"),
    ],
)
def test_an_unknown_key_or_recipe_gets_a_suggestion(tmp_path, text, suggestion):
    with pytest.raises(UnknownNameError) as caught:
        load_config(write(tmp_path, text))
    assert f"'{suggestion}'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (run_text(n_genes="many"), "n_genes"),
        (run_text(n_genes=1), "n_genes"),
        (run_text(profiles=[]), "profiles"),
        (run_text(benchmarks=[{"task": "clustering", "label": "x", "seeds": "three"}]), "seeds"),
        (run_text(benchmarks=[{"task": "clustering", "label": "x", "permuted": 3}]), "permuted"),
        (run_text(benchmarks=[{"task": "integration", "label": "x"}]), "batch"),
        (run_text(aggregations=[{"top_k": "ten"}]), "top_k"),
        ("recipe: genes embed\nencoder: tfidf\n", "profiles"),
        ("recipe: cells embed\ndata: a\ngenes: b\nl2: 3\n", "l2"),
    ],
)
def test_a_wrong_or_missing_value_is_named_with_its_key(tmp_path, text, key):
    with pytest.raises(BftembedError) as caught:
        load_config(write(tmp_path, text))
    assert f"'{key}'" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [1\nb: 2\n", "label: 2024-13-45\n", "out: &a x\nmodel: *a\n", "- 1\n", ""])
def test_what_is_not_a_mapping_of_keys_is_an_error_of_the_file(tmp_path, text):
    with pytest.raises(BftembedError) as caught:
        load_config(write(tmp_path, text))
    assert "my.yaml" in str(caught.value)


def test_a_config_makes_no_python_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BftembedError):
        load_config(write(tmp_path, "out: !!python/object/apply:os.system ['touch made']\n"))
    assert not (tmp_path / "made").exists()


def test_a_bomb_of_aliases_is_an_error(tmp_path):
    lines = ["a0: &a0 {x: x}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(BftembedError):
        load_config(write(tmp_path, "\n".join(lines)))


def test_a_template_is_copied_with_its_comments_and_never_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init_config("my_data").read_text() == (REPOSITORY / "configs" / "my_data.yaml").read_text()
    with pytest.raises(BftembedError):
        init_config("my_data")
    with pytest.raises(UnknownNameError):
        init_config("my_dtaa")
    for name in templates():
        load_config(init_config(name, out=tmp_path / "made" / f"{name}.yaml"))
