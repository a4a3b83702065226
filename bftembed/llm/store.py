"""The store of answers: one SQLite file per run, WAL, one transaction per batch, text and JSON only.

It survives a kill at any moment and a full disk (docs/decisions/sqlite-store.md says why it is not JSONL). Profiles are
answers about entities; the names that a run of profiles was asked for are stored with them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import canonical_json, exclusive_lock, sha256_text
from bftembed.llm.base import Answer

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
"""
#: Stores of the first edition hold profiles alone, and the text as generated in place of the reasoning.
_FROM_SCHEMA_1 = """
ALTER TABLE profiles RENAME TO answers;
ALTER TABLE answers RENAME COLUMN raw_text TO reasoning;
ALTER TABLE answers ADD COLUMN scores TEXT NOT NULL DEFAULT '[]';
ALTER TABLE answers ADD COLUMN sample INTEGER NOT NULL DEFAULT 0;
DROP INDEX profiles_by_entity;
CREATE INDEX answers_by_entity ON answers (kind, entity);
UPDATE meta SET value = '2' WHERE name = 'schema';
"""
_VIEW_OF_SCHEMA_1 = (
    "CREATE TEMP VIEW answers AS SELECT *, raw_text AS reasoning, '[]' AS scores, 0 AS sample FROM main.profiles"
)

_COLUMNS = (
    "key, entity, kind, prompt, generator, messages, text, reasoning, finish_reason, marks, "
    "prompt_tokens, completion_tokens, error, attempts, scores, sample"
)
_NAMES = _COLUMNS.split(", ")


@dataclass(frozen=True)
class ListedEntity:
    """A name that a run was asked for, and what became of it.

    Attributes
    ----------
    kind, name
        As given.
    entity
        Identifier that its profile carries.
    status
        ``used``, ``mapped``, ``ambiguous`` or ``missing``.
    note
        Why, in words.
    """

    kind: str
    name: str
    entity: str
    status: str
    note: str = ""


