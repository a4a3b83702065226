"""Vectors of texts on disk: what an encoder was once given, it is not given again, also after a kill.

One SQLite file (WAL): text is named by its sha256, an encoder by that of its spec, a vector is its float32 bytes. Texts
are encoded in small groups, each stored in one transaction together with what the encoder reported of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders._pieces import check_texts, check_vectors
from bftembed.encoders.base import EncodingReport
from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.encoders.base import Encoder, EncoderSpec
    from bftembed.progress import Progress

SCHEMA_VERSION = 1
#: Texts that are encoded and stored at once, what a kill can cost, unless the encoder has its own `group_texts`.
_GROUP_TEXTS = 64
_COUNTS = ("n_texts", "n_chunked", "n_truncated", "n_chunks", "n_tokens_total", "n_tokens_dropped")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS encoders (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, spec TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groups (id INTEGER PRIMARY KEY, report TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    encoder INTEGER NOT NULL REFERENCES encoders (id), text BLOB NOT NULL, vector BLOB NOT NULL,
    "group" INTEGER NOT NULL REFERENCES groups (id), UNIQUE (encoder, text)
);
INSERT OR IGNORE INTO meta VALUES ('vector cache', '{SCHEMA_VERSION}')
"""


class VectorCache:
    """The file. Several processes may use it at once; it is closed at the end of a ``with``.

    Parameters
    ----------
    path
        The file, made when missing (its folder as well).

    Raises
    ------
    BftembedError
        When it is another kind of file, damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        try:
            with self._errors():  # before anything is written: it may be another program's database
                if self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    query = "SELECT value FROM meta WHERE name = 'vector cache'"
                    if (version := self._connection.execute(query).fetchone()) != (str(SCHEMA_VERSION),):
                        raise sqlite3.DatabaseError(f"its version is {version}, expected {SCHEMA_VERSION}")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            with self._transaction() as connection:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def encoder_id(self, spec: EncoderSpec) -> int:
        """Return the number of an encoder in this file; every field of its spec decides."""
        text = canonical_json(spec.to_dict())
        digest = sha256_text(text)
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO encoders (sha256, spec) VALUES (?, ?)", (digest, text))
            return int(connection.execute("SELECT id FROM encoders WHERE sha256 = ?", (digest,)).fetchone()[0])

    def read(self, encoder: int, texts: Sequence[str], dim: int) -> dict[str, tuple[np.ndarray, int]]:
        """Return text → (vector float32 (dim,), number of its group) of those that are stored."""
        query, found = 'SELECT vector, "group" FROM vectors WHERE encoder = ? AND text = ?', {}
        with self._errors():
            for text in texts:
                if row := self._connection.execute(query, (encoder, _digest(text))).fetchone():
                    whole = isinstance(row[0], bytes) and len(row[0]) == 4 * dim
                    vector = np.frombuffer(row[0], "<f4").astype(np.float32) if whole else np.full(1, np.nan)
                    if not np.isfinite(vector).all():
                        raise sqlite3.DatabaseError(f"a stored vector is not {dim} finite numbers")
                    found[text] = (vector, int(row[1]))
        return found

    def write(self, encoder: int, texts: Sequence[str], vectors: np.ndarray, report: EncodingReport) -> int:
        """Store a group in one transaction and return its number; texts that are there by now stay as they are."""
        stored, whole = canonical_json(report.to_dict()), np.ascontiguousarray(vectors, dtype="<f4")
        with self._transaction() as connection:
            group = int(connection.execute("INSERT INTO groups (report) VALUES (?)", (stored,)).lastrowid or 0)
            rows = [(encoder, _digest(t), v.tobytes(), group) for t, v in zip(texts, whole, strict=True)]
            connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
        return group

    def group_report(self, group: int) -> EncodingReport:
        """Return what the encoder reported of a stored group."""
        with self._errors():
            row = self._connection.execute("SELECT report FROM groups WHERE id = ?", (group,)).fetchone()
            counts = json.loads(row[0])
            return EncodingReport(**{name: int(counts[name]) for name in _COUNTS})

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._connection:  # commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as err:
            raise BftembedError(
                f"{self.path} cannot be used as a cache of vectors ({type(err).__name__}: {err}). What was stored "
                "stays as it is; give another file (--cache)."
            ) from err


@contextlib.contextmanager
def cached(encoder: Encoder, cache: str | PathLike[str] | None, profiles: Any = None) -> Iterator[Encoder]:
    """Give `encoder` with a cache in the file `cache`, or as it is where that is None.

    Vectors that cost money (`paid`) are kept in any case: in ``vectors.sqlite`` beside the store or file `profiles`.
    """
    if cache is None and getattr(encoder, "paid", False) and isinstance(profiles, str | PathLike):
        source = Path(profiles)
        cache = (source if source.is_dir() else source.parent) / "vectors.sqlite"
    if cache is None:
        yield encoder
        return
    with VectorCache(cache) as opened:
        yield CachedEncoder(encoder, opened)


class CachedEncoder:
    """An encoder that looks into a cache first. It is an `Encoder` itself.

    A text's vector may depend on its batch in the last bits, so that a resumed run agrees with a whole one within
    the encoder's own tolerance, not always bit by bit.

    Parameters
    ----------
    encoder
        Encodes what is not stored. One that is fitted on its texts (TF-IDF) is a `BftembedError`.
    cache
        Where vectors are kept; None keeps none.

    Attributes
    ----------
    n_encoded, n_reused
        Distinct texts that were encoded, and that were found in the cache, per `encode`, in all.
    report
        What was reported of all texts so far, each group counted once; a stored group counts whole.
    """

    def __init__(self, encoder: Encoder, cache: VectorCache | None) -> None:
        self.spec = encoder.spec
        if self.spec.name == "tfidf":
            raise self._fitted()
        self._encoder, self._cache = encoder, cache
        self._group_texts = int(getattr(encoder, "group_texts", _GROUP_TEXTS))
        self._id = cache.encoder_id(self.spec) if cache is not None else 0
        self._groups: dict[int, EncodingReport] = {}
        self.n_encoded = self.n_reused = 0

    @property
    def report(self) -> EncodingReport:
        """Return what was reported of all texts so far, each group counted once."""
        sums = {name: sum(getattr(report, name) for report in self._groups.values()) for name in _COUNTS}
        return EncodingReport(**sums, max_tokens=self.spec.max_tokens)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return one vector per text, float32 (n, d), in order; equal texts are encoded once.

        Raises
        ------
        BftembedError
            What the encoder raises; when the cache cannot be used; when the encoder turns out to be fitted on texts.
            Groups that are finished by then are stored.
        """
        given = check_texts(texts)
        place = {text: i for i, text in enumerate(dict.fromkeys(given))}
        cache, n = self._cache, len(place)
        vectors = np.empty((n, self.spec.dim), dtype=np.float32)
        found = cache.read(self._id, list(place), self.spec.dim) if cache is not None else {}
        for text, (vector, group) in found.items():
            vectors[place[text]] = vector
            if group not in self._groups and cache is not None:
                self._groups[group] = cache.group_report(group)
        rest = [text for text in place if text not in found]
        self.n_reused += len(found)
        for start in range(0, len(rest), self._group_texts):
            part = rest[start : start + self._group_texts]
            made = self._encoder.encode(part, _part_of(progress, len(found) + start, len(part), n))
            made = check_vectors(made, part, self.spec.name)
            if self._encoder.spec != self.spec:
                raise self._fitted()
            vectors[[place[text] for text in part]] = made
            report = self._encoder.report
            group = -1 - len(self._groups) if cache is None else cache.write(self._id, part, made, report)
            self._groups[group] = report
            self.n_encoded += len(part)
        progress(n, n, "")
        return vectors[[place[text] for text in given]]

    def _fitted(self) -> BftembedError:
        return BftembedError(
            f"The encoder {self.spec.name} is fitted on the texts that it is given, so vectors of two calls must not "
            "be mixed. Choose an encoder with fixed weights, for example builtin:all-minilm-l6-v2."
        )


def _part_of(progress: Progress, before: int, n: int, total: int) -> Progress:
    """Return a progress that counts an encoder's own steps as texts of the whole."""
    return lambda done, of, note: progress(before + (n * done // of if of else 0), total, note)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
