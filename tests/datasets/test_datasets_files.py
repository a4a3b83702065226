"""Known files: found by name and content, downloaded only when asked, whole and right or not at all."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import re
import socket
from dataclasses import replace

import pytest
from tests_paths import REPOSITORY, SHARED
from werkzeug import Response

from bftembed import datasets
from bftembed.datasets import FILES, DataMismatchError, DataNotFoundError, fetch, fetch_file, find_file, find_files
from bftembed.errors import BftembedError, UnknownNameError

TEXT = b"A NA\nB C\n"
NAME, PATH = "gene2vec-valid-text", "pairs/gene2vec_valid_text.txt"
DERIVED = {"huri", "huri-space", "refseq-summaries", "geneagent-descriptions"}


@pytest.fixture
def entry(monkeypatch):
    """The entry NAME with a small content and an address where nothing answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    small = replace(FILES[NAME], sha256=hashlib.sha256(TEXT).hexdigest(), url=f"http://127.0.0.1:{port}/valid_text.txt")
    monkeypatch.setitem(FILES, NAME, small)
    return small


@pytest.fixture
def served(entry, httpserver, monkeypatch):
    """Serve a body as the content of NAME."""

    def serve(body=TEXT, status=200, headers=None):
        answer = Response(body, status)
        answer.headers.update(headers or {})
        httpserver.expect_request("/f").respond_with_handler(lambda _: answer)
        monkeypatch.setitem(FILES, NAME, replace(entry, url=httpserver.url_for("/f")))
        return httpserver

    return serve


def put(folder, relative=PATH, data=TEXT):
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if relative.endswith(".gz") else data)
    return path


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- the table of files


def test_every_entry_is_complete_and_can_be_read():
    for name, entry in FILES.items():
        assert entry.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert all(re.fullmatch(r"[0-9a-f]{64}", c) for c in entry.checksums), name
        assert all([entry.licence, entry.citation, entry.description.endswith(".")]), name
        assert re.fullmatch(r"(?!.*\.gz$)[a-z]\S+", entry.path), name
        module, _, function = entry.parser.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert not entry.url or re.match(r"https://[^ ]+/[0-9a-f]{40}/|https://static-content\.springer", entry.url)
    assert {name for name, entry in FILES.items() if not entry.url} == DERIVED
    for attribute in ("path", "sha256"):
        assert len({getattr(entry, attribute) for entry in FILES.values()}) == len(FILES)


def test_derived_files_say_of_which_commit_they_are_made():
    for name in DERIVED:
        assert re.search(r"at [0-9a-f]{40}", FILES[name].description), name


def test_the_page_lists_every_file_with_its_path():
    page = (REPOSITORY / "docs" / "data.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", page, re.MULTILINE)
    assert rows == [(name, entry.path) for name, entry in FILES.items()]


def test_real_files_have_the_checksums_of_their_entries(shared_data, monkeypatch):
    shared_data("pairs")
    monkeypatch.setenv("BFTEMBED_DATA", str(SHARED))
    found = find_files()
    assert list(found) == list(FILES)
    assert [name for name, path in found.items() if isinstance(path, BftembedError)] == []
    for name in FILES:
        assert find_file(name) == found[name]
    assert len(datasets.load("dosage-cx0").positive) == 122
    assert len(datasets.load("kegg")) == 333


# --- finding


@pytest.mark.parametrize("relative", [PATH, PATH + ".gz"])
def test_a_file_is_found_at_its_place_plain_or_gzipped(tmp_path, entry, monkeypatch, relative):
    expected = put(tmp_path / "data", relative)
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    assert find_file(NAME) == expected
    assert datasets.load(NAME) == [("A", "NA"), ("B", "C")]


def test_the_second_of_two_folders_is_looked_into(tmp_path, entry, monkeypatch):
    (tmp_path / "one").mkdir()
    expected = put(tmp_path / "two")
    monkeypatch.setenv("BFTEMBED_DATA", os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")]))
    assert find_file(NAME) == expected
    first = put(tmp_path / "one")
    assert find_file(NAME) == first


def test_a_file_elsewhere_in_the_tree_is_found_by_name_and_content(tmp_path, entry, monkeypatch):
    put(tmp_path / "data", "a/gene2vec_valid_text.txt", b"another content\n")
    put(tmp_path / "data", ".hidden/gene2vec_valid_text.txt")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    with pytest.raises(DataNotFoundError, match=r"with another content: .*a/gene2vec_valid_text.txt"):
        find_file(NAME)
    expected = put(tmp_path / "data", "b/c/gene2vec_valid_text.txt.gz")
    assert find_file(NAME) == expected


def test_the_cache_is_looked_into_last(tmp_path, cache, entry, monkeypatch):
    cached = put(cache / "data")
    assert find_file(NAME) == cached
    expected = put(tmp_path / "data", "elsewhere/gene2vec_valid_text.txt")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    assert find_file(NAME) == expected


@pytest.mark.parametrize("relative", [PATH, PATH + ".gz"])
def test_another_content_at_the_place_is_an_error_with_both_checksums(tmp_path, entry, monkeypatch, relative):
    wrong = put(tmp_path / "data", relative, b"A B\n")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    for verb in (find_file, fetch_file):
        with pytest.raises(DataMismatchError) as caught:
            verb(NAME)
        for word in (str(wrong), entry.sha256, hashlib.sha256(b"A B\n").hexdigest(), "Remove or rename it"):
            assert word in str(caught.value)
    assert wrong.exists()


def test_a_further_checksum_is_accepted(tmp_path, entry, monkeypatch):
    path = put(tmp_path / "data", data=b"A B\n")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(FILES, NAME, replace(entry, accepted=(hashlib.sha256(b"A B\n").hexdigest(),)))
    assert find_file(NAME) == path


def test_a_truncated_gzip_file_is_named(tmp_path, entry, monkeypatch):
    path = put(tmp_path / "data", PATH + ".gz")
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    with pytest.raises(DataMismatchError, match=r"valid_text.txt.gz is a damaged gzip file"):
        find_file(NAME)
    assert isinstance(find_files()[NAME], DataMismatchError)


def test_a_file_that_is_nowhere_says_how_to_get_it(cache, entry):
    with pytest.raises(DataNotFoundError) as caught:
        find_file(NAME)
    for word in (NAME, f"bftembed data get {NAME}", entry.url, "licence: MIT", "BFTEMBED_DATA", PATH, str(cache)):
        assert word in str(caught.value)
    with pytest.raises(DataNotFoundError, match="Supplementary Table 11") as caught:
        find_file("huri")
    assert "data get" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "nothing"))
    for verb in (lambda: find_file(NAME), find_files, lambda: fetch_file(NAME)):
        with pytest.raises(BftembedError, match="BFTEMBED_DATA names .*nothing, which is no folder"):
            verb()


