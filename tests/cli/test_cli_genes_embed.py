"""`bftembed genes embed`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bftembed.embeddings import GeneEmbeddings
from bftembed.profiles.records import Profile
from bftembed.profiles.store import ProfileStore

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = {
    "TP53": ("a tumour suppressor of the nucleus", ()),
    "ACTB": ("an actin of the nucleus", ()),
    "EGFR": ("a receptor kinase", ("truncated",)),
    "EVIL\x1b[31m": ("", ("failed",)),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = [
        Profile(f"{i:064d}", entity, "gene", text, "stop", marks, "bft-gene@1", "facts")
        for i, (entity, (text, marks)) in enumerate(PROFILES.items())
    ]
    with ProfileStore.writing(tmp_path / "store") as opened:
        identifier = opened.add_generator("facts", {"engine": "facts"})
        opened.add_profiles(made, generator_id=identifier, messages={p.key: [] for p in made})
    return tmp_path / "store"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "genes", "embed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_embeds_and_says_what_was_left_out(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "genes.safetensors"
    done = run(store, "--encoder", "random:dim=8", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "embedded: 2 of 4 profiles, 8 dimensions each" in done.stdout
    assert "left out, truncated: 1 ('EGFR')" in done.stdout
    assert "left out, failed: 1 ('EVIL\\x1b[31m')" in done.stdout
    assert GeneEmbeddings.load(out).ids == ["ACTB", "TP53"]


def test_json_is_one_object_and_marks_can_be_allowed(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "genes.safetensors"
    options = ("--allow-marks", "looping, truncated", "--prompt", "bft-gene", "--generator", "facts", "--json")
    done = run(store, "--encoder", "tfidf:dim=2", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    made = GeneEmbeddings.load(out)
    assert made.ids == ["ACTB", "EGFR", "TP53"]
    assert summary["counts"] == {"profiles": 4, "embedded": 3, "left_out": 1, "unique_texts": 3}
    assert summary["left_out"] == {"failed": 1}
    assert (summary["dim"], summary["fingerprint"]) == (made.dim, made.fingerprint())
    assert summary["encoder"]["name"] == "tfidf"


@pytest.mark.model
@pytest.mark.parametrize(
    ("option", "said"), [("chunk", "2 texts, encoded in 4 pieces"), ("truncate", "2 texts, cut: 92 of 600 tokens")]
)
def test_texts_beyond_the_limit_are_reported(tmp_path: Path, option: str, said: str) -> None:
    pytest.importorskip("sentence_transformers")
    from typer.testing import CliRunner

    from bftembed.cli import app

    made = [
        Profile(f"{i:064d}", f"G{i}", "gene", f"{word} " * 300, "stop", (), "bft-gene@1", "facts")
        for i, word in enumerate(["cell", "gene"])
    ]
    with ProfileStore.writing(tmp_path / "store") as opened:
        identifier = opened.add_generator("facts", {})
        opened.add_profiles(made, generator_id=identifier, messages={p.key: [] for p in made})
    out = tmp_path / "genes.safetensors"
    encoder = f"builtin:all-minilm-l6-v2,long={option}"
    done = CliRunner().invoke(app, ["genes", "embed", str(tmp_path / "store"), "--encoder", encoder, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"longer than 256 tokens: {said}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "tfid"], "Did you mean 'tfidf'"),
        (["--encoder", "tfidf", "--allow-marks", "truncate"], "Did you mean 'truncated'"),
        (["--encoder", "tfidf", "--generator", "nobody"], "Known: facts"),
    ],
)
def test_errors_are_one_message_and_leave_no_file(store: Path, tmp_path: Path, arguments, message: str) -> None:
    out = tmp_path / "genes.safetensors"
    done = run(store, "--out", out, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_out_is_required(store: Path) -> None:
    assert run(store).returncode == 2
