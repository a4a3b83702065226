"""`bftembed data`: list, get and path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tests_paths import SHARED

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
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in lines] == ["NAME", *FILES]
    starts = {line.index(word) for line, word in zip(lines, ["WHERE", *["not here"] * len(FILES)], strict=True)}
    assert len(starts) == 1
    assert "1,639 symbols of human transcription factors, one a line." in out
    assert not cache.exists()


def test_list_shows_where_files_lie(run, shared_data, monkeypatch):
    path = shared_data("geneagent/GO_terms.csv")
    monkeypatch.setenv("BFTEMBED_DATA", str(SHARED))
    code, out, _ = run("data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["files"]}
    assert code == 0
    assert rows["go-terms"]["path"] == str(path)
    assert rows["go-terms"]["status"] == "here"
    assert rows["go-terms"]["sha256"] == FILES["go-terms"].sha256
    assert rows["tf-range"]["path"] is None
    assert rows["tf-range"]["status"] == "not here"
    assert rows["tf-range"]["licence"] == FILES["tf-range"].licence


def test_list_goes_on_past_a_file_of_another_content(run, tmp_path, monkeypatch):
    wrong = tmp_path / "data" / FILES["kegg"].path
    wrong.parent.mkdir(parents=True)
    wrong.write_text("set\td\tA\n")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    code, out, _ = run("data", "list", "--json")
    row = next(row for row in json.loads(out)["files"] if row["name"] == "kegg")
    assert (code, row["status"], row["path"]) == (0, "failed", None)
    assert str(wrong) in row["error"]


def test_get_prints_path_checksum_licence_and_citation(run, cache, served):
    code, out, _ = run("data", "get", "gene2vec-valid-label")
    entry = FILES["gene2vec-valid-label"]
    path = cache / "data" / entry.path
    assert code == 0
    assert out.splitlines() == [
        str(path),
        f"  sha256: {entry.sha256}",
        f"  licence: {entry.licence}",
        f"  citation: {entry.citation}",
    ]
    assert path.read_bytes() == BODY
    assert run("data", "path", "gene2vec-valid-label") == (0, f"{path}\n", "")


def test_get_of_several_goes_on_past_a_failure_and_exits_with_3(run, served):
    code, out, err = run("data", "get", "gene2vec-test-label", "huri", "gene2vec-valid-label", "--json")
    assert code == 3
    assert [row["status"] for row in json.loads(out)["files"]] == ["failed", "failed", "here"]
    assert "error: gene2vec-test-label" in err
    assert "error: huri cannot be downloaded" in err


def test_get_of_one_that_fails_exits_with_1(run, served):
    code, out, err = run("data", "get", "gene2vec-test-label")
    assert (code, out) == (1, "")
    assert "gave a file with sha256" in err


def test_an_unknown_name_stops_before_any_download(run, cache, served):
    code, _, err = run("data", "get", "gene2vec-valid-label", "gene2vec-valid-labels")
    assert code == 1
    assert "Did you mean 'gene2vec-valid-label'" in err
    assert not cache.exists()


def test_path_of_a_file_that_is_not_here_is_an_error(run):
    code, out, err = run("data", "path", "dosage-cx0")
    assert (code, out) == (1, "")
    assert "Run `bftembed data get dosage-cx0`" in err


def test_path_prints_the_path_alone(run, shared_data, monkeypatch):
    path = shared_data("gene_labels/dosage_sens_tf_labels_cx0.csv")
    monkeypatch.setenv("BFTEMBED_DATA", str(SHARED))
    assert run("data", "path", "dosage-cx0") == (0, f"{path}\n", "")
    assert json.loads(run("data", "path", "dosage-cx0", "--json")[1])["path"] == str(path)
