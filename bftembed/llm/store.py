"""The store of answers: a SQLite file in WAL mode, one transaction per batch (docs/decisions/sqlite-store.md)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bftembed.errors import BftembedError, examples
from bftembed.io import canonical_json, exclusive_lock, sha256_text
from bftembed.llm.base import Answer, to_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SCHEMA_VERSION = 2
STORE_FILE = "profiles.sqlite"

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE generators (id TEXT PRIMARY KEY, spec TEXT NOT NULL, fingerprint TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entities (
    kind TEXT NOT NULL, name TEXT NOT NULL, entity TEXT NOT NULL, status TEXT NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE answers (
    key TEXT PRIMARY KEY, entity TEXT NOT NULL, kind TEXT NOT NULL, prompt TEXT NOT NULL,
    generator TEXT NOT NULL REFERENCES generators (id), messages TEXT NOT NULL,
    text TEXT NOT NULL, reasoning TEXT NOT NULL, finish_reason TEXT NOT NULL, marks TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    error TEXT NOT NULL, attempts INTEGER NOT NULL,
    scores TEXT NOT NULL DEFAULT '[]', sample INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX answers_by_entity ON answers (kind, entity);
INSERT INTO meta VALUES ('schema', '2')
"""
#: Stores of the first edition hold profiles alone, and the text as generated in place of the reasoning.
_FROM_SCHEMA_1 = """
ALTER TABLE profiles RENAME TO answers;
ALTER TABLE answers RENAME COLUMN raw_text TO reasoning;
ALTER TABLE answers ADD COLUMN scores TEXT NOT NULL DEFAULT '[]';
ALTER TABLE answers ADD COLUMN sample INTEGER NOT NULL DEFAULT 0;
DROP INDEX profiles_by_entity;
CREATE INDEX answers_by_entity ON answers (kind, entity);
UPDATE meta SET value = '2' WHERE name = 'schema'
"""
_VIEW_OF_SCHEMA_1 = (
    "CREATE TEMP VIEW answers AS SELECT *, raw_text AS reasoning, '[]' AS scores, 0 AS sample FROM main.profiles"
)

_NAMES = (
    *("key", "entity", "kind", "prompt", "generator", "messages", "text", "reasoning", "finish_reason", "marks"),
    *("prompt_tokens", "completion_tokens", "error", "attempts", "scores", "sample"),
)
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INSERT OR REPLACE INTO answers ({_COLUMNS}) VALUES (:{', :'.join(_NAMES)})"
#: The values of a JSON list, as a table.
_LISTED = "(SELECT value FROM json_each(?))"


class ListedEntity(NamedTuple):
    """A name of a list: its entity, status (``used``, ``mapped``, ``ambiguous`` or ``missing``), and why (`note`)."""

    kind: str
    name: str
    entity: str
    status: str
    note: str = ""


