"""The pipeline on 40 genes, with the real model, encoder and cells: values, resume, bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from tests_paths import REPOSITORY

from bftembed.config import RunConfig, load_config
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.store import AnswerStore
from bftembed.pipeline import fact_pairs, plan_pipeline, run_pipeline
from bftembed.report.manifest import Manifest
from bftembed.tasks.base import read_results

KINDS = {
    "SmolLM2-135M": "subject",
    "HGNC facts": "baseline",
    "X_pca": "reference",
    "tfidf": "baseline",
    "symbol": "baseline",
    "shuffled": "shuffled",
    "random 1": "random",
    "random 2": "random",
}


def config_of(out, **changes):
    values = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
    values |= {"out": str(out), "tune": None, "n_genes": 40, "maps": False}
    values["profiles"] = [p for p in values["profiles"] if not p["generator"].startswith("tuned")]
    values["benchmarks"][0] |= {"baselines": "symbol,tfidf,shuffled,random:2", "seeds": 2}
    return RunConfig.model_validate(values | changes)


def facts_config(out, **changes):
    """A run without a language model: seconds, for what does not depend on one."""
    return config_of(out, profiles=[{"name": "facts", "generator": "facts"}], encoders=["tfidf"], **changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("pipeline") / "run"
    run_pipeline(config_of(out))
    return out


@pytest.mark.model
class TestARun:
    def test_writes_every_file(self, done):
        names = {p.name for p in done.iterdir()}
        assert {"report.html", "results.parquet", "run.json", "cells.h5ad", "config.yaml", "genes.txt"} <= names
        assert {"genes-smollm2_135m.safetensors", "genes-hgnc_facts.safetensors"} <= names
        assert not [n for n in names if n.startswith(".cells")]

    def test_has_a_profile_of_every_gene(self, done):
        for name in ("profiles-smollm2_135m", "profiles-hgnc_facts"):
            with AnswerStore.open(done / name) as store:
                assert len(store.answers()) == 40

    def test_scores_sets_baselines_and_references_as_such(self, done):
        frame = read_results(done / "results.parquet")
        frame = frame[frame["kind"] != "chance"]
        assert dict(zip(frame["subject"], frame["kind"], strict=True)) == KINDS
        assert frame["value"].notna().all()

    def test_scores_are_those_of_the_vectors_in_the_file(self, done):
        import bftembed

        again = bftembed.bench.clustering(
            done / "cells.h5ad", "X_hgnc_facts", "bulk_labels", protocol="standard", seeds=2
        )
        ours = read_results(done / "results.parquet")
        key = ["metric", "seed"]
        of_set = ours[(ours["subject"] == "HGNC facts") & (ours["kind"] == "baseline")].set_index(key)["value"]
        fresh = again[again["kind"] == "subject"].set_index(key)["value"]
        assert of_set.to_dict() == pytest.approx(fresh.to_dict(), nan_ok=True)

    def test_done_again_writes_no_profile_and_equal_results(self, done):
        before = (done / "results.parquet").read_bytes()
        run_pipeline(config_of(done))
        assert (done / "results.parquet").read_bytes() == before
        details = [s.detail for s in Manifest.load(done).steps]
        assert "0 written, 40 from the store" in details


def test_prompts_and_models_are_compared_in_one_report(tmp_path):
    prompts = {"short": "What is {name}?", "aliases": "What is {name}, also called {aliases}?"}
    for name, text in prompts.items():
        (tmp_path / f"{name}.yaml").write_text(f"user: '{text}'\n")
    sets = [
        {"name": f"{name} {seed}", "generator": f"scripted:seed={seed}", "prompt": str(tmp_path / f"{name}.yaml")}
        for name in prompts
        for seed in (0, 1)
    ]
    out = tmp_path / "run"
    run_pipeline(config_of(out, profiles=sets, encoders=["tfidf"]))
    subjects = set(read_results(out / "results.parquet").query("kind == 'subject'").subject)
    assert subjects == {one["name"] for one in sets}
    assert all(one["name"] in (out / "report.html").read_text() for one in sets)


def test_a_dry_run_says_what_is_there_and_how_long_the_rest_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    new = facts_config(tmp_path / "new")
    assert {(step.done, step.seconds) for step in plan_pipeline(new)} == {(False, None)}
    run_pipeline(facts_config(tmp_path / "run"))
    assert {(step.done, step.seconds) for step in plan_pipeline(facts_config(tmp_path / "run"))} == {(True, 0.0)}
    took = {step.name: step.seconds for step in Manifest.load(tmp_path / "run").steps}
    planned = {step.name: step.seconds for step in plan_pipeline(new)}
    assert planned == pytest.approx(took, abs=0.1)
    half = plan_pipeline(facts_config(tmp_path / "new", n_genes=20))
    assert half[0].seconds == pytest.approx(planned["profiles: facts"] / 2)
    assert not (tmp_path / "new").exists()
    (tmp_path / "run" / "profiles-facts" / "profiles.sqlite").unlink()
    assert not any(step.done for step in plan_pipeline(facts_config(tmp_path / "run")))


def test_most_expressed_genes_are_taken_in_the_files_order(tmp_path, pbmc_path):
    import anndata

    raw = anndata.read_h5ad(pbmc_path).raw
    run_pipeline(facts_config(tmp_path / "run", n_genes=10))
    taken = (tmp_path / "run" / "genes.txt").read_text().split()
    means = dict(zip(raw.var_names, np.asarray(raw.X.mean(axis=0)).ravel(), strict=True))
    assert set(taken) == set(sorted(means, key=means.get, reverse=True)[:10])
    assert taken == [g for g in raw.var_names if g in set(taken)]


def test_a_changed_benchmark_is_scored_anew_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    run_pipeline(facts_config(out))
    cells = (out / "cells.h5ad").stat().st_mtime_ns
    again = facts_config(out)
    more = again.model_copy(update={"benchmarks": [again.benchmarks[0].model_copy(update={"label": "louvain"})]})
    run_pipeline(more)
    assert set(read_results(out / "results.parquet")["run"]) == {"10x_pbmc68k_reduced/louvain"}
    assert (out / "cells.h5ad").stat().st_mtime_ns == cells


@pytest.mark.parametrize("after", ["genes.txt", "profiles-facts", "genes-facts.safetensors", "cells.h5ad"])
def test_killed_in_a_step_goes_on_from_it(tmp_path, after):
    """Killed as soon as the output of a step is there; the next run ends with the results of one that was not."""
    whole = tmp_path / "whole"
    run_pipeline(facts_config(whole))
    out = tmp_path / "killed"
    config = facts_config(out)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump()))
    code = f"from bftembed.pipeline import run_pipeline; run_pipeline({str(tmp_path / 'c.yaml')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
    while not (out / after).exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run_pipeline(config)
    columns = ["subject", "kind", "metric", "seed", "value", "low", "high"]
    frames = [read_results(folder / "results.parquet")[columns] for folder in (whole, out)]
    assert frames[0].equals(frames[1])
    assert not list(out.glob(".cells-*.h5ad"))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"cells": "no/such.h5ad"}, BftembedError, "no/such.h5ad"),
        ({"cells": "builtin:pbmc68k"}, UnknownNameError, "pbmc68k_reduced"),
        ({"reference": "X_pc"}, UnknownNameError, "X_pca"),
        ({"encoders": ["tfdif"]}, UnknownNameError, "tfidf"),
        ({"benchmarks": [{"task": "clustering", "label": "bulk_label"}]}, UnknownNameError, "bulk_labels"),
        ({"benchmarks": [{"task": "clustering", "label": "bulk_labels", "baselines": "pac"}]}, UnknownNameError, "pca"),
        ({"profiles": [{"name": "a", "generator": "fatcs"}]}, UnknownNameError, "facts"),
        ({"profiles": [{"name": "a", "generator": "facts", "allow_marks": ["cut"]}]}, UnknownNameError, "cut"),
        ({"profiles": [{"name": "a", "generator": "tuned"}]}, BftembedError, "'tune'"),
        ({"profiles": [{"name": n, "generator": "facts"} for n in ("a b", "A-b")]}, BftembedError, "'A-b'|'a b'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(tmp_path, change, error, named):
    with pytest.raises(error, match=named):
        run_pipeline(config_of(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_run_on_other_cells_is_kept(tmp_path, pbmc_path):
    out = tmp_path / "run"
    run_pipeline(facts_config(out))
    before = (out / "results.parquet").read_bytes()
    other = tmp_path / "other.h5ad"
    shutil.copy(pbmc_path, other)
    with pytest.raises(BftembedError):
        run_pipeline(facts_config(out, cells=str(other)))
    assert (out / "results.parquet").read_bytes() == before


def test_a_missing_extra_is_said_before_the_profiles(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    strict = [{"task": "clustering", "label": "bulk_labels", "protocol": "strict"}]
    with pytest.raises(BftembedError, match="igraph"):
        run_pipeline(config_of(tmp_path / "out", benchmarks=strict))
    assert not (tmp_path / "out").exists()


def test_facts_to_learn_from_are_of_genes_that_are_not_profiled():
    from bftembed.profiles.prompts import get_prompt

    prompt = get_prompt(None, "gene")
    pairs = fact_pairs(["CD3D", "MS4A1"], 50, 0, prompt)
    assert len(pairs) == 50
    assert not {"CD3D", "MS4A1"} & {pair.where for pair in pairs}
    assert [t.content for t in pairs[0].turns[:-1]] == [m["content"] for m in prompt.messages(pairs[0].where)]
    assert [p.where for p in fact_pairs(["CD3D", "MS4A1"], 50, 0, prompt)] == [p.where for p in pairs]


def test_the_demo_is_a_config_of_the_pipeline():
    config = load_config(REPOSITORY / "configs" / "demo.yaml")
    assert (config.tune.objective.name, config.n_genes) == ("bft", 200)
    assert [p.name for p in config.profiles if p.baseline] == ["HGNC facts"]
