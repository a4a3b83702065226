"""Scores that were computed before are found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gene_toys import binary, card, signal, symbols, vectors

import bftembed
from bftembed.tasks.genes import suite
from bftembed.tasks.genes.cache import ScoreCache, arrays_digest, score_key
from bftembed.tasks.genes.definition import single_task
from bftembed.tasks.genes.setup import Embedding, Settings


def run(folder, embeddings, tasks, **options):
    cache = ScoreCache(folder)
    settings = Settings(**{"seeds": (0,), "n_replicates": 20, **options})
    results = suite.run({n: Embedding(v) for n, v in embeddings.items()}, tasks, settings, cache=cache)
    return bftembed.results.to_frame(results), cache


@pytest.fixture
def toy():
    """Give a multilabel task, whose probe is the quickest, and three embeddings."""
    labels = np.random.default_rng(0).random((40, 2)) < 0.4
    task = single_task(card(), "multilabel", symbols(40), labels, label_names=["x", "y"])
    return task, {name: vectors(task.genes, signal(labels[:, 0], d=4, seed=i)) for i, name in enumerate("abc")}


def test_what_was_put_is_found_and_all_else_is_absent(tmp_path):
    cache = ScoreCache(tmp_path / "new" / "folder")
    scores = [np.arange(3.0), np.array([1, 2]), np.ones((2, 3), np.float32)]
    assert cache.get("key", 3) is None
    cache.put("key", scores)
    found = cache.get("key", 3)
    assert [f.dtype for f in found] == [s.dtype for s in scores]
    assert all((f == s).all() for f, s in zip(found, scores, strict=True))
    assert cache.get("other", 3) is None
    assert cache.get("key", 4) is None
    assert (cache.n_found, cache.n_computed) == (1, 1)
    nothing = ScoreCache(None)
    nothing.put("key", scores)
    assert nothing.get("key", 3) is None
    assert (nothing.n_found, nothing.n_computed) == (0, 1)


def test_a_damaged_file_counts_as_absent_whatever_the_damage(tmp_path):
    cache = ScoreCache(tmp_path)
    scores = [np.arange(4.0), np.arange(3.0)]
    cache.put("key", scores)
    file = tmp_path / "key.npz"
    whole = file.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 7)] + [b"", b"text", whole[:50] + whole[60:]]
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= 1 << i % 8
        damaged.append(bytes(changed))
    for data in damaged:
        file.write_bytes(data)
        found = cache.get("key", 2)
        assert found is None or all(np.array_equal(f, s) for f, s in zip(found, scores, strict=True))
    file.unlink()
    file.mkdir()
    assert cache.get("key", 2) is None


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    np.savez(tmp_path / "key.npz", fold0=np.array([Bad()], dtype=object))
    assert ScoreCache(tmp_path).get("key", 1) is None


@pytest.mark.parametrize("protocol", ["strict", "genept"])
def test_a_rerun_computes_nothing_and_gives_the_same(tmp_path, toy, protocol):
    task, embeddings = toy
    options = {"protocols": (protocol,)}
    if protocol == "genept":
        task, labels = binary(20)
        embeddings = {"a": vectors(task.genes, signal(labels))}
    first, cache = run(tmp_path, embeddings, [task], **options)
    assert cache.n_found == 0
    assert cache.n_computed == len(list(tmp_path.glob("*.npz"))) > 0
    again, rerun = run(tmp_path, embeddings, [task], **options)
    assert (rerun.n_found, rerun.n_computed) == (cache.n_computed, 0)
    assert again.equals(first)
    without, none = run(None, embeddings, [task], **options)
    assert without.equals(first)
    assert none.n_computed == cache.n_computed


def test_one_more_embedding_computes_only_its_own_fits(tmp_path, toy):
    task, embeddings = toy
    two = {n: embeddings[n] for n in "ab"}
    before, _ = run(tmp_path, two, [task])
    after, cache = run(tmp_path, embeddings, [task])
    # Its own scores, and those of its permuted labels.
    assert cache.n_computed == 2
    old = after[~after["embedding"].isin(["c", "floor: permuted labels of c"])]
    old_before = before[~before["metric"].str.endswith("_above_floor")]
    old_after = old[~old["metric"].str.endswith("_above_floor")]
    assert old_after.reset_index(drop=True).equals(old_before.reset_index(drop=True))
    alone, fresh = run(None, {"c": embeddings["c"]}, [task])
    mine = [f[(f["embedding"] == "c") & (f["metric"] == "roc_auc")]["value"].tolist() for f in (alone, after)]
    assert mine[0] == mine[1]
    assert fresh.n_computed > 2


def test_a_rename_computes_nothing(tmp_path, toy):
    task, embeddings = toy
    run(tmp_path, {"a": embeddings["a"]}, [task])
    _, cache = run(tmp_path, {"other name": embeddings["a"]}, [task])
    assert cache.n_computed == 0


def test_changed_vectors_labels_seeds_and_probes_are_computed_anew(tmp_path):
    task, labels = binary(30)
    mine = {"a": vectors(task.genes, signal(labels, d=4))}
    options = {"floors": False}
    assert run(tmp_path, mine, [task], **options)[1].n_computed == 1
    matrix = mine["a"].matrix
    changed = matrix.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    for other in (changed, matrix.astype(np.float64), np.roll(matrix, 1, axis=1)):
        assert run(tmp_path, {"a": vectors(task.genes, other)}, [task], **options)[1].n_computed == 1
    labels = task.labels.copy()
    labels[[0, np.flatnonzero(labels != labels[0])[0]]] = labels[[np.flatnonzero(labels != labels[0])[0], 0]]
    assert run(tmp_path, mine, [replace(task, labels=labels)], **options)[1].n_computed == 1
    assert run(tmp_path, mine, [task], seeds=(1,), **options)[1].n_computed == 1
    assert run(tmp_path, mine, [task], seeds=(0, 1), **options)[1].n_computed == 1
    assert run(tmp_path, mine, [task], probes=("mlp",), **options)[1].n_computed == 1
    assert run(tmp_path, mine, [task], **options)[1].n_computed == 0


def test_a_damaged_score_is_computed_again_and_mended(tmp_path, toy):
    task, embeddings = toy
    first, cache = run(tmp_path, embeddings, [task])
    files = sorted(tmp_path.glob("*.npz"))
    files[0].write_bytes(files[0].read_bytes()[:40])
    files[1].write_bytes(b"")
    again, rerun = run(tmp_path, embeddings, [task])
    assert rerun.n_computed == 2
    assert again.equals(first)
    assert run(tmp_path, embeddings, [task])[1].n_computed == 0
    assert cache.n_computed == len(files)


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path, toy):
    task, embeddings = toy
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(bftembed.BftembedError, match="file"):
        run(tmp_path / "file", embeddings, [task], floors=False)


def test_digests_tell_dtype_shape_and_value_apart():
    a = np.arange(6.0)
    others = [a.astype(np.float32), a.reshape(2, 3), a + 1, np.arange(6)]
    digests = {arrays_digest([x]) for x in [a, *others]}
    assert len(digests) == 5
    assert arrays_digest([a.reshape(2, 3).T]) == arrays_digest([np.ascontiguousarray(a.reshape(2, 3).T)])
    assert score_key(probe="a", plan="b") != score_key(probe="b", plan="a")