class AnswerStore:
    """Answers of one folder (``profiles.sqlite`` in it). Use `open` to read and `writing` to add.

    A store of an older `schema` that is opened for writing is brought to `SCHEMA_VERSION`.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.schema = SCHEMA_VERSION
        self._connection = connection

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> AnswerStore:
        """Open a store for reading, without a change to its files; a run may be writing to it meanwhile.

        A store that is missing, damaged or of a newer version is a `BftembedError`.
        """
        path = Path(folder) / STORE_FILE
        if not path.exists():
            raise BftembedError(f"No profile store in {folder}. Make one: bftembed profiles generate … --out {folder}")
        with _errors_of(path):
            store = cls(Path(folder), _connect_reading(path))
            try:
                store._check_schema()
                if store.schema == 1:
                    store._connection.execute(_VIEW_OF_SCHEMA_1)
            except BaseException:
                store.close()
                raise
        return store

    @classmethod
    @contextlib.contextmanager
    def writing(cls, folder: str | os.PathLike[str]) -> Iterator[AnswerStore]:
        """Open a store for writing, making it when missing; no other process can write to it meanwhile."""
        path = Path(folder) / STORE_FILE
        with exclusive_lock(Path(folder) / ".lock", holder=f"the profile store in {folder}"):
            with _errors_of(path):
                store = cls(Path(folder), sqlite3.connect(path, isolation_level=None, timeout=10))
            try:
                store._prepare()
                yield store
            finally:
                store.close()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prepare(self) -> None:
        with _errors_of(self.folder / STORE_FILE):
            # Keys are hashes, so that a batch touches pages all over the file: many are kept, and moved into it seldom.
            self._connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32000; "
                "PRAGMA wal_autocheckpoint = 8000"
            )
        with self._transaction() as connection:
            # Empty, and not another program's database: the check after it refuses that.
            if not self._select("SELECT 1 FROM sqlite_master LIMIT 1"):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
        self._check_schema()
        if self.schema == 1:
            with self._transaction() as connection:
                for statement in _FROM_SCHEMA_1.split(";"):
                    connection.execute(statement)
            self.schema = SCHEMA_VERSION

    def add_entities(self, entities: Iterable[ListedEntity]) -> None:
        """Note the names that a run was asked for; a name asked for again is replaced."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO entities VALUES (?, ?, ?, ?, ?)", entities)

    def add_generator(self, spec: str, fingerprint: dict[str, Any]) -> str:
        """Note a generator and return its id (16 hexadecimal digits of its fingerprint's hash)."""
        text = canonical_json(fingerprint)
        identifier = sha256_text(text)[:16]
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO generators VALUES (?, ?, ?)", (identifier, spec, text))
        return identifier

    def add(self, answers: Iterable[Answer], sent: Mapping[str, Any]) -> None:
        """Store a batch in one transaction; a failed answer is replaced by its next attempt.

        `generator_id` of the answers is as `add_generator` gave it; `sent` is key → what was sent, as JSON values.
        """
        rows = [
            {
                **vars(answer),
                "generator": answer.generator_id,
                "messages": to_json(sent[answer.key]),
                "marks": json.dumps(answer.marks),
                "scores": json.dumps(answer.scores),
            }
            for answer in answers
        ]
        with self._transaction() as connection:
            connection.executemany(_INSERT, rows)

    def absorb(self, folder: Path) -> tuple[int, int]:
        """Copy what the store in `folder` holds and this one lacks, in one transaction.

        Returns the numbers of answers that were new (or had failed here), and that were here already. Different texts
        under one key are a `BftembedError`.
        """
        with _errors_of(folder / STORE_FILE):
            self._connection.execute("ATTACH DATABASE ? AS part", (str(folder / STORE_FILE),))
        try:
            differing = self._select(
                "SELECT theirs.entity FROM part.answers theirs JOIN main.answers ours USING (key) "
                "WHERE theirs.error = '' AND ours.error = '' AND theirs.text <> ours.text ORDER BY theirs.entity"
            )
            if differing:
                raise BftembedError(
                    f"{folder} holds other texts than the stores before it for "
                    f"{examples(entity for (entity,) in differing)}, under the same keys. They are not shards of one "
                    "run: merge them into separate folders."
                )
            with self._transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO main.generators SELECT * FROM part.generators")
                connection.execute("INSERT OR IGNORE INTO main.entities SELECT * FROM part.entities")
                added = connection.execute(
                    f"INSERT OR REPLACE INTO main.answers ({_COLUMNS}) SELECT {_COLUMNS} FROM part.answers theirs "
                    "WHERE NOT EXISTS (SELECT 1 FROM main.answers ours WHERE ours.key = theirs.key "
                    "AND (ours.error = '' OR theirs.error <> ''))"
                ).rowcount
                ((total,),) = self._select("SELECT count(*) FROM part.answers")
        finally:
            self._connection.execute("DETACH DATABASE part")
        return added, total - added

    def outcomes(self, keys: Sequence[str]) -> dict[str, tuple[int, str, tuple[str, ...]]]:
        """Return key → (attempts so far, error, marks) of those of `keys` that are stored."""
        query = f"SELECT key, attempts, error, marks FROM answers WHERE key IN {_LISTED}"
        rows = self._select(query, json.dumps(list(keys)))
        return {key: (attempts, error, tuple(json.loads(marks))) for key, attempts, error, marks in rows}

    def answers(
        self, *, keys: Sequence[str] | None = None, entities: Sequence[str] | None = None, kind: str | None = None
    ) -> list[Answer]:
        """Return the stored answers (all, or those of keys, entities or a kind).

        They are sorted by kind, entity, sample and key; with `keys`, they are in the order of these.
        """
        specs = {one["id"]: one["spec"] for one in self.generators()}
        wanted = {"key": keys, "entity": entities, "kind": None if kind is None else [kind]}
        given = {column: json.dumps(list(values)) for column, values in wanted.items() if values is not None}
        where = " AND ".join(["1", *(f"{column} IN {_LISTED}" for column in given)])
        query = f"SELECT {_COLUMNS} FROM answers WHERE {where} ORDER BY kind, entity, sample, key"
        found = []
        for row in self._select(query, *given.values()):
            values = dict(zip(_NAMES, row, strict=True))
            del values["messages"]
            values |= {"generator_id": values["generator"], "generator": specs[values["generator"]]}
            values |= {name: tuple(json.loads(values[name])) for name in ("marks", "scores")}
            found.append(Answer(**values))
        if keys is None:
            return found
        by_key = {answer.key: answer for answer in found}
        return [by_key[key] for key in keys if key in by_key]

    def entities(self) -> list[ListedEntity]:
        """Return the names that runs were asked for, sorted by kind and name."""
        return [ListedEntity(*row) for row in self._select("SELECT * FROM entities ORDER BY kind, name")]

    def generators(self) -> list[dict[str, Any]]:
        """Return the generators that wrote here: id, spec and fingerprint."""
        rows = self._select("SELECT id, spec, fingerprint FROM generators ORDER BY id")
        return [{"id": i, "spec": spec, "fingerprint": json.loads(text)} for i, spec, text in rows]

    def status(self) -> dict[str, Any]:
        """Return counts of the whole store: names by status, entities, profiles, tokens, origins."""
        wanted = "SELECT kind, entity FROM entities WHERE status IN ('used', 'mapped')"
        have = "SELECT kind, entity FROM answers"
        ((without, entities, profiles, failed, n_prompt, n_answer),) = self._select(
            f"SELECT (SELECT count(*) FROM ({wanted} EXCEPT {have})), (SELECT count(*) FROM ({wanted} UNION {have})), "
            "count(*), coalesce(sum(error <> ''), 0), coalesce(sum(prompt_tokens), 0), "
            "coalesce(sum(completion_tokens), 0) FROM answers"
        )
        origins = self._select(
            "SELECT p.prompt, g.spec, g.id, count(*) FROM answers p JOIN generators g ON g.id = p.generator "
            "GROUP BY p.prompt, g.id ORDER BY p.prompt, g.spec"
        )
        return {
            "names": dict(self._select("SELECT status, count(*) FROM entities GROUP BY status ORDER BY status")),
            "entities": entities,
            "profiles": profiles,
            "failed": failed,
            "without_profile": without,
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answer,
            "origins": [{"prompt": p, "generator": g, "id": i, "profiles": n} for p, g, i, n in origins],
        }

    def digest(self) -> str:
        """Return the sha256 of the store's content: equal stores have equal digests, whatever their history."""
        rows = self._select(f"SELECT {_COLUMNS} FROM answers ORDER BY key")
        listed = self._select("SELECT * FROM entities ORDER BY kind, name")
        return sha256_text(canonical_json([rows, listed]))

    def _select(self, query: str, *values: str) -> list[Any]:
        with _errors_of(self.folder / STORE_FILE):
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_of(self.folder / STORE_FILE), self._connection:  # commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _check_schema(self) -> None:
        path = self.folder / STORE_FILE
        if not self._select("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise BftembedError(f"{path} is empty: the first run did not write anything yet.")
        self.schema = int(self._select("SELECT value FROM meta WHERE name = 'schema'")[0][0])
        if self.schema > SCHEMA_VERSION:
            raise BftembedError(
                f"{path} has schema {self.schema}, this bftembed reads up to {SCHEMA_VERSION}. Upgrade bftembed; the "
                "store was not touched."
            )


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Connect without changing a byte; also where the folder cannot be written."""
    address = f"file:{urllib.parse.quote(str(path.resolve()))}"
    # Not mode=ro: a read-only reader of a WAL file leaves its helper files behind when it closes.
    connection = sqlite3.connect(f"{address}?mode=rw", uri=True, isolation_level=None, timeout=10)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        # A WAL file needs a shared-memory file beside it, unless nothing can write there anyway.
        connection.close()
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as err:
        raise BftembedError(f"{path}: {err}. What was committed to the profile store is safe.") from err
