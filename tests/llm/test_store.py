"""The store keeps what was committed: full disk, damage, newer schema, two writers, strange texts."""

from __future__ import annotations

import resource
import signal
import sqlite3

import pytest

from bftembed.errors import BftembedError
from bftembed.io import sha256_text
from bftembed.llm.base import Answer
from bftembed.llm.store import STORE_FILE, AnswerStore, ListedEntity
from bftembed.profiles.generate import generate_profiles


def profile(entity, text="a text", **fields):
    fields.setdefault("generator_id", sha256_text('{"engine":"scripted"}')[:16])
    values = {"key": f"{entity}-key", "entity": entity, "kind": "gene", "text": text, "finish_reason": "stop"}
    values |= {"marks": (), "prompt": "bft-gene@1", "generator": "scripted", **fields}
    return Answer(**values)


def add(store, *profiles):
    generator = store.add_generator("scripted", {"engine": "scripted"})
    assert all(p.generator_id == generator for p in profiles)
    store.add(profiles, {p.key: [{"role": "user"}] for p in profiles})


def test_profiles_come_back_as_they_went_in(tmp_path):
    given = [
        profile("A", "t", marks=("truncated", "looping"), reasoning="<think>x</think>t", completion_tokens=3),
        profile("B", "", error="boom", marks=("failed",), finish_reason="error", attempts=2),
        profile("../x", "<script>alert(1)</script> 😀 ﷽ ' \" ; DROP TABLE profiles;"),
    ]
    with AnswerStore.writing(tmp_path / "s") as store:
        add(store, *given)
        store.add_entities([ListedEntity("gene", "a", "A", "mapped", "alias")])
    with AnswerStore.open(tmp_path / "s") as store:
        assert store.answers() == sorted(given, key=lambda p: p.entity)
        assert store.answers(entities=["B"]) == [given[1]]
        assert store.entities() == [ListedEntity("gene", "a", "A", "mapped", "alias")]
        assert store.outcomes(["A-key", "B-key", "other"]) == {
            "A-key": (1, "", given[0].marks),
            "B-key": (2, "boom", given[1].marks),
        }
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".lock", STORE_FILE]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_equal_content_has_an_equal_digest_whatever_its_history(tmp_path):
    for name, order in (("one", ["A", "B", "C"]), ("two", ["C", "A", "B"])):
        with AnswerStore.writing(tmp_path / name) as store:
            for entity in order:
                add(store, profile(entity))
    with AnswerStore.open(tmp_path / "one") as one, AnswerStore.open(tmp_path / "two") as two:
        first = one.digest()
        assert first == two.digest()
    with AnswerStore.writing(tmp_path / "two") as two:
        add(two, profile("A", "another text"))
        assert two.digest() != first


def test_a_newer_schema_is_refused_untouched(tmp_path):
    with AnswerStore.writing(tmp_path) as store:
        add(store, profile("A"))
    with sqlite3.connect(tmp_path / STORE_FILE) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    connection.close()
    before = (tmp_path / STORE_FILE).read_bytes()
    for attempt in (lambda: AnswerStore.open(tmp_path), lambda: AnswerStore.writing(tmp_path).__enter__()):
        with pytest.raises(BftembedError, match="schema 99"):
            attempt()
    assert (tmp_path / STORE_FILE).read_bytes() == before


