"""Vectors of texts on disk: what an encoder was once given, it is not given again, also after a kill.

One SQLite file (WAL): text is named by its sha256, an encoder by that of its spec, a vector is its float32 bytes. Texts
are encoded in small groups, each stored in one transaction together with what the encoder reported of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders.base import EncodingReport, check_texts
from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from bftembed.encoders.base import Encoder, EncoderSpec
    from bftembed.progress import Progress

SCHEMA_VERSION = 1
#: Name of the cache beside profiles.
CACHE_FILE = "vectors.sqlite"
#: Texts that are encoded and stored at once: what a kill can cost.
GROUP_TEXTS = 64
#: Texts that one query asks for; SQLite allows 999 variables everywhere.
_ASKED_AT_ONCE = 500
#: Words of SQLite's for a file that is something else, or broken.
_DAMAGE = ("not a database", "malformed", "no such table", "no such column", "decode")
_COUNTS = ("n_texts", "n_chunked", "n_truncated", "n_chunks", "n_tokens_total", "n_tokens_dropped")

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE encoders (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, spec TEXT NOT NULL);
CREATE TABLE groups (id INTEGER PRIMARY KEY, report TEXT NOT NULL);
CREATE TABLE vectors (
    encoder INTEGER NOT NULL REFERENCES encoders (id), text BLOB NOT NULL, vector BLOB NOT NULL,
    "group" INTEGER NOT NULL REFERENCES groups (id), UNIQUE (encoder, text)
);
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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise BftembedError(f"Cannot make the folder of the cache {self.path}: {err.strerror}.") from err
        with self._complained():
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._select("SELECT count(*) FROM vectors")[0][0])

    def encoder_id(self, spec: EncoderSpec) -> int:
        """Return the number of an encoder in this file; every field of its spec decides."""
        text = canonical_json(spec.to_dict())
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO encoders (sha256, spec) VALUES (?, ?)", (sha256_text(text), text)
            )
        return int(self._select("SELECT id FROM encoders WHERE sha256 = ?", sha256_text(text))[0][0])

    def read(self, encoder: int, texts: Sequence[str], dim: int) -> dict[str, tuple[np.ndarray, int]]:
        """Return text → (vector float32 (dim,), number of its group) of those texts that are stored.

        Raises
        ------
        BftembedError
            When a stored vector is not whole.
        """
        of_digest = {_digest(text): text for text in texts}
        digests, found = list(of_digest), {}
        for start in range(0, len(digests), _ASKED_AT_ONCE):
            part = digests[start : start + _ASKED_AT_ONCE]
            slots = ", ".join("?" * len(part))
            query = f'SELECT text, vector, "group" FROM vectors WHERE encoder = ? AND text IN ({slots})'
            for digest, raw, group in self._select(query, encoder, *part):
                whole = isinstance(raw, bytes) and len(raw) == 4 * dim
                vector = np.frombuffer(raw, dtype="<f4") if whole else np.full(1, np.nan)
                if not np.isfinite(vector).all():
                    raise self._damaged(f"a vector of {len(raw)} bytes is not {dim} finite numbers")
                found[of_digest[digest]] = (vector.astype(np.float32), int(group))
        return found

    def write(self, encoder: int, texts: Sequence[str], vectors: np.ndarray, report: EncodingReport) -> int:
        """Store a group in one transaction and return its number; texts that are there by now stay as they are.

        Parameters
        ----------
        encoder
            As `encoder_id` gave it.
        texts, vectors
            n texts, float32 (n, d).
        report
            What the encoder told of them.
        """
        whole = np.ascontiguousarray(vectors, dtype="<f4")
        with self._transaction():
            stored = canonical_json(report.to_dict())
            group = int(self._connection.execute("INSERT INTO groups (report) VALUES (?)", (stored,)).lastrowid or 0)
            rows = [(encoder, _digest(t), v.tobytes(), group) for t, v in zip(texts, whole, strict=True)]
            self._connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
        return group

    def group_report(self, group: int) -> EncodingReport:
        """Return what the encoder told of a stored group."""
        rows = self._select("SELECT report FROM groups WHERE id = ?", group)
        try:
            told = json.loads(rows[0][0])
            return EncodingReport(**{f.name: told[f.name] for f in fields(EncodingReport)})
        except (IndexError, ValueError, TypeError, KeyError) as err:
            raise self._damaged(f"the report of group {group} cannot be read") from err

    def _prepare(self) -> None:
        if self._select("SELECT 1 FROM sqlite_master LIMIT 1"):
            self._check_version()  # before anything is written: it may be another program's database
        with self._complained():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            if not self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO meta VALUES ('vector cache', ?)", (str(SCHEMA_VERSION),))

    def _check_version(self) -> None:
        rows = self._select("SELECT value FROM meta WHERE name = 'vector cache'")
        version = int(rows[0][0]) if rows and str(rows[0][0]).isdecimal() else 0
        if version < 1:
            raise self._damaged("it says no version")
        if version > SCHEMA_VERSION:
            raise BftembedError(
                f"{self.path} is a vector cache of version {version}; this bftembed reads up to {SCHEMA_VERSION}. "
                f"Upgrade bftembed, or give another cache (--cache)."
            )

    def _select(self, query: str, *values: Any) -> list[Any]:
        with self._complained():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._complained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _complained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            text = str(err)
            if any(
                sign in text for sign in ("not a database", "malformed", "no such table", "no such column", "decode")
            ):
                raise self._damaged(text) from err
            raise BftembedError(
                f"Cannot use the cache {self.path}: {text}. What was stored is safe. Free the disk, or choose a file "
                f"that you may write to (--cache)."
            ) from err

    def _damaged(self, why: str) -> BftembedError:
        return BftembedError(
            f"{self.path} is not a cache of vectors, or it is damaged: {why}. Move it away, or give another (--cache)."
        )


def cache_path(encoder: Encoder, cache: str | os.PathLike[str] | None, profiles: Any) -> Path | None:
    """Return where the vectors of `encoder` are kept, None for nowhere.

    Parameters
    ----------
    encoder
        Its vectors are kept unasked when they cost money (`paid`).
    cache
        What the user asked for.
    profiles
        Where the texts come from: beside a store or a file, vectors are kept unasked.
    """
    if cache is not None:
        return Path(cache)
    if not getattr(encoder, "paid", False) or not isinstance(profiles, str | PathLike):
        return None
    source = Path(profiles)
    return (source if source.is_dir() else source.parent) / CACHE_FILE


@contextlib.contextmanager
def cached(encoder: Encoder, path: Path | None) -> Iterator[Encoder]:
    """Give `encoder` with a cache at `path`, or as it is when that is None; the file is closed at the end."""
    if path is None:
        yield encoder
        return
    with VectorCache(path) as cache:
        yield CachedEncoder(encoder, cache)


class CachedEncoder:
    """An encoder that asks a cache first. It is an `Encoder` itself.

    A text's vector may depend on its batch in the last bits, so that a resumed run agrees with a whole one within
    the encoder's own tolerance (see it), not always bit by bit.

    Parameters
    ----------
    encoder
        Encodes what is not stored. Not one that is fitted on the texts (TF-IDF): its vectors hang on their company.
    cache
        Where vectors are kept; None keeps none.
    group_texts
        Texts that are encoded and stored at once; when None as the encoder has it (`group_texts`), else 64.

    Attributes
    ----------
    n_encoded, n_reused
        Distinct texts that were encoded, and that were found in the cache, per `encode`, in all.

    Raises
    ------
    BftembedError
        For an encoder that is fitted on the texts.
    """

    def __init__(self, encoder: Encoder, cache: VectorCache | None, *, group_texts: int | None = None) -> None:
        if encoder.spec.name == "tfidf":
            raise _fitted(encoder.spec.name)
        self._encoder, self._cache = encoder, cache
        self._group_texts = group_texts or int(getattr(encoder, "group_texts", GROUP_TEXTS))
        self.spec = encoder.spec
        self.report = EncodingReport(0, max_tokens=self.spec.max_tokens)
        self.n_encoded = self.n_reused = 0
        self._id = cache.encoder_id(self.spec) if cache is not None else 0
        self._groups: dict[int, EncodingReport] = {}

    @property
    def total_report(self) -> EncodingReport:
        """Return what was told of all texts so far, each group counted once.

        A stored group counts whole, with texts that were not asked for this time; else the numbers are exact.
        """
        return self._summed(self._groups.values())

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
        distinct, dim = list(place), self.spec.dim
        vectors = np.empty((len(distinct), dim), dtype=np.float32)
        found = self._cache.read(self._id, distinct, dim) if self._cache is not None else {}
        for text, (vector, _) in found.items():
            vectors[place[text]] = vector
        groups = {group for _, group in found.values()}
        for group in groups - self._groups.keys():
            assert self._cache is not None  # something was found in it
            self._groups[group] = self._cache.group_report(group)
        rest = [text for text in distinct if text not in found]
        self.n_reused += len(found)
        for start in range(0, len(rest), self._group_texts):
            part = rest[start : start + self._group_texts]
            made = self._made(part, _part_of(progress, len(found) + start, len(part), len(distinct)))
            vectors[[place[text] for text in part]] = made
            report = self._encoder.report
            group = (
                self._cache.write(self._id, part, made, report) if self._cache is not None else -1 - len(self._groups)
            )
            self._groups[group] = report
            groups.add(group)
            self.n_encoded += len(part)
        progress(len(distinct), len(distinct), "")
        self.report = self._summed(self._groups[group] for group in groups)
        return vectors[[place[text] for text in given]]

    def _made(self, texts: list[str], progress: Progress) -> np.ndarray:
        vectors = np.asarray(self._encoder.encode(texts, progress), dtype=np.float32)
        if self._encoder.spec != self.spec:
            raise _fitted(self.spec.name)
        if vectors.shape != (len(texts), self.spec.dim) or not np.isfinite(vectors).all():
            raise BftembedError(
                f"The encoder {self.spec.name} gave vectors of shape {vectors.shape}, expected finite numbers of shape "
                f"({len(texts)}, {self.spec.dim}) as its spec says. Report it to its author."
            )
        return vectors

    def _summed(self, reports: Any) -> EncodingReport:
        listed = list(reports)
        sums = {name: sum(getattr(report, name) for report in listed) for name in _COUNTS}
        return replace(EncodingReport(0, max_tokens=self.spec.max_tokens), **sums)


def _part_of(progress: Progress, before: int, n: int, total: int) -> Progress:
    """Return what tells a part's own steps as texts of the whole."""

    def told(done: int, of: int, note: str) -> None:
        progress(before + (n * done // of if of else 0), total, note)

    return told


def _fitted(name: str) -> BftembedError:
    return BftembedError(
        f"The encoder {name} is fitted on the texts that it is given, so vectors of two calls must not be mixed. "
        f"Choose an encoder with fixed weights, for example builtin:all-minilm-l6-v2."
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
