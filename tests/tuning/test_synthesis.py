"""Synthesis: texts are cut without loss, rounds are resumed, rows are clean, and what is held out stays out."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_tools import write_rubrics

from bftembed.errors import BftembedError, MissingExtraError, UnknownNameError
from bftembed.llm import BACKENDS
from bftembed.llm.store import AnswerStore
from bftembed.tuning.data import read_conversations
from bftembed.tuning.synthesis import check_training_data, read_questions, synthesize
from bftembed.tuning.texts import read_chunks, split_text


@pytest.fixture(autouse=True)
def _teacher(monkeypatch):
    monkeypatch.setitem(BACKENDS.entries, "teacher", "synthesis_tools:Teacher")
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)


@pytest.fixture
def make(tmp_path):
    """Synthesize with the teacher of the tests: returns the report and the rows."""

    def call(source, out="out", teacher="", **options):
        spec = ",".join(filter(None, [f"teacher:{tmp_path / 'log'}", teacher]))
        report = synthesize(source, teacher=spec, out=tmp_path / out, **options)
        path = Path(report.pairs)
        return report, [
            json.loads(line) for line in path.read_text().splitlines()
        ] if report.pairs and path.exists() else []

    return call


@pytest.fixture
def table(tmp_path):
    rows = [("TP53", "a" * 250 + "."), ("EGFR", "b" * 720 + "."), ("LYZ", "c."), ("LYZ", "c."), ("IL6", "")]
    path = tmp_path / "texts.tsv.gz"
    path.write_bytes(gzip.compress("\n".join(["symbol\tsummary", *map("\t".join, rows), ""]).encode()))
    return path


def asked(tmp_path):
    return (tmp_path / "log").read_text().split()


# -- texts ------------------------------------------------------------------------------------------------------

MARKDOWN = """Preface.

# Zinc

Zinc is a metal.

## Uses ##

```
# not a heading

code
```
It binds.

