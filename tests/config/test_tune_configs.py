"""The tuning recipes: all load, and larger models have the recipe of the smallest."""

from __future__ import annotations

import pytest
import yaml
from tests_paths import REPOSITORY

from bftembed.config import load_config
from bftembed.errors import BftembedError

FOLDER = REPOSITORY / "configs" / "tune"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda f: f.name)
def test_every_recipe_loads(file):
    assert load_config(file).recipe == ("grpo" if file.stem.endswith("_grpo") else "tune")


@pytest.mark.parametrize("name", ["r1_distill_qwen_32b", "r1_distill_llama_70b"])
def test_the_larger_models_have_the_same_recipe(name):
    recipe, larger = (load_config(FOLDER / f"{one}.yaml").model_dump() for one in ("r1_distill_qwen_14b", name))
    for key in ("model", "out"):
        assert larger.pop(key) != recipe.pop(key)
    assert larger == recipe


def test_the_paper_s_recipe_has_its_equation_5_and_a_config_keeps_what_it_names():
    recipes = [config for file in FOLDER.glob("r1_*.yaml") if (config := load_config(file)).recipe == "tune"]
    assert {config.objective.sample_coefficient for config in recipes} == {"one_minus_min"}
    assert load_config(FOLDER / "smollm2_cpu.yaml").objective.sample_coefficient == "two_minus_min"


def test_launch_files_are_yaml_of_their_kind():
    kinds = {"fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    for name, kind in kinds.items():
        loaded = yaml.safe_load((REPOSITORY / "training" / "launch" / f"{name}.yaml").read_text())
        assert loaded["distributed_type"] == kind


def test_extends_merges_key_by_key_and_a_circle_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_text("recipe: tune\ndata: {train: x.jsonl, max_length: 64}\ntraining: {seed: 3}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ndata: {max_length: 32}\ntraining: {learning_rate: 1e-4}\n")
    config = load_config(tmp_path / "b.yaml")
    assert (config.data.train[0].path, config.data.max_length) == ("x.jsonl", 32)
    assert (config.training.seed, config.training.learning_rate) == (3, 1e-4)
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    with pytest.raises(BftembedError, match="extends itself"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(BftembedError, match="which .*b.yaml extends"):
        load_config(tmp_path / "b.yaml")
