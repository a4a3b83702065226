"""Vectors on disk: nothing is encoded twice, nothing foreign is touched, nothing damaged is believed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
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

    def __init__(self, spec: str = "random:dim=8", group_texts: int = 64) -> None:
        self._inner, self.group_texts = encoder_from_spec(spec), group_texts
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


def n_stored(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM vectors").fetchone()[0]


def test_vectors_are_those_of_the_encoder_and_made_once(path):
    engine = Counting(group_texts=3)
    expected = encoder_from_spec("random:dim=8").encode([*TEXTS, TEXTS[3]])
    with VectorCache(path) as cache:
        first = CachedEncoder(engine, cache)
        np.testing.assert_array_equal(first.encode([*TEXTS, TEXTS[3]]), expected)
        assert (engine.seen, first.n_encoded, first.n_reused) == (TEXTS, 10, 0)
        other = Counting("random:dim=8,seed=2")
        assert not np.allclose(CachedEncoder(other, cache).encode(TEXTS), expected[:10])
        assert other.seen == TEXTS
    engine.seen.clear()
    with VectorCache(path) as cache:
        again = CachedEncoder(engine, cache)
        made = again.encode([TEXTS[5], "new", TEXTS[0]])
        assert (engine.seen, again.n_encoded, again.n_reused) == (["new"], 1, 2)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[[0, 2]], expected[[5, 0]])
    assert [p.name for p in path.parent.iterdir()] == ["vectors.sqlite"]


def test_what_the_encoder_reported_is_stored_too(path):
    with VectorCache(path) as cache:
        whole = CachedEncoder(Counting(group_texts=4), cache)
        whole.encode(TEXTS[:6])
        whole.encode(TEXTS[4:])
        assert whole.report.n_texts == 10
    with VectorCache(path) as cache:
        again = CachedEncoder(Counting(), cache)
        again.encode(TEXTS)
        assert again.report == whole.report


def test_an_error_loses_only_the_group_in_flight(path):
    class Failing(Counting):
        def encode(self, texts, progress=lambda *_: None):
            if TEXTS[7] in texts:
                raise BftembedError("no answer")
            return super().encode(texts, progress)

    with VectorCache(path) as cache:
        with pytest.raises(BftembedError, match="no answer"):
            CachedEncoder(Failing(group_texts=2), cache).encode(TEXTS)
        rest = Counting()
        CachedEncoder(rest, cache).encode(TEXTS)
    assert rest.seen == TEXTS[6:]


def test_an_encoder_fitted_on_its_texts_is_an_error():
    with pytest.raises(BftembedError, match=r"tfidf is fitted.*builtin:all-minilm"):
        CachedEncoder(encoder_from_spec("tfidf"), None)

    class Fitted(Counting):
        def encode(self, texts, progress=lambda *_: None):
            self._inner = encoder_from_spec("random:dim=7")
            return super().encode(texts, progress)

    with pytest.raises(BftembedError, match="is fitted"):
        CachedEncoder(Fitted(), None).encode(TEXTS)


def test_foreign_files_are_errors_and_not_touched(tmp_path):
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("Not a database, but something dear to its owner.\n" * 40)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE mine (x)")
    for file in (text, other):
        before = sha256_file(file)
        with pytest.raises(BftembedError, match="cannot be used as a cache"):
            VectorCache(file)
        assert sha256_file(file) == before
    for wrong in (tmp_path, text / "vectors.sqlite"):
        with pytest.raises(BftembedError, match="cannot be used as a cache"):
            VectorCache(wrong)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE vectors SET vector = x'00'",
        f"UPDATE vectors SET vector = x'{'0000c07f' * 8}'",
        "UPDATE vectors SET vector = CAST(x'ff' AS TEXT)",
        "UPDATE vectors SET \"group\" = 'x'",
        "UPDATE groups SET report = '{}'",
        "UPDATE groups SET report = '{'",
        "DELETE FROM groups",
        "UPDATE meta SET value = '2'",
        "ALTER TABLE vectors RENAME COLUMN vector TO other",
    ],
)
def test_damage_is_an_error(path, change):
    with VectorCache(path) as cache:
        CachedEncoder(Counting(), cache).encode(TEXTS)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(change)
    with pytest.raises(BftembedError, match="cannot be used as a cache"), VectorCache(path) as cache:
        CachedEncoder(Counting(), cache).encode(TEXTS)


def test_a_full_disk_is_an_error_and_what_was_stored_stays(path):
    with VectorCache(path) as cache:
        CachedEncoder(Counting("random:dim=4000"), cache).encode(TEXTS[:1])
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(BftembedError, match=r"full.*What was stored stays"):
            CachedEncoder(Counting("random:dim=4000"), cache).encode(TEXTS)
    assert n_stored(path) == 1
