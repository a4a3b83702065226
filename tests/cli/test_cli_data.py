"""`bftembed data …` and `bftembed config …`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tests_paths import REPOSITORY, SHARED

from bftembed.datasets import FILES

BODY = b"0\n1\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def served(httpserver, monkeypatch):
    """Two entries that loopback serves: a right one and one whose checksum is another."""
    httpserver.expect_request("/f").respond_with_data(BODY)
    for name, body in (("gene2vec-valid-label", BODY), ("gene2vec-test-label", b"1\n")):
        entry = replace(FILES[name], url=httpserver.url_for("/f"), sha256=hashlib.sha256(body).hexdigest())
        monkeypatch.setitem(FILES, name, entry)


def test_list_names_every_file_and_downloads_nothing(run, cache):
    code, out, err = run("data", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", *FILES]
    assert not cache.exists()


def test_list_shows_where_files_lie_and_which_are_wrong(run, shared_data, tmp_path, monkeypatch):
    path = shared_data("geneagent/GO_terms.csv")
    wrong = tmp_path / "data" / FILES["kegg"].path
    wrong.parent.mkdir(parents=True)
    wrong.write_text("set\td\tA\n")
    monkeypatch.setenv("BFTEMBED_DATA", f"{tmp_path / 'data'}:{SHARED}")
    code, out, _ = run("data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["files"]}
    assert code == 0
    assert (rows["go-terms"]["path"], rows["go-terms"]["status"]) == (str(path), "here")
    assert rows["go-terms"]["sha256"] == FILES["go-terms"].sha256
    assert (rows["kegg"]["path"], rows["kegg"]["status"]) == (None, "failed")
    assert str(wrong) in rows["kegg"]["error"]
    assert json.loads(run("data", "path", "go-terms", "--json")[1])["path"] == str(path)


def test_get_downloads_checks_and_goes_on_past_a_failure(run, cache, served):
    code, out, err = run("data", "get", "gene2vec-test-label", "huri", "gene2vec-valid-label", "--json")
    assert code == 3
    assert [row["status"] for row in json.loads(out)["files"]] == ["failed", "not here", "here"]
    assert err.count("error: ") == 2
    path = cache / "data" / FILES["gene2vec-valid-label"].path
    assert path.read_bytes() == BODY
    assert run("data", "path", "gene2vec-valid-label") == (0, f"{path}\n", "")


def test_get_of_one_that_fails_and_of_an_unknown_name_is_an_error(run, cache, served):
    assert run("data", "get", "gene2vec-test-label")[:2] == (1, "")
    code, _, err = run("data", "get", "gene2vec-valid-label", "gene2vec-valid-labels")
    assert code == 1
    assert "Did you mean 'gene2vec-valid-label'" in err
    assert run("data", "path", "dosage-cx0")[:2] == (1, "")
    assert not (cache / "data" / FILES["gene2vec-valid-label"].path).exists()


def test_config_show_writes_what_check_accepts(run, tmp_path):
    mine = tmp_path / "my.yaml"
    for name, recipe in (("demo", "run"), ("tune/smollm2_cpu", "tune"), ("cells", "cells embed")):
        code, shown, _ = run("config", "show", REPOSITORY / "configs" / f"{name}.yaml")
        assert code == 0
        mine.write_text(shown)
        code, printed, _ = run("config", "check", mine, "--json")
        assert (code, json.loads(printed)) == (0, {"file": str(mine), "recipe": recipe, "ok": True})
    mine.write_text("recipe: genes embed\nprofils: x\n")
    code, _, told = run("config", "check", mine)
    assert code == 1
    assert "'profiles'" in told


def test_config_init_copies_a_template(run, tmp_path):
    code, printed, _ = run("config", "init", "--json")
    assert code == 0
    assert {"my_data", "demo", "profiles", "bench_integration"} <= set(json.loads(printed)["configs"])
    assert run("config", "init", "my_data", "--out", tmp_path / "a.yaml")[0] == 0
    assert run("config", "check", tmp_path / "a.yaml")[0] == 0
    assert run("config", "init", "my_data", "--out", tmp_path / "a.yaml")[0] == 1
