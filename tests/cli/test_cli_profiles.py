"""`bftembed profiles` and `bftembed config` as a user types them: output, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError
from bftembed.profiles.export import read_exported
from bftembed.profiles.store import ProfileStore


def bftembed(*arguments, cwd=None):
    code = "from bftembed.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def store(tmp_path):
    out = tmp_path / "s"
    spec = "scripted:refuse=0.2,fail=0.2"
    done = bftembed(
        "profiles", "generate", "TP53,EGFR,MYC,KRAS,CD3D,LYZ,GNLY,nonsense1", "--generator", spec, "--out", out
    )
    assert done.returncode == 3, done.stderr
    return out


def test_generate_prints_what_became_of_every_name(tmp_path):
    done = bftembed(
        "profiles", "generate", "TP53,P53,EGFR,nonsense1", "--generator", "scripted", "--out", tmp_path / "s"
    )
    assert done.returncode == 3
    assert "names: 4 (2 used, 1 mapped, 1 missing; 1 duplicates)" in done.stdout
    assert "skipped, unresolved: nonsense1" in done.stdout
    assert "profiles: 2/2" in done.stderr
    whole = bftembed("profiles", "generate", "TP53,EGFR", "--generator", "facts", "--out", tmp_path / "f", "--json")
    assert whole.returncode == 0
    report = json.loads(whole.stdout)
    assert (report["written"], report["failed"], report["marks"]) == (2, [], {"ok": 2})


def test_show_prints_texts_marks_and_missing_ones(store):
    summary = bftembed("profiles", "show", store)
    assert summary.returncode == 0
    assert "names asked for: 8" in summary.stdout
    assert "profiles: 7" in summary.stdout
    one = bftembed("profiles", "show", store, "TP53", "BRCA1")
    assert one.returncode == 3
    assert "TP53  [" in one.stdout
    assert "no profile: BRCA1" in one.stdout
    assert json.loads(bftembed("profiles", "show", store, "TP53", "--json").stdout)["profiles"][0]["entity"] == "TP53"


def test_export_gives_a_table_with_a_card_and_equal_bytes(store, tmp_path):
    done = bftembed("profiles", "export", store, "--out", tmp_path / "p.parquet")
    assert done.returncode == 0
    first = (tmp_path / "p.parquet").read_bytes()
    bftembed("profiles", "export", store, "--out", tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").read_bytes() == first
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 7
    card = (tmp_path / "p.card.md").read_text()
    assert "7 profiles" in card
    assert "scripted" in card
    with ProfileStore.open(store) as opened:
        assert read_exported(tmp_path / "p.parquet") == opened.profiles()


def test_an_exported_table_that_is_damaged_or_not_ours_is_named(tmp_path):
    with pytest.raises(BftembedError, match="No such file"):
        read_exported(tmp_path / "none.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BftembedError, match="not a whole Parquet file"):
        read_exported(tmp_path / "cut.parquet")
    import pyarrow as pa

    pq.write_table(pa.table({"entity": ["A"]}), tmp_path / "other.parquet")
    with pytest.raises(BftembedError, match="lacks key, kind, text"):
        read_exported(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["profiles", "generate", "TP53"], 2, "--out"),
        (["profiles", "generate", "TP53", "--out", "s", "--kind", "cell"], 2, "--kind"),
        (["profiles", "generate", "none.txt", "--out", "s", "--generator", "facts"], 1, "none.txt"),
        (["profiles", "generate", "TP53", "--out", "s", "--generator", "fact"], 1, "Did you mean 'facts'"),
        (
            ["profiles", "generate", "TP53", "--out", "s", "--generator", "facts", "--max-new-tokens", "5"],
            1,
            "max_new_tokens",
        ),
        (["profiles", "show", "none"], 1, "No profile store in none"),
        (["config", "check", "none.yaml"], 1, "No such config file"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_are_told_in_one_line_without_a_traceback(tmp_path, arguments, code, message):
    done = bftembed(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_config_show_and_check(tmp_path):
    shown = bftembed("config", "show", "demo", cwd=tmp_path)
    assert shown.returncode == 0
    (tmp_path / "my.yaml").write_text(shown.stdout)
    checked = bftembed("config", "check", tmp_path / "my.yaml")
    assert (checked.returncode, checked.stdout) == (0, f"{tmp_path / 'my.yaml'}: right\n")
    shipped = bftembed("config", "show", REPOSITORY / "configs" / "demo.yaml")
    assert shipped.stdout == shown.stdout
    (tmp_path / "bad.yaml").write_text("recipe: demo\nseed: 5\n")
    bad = bftembed("config", "check", tmp_path / "bad.yaml")
    assert bad.returncode == 1
    assert "Did you mean 'seeds'" in bad.stderr


def test_the_version_is_printed():
    assert bftembed("--version").stdout.startswith("bftembed 0.")


def test_a_name_like_a_path_or_markup_does_no_harm(tmp_path):
    names = tmp_path / "genes.txt"
    names.write_text("../x\n<script>alert(1)</script>\nTP53\n")
    done = bftembed(
        "profiles", "generate", names, "--unknown", "keep", "--generator", "scripted", "--out", tmp_path / "s"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["genes.txt", "s"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".lock", "profiles.sqlite"]