# Iron
Iron rusts.
"""


def test_markdown_is_cut_at_headings_which_are_kept():
    parts = split_text(MARKDOWN, min_chars=1, max_chars=4000)
    assert [headings for headings, _ in parts] == [(), ("Zinc",), ("Zinc", "Uses"), ("Iron",)]
    assert parts[1][1] == "# Zinc\nZinc is a metal."
    assert "# not a heading" in parts[2][1]
    assert len(split_text(MARKDOWN)) == 1


def test_a_long_section_continues_under_its_heading():
    text = "# A\n## B\n" + "\n\n".join(f"Paragraph {i}. " + "word " * 30 for i in range(9))
    parts = split_text(text, min_chars=200, max_chars=400)
    assert len(parts) > 3
    assert [headings for headings, _ in parts] == [("A",), *[("A", "B")] * (len(parts) - 1)]
    assert all(len(part) <= 400 for _, part in parts)


@given(
    st.lists(st.sampled_from(["zinc", "binds.", "# Head", "\n", "\n\n", "```", "x" * 60, "Why?", "é"]), max_size=80),
    st.integers(8, 60),
)
def test_no_word_is_lost_and_no_part_is_too_long(words, max_chars):
    text = " ".join(words)
    parts = [part for _, part in split_text(text, min_chars=max_chars // 2, max_chars=max_chars)]
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part) <= max_chars for part in parts)


def test_a_folder_is_read_file_by_file_and_what_cannot_be_read_is_said(tmp_path):
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "a.md").write_text(MARKDOWN)
    (docs / "sub" / "b.txt").write_text("Copper conducts.")
    (docs / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (docs / "empty.txt").write_text("\n")
    (docs / "other.csv").write_text("x")
    chunks, unreadable = read_chunks(docs)
    assert [(c.id, c.title) for c in chunks] == [("a.md#1", "a"), ("sub/b.txt#1", "b")]
    assert set(unreadable) == {"bad.txt", "empty.txt"}


def test_sources_without_a_text_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "x.docx").write_text("x")
    for source in ("empty", "bad.txt", "x.docx"):
        with pytest.raises(BftembedError, match=source):
            read_chunks(tmp_path / source)
    for source in ("refseq-sumaries", "tf-range"):
        with pytest.raises(UnknownNameError, match="refseq-summaries"):
            read_chunks(source)


def test_a_table_has_one_chunk_per_gene(table):
    chunks, _ = read_chunks(table)
    assert [(c.id, c.gene) for c in chunks] == [
        (f"texts.tsv.gz:{line}", gene) for line, gene in [(2, "TP53"), (3, "EGFR"), (4, "LYZ"), (5, "LYZ")]
    ]


def test_summaries_are_found_by_name(shared_data, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", str(shared_data("gene_text").parent))
    chunks, _ = read_chunks("refseq-summaries")
    assert len(chunks) == 15085
    assert chunks[0].gene == "A1BG"
    assert chunks[0].source == "refseq-summaries"


def pdf_of(words):
    """A page with words, as small as a valid PDF is."""
    drawn = f"BT /F1 12 Tf 20 100 Td ({words}) Tj ET"
    font = "<</Font <</F1 <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>>>>>"
    objects = [
        "<</Type /Catalog /Pages 2 0 R>>",
        "<</Type /Pages /Kids [3 0 R] /Count 1>>",
        f"<</Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R /Resources {font}>>",
        f"<</Length {len(drawn)}>> stream\n{drawn}\nendstream",
    ]
    text, places = "%PDF-1.4\n", []
    for number, value in enumerate(objects, 1):
        places.append(f"{len(text):010} 00000 n \n")
        text += f"{number} 0 obj {value} endobj\n"
    table = f"xref\n0 5\n0000000000 65535 f \n{''.join(places)}trailer <</Root 1 0 R /Size 5>>\n"
    return f"{text}{table}startxref\n{len(text)}\n%%EOF\n".encode()


def test_pdf_is_read_where_its_library_is_installed(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(pdf_of("Zinc is a metal."))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtraError):
        read_chunks(tmp_path / "a.pdf")
    monkeypatch.undo()
    pytest.importorskip("pypdf")
    assert read_chunks(tmp_path / "a.pdf")[0][0].text == "Zinc is a metal."
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4\nnothing")
    chunks, unreadable = read_chunks(tmp_path)
    assert ([c.id for c in chunks], list(unreadable)) == (["a.pdf#1"], ["bad.pdf"])


# -- rounds -----------------------------------------------------------------------------------------------------


def test_rows_are_conversations_with_their_provenance(make, table, tmp_path):
    report, rows = make(table)
    assert (report.chunks, report.duplicate_chunks, report.questions, report.rows) == (3, 1, 5, 5)
    assert report.pairs == str(tmp_path / "out" / "pairs.jsonl")
    assert [row["messages"][0]["content"] for row in rows] == [
        f"What is fact {i} of {gene}?" for gene, n in [("TP53", 1), ("EGFR", 3), ("LYZ", 1)] for i in range(n)
    ]
    assert rows[1].keys() == {"messages", "source", "chunk", "sha256", "teacher"}
    assert (rows[1]["source"], rows[1]["chunk"], rows[1]["teacher"]) == (
        "texts.tsv.gz",
        "texts.tsv.gz:3",
        report.teacher,
    )
    assert {row["sha256"] for row in rows} == {chunk.sha256 for chunk in read_chunks(table)[0]}
    read = read_conversations(report.pairs)
    assert [[t.content for t in c.turns] for c in read] == [[m["content"] for m in row["messages"]] for row in rows]
    written = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert written["rows"] == 5
    assert written["model"]["engine"] == "teacher"


def test_the_same_command_asks_nothing_twice_and_more_questions_ask_the_rest(make, table, tmp_path):
    _report, rows = make(table)
    n = len(asked(tmp_path))
    assert n == 3 + 5
    again, same = make(table)
    assert (len(asked(tmp_path)), same, again.tokens) == (n, rows, 0)
    text = table.read_bytes()
    table.write_bytes(
        gzip.compress(gzip.decompress(text).replace(b"symbol\tsummary\n", b"symbol\tsummary\nA1BG\tzzz\n"))
    )
    assert len(make(table)[1]) == 6
    assert len(asked(tmp_path)) == n + 2  # the other genes have moved a line, and are not asked again


@pytest.mark.parametrize("schema", ["true", "false"])
def test_questions_are_read_with_and_without_a_schema(make, table, schema):
    assert make(table, teacher=f"schema={schema}")[0].rows == 5


@pytest.mark.parametrize(
    "text, found",
    [
        ('["What is A?", "What is B?"]', ["What is A?", "What is B?"]),
        ('Sure:\n```json\n{"questions": ["1. What is A?"]}\n```', ["What is A?"]),
        ("1. What is A?\n2) What is B?\nGood luck!", ["What is A?", "What is B?"]),
        ("- **Why 5-HT?**\nBecause.", ["Why 5-HT?"]),
        ('["What is A?",\n "What is B?",\n "What is', ["What is A?", "What is B?"]),
        ("5-HT receptors do what?", ["5-HT receptors do what?"]),
        ("Q1: What is A?", ["What is A?"]),
        ("What is A? What is B? It is so.", ["What is A?", "What is B?"]),
        ('["It is so."]', ["It is so."]),
        ("I cannot.", []),
        ('{"text": 3}', []),
        ("[1, 2]", []),
        ("", []),
    ],
)
def test_questions_are_read_tolerantly_and_never_guessed(text, found):
    assert read_questions(text) == found


def folder_of(tmp_path, **texts):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_bad_questions_and_answers_are_dropped_and_counted(make, tmp_path):
    folder = folder_of(
        tmp_path,
        a="SUBJECT-A",
        b="SUBJECT-A again",  # asks what a asks
        c="FAULT-STATEMENTS",
        d="FAULT-PROSE",
        e="FAULT-SOURCE",
        f="SUBJECT-F ANSWER-REFUSE",
        g="SUBJECT-G ANSWER-NONE",
        h="SUBJECT-H ANSWER-SOURCE",
        i="SUBJECT-I ANSWER-LOOP",
        j="SUBJECT-J ANSWER-EMPTY",
        k="SUBJECT-K FAULT-CUT",
    )
    report, rows = make(folder, questions=3, min_chars=1)
    assert [row["chunk"] for row in rows] == ["a.txt#1"] * 3
    assert report.unread == 1
    assert report.dropped == {
        "no-question": 3,
        "duplicate-question": 3,
        "names-source": 1 + 3,
        "refusal": 3,
        "no-answer": 3,
        "looping": 3,
        "empty": 3,
        "truncated": 3,
    }
    assert report.questions == report.rows + sum(report.dropped.values())


def test_a_question_about_a_gene_names_it_or_an_alias(make, tmp_path):
    table = tmp_path / "texts.tsv"
    table.write_text("symbol\tsummary\nTP53\tFAULT-SOURCE\nEGFR\tE.\n")
    assert make(table)[0].dropped == {"names-source": 1}


def test_a_chunk_beyond_the_teacher_s_context_is_counted_and_said(make, tmp_path):
    folder = folder_of(tmp_path, a="SUBJECT-A", b="SUBJECT-B " + "long " * 400)
    report, rows = make(folder, teacher="context=300", questions=1)
    assert [row["chunk"] for row in rows] == ["a.txt#1"]
    ((message, n, where),) = report.failures
    assert (n, where) == (1, "b.txt#1")
    assert "context of 300" in message
    assert make(folder, teacher="context=300", questions=1, retry_failed=True)[0].failures == report.failures
    assert make(folder, teacher="context=3000", questions=1, retry_failed=True)[0].rows == 2


def test_a_teacher_without_a_usable_answer_is_an_error_and_writes_no_file(make, tmp_path):
    with pytest.raises(BftembedError, match="1 without a list"):
        make(folder_of(tmp_path, a="FAULT-PROSE"))
    assert not (tmp_path / "out" / "pairs.jsonl").exists()
    with AnswerStore.open(tmp_path / "out") as store:
        assert len(store.answers()) == 1


def test_reasoning_is_the_teacher_s_own_or_asked_for(make, table, tmp_path):
    _, rows = make(table, teacher="thinks=It follows from the fold", reasoning=True)
    assert {row["messages"][1]["content"].partition("\n\n")[0] for row in rows} == {
        "<think>\nIt follows from the fold\n</think>"
    }
    assert len(asked(tmp_path)) == 8
    for out, thinks in [("none", ""), ("source", "thinks=The text says so")]:
        (tmp_path / "log").unlink()
        report, rows = make(table, out=out, teacher=thinks, reasoning=True)
        assert (len(asked(tmp_path)), report.rows) == (8 + 5, 5)
        assert all(row["messages"][1]["content"].startswith("<think>\nI recall") for row in rows)


def test_thoughts_that_repeat_the_answer_are_dropped(make, tmp_path):
    report, rows = make(folder_of(tmp_path, a="SUBJECT-A", b="SUBJECT-ECHO"), questions=1, reasoning=True)
    assert ([row["source"] for row in rows], report.dropped) == (["a.txt"], {"reasoning-off-topic": 1})


def test_a_dry_run_counts_and_writes_nothing(make, table, tmp_path):
    report, _ = make(table, dry_run=True, reasoning=True)
    assert report.estimate["questions"] == 5
    assert report.estimate["requests"] == 3 + 5 + 5
    assert report.estimate["prompt_tokens"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [{"min_chars": 0}, {"min_chars": 9, "max_chars": 8}, {"questions": -1}, {"limit": -1}]
)
def test_options_out_of_bounds_are_errors(make, table, options):
    with pytest.raises(BftembedError):
        make(table, **options)


# -- what is held out -------------------------------------------------------------------------------------------


def test_texts_about_held_out_genes_are_left_out(make, tmp_path):
    table = tmp_path / "texts.tsv"
    table.write_text("symbol\tsummary\nTP53\tA.\nEGFR\tNear TP53.\nLYZ\tC.\n")
    leave = tmp_path / "leave.txt"
    leave.write_text("P53\nLYZ\n")  # P53 is an alias
    report, rows = make(table, leave_out=leave)
    assert (report.left_out, [row["chunk"] for row in rows]) == (2, ["texts.tsv:3"])
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("SET\tx\tLYZ\tEGFR\n")
    report, rows = make(table, out="sets", leave_out=gmt)
    assert (report.left_out, [row["chunk"] for row in rows]) == (2, ["texts.tsv:2"])


def test_texts_that_name_a_held_out_gene_are_left_out(make, tmp_path):
    folder = folder_of(
        tmp_path,
        symbol="SUBJECT-A: SET is bound.",
        alias="SUBJECT-B: The p53 protein and HER2-positive tumours.",
        joined="SUBJECT-C: IL6-induced.",
        word="SUBJECT-D: A set of rules, and settings.",
    )
    report, rows = make(folder, leave_out=["SET", "ERBB2", "IL6"], questions=1)
    assert (report.left_out, [row["source"] for row in rows]) == (3, ["word.txt"])


def test_rubrics_never_stand_in_a_row(make, tmp_path):
    source = write_rubrics(tmp_path / "consensus.jsonl")
    report, rows = make(source, reasoning=True, teacher="thinks=The criteria want a poison centre")
    assert (report.rows, report.chunks) == (3, 3)
    assert [row["chunk"] for row in rows] == ["made-up-0", "made-up-1", "made-up-2"]
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant", "user", "assistant"]
    text = json.dumps([row["messages"] for row in rows])
    assert "poison centre" not in text
    assert "unsafe amount" not in text
    with AnswerStore.open(tmp_path / "out") as store:
        assert {a.kind for a in store.answers()} == {"synthesis/answer", "synthesis/reasoning"}
    read_conversations(report.pairs)


def test_a_reply_that_repeats_a_criterion_is_dropped(make, tmp_path):
    source = write_rubrics(tmp_path / "consensus.jsonl", n=2)
    row = json.loads(source.read_text().splitlines()[0])
    row["rubrics"][0]["criterion"] = "since zinc  binds there (a reply)"
    row["prompt_id"] = "other"
    source.write_text(source.read_text() + json.dumps(row) + "\n")
    report, rows = make(source)
    assert report.dropped == {"names-source": 1}
    assert len(rows) == 2


def test_prompts_of_the_evaluation_are_an_error(make, tmp_path):
    source = write_rubrics(tmp_path / "consensus.jsonl")
    by_id = write_rubrics(tmp_path / "hard.jsonl", first=2)
    with pytest.raises(BftembedError, match="made-up-2"):
        make(source, leave_out=by_id)
    by_text = tmp_path / "text.jsonl"
    by_text.write_text(by_id.read_text().replace("made-up-", "else-"))
    with pytest.raises(BftembedError, match="made-up-2"):
        make(source, leave_out=by_text)
    assert make(source, leave_out=write_rubrics(tmp_path / "apart.jsonl", first=5))[0].rows == 3
    assert not (tmp_path / "log").exists() or len(asked(tmp_path)) == 3


@pytest.mark.parametrize(
    "row", ['{"prompt": []}', "[1]", '{"prompt_id": 1, "prompt": [], "rubrics": [{"points": 1}]}', ""]
)
def test_rows_that_are_no_rubrics_are_errors(make, tmp_path, row):
    source = tmp_path / "rows.jsonl"
    source.write_text(row + "\n")
    with pytest.raises(BftembedError, match="rows.jsonl"):
        make(source)


def test_data_that_hold_an_evaluation_are_refused_and_not_written(make, tmp_path):
    held = write_rubrics(tmp_path / "hard.jsonl", n=1, canary="made-up canary 0000")
    folder = folder_of(tmp_path, a="SUBJECT-A")
    assert make(folder, leave_out=held)[0].rows == 1
    rows = json.loads(held.read_text())
    rows["canary"] = "since zinc binds there"
    held.write_text(json.dumps(rows) + "\n")
    with pytest.raises(BftembedError, match="canary"):
        make(folder, out="new", leave_out=held)
    assert not (tmp_path / "new" / "pairs.jsonl").exists()
    assert check_training_data(tmp_path / "out" / "pairs.jsonl", write_rubrics(tmp_path / "h.jsonl")) == 3


def test_texts_are_checked_against_healthbench_at_hand_and_its_other_part_is_not(make, tmp_path, monkeypatch):
    at_hand = tmp_path / "data" / "healthbench"
    at_hand.mkdir(parents=True)
    source = write_rubrics(at_hand / "consensus.jsonl", canary="since zinc binds there")
    monkeypatch.setenv("BFTEMBED_DATA", str(tmp_path / "data"))
    with pytest.raises(BftembedError, match="canary"):
        make(folder_of(tmp_path, a="SUBJECT-A"))
    assert make(source, out="replies")[0].rows == 3


# -- kills ------------------------------------------------------------------------------------------------------

_PROGRAM = "from bftembed.llm import BACKENDS; BACKENDS.entries['teacher'] = 'synthesis_tools:Teacher'; "
_PROGRAM += "from bftembed.cli import main; main()"


def _kill(tmp_path, n_genes, kills, delay):
    table = tmp_path / "texts.tsv"
    rows = [f"GENE{i}\t{'x' * 240 * (1 + i % 3)}" for i in range(n_genes)]
    table.write_text("\n".join(["symbol\tsummary", *rows, ""]))
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": tmp_path}

    def command(out, delay):
        words = [
            "tune",
            "synthesize",
            "texts.tsv",
            "--reasoning",
            "--out",
            out,
            "--teacher",
            f"teacher:log,delay={delay}",
        ]
        return [sys.executable, "-c", _PROGRAM, *words]

    subprocess.run(command("whole", 0), check=True, **quiet)
    n_asked = len(log.read_text().split())
    log.unlink()
    moments = random.Random(0)
    for number in range(kills):
        wanted = 65 * (n_asked * (number + 1) // (kills + 1))
        process = subprocess.Popen(command("out", delay), **quiet)
        while process.poll() is None and (not log.exists() or log.stat().st_size < wanted):
            time.sleep(0.01)
        time.sleep(2 * delay * moments.random())
        process.kill()
        process.wait()
        assert not (tmp_path / "out" / "pairs.jsonl").exists()
    subprocess.run(command("out", 0), check=True, **quiet)
    times = Counter(log.read_text().split())
    assert len(times) == n_asked
    assert times.total() <= n_asked + 2 * kills  # the batch in progress
    whole, killed = ((tmp_path / out / "pairs.jsonl").read_bytes() for out in ("whole", "out"))
    assert killed == whole


def test_kills_in_each_round_lose_nothing_and_ask_nothing_twice(tmp_path):
    _kill(tmp_path, n_genes=9, kills=2, delay=0.03)


@pytest.mark.slow
def test_many_kills_lose_nothing(tmp_path):
    _kill(tmp_path, n_genes=60, kills=10, delay=0.03)
