"""The pipeline on 12 genes, with the real model, encoder and cells, and its evaluations: values, resume, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from evaluation_tools import ROW, write_csv
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
    values |= {"out": str(out), "tune": None, "n_genes": 12, "maps": False}
    values["profiles"] = [p for p in values["profiles"] if not p["generator"].startswith("tuned")]
    values["benchmarks"][0] |= {"baselines": "symbol,tfidf,shuffled,random:2", "seeds": 2}
    return RunConfig.model_validate(values | changes)


def facts_config(out, **changes):
    """A run without a language model: seconds, for what does not depend on one."""
    scored = {"task": "clustering", "protocol": "standard", "label": "bulk_labels", "baselines": "random", "seeds": 1}
    sets = [{"name": "facts", "generator": "facts"}]
    return config_of(out, **{"profiles": sets, "encoders": ["tfidf"], "benchmarks": [scored], **changes})


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    out = tmp_path_factory.mktemp("facts") / "whole"
    run_pipeline(facts_config(out))
    return out


@pytest.fixture
def again(facts, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(facts, tmp_path / "again")


@pytest.mark.model
def test_a_run_writes_every_file_and_scores_the_vectors_in_them(tmp_path):
    pytest.importorskip("sentence_transformers")
    import bftembed

    out = tmp_path / "run"
    run_pipeline(config_of(out))
    names = {p.name for p in out.iterdir()}
    assert {"report.html", "results.parquet", "run.json", "cells.h5ad", "config.yaml", "genes.txt"} <= names
    assert {"genes-smollm2_135m.safetensors", "genes-hgnc_facts.safetensors"} <= names
    for name in ("profiles-smollm2_135m", "profiles-hgnc_facts"):
        with AnswerStore.open(out / name) as store:
            assert len(store.answers()) == 12
    ours = read_results(out / "results.parquet")
    scored = ours[ours["kind"] != "chance"]
    assert dict(zip(scored["subject"], scored["kind"], strict=True)) == KINDS
    assert scored["value"].notna().all()
    fresh = bftembed.bench.clustering(out / "cells.h5ad", "X_hgnc_facts", "bulk_labels", protocol="standard", seeds=2)
    key = ["metric", "seed"]
    of_set = ours[(ours["subject"] == "HGNC facts") & (ours["kind"] == "baseline")].set_index(key)["value"]
    fresh = fresh[fresh["kind"] == "subject"].set_index(key)["value"]
    assert of_set.to_dict() == pytest.approx(fresh.to_dict(), nan_ok=True)


def test_done_again_writes_no_profile_and_equal_results(again):
    before = (again / "results.parquet").read_bytes()
    run_pipeline(facts_config(again))
    assert (again / "results.parquet").read_bytes() == before
    assert [(s.name, s.detail) for s in Manifest.load(again).steps] == [
        ("profiles: facts", "0 written, 12 from the store")
    ]


def test_a_changed_benchmark_is_scored_anew_and_nothing_else(again):
    config, cells = facts_config(again), (again / "cells.h5ad").stat().st_mtime_ns
    benchmark = config.benchmarks[0].model_copy(update={"label": "louvain"})
    run_pipeline(config.model_copy(update={"benchmarks": [benchmark]}))
    assert set(read_results(again / "results.parquet")["run"]) == {"10x_pbmc68k_reduced/louvain"}
    assert (again / "cells.h5ad").stat().st_mtime_ns == cells


def test_prompts_and_models_are_compared_in_one_report(again, tmp_path):
    (tmp_path / "short.yaml").write_text("user: 'What is {name}?'\n")
    sets = [
        {"name": "facts", "generator": "facts"},
        {"name": "short 1", "generator": "scripted:seed=1", "prompt": str(tmp_path / "short.yaml")},
    ]
    run_pipeline(facts_config(again, profiles=sets, maps=True))
    subjects = set(read_results(again / "results.parquet").query("kind == 'subject'").subject)
    assert subjects == {one["name"] for one in sets}
    page = (again / "report.html").read_text()
    assert all(text in page for text in ("short 1", "Cells, colored by bulk_labels", "Genes: facts"))


def test_a_dry_run_says_what_is_there_and_how_long_the_rest_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    new, run = facts_config(tmp_path / "new"), facts_config(tmp_path / "run")
    assert {(step.done, step.seconds) for step in plan_pipeline(new)} == {(False, None)}
    run_pipeline(run)
    assert {(step.done, step.seconds) for step in plan_pipeline(run)} == {(True, 0.0)}
    took = {step.name: step.seconds for step in Manifest.load(tmp_path / "run").steps}
    planned = {step.name: step.seconds for step in plan_pipeline(new)}
    assert {name: planned[name] for name in took} == {name: pytest.approx(took[name], abs=0.1) for name in took}
    half = plan_pipeline(facts_config(tmp_path / "new", n_genes=6))
    assert half[0].seconds == pytest.approx(planned["profiles: facts"] / 2)
    assert not (tmp_path / "new").exists()
    (tmp_path / "run" / "profiles-facts" / "profiles.sqlite").unlink()
    assert not any(step.done for step in plan_pipeline(run))


def test_most_expressed_genes_are_taken_in_the_files_order(facts, pbmc_path):
    import anndata

    raw = anndata.read_h5ad(pbmc_path).raw
    taken = (facts / "genes.txt").read_text().split()
    means = dict(zip(raw.var_names, np.asarray(raw.X.mean(axis=0)).ravel(), strict=True))
    assert set(taken) == set(sorted(means, key=means.get, reverse=True)[:12])
    assert taken == [g for g in raw.var_names if g in set(taken)]


@pytest.mark.parametrize("after", ["profiles-facts", "cells.h5ad"])
def test_killed_in_a_step_goes_on_from_it(facts, tmp_path, after):
    """Killed as soon as the output of a step is there; the next run ends with the results of one that was not."""
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
    frames = [read_results(folder / "results.parquet")[columns] for folder in (facts, out)]
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
        run_pipeline(facts_config(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_run_on_other_cells_is_kept(facts, tmp_path, pbmc_path):
    before = (facts / "results.parquet").read_bytes()
    other = tmp_path / "other.h5ad"
    shutil.copy(pbmc_path, other)
    with pytest.raises(BftembedError):
        run_pipeline(facts_config(facts, cells=str(other)))
    assert (facts / "results.parquet").read_bytes() == before


def test_a_missing_extra_is_said_before_the_profiles(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    strict = [{"task": "clustering", "label": "bulk_labels", "protocol": "strict"}]
    with pytest.raises(BftembedError, match="igraph"):
        run_pipeline(facts_config(tmp_path / "out", benchmarks=strict))
    assert not (tmp_path / "out").exists()


def test_facts_to_learn_from_are_of_genes_that_are_not_profiled():
    from bftembed.profiles.generate import get_prompt

    prompt = get_prompt(None, "gene")
    pairs = fact_pairs(["CD3D", "MS4A1"], 50, 0, prompt)
    assert len(pairs) == 50
    assert not {"CD3D", "MS4A1"} & {pair.where for pair in pairs}
    assert [t.content for t in pairs[0].turns[:-1]] == [m["content"] for m in prompt.messages(pairs[0].where)]
    assert [p.where for p in fact_pairs(["CD3D", "MS4A1"], 50, 0, prompt)] == [p.where for p in pairs]


# -- evaluations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """A run that evaluates models with known answers to four questions of MMLU, `base` knows two, `tuned` three."""
    from bftembed.llm import BACKENDS

    monkeypatch.setitem(BACKENDS.entries, "known", "evaluation_tools:Known")
    write_csv(tmp_path / "data" / "mmlu" / "dev" / "anatomy_dev.csv", [[*ROW, "A"]] * 5)
    rows = [[f"Which {i}?", *ROW[1:], "ABCD"[i]] for i in range(4)]
    write_csv(tmp_path / "data" / "mmlu" / "test" / "anatomy_test.csv", rows)
    models = {}
    for name, letters in {"base": "ABAA", "tuned": "ABCA"}.items():
        scores = {f"anatomy/{i}": [0.0 if o == letter else -2.0 for o in "ABCD"] for i, letter in enumerate(letters)}
        (tmp_path / f"{name}.json").write_text(json.dumps(scores))
        models[name] = f"known:{tmp_path}/{name}.json"
    return {"evaluations": ["mmlu"], "models": models, "limit": 0, "data": str(tmp_path / "data")}


def test_evaluations_stand_beside_the_benchmarks_and_are_asked_once(evaluation, again, tmp_path):
    out = again
    run_pipeline(facts_config(out, eval=evaluation))
    frame = read_results(out / "results.parquet")
    assert set(frame["task"]) == {"clustering", "mmlu"}
    scores = frame[(frame["metric"] == "accuracy") & (frame["split"] == "all") & (frame["kind"] == "subject")]
    assert dict(zip(scores["subject"], scores["value"], strict=True)) == {"base": 0.5, "tuned": 0.75}
    assert scores[(scores["subject"] == "tuned") & (scores["reference"] == "base")]["difference"].tolist() == [0.25]
    page = (out / "report.html").read_text()
    assert "bulk_labels" in page
    assert "MMLU" in page
    asked = (tmp_path / "base.log").read_text()
    assert len(asked.split()) == 4
    run_pipeline(facts_config(out, eval=evaluation))
    assert "evaluations" not in {step.name for step in Manifest.load(out).steps}
    alone = RunConfig.model_validate({"out": str(tmp_path / "alone"), "eval": evaluation | {"limit": 2}})
    assert [(step.name, step.done) for step in plan_pipeline(alone)] == [("evaluations", False)]
    run_pipeline(alone)
    run_pipeline(alone.model_copy(update={"eval": alone.eval.model_copy(update={"limit": 3})}))
    assert len((tmp_path / "base.log").read_text().split()) == 4 + 3
    assert read_results(tmp_path / "alone" / "results.parquet")["n"].max() == 3


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"evaluations": ["mmlv"]}, UnknownNameError, "'mmlu'"),
        ({"limt": 3}, UnknownNameError, "limit"),
        ({"evaluations": ["vcworld"]}, BftembedError, "perturbation"),
        ({"evaluations": ["pubmedqa"]}, BftembedError, "pubmedqa"),
        ({"evaluations": ["healthbench"]}, BftembedError, "judge"),
        ({"models": {"a": "nowhere:x"}}, UnknownNameError, "nowhere"),
        ({"models": {"a": "tuned"}}, BftembedError, "'tune'"),
        ({"models": {}}, BftembedError, "models"),
    ],
)
def test_a_wrong_evaluation_is_named_before_anything_is_written(evaluation, tmp_path, change, error, named):
    with pytest.raises(error, match=named):
        run_pipeline(RunConfig.model_validate({"out": str(tmp_path / "out"), "eval": evaluation | change}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{}, {"cells": "builtin:pbmc68k_reduced"}, {"benchmarks": [{"task": "genes"}]}])
def test_a_run_without_anything_to_score_is_an_error(change):
    with pytest.raises(ValueError, match="need each other|nothing to report"):
        RunConfig.model_validate(change | ({"eval": {"evaluations": ["mmlu"]}} if change else {}))


def test_the_demo_is_a_config_of_the_pipeline():
    config = load_config(REPOSITORY / "configs" / "demo.yaml")
    assert (config.tune.objective.name, config.n_genes) == ("bft", 100)
    assert [p.name for p in config.profiles if p.baseline] == ["HGNC facts"]
