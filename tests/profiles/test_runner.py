"""The runner: nothing twice, nothing lost, every name accounted for."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles

GENES = [
    "TP53", "EGFR", "MYC", "KRAS", "BRCA1", "BRCA2", "CD3D", "CD3E", "CD4", "CD8A", "MS4A1", "LYZ",
    "NKG7", "IL7R", "CCR7", "S100A4", "FCGR3A", "GNLY", "PPBP", "CST3", "HLA-DRA", "CD79A", "CD14", "FCER1A",
]  # fmt: skip

#: Processes of a server without threads: an interpreter of its own would take a second to start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["bftembed.profiles.generate", "bftembed.llm.backends.scripted"])
#: A shell's background job, and all it starts, ignores SIGINT.
HEED_SIGINT = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


def contents(folder):
    with AnswerStore.open(folder) as store:
        return store.digest(), store.answers()


def test_a_rerun_writes_nothing_again(tmp_path):
    log = tmp_path / "log"
    spec = f"scripted:log={log},batch=5"
    first = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    assert (first.written, first.already_stored, first.entities) == (24, 0, 24)
    before = contents(tmp_path / "s")
    second = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    assert (second.written, second.already_stored) == (0, 24)
    assert contents(tmp_path / "s") == before
    assert Counter(log.read_text().split()) == Counter(GENES)


def test_a_killed_run_resumes_without_loss_and_repeats_at_most_the_batch_in_flight(tmp_path):
    """Kill -9 at 20 seeded moments: from before the first item to after the last."""
    batch = 4
    whole = generate_profiles(GENES, generator=f"scripted:batch={batch},fail=0.1,loop=0.1", out=tmp_path / "whole")
    assert whole.failed
    expected, _ = contents(tmp_path / "whole")
    choose = random.Random(20251121)
    for trial in range(20):
        out, log = tmp_path / f"s{trial}", tmp_path / f"log{trial}"
        spec = f"scripted:batch={batch},fail=0.1,loop=0.1,delay=0.01,log={log}"
        child = FORKS.Process(target=generate_profiles, args=(GENES,), kwargs={"generator": spec, "out": out})
        child.start()
        if trial >= 2:  # else while it starts
            wanted = choose.randrange(0, len(GENES))
            while not log.exists() or log.read_text().count("\n") < wanted:
                time.sleep(0.001)
        time.sleep(choose.uniform(0, 0.012))
        child.kill()
        child.join()
        kept = set()
        if (out / "profiles.sqlite").exists() and (out / "profiles.sqlite").stat().st_size:
            with AnswerStore.writing(out) as store:
                kept = {p.entity for p in store.answers()}
        tried_before = Counter(log.read_text().split()) if log.exists() else Counter()
        generate_profiles(GENES, generator=spec, out=out)
        tried = Counter(log.read_text().split())
        assert contents(out)[0] == expected, f"trial {trial}"
        twice = {entity for entity, n in tried.items() if n > 1}
        assert max(tried.values()) <= 2
        assert len(twice) <= batch, f"trial {trial}: {twice}"
        assert not twice & kept, "a committed profile was written again"
        assert len(tried_before) - len(kept) <= batch


def test_what_came_out_before_a_crash_is_kept(tmp_path):
    with pytest.raises(RuntimeError, match="scripted crash"):
        generate_profiles(GENES, generator="scripted:batch=4,crash_after=10", out=tmp_path / "s")
    _, profiles = contents(tmp_path / "s")
    assert len(profiles) == 10
    assert generate_profiles(GENES, generator="scripted:batch=4", out=tmp_path / "s").written == 14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_finished_items_and_exits_with_130(tmp_path, number):
    log = tmp_path / "log"
    code = (
        "import sys; from bftembed.cli import main; sys.argv = ['bftembed', 'profiles', 'generate', "
        f"'{','.join(GENES)}', '--generator', 'scripted:delay=0.1,batch=8,log={log}', '--out', "
        f"'{tmp_path / 's'}']; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, preexec_fn=HEED_SIGINT)
    while not log.exists() or log.read_text().count("\n") < 11:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command to go on" in err
    assert "Traceback" not in err
    assert len(contents(tmp_path / "s")[1]) >= 10


def test_failed_items_stay_failed_until_they_are_retried(tmp_path):
    spec = "scripted:fail=0.3,fail_attempts=2"
    first = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    assert 0 < len(first.failed) < 24
    assert first.marks["failed"] == len(first.failed)
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s").failed == first.failed
    again = generate_profiles(GENES, generator=spec, out=tmp_path / "s", retry_failed=True)
    assert (again.failed, again.written) == (first.failed, len(first.failed))
    healed = generate_profiles(GENES, generator=spec, out=tmp_path / "s", retry_failed=True)
    assert healed.failed == ()
    attempts = {p.entity: p.attempts for p in contents(tmp_path / "s")[1]}
    assert all(attempts[e] == (3 if e in first.failed else 1) for e in GENES)


def test_bad_texts_are_marked_and_counted(tmp_path):
    report = generate_profiles(
        GENES,
        generator="scripted:refuse=0.15,loop=0.15,empty=0.15,truncate=0.15,off_topic=0.15",
        out=tmp_path / "s",
    )
    assert {m for m, n in report.marks.items() if n} == {"ok", "refusal", "looping", "empty", "truncated", "off-topic"}
    empty = [p for p in contents(tmp_path / "s")[1] if "empty" in p.marks]
    assert all(p.text == "" and p.reasoning.startswith("<think>") for p in empty)


def test_names_are_mapped_and_unknown_ones_skipped_kept_or_refused(tmp_path):
    names = ["TP53", "P53", "ENSG00000141510.18", "not-a-gene", "../x", "EGFR"]
    report = generate_profiles(names, generator="scripted", out=tmp_path / "skip")
    assert report.skipped == ("not-a-gene", "../x")
    assert (report.entities, report.duplicates) == (2, 2)
    assert report.resolution["missing"] == 2
    kept = generate_profiles(names, generator="scripted", out=tmp_path / "keep", unknown="keep")
    assert kept.entities == 4
    assert [p.entity for p in contents(tmp_path / "keep")[1]] == ["../x", "EGFR", "TP53", "not-a-gene"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keep", "skip"]
    with pytest.raises(BftembedError, match="2 of 6 names cannot be resolved: 'not-a-gene', '../x'"):
        generate_profiles(names, generator="scripted", out=tmp_path / "error", unknown="error")
    with pytest.raises(BftembedError, match="2 of 2 names cannot be resolved"):
        generate_profiles(["no-gene-1", "no-gene-2"], generator="scripted", out=tmp_path / "none")
    assert not (tmp_path / "error").exists()


def test_a_list_is_resolved_once_and_passes_few_files(tmp_path, monkeypatch):
    calls, whole = [], GeneIndex.resolve
    monkeypatch.setattr(GeneIndex, "resolve", lambda self, names: calls.append(list(names)) or whole(self, names))

    def passed(names):
        """File of bftembed → function calls in it, floor 0 (io, registry …) left out."""
        found = Counter()

        def count(frame, event, arg):
            file = frame.f_code.co_filename.rpartition("/bftembed/")[2]
            if event == "call" and "/" in file and "/bftembed/" in frame.f_code.co_filename:
                found[file] += 1

        gc.collect()
        gc.disable()  # what earlier tests left is not finalized in between
        sys.setprofile(count)
        try:
            generate_profiles(names, generator="scripted", out=tmp_path / str(len(names)))
        finally:
            sys.setprofile(None)
            gc.enable()
        return found

    passed(GENES[:1])  # the index is built
    few, many = passed(GENES[:4]), passed(GENES)
    assert calls == [GENES[:1], GENES[:4], GENES]
    assert len({file for file in many if many[file] > few[file]}) <= 9


def test_proteins_are_profiled_by_antibody_name_and_once_each(tmp_path):
    names = ["CD3", "CD45RA", "PD-1", "CD279", "anti-PD-1"]
    report = generate_profiles(names, generator="facts", kind="protein", out=tmp_path / "s")
    assert (report.entities, report.duplicates, report.failed) == (3, 2, ())
    texts = {p.entity: p.text for p in contents(tmp_path / "s")[1]}
    assert "CD3E" in texts["CD3"]
    assert "PTPRC" in texts["CD45RA"]
    assert "PDCD1" in texts


def test_a_generator_that_leaves_requests_out_is_counted_as_failing(tmp_path, monkeypatch):
    from bftembed.llm.backends.scripted import Scripted

    whole = Scripted.generate
    monkeypatch.setattr(Scripted, "generate", lambda self, requests: list(whole(self, requests))[:-1])
    report = generate_profiles(GENES[:4], generator="scripted", out=tmp_path / "s")
    assert report.failed == (GENES[3],)


def test_an_answer_that_ended_in_an_error_has_failed_whatever_was_written(tmp_path, monkeypatch):
    from bftembed.llm.backends.scripted import Scripted

    whole = Scripted.generate
    endings = iter(("abort", "ERROR", "", "stop"))
    monkeypatch.setattr(
        Scripted,
        "generate",
        lambda self, requests: [replace(c, finish_reason=next(endings)) for c in whole(self, requests)],
    )
    report = generate_profiles(GENES[:4], generator="scripted", out=tmp_path / "s")
    found = {p.entity: (p.marks, p.finish_reason, bool(p.text), bool(p.reasoning)) for p in contents(tmp_path / "s")[1]}
    assert report.failed == tuple(sorted(GENES[:2]))
    assert [found[gene] for gene in GENES[:4]] == [
        (("failed",), "error", False, True),
        (("failed",), "error", False, True),
        (("unknown-finish",), "unknown", True, False),
        ((), "stop", True, False),
    ]


@pytest.mark.parametrize("options", [{"kind": "genes"}, {"unknown": "drop"}, {"prompt": "bft-protein"}])
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, options):
    with pytest.raises(BftembedError):
        generate_profiles(["TP53"], generator="scripted", out=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()