def test_reading_changes_no_byte_and_works_where_nothing_can_be_written(tmp_path, monkeypatch):
    with AnswerStore.writing(tmp_path) as store:
        add(store, profile("A"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with AnswerStore.open(tmp_path) as store:
        assert len(store.answers()) == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    real = sqlite3.connect

    def connect(address, **options):
        if "immutable" not in address:
            return _Refusing()
        return real(address, **options)

    class _Refusing:
        def execute(self, statement):
            raise sqlite3.OperationalError("unable to open database file")

        def close(self):
            pass

    monkeypatch.setattr(sqlite3, "connect", connect)
    with AnswerStore.open(tmp_path) as store:
        assert len(store.answers()) == 1


@pytest.mark.parametrize("content", [b"this is text", b"SQLite format 3\0" + b"x" * 4096])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / STORE_FILE).write_bytes(content)
    with pytest.raises(BftembedError, match=STORE_FILE):
        AnswerStore.open(tmp_path)


def test_a_store_that_was_killed_before_its_first_table_is_called_empty_and_goes_on(tmp_path):
    (tmp_path / STORE_FILE).write_bytes(b"")
    with pytest.raises(BftembedError, match="is empty"):
        AnswerStore.open(tmp_path)
    with AnswerStore.writing(tmp_path) as store:
        add(store, profile("A"))
    with AnswerStore.open(tmp_path) as store:
        assert len(store.answers()) == 1


def test_another_programs_database_is_not_taken_for_a_store(tmp_path):
    with sqlite3.connect(tmp_path / STORE_FILE) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    for attempt in (lambda: AnswerStore.open(tmp_path), lambda: AnswerStore.writing(tmp_path).__enter__()):
        with pytest.raises(BftembedError, match=STORE_FILE):
            attempt()


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    with AnswerStore.writing(tmp_path) as store:
        add(store, profile("A"))
        with pytest.raises(BftembedError, match="is working on the profile store"), AnswerStore.writing(tmp_path):
            pass
        with AnswerStore.open(tmp_path) as reader:
            assert len(reader.answers()) == 1


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path):
    with AnswerStore.writing(tmp_path) as store:
        add(store, profile("A"), profile("B"))
        before = store.digest()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
            with pytest.raises(BftembedError, match="disk"):
                add(store, *(profile(f"X{i}", "x" * 5000) for i in range(200)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
    with AnswerStore.writing(tmp_path) as store:
        assert store.digest() == before
        add(store, profile("C"))
        assert [p.entity for p in store.answers()] == ["A", "B", "C"]


def test_a_batch_is_committed_wholly_or_not_at_all(tmp_path):
    with AnswerStore.writing(tmp_path) as store:
        with pytest.raises(BftembedError):
            add(store, profile("A"), profile("B", None))
        assert store.answers() == []
        add(store, profile("A"))
        assert len(store.answers()) == 1


_SCHEMA_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE generators (id TEXT PRIMARY KEY, spec TEXT NOT NULL, fingerprint TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entities (
    kind TEXT NOT NULL, name TEXT NOT NULL, entity TEXT NOT NULL, status TEXT NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE profiles (
    key TEXT PRIMARY KEY, entity TEXT NOT NULL, kind TEXT NOT NULL, prompt TEXT NOT NULL,
    generator TEXT NOT NULL REFERENCES generators (id), messages TEXT NOT NULL,
    text TEXT NOT NULL, raw_text TEXT NOT NULL, finish_reason TEXT NOT NULL, marks TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    error TEXT NOT NULL, attempts INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX profiles_by_entity ON profiles (kind, entity);
INSERT INTO meta VALUES ('schema', '1');
INSERT INTO generators VALUES ('1a8b10354e04f63b', 'scripted:empty=0.5',
    '{"empty":0.5,"engine":"scripted","loop":0.0,"off_topic":0.0,"refuse":0.0,"seed":0,"truncate":0.0}');
INSERT INTO entities VALUES ('gene', 'P53', 'TP53', 'mapped', '');
INSERT INTO profiles VALUES ('dc69a979cf2756862e41fd7023c248b829b34094e4c764f2d1ec9278afd3ad62', 'TP53', 'gene',
    'bft-gene@1', '1a8b10354e04f63b', '[]', 'TP53 is a gene.', '<think>hm</think>TP53 is a gene.', 'stop',
    '["looping"]', 4, 14, '', 1);
INSERT INTO profiles VALUES ('013af6d14f5a29c1de08144580ee35daef8188b7364c1dfcc678512b4a88fc82', 'EGFR', 'gene',
    'bft-gene@1', '1a8b10354e04f63b', '[]', '', '', 'error', '["failed"]', 0, 0, 'boom', 2);
"""


def store_of_the_first_edition(folder):
    """Rows, keys and id as version 1 wrote them for this generator."""
    folder.mkdir()
    with sqlite3.connect(folder / STORE_FILE) as connection:
        connection.executescript(_SCHEMA_1)
    connection.close()
    return folder


def test_a_store_of_the_first_edition_is_read_without_a_change_and_continued(tmp_path):
    out = store_of_the_first_edition(tmp_path / "s")
    before = (out / STORE_FILE).read_bytes()
    with AnswerStore.open(out) as store:
        failed, done = store.answers(kind="gene")
        assert (done.entity, done.text, done.reasoning) == (
            "TP53",
            "TP53 is a gene.",
            "<think>hm</think>TP53 is a gene.",
        )
        assert (done.marks, done.generator, done.scores, done.sample) == (("looping",), "scripted:empty=0.5", (), 0)
        assert (failed.error, failed.attempts) == ("boom", 2)
        assert store.status()["profiles"] == 2
    assert (out / STORE_FILE).read_bytes() == before
    report = generate_profiles(["TP53", "EGFR", "MYC"], generator="scripted:empty=0.5", out=out)
    assert (report.written, report.already_stored, report.failed) == (1, 2, ("EGFR",))
    assert generate_profiles(["EGFR"], generator="scripted:empty=0.5", out=out, retry_failed=True).written == 1
    with AnswerStore.open(out) as store:
        assert {a.entity: (a.text[:15], a.attempts) for a in store.answers()} == {
            "TP53": ("TP53 is a gene.", 1),
            "EGFR": ("EGFR is written", 3),
            "MYC": ("MYC is written ", 1),
        }