@pytest.mark.parametrize("verb", [find_file, fetch_file, datasets.load])
def test_an_unknown_name_gets_the_nearest(verb):
    with pytest.raises(UnknownNameError, match="Did you mean 'kegg'"):
        verb("keg")


def test_a_file_is_hashed_again_only_when_it_changes(tmp_path, entry, monkeypatch):
    read = []
    monkeypatch.setattr(fetch, "open_content", lambda path: read.append(path) or path.open("rb"))
    path = put(tmp_path / "data")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    for _ in range(3):
        find_file(NAME)
    assert len(read) == 1
    path.write_bytes(TEXT.replace(b"A", b"Z"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataMismatchError):
        find_file(NAME)
    assert len(read) == 2


# --- downloading


def test_a_download_lands_in_the_cache_once(cache, served):
    server = served()
    seen = []
    path = fetch_file(NAME, lambda done, total, note: seen.append((done, total, note)))
    assert path == cache / "data" / PATH
    assert path.read_bytes() == TEXT
    assert seen == [(len(TEXT), len(TEXT), NAME)]
    assert fetch_file(NAME) == find_file(NAME) == path
    assert len(server.log) == 1
    assert everything_below(cache) == [f"data/{PATH}"]


def test_a_file_that_is_here_is_not_downloaded(tmp_path, entry, monkeypatch):
    expected = put(tmp_path / "data")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    assert fetch_file(NAME) == expected


def test_progress_never_passes_the_end(served, monkeypatch):
    body = gzip.compress(TEXT)
    monkeypatch.setattr(fetch, "_CHUNK", 2)
    served(body, headers={"Content-Encoding": "gzip"})
    seen = []
    fetch_file(NAME, lambda done, total, note: seen.append((done, total)))
    assert all(done < total for done, total in seen[:-1])
    assert seen[-1] == (len(body), len(body))


@pytest.mark.parametrize(
    "answer, words",
    [
        ({"body": b"<html>Sign in</html>"}, "gave a file with sha256"),
        ({"body": TEXT, "headers": {"Content-Length": "1000"}}, "broke off"),
        ({"body": TEXT, "headers": {"Content-Encoding": "gzip"}}, "broke off"),
        ({"body": b"", "status": 404}, "answers 404 NOT FOUND"),
        ({"body": TEXT, "status": 503}, "answers 503 SERVICE UNAVAILABLE"),
    ],
)
def test_a_wrong_or_partial_answer_leaves_nothing(cache, served, answer, words):
    served(**answer)
    with pytest.raises(BftembedError) as caught:
        fetch_file(NAME)
    for word in (words, NAME, FILES[NAME].url, str(cache / "data" / PATH)):
        assert word in str(caught.value)
    assert everything_below(cache) == []


def test_offline_is_one_clear_error(cache, entry):
    with pytest.raises(BftembedError) as caught:
        fetch_file(NAME)
    for word in (entry.url, "cannot be reached", f"by hand to {cache / 'data' / PATH}"):
        assert word in str(caught.value)
    assert everything_below(cache) == []


def test_a_damaged_download_is_replaced_and_a_failed_one_keeps_what_was_there(cache, entry, served):
    path = put(cache / "data", data=b"damaged\n")
    with pytest.raises(DataMismatchError, match=f"then get it: bftembed data get {NAME}"):
        find_file(NAME)
    with pytest.raises(BftembedError, match="cannot be reached"):
        fetch_file(NAME)
    assert path.read_bytes() == b"damaged\n"
    served()
    assert fetch_file(NAME) == path
    assert path.read_bytes() == TEXT


def test_a_damaged_gzip_file_among_downloads_does_not_stop_a_download(cache, served):
    served()
    put(cache / "data", PATH + ".gz", b"").write_bytes(b"no gzip")
    assert fetch_file(NAME) == find_file(NAME) == cache / "data" / PATH


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_a_derived_file_says_from_what_it_was_made(name):
    with pytest.raises(BftembedError, match=r"cannot be downloaded: this content was made from another file") as caught:
        fetch_file(name)
    assert FILES[name].description in str(caught.value)
    assert FILES[name].path in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, served, monkeypatch):
    served()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "file"))
    with pytest.raises(BftembedError, match="Cannot write .*file/data/pairs"):
        fetch_file(NAME)
