"""Shards, limits, kinds and merging: parts make the whole, whatever the order."""

from __future__ import annotations

import pytest

from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import _read_entities, generate_profiles, merge_stores

NAMES = [f"made-up {i}" for i in range(60)]
SPEC = "scripted:batch=7,fail=0.1,loop=0.1"


def digest(folder):
    with AnswerStore.open(folder) as store:
        return store.digest()


def run(out, names=NAMES, spec=SPEC, **options):
    return generate_profiles(names, generator=spec, out=out, **{"unknown": "keep", **options})


def test_merged_shards_are_the_unsharded_run(tmp_path):
    run(tmp_path / "whole")
    reports = [run(tmp_path / f"s{i}", shard=f"{i}/4") for i in range(1, 5)]
    assert sum(r.entities for r in reports) == 60
    assert all(r.entities for r in reports)
    folders = [tmp_path / f"s{i}" for i in (3, 1, 4, 2)]
    merged = merge_stores(folders, tmp_path / "merged")
    assert (merged["added"], merged["same"]) == (60, 0)
    assert digest(tmp_path / "merged") == digest(tmp_path / "whole")
    again = merge_stores(folders, tmp_path / "merged")
    assert (again["added"], again["same"]) == (0, 60)
    assert run(tmp_path / "merged").written == 0


def test_a_longer_list_moves_no_entity_to_another_shard():
    def shard(names, i):
        listed = _read_entities(names, "drug", shard=f"{i}/5")
        return {listed.entities[number] for number in listed.chosen}

    shards = [shard(NAMES, i) for i in range(1, 6)]
    assert sum(map(len, shards)) == len(set().union(*shards)) == len(NAMES)
    assert shards[2] < shard([*NAMES, *map(str, range(99))], 3)


def test_a_success_takes_the_place_of_a_failure_and_not_the_other_way(tmp_path):
    spec = "scripted:fail=0.5,fail_attempts=1"
    for folder, retry in (("failed", False), ("retried", False), ("retried", True)):
        run(tmp_path / folder, spec=spec, retry_failed=retry)
    for order in (("failed", "retried"), ("retried", "failed")):
        out = tmp_path / "-".join(order)
        merge_stores([tmp_path / name for name in order], out)
        assert digest(out) == digest(tmp_path / "retried")


def test_other_texts_under_the_same_key_are_refused(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b")
    with AnswerStore.writing(tmp_path / "b") as store, store._transaction() as cursor:
        cursor.execute("UPDATE answers SET text = 'tampered' WHERE entity = 'made-up 7'")
    with pytest.raises(BftembedError, match="other texts than the stores before it for 'made-up 7'"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert digest(tmp_path / "out") == digest(tmp_path / "a")


def test_what_is_no_store_is_refused_before_anything_is_written(tmp_path):
    run(tmp_path / "a")
    for parts, message in (
        ([tmp_path / "a", tmp_path / "none"], "No profile store in"),
        ([], "Name the folders"),
        ([tmp_path / "a", tmp_path / "out"], "another one"),
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(BftembedError, match=message):
            merge_stores(parts, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_a_limit_takes_the_first_and_a_larger_one_goes_on(tmp_path):
    assert run(tmp_path / "s", limit=10).entities == 10
    with AnswerStore.open(tmp_path / "s") as store:
        assert {p.entity for p in store.answers()} == set(NAMES[:10])
    assert run(tmp_path / "s", limit=15).written == 5
    for wrong in ({"limit": 0}, {"shard": "5/4"}):
        with pytest.raises(BftembedError, match=f"--{next(iter(wrong))}"):
            run(tmp_path / "s", **wrong)


def test_cell_types_and_drugs_are_taken_as_they_are_called(tmp_path):
    drugs = ["imatinib", " nilotinib  (Tasigna)", "imatinib"]
    context = {"imatinib": "a kinase inhibitor"}
    report = run(tmp_path / "s", names=drugs, kind="drug", context=context, unknown="error", spec="scripted")
    assert (report.entities, report.prompt) == (2, "bft-drug@1")
    assert run(tmp_path / "s", names=["B cell"], kind="cell-type", unknown="error", spec="scripted").written == 1
    with AnswerStore.open(tmp_path / "s") as store:
        assert {(p.kind, p.entity) for p in store.answers()} == {
            ("drug", "imatinib"),
            ("drug", "nilotinib (Tasigna)"),
            ("cell-type", "B cell"),
        }
        messages = dict(store._select("SELECT entity, messages FROM answers"))
    assert "Context: a kinase inhibitor" in messages["imatinib"]
    assert "Context" not in messages["B cell"]