class AnswerStore:
    """Answers of one folder. Use `open` to read and `writing` to add.

    Attributes
    ----------
    folder
        The folder; the file in it is ``profiles.sqlite``.
    schema
        Schema of the file; a store that is opened for writing is brought to `SCHEMA_VERSION`.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.schema = SCHEMA_VERSION
        self._connection = connection

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> AnswerStore:
        """Open a store for reading; a run may be writing to it meanwhile.

        Raises
        ------
        BftembedError
            When there is none, it is damaged, or a newer version of bftembed wrote it.
        """
        path = Path(folder) / STORE_FILE
        if not path.exists():
            raise BftembedError(
                f"No profile store in {folder} (expected {path}). Make one: bftembed profiles generate … --out {folder}"
            )
        store = cls(Path(folder), _connect_reading(path))
        try:
            store.schema = store._check_schema()
            if store.schema == 1:
                store._connection.execute(_VIEW_OF_SCHEMA_1)
        except BftembedError:
            store.close()
            raise
        return store

    @classmethod
    @contextlib.contextmanager
    def writing(cls, folder: str | os.PathLike[str]) -> Iterator[AnswerStore]:
        """Open a store for writing, making it when missing; no other process can write to it meanwhile.

        Raises
        ------
        BftembedError
            When another process writes to it, the folder cannot be written, the disk is full, or a newer
            version wrote it.
        """
        path = Path(folder) / STORE_FILE
        with exclusive_lock(Path(folder) / ".lock", holder=f"the profile store in {folder}"):
            store = cls(Path(folder), _connect(path))
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

    # -- writing ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._transaction() as cursor:
            # Empty, and not another program's database: the check after it refuses that.
            if not cursor.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                for statement in _SCHEMA.split(";"):
                    cursor.execute(statement)
                cursor.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        if self._check_schema() == 1:
            with self._transaction() as cursor:
                for statement in _FROM_SCHEMA_1.split(";"):
                    cursor.execute(statement)

    def add_entities(self, entities: Iterable[ListedEntity]) -> None:
        """Note the names that a run was asked for; a name asked for again is replaced."""
        rows = [(e.kind, e.name, e.entity, e.status, e.note) for e in entities]
        with self._transaction() as cursor:
            cursor.executemany("INSERT OR REPLACE INTO entities VALUES (?, ?, ?, ?, ?)", rows)

    def add_generator(self, spec: str, fingerprint: dict[str, Any]) -> str:
        """Note a generator and return its id (16 hexadecimal digits of its fingerprint's hash)."""
        text = canonical_json(fingerprint)
        identifier = sha256_text(text)[:16]
        with self._transaction() as cursor:
            cursor.execute("INSERT OR REPLACE INTO generators VALUES (?, ?, ?)", (identifier, spec, text))
        return identifier

    def add(self, answers: Iterable[Answer], sent: Mapping[str, Any]) -> None:
        """Store a batch in one transaction; a failed answer is replaced by its next attempt.

        Parameters
        ----------
        answers
            The batch; their `generator_id` is as `add_generator` gave it.
        sent
            Key → what was sent, as JSON values, for every answer of the batch.
        """
        rows = [
            (
                *(a.key, a.entity, a.kind, a.prompt, a.generator_id, canonical_json(sent[a.key])),
                *(a.text, a.reasoning, a.finish_reason, json.dumps(a.marks)),
                *(a.prompt_tokens, a.completion_tokens, a.error, a.attempts, json.dumps(a.scores), a.sample),
            )
            for a in answers
        ]
        with self._transaction() as cursor:
            cursor.executemany(f"INSERT OR REPLACE INTO answers ({_COLUMNS}) VALUES ({_slots(_NAMES)})", rows)

    def differing(self, folder: Path) -> list[str]:
        """Return the entities of which the store in `folder` holds another text under a key that is here too."""
        with self._attached(folder):
            rows = self._select(
                "SELECT theirs.entity FROM part.answers theirs JOIN main.answers ours USING (key) "
                "WHERE theirs.error = '' AND ours.error = '' AND theirs.text <> ours.text ORDER BY theirs.entity"
            )
        return [entity for (entity,) in rows]

    def absorb(self, folder: Path) -> tuple[int, int]:
        """Copy what the store in `folder` holds and this one lacks, in one transaction.

        Returns
        -------
        tuple of int
            Profiles that were new (or had failed here), and those that were here already.
        """
        with self._attached(folder), self._transaction() as cursor:
            cursor.execute("INSERT OR IGNORE INTO main.generators SELECT * FROM part.generators")
            cursor.execute("INSERT OR IGNORE INTO main.entities SELECT * FROM part.entities")
            cursor.execute(
                f"INSERT OR REPLACE INTO main.answers ({_COLUMNS}) SELECT {_COLUMNS} FROM part.answers theirs "
                "WHERE NOT EXISTS (SELECT 1 FROM main.answers ours WHERE ours.key = theirs.key "
                "AND (ours.error = '' OR theirs.error <> ''))"
            )
            added = cursor.rowcount
            (total,) = cursor.execute("SELECT count(*) FROM part.answers").fetchone()
        return added, total - added

    @contextlib.contextmanager
    def _attached(self, folder: Path) -> Iterator[None]:
        try:
            self._connection.execute("ATTACH DATABASE ? AS part", (str(folder / STORE_FILE),))
        except sqlite3.Error as err:
            raise BftembedError(_complaint(folder / STORE_FILE, err)) from err
        try:
            yield
        finally:
            self._connection.execute("DETACH DATABASE part")

    # -- reading ------------------------------------------------------------------------------------------

    def outcomes(self, keys: Sequence[str]) -> dict[str, tuple[int, str, tuple[str, ...]]]:
        """Return key → (attempts so far, error, marks) of those of `keys` that are stored."""
        found: dict[str, tuple[int, str, tuple[str, ...]]] = {}
        for some in _slices(keys):
            rows = self._select(f"SELECT key, attempts, error, marks FROM answers WHERE key IN ({_slots(some)})", some)
            found |= {key: (tried, error, self._marks(key, marks)) for key, tried, error, marks in rows}
        return found

    def answers(
        self,
        *,
        keys: Sequence[str] | None = None,
        entities: Sequence[str] | None = None,
        kind: str | None = None,
    ) -> list[Answer]:
        """Return the stored answers, sorted by kind, entity, sample and key; with `keys`, in their order.

        Parameters
        ----------
        keys, entities, kind
            Only these, all when None.
        """
        specs = {one["id"]: one["spec"] for one in self.generators()}
        select = f"SELECT {_COLUMNS} FROM answers"
        if keys is not None:
            parts = (self._select(f"{select} WHERE key IN ({_slots(some)})", some) for some in _slices(keys))
            by_key = {row[0]: row for part in parts for row in part}
            rows = [by_key[key] for key in keys if key in by_key]
        else:
            rows = self._select(f"{select} ORDER BY kind, entity, sample, key")
        wanted = None if entities is None else set(entities)
        found = []
        for row in rows:
            values = dict(zip(_NAMES, row, strict=True))
            if (wanted is not None and values["entity"] not in wanted) or kind not in (None, values["kind"]):
                continue
            del values["messages"]
            identity = values.pop("generator")
            values["marks"] = self._marks(values["key"], values["marks"])
            values["scores"] = tuple(json.loads(values["scores"]))
            found.append(Answer(**values, generator=specs[identity], generator_id=identity))
        return found

    def _marks(self, key: str, text: str) -> tuple[str, ...]:
        try:
            return tuple(json.loads(text))
        except (ValueError, TypeError) as err:
            raise BftembedError(f"{self.folder / STORE_FILE} is damaged: the marks of {key} are {text!r}.") from err

    def entities(self) -> list[ListedEntity]:
        """Return the names that runs were asked for, sorted by kind and name."""
        return [ListedEntity(*row) for row in self._select("SELECT * FROM entities ORDER BY kind, name")]

    def generators(self) -> list[dict[str, Any]]:
        """Return the generators that wrote here: id, spec and fingerprint."""
        rows = self._select("SELECT id, spec, fingerprint FROM generators ORDER BY id")
        return [{"id": i, "spec": spec, "fingerprint": json.loads(text)} for i, spec, text in rows]

    def status(self) -> dict[str, Any]:
        """Return counts of the whole store: names by status, entities, profiles, marks, tokens, origins."""
        names = dict(self._select("SELECT status, count(*) FROM entities GROUP BY status ORDER BY status"))
        (row,) = self._select(
            "SELECT count(*), sum(error <> ''), "
            "coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM answers"
        )
        wanted = "SELECT kind, entity FROM entities WHERE status IN ('used', 'mapped')"
        have = "SELECT kind, entity FROM answers"
        ((without,),) = self._select(f"SELECT count(*) FROM ({wanted} EXCEPT {have})")
        ((entities,),) = self._select(f"SELECT count(*) FROM ({wanted} UNION {have})")
        origins = self._select(
            "SELECT p.prompt, g.spec, g.id, count(*) FROM answers p JOIN generators g ON g.id = p.generator "
            "GROUP BY p.prompt, g.id ORDER BY p.prompt, g.spec"
        )
        return {
            "names": names,
            "entities": entities,
            "profiles": row[0],
            "failed": row[1] or 0,
            "without_profile": without,
            "prompt_tokens": row[2],
            "completion_tokens": row[3],
            "origins": [{"prompt": p, "generator": g, "id": i, "profiles": n} for p, g, i, n in origins],
        }

    def digest(self) -> str:
        """Return the sha256 of the store's content: equal stores have equal digests, whatever their history."""
        rows = self._select(f"SELECT {_COLUMNS} FROM answers ORDER BY key")
        listed = self._select("SELECT * FROM entities ORDER BY kind, name")
        return sha256_text(canonical_json([rows, listed]))

    # -- the file -----------------------------------------------------------------------------------------

    def _select(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as err:
            raise BftembedError(_complaint(self.folder / STORE_FILE, err)) from err

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except sqlite3.Error as err:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            raise BftembedError(_complaint(self.folder / STORE_FILE, err)) from err
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()

    def _check_schema(self) -> int:
        if not self._select("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise BftembedError(
                f"{self.folder / STORE_FILE} is empty: a run is about to begin, or was stopped before it wrote "
                "anything. Run bftembed profiles generate again."
            )
        rows = self._select("SELECT value FROM meta WHERE name = 'schema'")
        version = int(rows[0][0]) if rows and rows[0][0].isdecimal() else 0
        if version < 1:
            raise BftembedError(
                f"{self.folder / STORE_FILE} is damaged: its schema version is {rows[0][0]!r}."
                if rows
                else f"{self.folder / STORE_FILE} is damaged: it has no schema version."
            )
        if version > SCHEMA_VERSION:
            raise BftembedError(
                f"{self.folder / STORE_FILE} has schema {version}, this bftembed reads up to {SCHEMA_VERSION}. "
                "Upgrade bftembed; the store was not touched."
            )
        return version


def _slots(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _slices(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + 500] for start in range(0, len(keys), 500))


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    except sqlite3.Error as err:
        raise BftembedError(_complaint(path, err)) from err


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Connect without changing a byte; also where the folder cannot be written."""
    address = f"file:{urllib.parse.quote(str(path.resolve()))}"
    try:
        # Not mode=ro: a read-only reader of a WAL file leaves its helper files behind when it closes.
        connection = sqlite3.connect(f"{address}?mode=rw", uri=True, isolation_level=None, timeout=10)
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            # A WAL file needs a shared-memory file beside it, unless nothing can write there anyway.
            connection.close()
            connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
        return connection
    except sqlite3.Error as err:
        raise BftembedError(_complaint(path, err)) from err


def _complaint(path: Path, err: sqlite3.Error) -> str:
    text = str(err)
    if "full" in text or "disk I/O" in text or "too big" in text:
        return f"Cannot write {path}: the disk is full or failing ({text}). What was committed is safe; run again."
    if "readonly" in text or "unable to open" in text:
        return f"Cannot write {path}: {text}. Choose a folder that you may write to."
    if "not a database" in text or "malformed" in text or "no such table" in text:
        return f"{path} is not a profile store, or it is damaged ({text}). Move it away and generate again."
    return f"{path}: {text}."
