"""Known files: found by name and content, downloaded only on request, and kept only with the right content."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import socket
from dataclasses import replace

import pytest
from tests_paths import REPOSITORY, SHARED
from werkzeug import Response

from bftembed import datasets
from bftembed.datasets import FILES, DataMismatchError, DataNotFoundError, fetch_files, find_file, find_files, parsers
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a data folder that BFTEMBED_DATA names."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def put(folder, relative=PATH, data=TEXT):
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if relative.endswith(".gz") else data)
    return path


def fetched(name=NAME):
    (file,) = fetch_files([name])
    return file.path


def test_every_entry_is_complete_and_can_be_read():
    for name, entry in FILES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256), name
        assert all([entry.licence, entry.citation, entry.description.endswith(".")]), name
        assert re.fullmatch(r"(?!.*\.gz$)[a-z]\S+", entry.path), name
        assert entry.parser in parsers.PARSERS, name
        assert not entry.url or re.match(r"https://[^ ]+/[0-9a-f]{40}/|https://static-content\.springer", entry.url)
    assert {name for name, entry in FILES.items() if not entry.url} == DERIVED
    assert all(re.search(r"at [0-9a-f]{40}", FILES[name].description) for name in DERIVED), "the commit of the source"
    for attribute in ("path", "sha256"):
        assert len({getattr(entry, attribute) for entry in FILES.values()}) == len(FILES)


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
    assert find_file("kegg") == found["kegg"]


@pytest.mark.parametrize("relative", [PATH, PATH + ".gz"])
def test_a_file_is_found_at_its_place_plain_or_gzipped(folder, entry, relative):
    expected = put(folder, relative)
    assert find_file(NAME) == fetched() == expected, "nothing is downloaded either"
    assert datasets.load(NAME) == [("A", "NA"), ("B", "C")]


def test_folders_are_searched_in_order_and_the_cache_last(tmp_path, cache, folder, entry, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", os.pathsep.join([str(folder), "", str(tmp_path / "two")]))
    (tmp_path / "two").mkdir()
    expected = [put(cache / "data")]
    assert find_file(NAME) == expected[-1]
    for place in (tmp_path / "two", folder):
        expected.append(put(place))
        assert find_file(NAME) == expected[-1]


@pytest.mark.parametrize("relative", [PATH, PATH + ".gz"])
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"A B\n"])
def test_another_content_at_the_place_is_an_error(folder, entry, relative, damage):
    wrong = put(folder, relative)
    wrong.write_bytes(damage(wrong.read_bytes()))
    for verb in (find_file, fetched):
        with pytest.raises(DataMismatchError) as caught:
            verb(NAME)
        assert str(wrong) in str(caught.value)
        assert entry.sha256 in str(caught.value)
    assert isinstance(find_files()[NAME], DataMismatchError)


def test_a_file_that_is_nowhere_says_how_to_get_it(cache, entry):
    with pytest.raises(DataNotFoundError) as caught:
        find_file(NAME)
    for word in (f"bftembed data get {NAME}", entry.url, "license: MIT", "BFTEMBED_DATA", PATH, str(cache)):
        assert word in str(caught.value)
    for verb in (find_file, fetched):
        with pytest.raises(DataNotFoundError, match="Supplementary Table 11") as caught:
            verb("huri")
        assert "data get" not in str(caught.value)


def test_unknown_names_and_folders_that_do_not_exist_are_errors(tmp_path, monkeypatch):
    for verb in (find_file, fetched, datasets.load):
        with pytest.raises(UnknownNameError, match="kegg"):
            verb("keg")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "nothing"))
    for verb in (find_file, fetched, lambda _: find_files()):
        with pytest.raises(BftembedError, match="nothing"):
            verb(NAME)


def test_a_file_is_hashed_again_when_it_changes(folder, entry):
    path = put(folder)
    assert find_file(NAME) == path
    path.write_bytes(TEXT.replace(b"A", b"Z"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataMismatchError):
        find_file(NAME)


def test_a_download_lands_in_the_cache_once(cache, served):
    server = served()
    path = fetched()
    assert path == cache / "data" / PATH
    assert path.read_bytes() == TEXT
    assert fetched() == find_file(NAME) == path
    assert len(server.log) == 1
    assert [p for p in cache.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize(
    "answer",
    [
        {"body": b"<html>Sign in</html>"},
        {"body": TEXT, "headers": {"Content-Length": "1000"}},
        {"body": TEXT, "headers": {"Content-Encoding": "gzip"}},
        {"body": b"", "status": 404},
        None,
    ],
)
def test_a_wrong_partial_or_missing_answer_leaves_nothing(cache, entry, served, answer):
    if answer:
        served(**answer)
    with pytest.raises(BftembedError) as caught:
        fetched()
    for word in (NAME, FILES[NAME].url, str(cache / "data" / PATH)):
        assert word in str(caught.value)
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_damaged_download_is_replaced_and_a_failed_one_keeps_what_was_there(cache, entry, served):
    path = put(cache / "data", data=b"damaged\n")
    with pytest.raises(DataMismatchError, match=f"data get {NAME}"):
        find_file(NAME)
    with pytest.raises(BftembedError):
        fetched()
    assert path.read_bytes() == b"damaged\n"
    served()
    assert fetched() == path
    assert path.read_bytes() == TEXT
