"""Vectors on disk: nothing is encoded twice, nothing foreign is touched, nothing damaged is believed."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bftembed.encoders.base import encoder_from_spec
from bftembed.encoders.cache import CachedEncoder, VectorCache
from bftembed.errors import BftembedError
from bftembed.io import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [f"text {i}" for i in range(10)]


class Counting:
    """A real encoder that notes what it is given."""

    def __init__(self, spec: str = "random:dim=8") -> None:
        self._inner = encoder_from_spec(spec)
        self.seen: list[str] = []

    @property
    def spec(self):
        return self._inner.spec

    @property
    def report(self):
        return self._inner.report

    def encode(self, texts, progress=lambda *_: None):
        self.seen.extend(texts)
        return self._inner.encode(texts, progress)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "vectors.sqlite"


def test_vectors_are_those_of_the_encoder_and_made_once(path):
    engine = Counting()
    expected = encoder_from_spec("random:dim=8").encode([*TEXTS, TEXTS[3]])
    with VectorCache(path) as cache:
        first = CachedEncoder(engine, cache, group_texts=3)
        np.testing.assert_array_equal(first.encode([*TEXTS, TEXTS[3]]), expected)
        assert (engine.seen, first.n_encoded, first.n_reused) == (TEXTS, 10, 0)
    engine.seen.clear()
    with VectorCache(path) as cache:
        again = CachedEncoder(engine, cache)
        made = again.encode([TEXTS[5], "new", TEXTS[0]])
        assert (engine.seen, again.n_encoded, again.n_reused, len(cache)) == (["new"], 1, 2, 11)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[[0, 2]], expected[[5, 0]])
    assert sorted(p.name for p in path.parent.iterdir()) == ["vectors.sqlite"]


def test_another_encoder_finds_nothing(path):
    with VectorCache(path) as cache:
        a = CachedEncoder(Counting("random:dim=8,seed=1"), cache).encode(TEXTS)
        other = Counting("random:dim=8,seed=2")
        b = CachedEncoder(other, cache).encode(TEXTS)
        wider = CachedEncoder(Counting("random:dim=9"), cache).encode(TEXTS)
        assert len(cache) == 30
    assert other.seen == TEXTS
    assert not np.allclose(a, b)
    assert wider.shape == (10, 9)


def test_what_the_encoder_told_is_stored_too(path):
    with VectorCache(path) as cache:
        whole = CachedEncoder(Counting(), cache, group_texts=4)
        whole.encode(TEXTS[:6])
        whole.encode(TEXTS[4:])
        assert (whole.report.n_texts, whole.total_report.n_texts) == (6, 10)
    with VectorCache(path) as cache:
        again = CachedEncoder(Counting(), cache)
        again.encode(TEXTS)
        assert again.total_report == again.report == whole.total_report


def test_an_error_loses_only_the_group_in_flight(path):
    class Failing(Counting):
        def encode(self, texts, progress=lambda *_: None):
            if TEXTS[7] in texts:
                raise BftembedError("no answer")
            return super().encode(texts, progress)

    with VectorCache(path) as cache:
        with pytest.raises(BftembedError, match="no answer"):
            CachedEncoder(Failing(), cache, group_texts=2).encode(TEXTS)
        assert len(cache) == 6
        rest = Counting()
        CachedEncoder(rest, cache, group_texts=2).encode(TEXTS)
    assert rest.seen == TEXTS[6:]


def test_progress_rises_to_the_end(path):
    told = []
    with VectorCache(path) as cache:
        CachedEncoder(Counting(), cache).encode(TEXTS[:4])
        CachedEncoder(Counting(), cache, group_texts=2).encode(TEXTS, lambda *step: told.append(step[:2]))
    assert told == [(6, 10), (8, 10), (10, 10), (10, 10)]


def test_two_connections_write_at_once(path):
    with VectorCache(path) as one, VectorCache(path) as two:
        a, b = CachedEncoder(Counting(), one, group_texts=1), CachedEncoder(Counting(), two, group_texts=1)
        a.encode(TEXTS[:5])
        b.encode(TEXTS)
        assert (b.n_reused, b.n_encoded, len(one)) == (5, 5, 10)


def test_an_encoder_fitted_on_its_texts_is_refused():
    with pytest.raises(BftembedError, match=r"tfidf is fitted.*builtin:all-minilm"):
        CachedEncoder(encoder_from_spec("tfidf"), None)

    class Fitted(Counting):
        def encode(self, texts, progress=lambda *_: None):
            self._inner = encoder_from_spec("random:dim=7")
            return super().encode(texts, progress)

    with pytest.raises(BftembedError, match="is fitted"):
        CachedEncoder(Fitted(), None).encode(TEXTS)


def test_vectors_unlike_the_spec_are_refused():
    class Odd(Counting):
        def encode(self, texts, progress=lambda *_: None):
            return super().encode(texts, progress) * np.float32("nan")

    with pytest.raises(BftembedError, match="expected finite numbers"):
        CachedEncoder(Odd(), None).encode(TEXTS)


def test_foreign_files_are_refused_and_not_touched(tmp_path):
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("Not a database, but something dear to its owner.\n" * 40)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    for file in (text, other):
        before = sha256_file(file)
        with pytest.raises(BftembedError, match="is not a cache of vectors"):
            VectorCache(file)
        assert sha256_file(file) == before
    with pytest.raises(BftembedError, match="Cannot use the cache"):
        VectorCache(tmp_path)
    with pytest.raises(BftembedError, match="Cannot make the folder"):
        VectorCache(text / "vectors.sqlite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE vectors SET vector = x'00'", "a vector of 1 bytes is not 8 finite numbers"),
        (f"UPDATE vectors SET vector = x'{'0000c07f' * 8}'", "of 32 bytes is not 8 finite numbers"),
        (f"UPDATE vectors SET vector = '{'x' * 32}'", "not 8 finite numbers"),
        ("UPDATE vectors SET vector = CAST(x'ff' AS TEXT)", "is not a cache of vectors, or it is damaged"),
        ("UPDATE groups SET report = '{}'", "the report of group 1"),
        ("DELETE FROM groups", "the report of group 1"),
        ("DELETE FROM meta", "says no version"),
        ("UPDATE meta SET value = '2'", "of version 2; this bftembed reads up to 1"),
        ("DROP TABLE vectors", "no such table"),
    ],
)
def test_damage_is_named(path, change, message):
    with VectorCache(path) as cache:
        CachedEncoder(Counting(), cache).encode(TEXTS)
    with sqlite3.connect(path) as database:
        database.execute(change)
    database.close()
    with pytest.raises(BftembedError, match=message), VectorCache(path) as cache:
        CachedEncoder(Counting(), cache).encode(TEXTS)


def test_a_full_disk_is_told_and_what_was_stored_stays(path):
    with VectorCache(path) as cache:
        CachedEncoder(Counting("random:dim=4000"), cache, group_texts=1).encode(TEXTS[:1])
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(BftembedError, match=r"Cannot use the cache.*full.*What was stored is safe"):
            CachedEncoder(Counting("random:dim=4000"), cache).encode(TEXTS)
        assert len(cache) == 1
