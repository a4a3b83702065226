"""Config files: every wrong key or value is named, with its file."""

from __future__ import annotations

import pytest
import yaml
from tests_paths import REPOSITORY

from bftembed.config import DemoConfig, dump_config, load_config, save_config
from bftembed.errors import BftembedError, UnknownNameError


def write(tmp_path, text):
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    return path


def test_the_shipped_demo_config_is_the_default():
    assert load_config(REPOSITORY / "configs" / "demo.yaml") == DemoConfig()


def test_every_shipped_config_is_right():
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        load_config(file)


def test_a_config_survives_being_written_and_read(tmp_path):
    config = DemoConfig(genes=40, seeds=3, out="x")
    save_config(config, tmp_path / "a.yaml")
    assert load_config(tmp_path / "a.yaml") == config
    assert yaml.safe_load(dump_config(config))["genes"] == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: demo\nencodr: tfidf\n", r"Unknown key 'encodr' in .*demo.yaml. Did you mean 'encoder'"),
        ("profiles:\n- name: a\n  generater: facts\n", r"'profiles.0.generater'.*Did you mean 'profiles.0.generator'"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(tmp_path, text, message):
    with pytest.raises(UnknownNameError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: many\n", "key 'seeds': Input should be a valid integer"),
        ("seeds: 1\n", "key 'seeds': Input should be greater than or equal to 2"),
        ("genes: 3.5\nseeds: no\n", r"key 'genes': .*\(1 more after it\)"),
        ("profiles: []\n", "key 'profiles': List should have at least 1 item"),
        ("a: [1\nb: 2\n", r"demo.yaml: line 2, column 2: not valid YAML"),
        ("label: 2024-13-45\n", "not valid YAML"),
        ('seeds: !!int "abc"\n', "not valid YAML"),
        ("out: &a x\nmodel: *a\n", r"demo.yaml: line 2, column 8: not valid YAML \(an alias"),
        ("- 1\n", "holds no keys"),
        ("", "holds no keys"),
        ("recipe: dem\n", "Unknown recipe 'dem'.*Did you mean 'demo'"),
        ("recipe: [1, 2]\n", "Unknown recipe"),
        ("out: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BftembedError, match=message):
        load_config(write(tmp_path, text))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("line", ["[{}]", "{{<<: [{}]}}"], ids=["list", "merge"])
def test_a_bomb_of_aliases_is_refused_quickly(tmp_path, line):
    lines = ["a0: &a0 {x: x}"]
    lines += [f"a{i}: &a{i} {line.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 12)]
    with pytest.raises(BftembedError, match=r"line 2, column \d+: not valid YAML \(an alias"):
        load_config(write(tmp_path, "\n".join(lines)))


def test_a_missing_or_huge_file_is_named(tmp_path):
    with pytest.raises(BftembedError, match="No such config file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(BftembedError, match="shorter than"):
        load_config(write(tmp_path, "#" * 1_000_001))
