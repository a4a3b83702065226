"""The main job end to end on 40 genes, with the real model, encoder and cells."""

from __future__ import annotations

import html
import shutil

import numpy as np
import pytest

from bftembed.config import DemoConfig, ProfileSet, load_config
from bftembed.demo.floors import genes_of, merge_draws, shared_ids
from bftembed.demo.pipeline import run_demo, start
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.profiles.store import ProfileStore
from bftembed.results import Result, read_results
from bftembed.runrecord import RunRecord

ROWS = {
    "SmolLM2-135M profiles": "profile",
    "HGNC facts": "floor",
    "TF-IDF of HGNC facts": "floor",
    "gene symbols alone": "floor",
    "HGNC facts, shuffled genes": "floor",
    "random gene vectors": "floor",
    "X_pca of the file": "reference",
}

#: The tuning has tests of its own.
UNTUNED = {"tune": None, "profiles": [p for p in DemoConfig().profiles if not p.generator.startswith("tuned")]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    run_demo(DemoConfig(genes=40, out=str(out), **UNTUNED))
    return out


@pytest.mark.model
class TestTheDemo:
    def test_every_file_is_there(self, demo):
        names = {p.name for p in demo.iterdir()}
        assert {"report.html", "results.parquet", "run.json", "cells.h5ad", "config.yaml", "genes.txt"} <= names
        assert {"genes-smollm2_135m_profiles.safetensors", "genes-hgnc_facts.safetensors"} <= names
        assert load_config(demo / "config.yaml").genes == 40

    def test_both_generators_wrote_every_gene(self, demo):
        for name in ("profiles-smollm2_135m_profiles", "profiles-hgnc_facts"):
            with ProfileStore.open(demo / name) as store:
                assert len(store.profiles()) == 40

    def test_every_row_has_its_scores_and_its_kind(self, demo):
        frame = read_results(demo / "results.parquet")
        assert set(frame["embedding"]) == set(ROWS)
        assert {n.name: n.kind for n in RunRecord.load(demo).embeddings} == ROWS
        standard = frame[(frame["protocol"] == "standard") & (frame["split"] == "all")]
        counts = standard.groupby(["embedding", "metric"]).size().unstack()
        assert (counts[["ari", "ami"]] == 5).all().all()
        assert standard["value"].notna().all()
        assert standard["value"].between(-1, 1).all()

    def test_draws_of_a_floor_differ(self, demo):
        frame = read_results(demo / "results.parquet")
        drawn = frame[(frame["embedding"] == "random gene vectors") & (frame["protocol"] == "standard")]
        silhouettes = drawn[drawn["metric"] == "silhouette"]
        assert sorted(silhouettes["seed"]) == [0, 1, 2, 3, 4]
        assert silhouettes["value"].nunique() == 5

    def test_the_scores_are_those_of_the_vectors_in_the_file(self, demo):
        import bftembed

        again = bftembed.bench.clustering(
            demo / "cells.h5ad", ["X_hgnc_facts", "X_pca"], "bulk_labels", protocol="standard"
        )
        ours = read_results(demo / "results.parquet").set_index(["embedding", "protocol", "metric", "split", "seed"])
        for row in again[(again["metric"] == "ari") & (again["protocol"] == "standard")].itertuples():
            name = {"X_hgnc_facts": "HGNC facts", "X_pca": "X_pca of the file"}[row.embedding]
            assert ours.loc[(name, "standard", "ari", "all", row.seed), "value"] == pytest.approx(row.value)

    def test_a_second_run_writes_no_profile_and_gives_equal_results(self, demo):
        before = (demo / "results.parquet").read_bytes()
        run_demo(DemoConfig(genes=40, out=str(demo), **UNTUNED))
        assert (demo / "results.parquet").read_bytes() == before
        assert "0 written, 40 from the store" in [s.detail for s in RunRecord.load(demo).steps]

    def test_another_folder_with_the_same_stores_gives_equal_results(self, demo, tmp_path):
        for name in ("profiles-smollm2_135m_profiles", "profiles-hgnc_facts"):
            shutil.copytree(demo / name, tmp_path / "other" / name)
        run_demo(DemoConfig(genes=40, out=str(tmp_path / "other"), **UNTUNED))
        assert (tmp_path / "other" / "results.parquet").read_bytes() == (demo / "results.parquet").read_bytes()

    def test_the_report_shows_what_ran(self, demo):
        text = html.unescape((demo / "report.html").read_text())
        for wanted in (*ROWS, "bftembed profiles generate", "truncated", "135 million", "Coverage", "<svg", "seeds"):
            assert wanted in text, wanted
        assert "<script" not in text


def test_the_most_expressed_genes_are_taken_in_the_files_order(pbmc_path):
    run = start(DemoConfig(genes=10))
    raw = run.cells.raw
    means = dict(zip(raw.var_names, np.asarray(raw.X.mean(axis=0)).ravel(), strict=True))
    assert set(run.genes) == set(sorted(means, key=means.get, reverse=True)[:10])
    order = list(raw.var_names)
    assert [order.index(g) for g in run.genes] == sorted(order.index(g) for g in run.genes)
    assert genes_of(run.cells, use_raw=True, most_expressed=None) == order
    assert genes_of(run.cells, use_raw=True, most_expressed=10_000) == order


def test_only_shared_genes_are_compared():
    one = GeneEmbeddings(["A", "B", "C"], np.ones((3, 2)))
    two = GeneEmbeddings(["C", "A"], np.ones((2, 2)))
    assert shared_ids([one, two]) == ["A", "C"]


def test_draw_i_of_a_floor_keeps_the_scores_of_seed_i():
    def row(key, metric, seed, value, split="all"):
        return Result(
            run="r", embedding=key, task="clustering", protocol="standard", metric=metric, split=split, seed=seed,
            value=value, n_used=1,
        )  # fmt: skip

    given = [row(f"X_r_{draw}", "ari", seed, 10 * draw + seed) for draw in range(2) for seed in range(2)]
    given += [row("X_r_1", "silhouette", None, 7.0), row("X_r_1", "silhouette", None, 6.0, "ci95-low")]
    given += [row("X_one", "ari", seed, seed) for seed in range(2)]
    merged = merge_draws(given, {"random": ["X_r_0", "X_r_1"], "one": ["X_one"]})
    values = {(r.embedding, r.metric, r.seed): r.value for r in merged}
    assert values == {
        ("random", "ari", 0): 0,
        ("random", "ari", 1): 11,
        ("random", "silhouette", 1): 7.0,
        ("one", "ari", 0): 0,
        ("one", "ari", 1): 1,
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cells": "no/such.h5ad"}, BftembedError, "No such file: no/such.h5ad"),
        ({"cells": "builtin:pbmc68k"}, UnknownNameError, "Did you mean 'pbmc68k_reduced'"),
        ({"label": "bulk_label"}, UnknownNameError, "obs column 'bulk_label'.*Did you mean 'bulk_labels'"),
        ({"reference": "X_pc"}, UnknownNameError, "obsm key 'X_pc'.*Did you mean 'X_pca'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        run_demo(DemoConfig(**{"out": str(tmp_path / "out"), **change}))
    assert not (tmp_path / "out").exists()


def test_a_smaller_run_in_the_same_folder_takes_its_own_genes_alone(tmp_path):
    sets = [ProfileSet(name="a", generator="scripted"), ProfileSet(name="b", generator="scripted:seed=1")]
    base = {"profiles": sets, "encoder": "tfidf", "seeds": 2}
    run_demo(DemoConfig(genes=30, out=str(tmp_path / "one"), **base))
    run_demo(DemoConfig(genes=12, out=str(tmp_path / "one"), **base))
    run_demo(DemoConfig(genes=12, out=str(tmp_path / "two"), **base))
    assert (tmp_path / "one" / "results.parquet").read_bytes() == (tmp_path / "two" / "results.parquet").read_bytes()
    assert "135 million" not in (tmp_path / "one" / "report.html").read_text()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([("a", "facts", []), ("A", "scripted", [])], "profiles.1.name 'A' is empty or stands for another row"),
        ([("random gene vectors", "facts", [])], "stands for another row"),
        ([("!", "facts", [])], "is empty or stands"),
        ([("a", "fact", [])], "Did you mean 'facts'"),
        ([("a", "facts", ["truncatd"])], "Did you mean 'truncated'"),
    ],
)
def test_sets_that_would_fail_later_are_refused_at_once(tmp_path, sets, message):
    given = [ProfileSet(name=n, generator=g, allow_marks=m) for n, g, m in sets]
    with pytest.raises(BftembedError, match=message):
        run_demo(DemoConfig(genes=5, out=str(tmp_path / "out"), profiles=given))
    with pytest.raises(UnknownNameError, match="Did you mean 'tfidf'"):
        run_demo(DemoConfig(genes=5, out=str(tmp_path / "out"), encoder="tfidff"))
    assert not (tmp_path / "out").exists()


def test_cells_that_are_no_h5ad_are_named(tmp_path):
    (tmp_path / "junk.h5ad").write_text("junk")
    with pytest.raises(BftembedError, match="junk.h5ad is not a HDF5 file"):
        run_demo(DemoConfig(cells=str(tmp_path / "junk.h5ad"), out=str(tmp_path / "out")))


def test_sets_without_genes_in_common_are_an_error(tmp_path):
    sets = [
        ProfileSet(name="a", generator="scripted:refuse=0.5"),
        ProfileSet(name="b", generator="scripted:empty=0.5,fail=0.5"),
    ]
    with pytest.raises(BftembedError, match="have [01] genes in common|None of the 5 profiles"):
        run_demo(DemoConfig(genes=5, out=str(tmp_path), profiles=sets, encoder="tfidf"))
