"""Intervals of differences, rows and tables: text helps where there is signal, and seldom where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed import bench
from bftembed.errors import BftembedError
from bftembed.metrics.intervals import pigeonhole_interval
from bftembed.tasks.base import read_results, tables_of
from bftembed.tasks.perturbation import helps, tables
from bftembed.tasks.perturbation.task import _difference
from bftembed.testing import simulate_perturbations

LIGHT = {"n_genes": 60, "cells_per_perturbation": 12, "cell_types": ("k562", "rpe1")}


@pytest.mark.slow
@pytest.mark.parametrize("signal", [0, 1])
def test_the_conclusion_is_wrong_at_most_once_in_twenty_simulated_screens(signal):
    wrong = 0
    for seed in range(20):
        adata, genes = simulate_perturbations(signal=signal, seed=seed)
        wrong += helps(bench.perturbation(adata, {"text": genes}, split="unseen-gene"))["text"] != bool(signal)
    assert wrong <= 1


def singles(labels):
    return [(str(i),) for i in range(labels.max() + 1)]


def test_the_bootstrap_resamples_perturbations_whole():
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 30)
    scores = np.repeat(draw.normal(size=20), 30)[None].repeat(3, axis=0)  # 60 scores of each perturbation are one
    low, high = pigeonhole_interval(scores, labels, singles(labels))
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(20), rel=0.2)
    assert np.isnan(pigeonhole_interval(scores[:, :30], labels[:30], singles(labels))).all()


def test_combinations_that_share_a_gene_are_not_independent():
    draw = np.random.default_rng(3)
    pairs = [(str(i), str(j)) for i in range(14) for j in range(i)]
    labels, inside, narrow = np.arange(len(pairs)), 0, 0
    for _ in range(100):
        effect = draw.normal(size=14)
        scores = np.array([[effect[int(a)] + effect[int(b)] + 0.3 * draw.normal() for a, b in pairs]])
        low, high = pigeonhole_interval(scores, labels, pairs)
        inside += low <= 0 <= high
        low, high = pigeonhole_interval(scores, labels, singles(labels))
        narrow += low <= 0 <= high
    assert inside / 100 >= 0.9
    assert narrow / 100 < 0.7  # what resampling the pairs would claim


def test_the_chance_in_one_set_of_vectors_widens_the_interval():
    draw = np.random.default_rng(2)
    labels, wrong, narrow = np.arange(30), 0, 0
    for _ in range(100):
        drawn = draw.normal(size=(5, 4, 1)) + 0.01 * draw.normal(size=(5, 4, 30))
        text = draw.normal() + 0.01 * draw.normal(size=(5, 1, 30))
        _, low, high = _difference(text, drawn, labels, singles(labels), drawn=True)
        wrong += low > 0 or high < 0
        _, low, high = _difference(text, drawn, labels, singles(labels), drawn=False)
        narrow += low > 0 or high < 0
    assert 0.01 <= wrong / 100 <= 0.1
    assert narrow / 100 > 0.2  # what the bootstrap alone would claim
    nothing = np.full((2, 1, 3), np.nan)
    assert np.isnan(_difference(nothing, nothing, np.arange(3), singles(np.arange(3)), drawn=False)).all()


@pytest.fixture(scope="module")
def frame():
    """Results of an embedding that tells the effects, and of one that does not."""
    adata, genes = simulate_perturbations(n_perturbations=25, **LIGHT)
    noise = type(genes)(genes.ids, np.random.default_rng(9).normal(size=(len(genes), 8)))
    return bench.perturbation(adata, {"good": genes, "noise": noise})


def test_rows_have_kinds_seeds_intervals_and_differences(frame):
    gene, cell_type = (frame[frame["protocol"] == p] for p in ("unseen-gene", "unseen-cell-type"))
    own = gene[(gene["kind"] == "subject") & (gene["subject"] == "good") & (gene["metric"] == "mae")]
    assert own["seed"].dropna().tolist() == [0, 1, 2, 3, 4]
    whole = own[own["seed"].isna()].set_index("reference")
    assert set(whole.index) == {"", "random", "shuffled", "perturbed mean"}
    assert whole["value"].nunique() == 1
    assert (whole["low"] < whole["value"]).all()
    assert whole.loc["", "value"] == pytest.approx(own["value"][own["seed"].notna()].mean())
    random = gene[(gene["kind"] == "random") & (gene["subject"] == "good") & (gene["metric"] == "mae")]
    expected = whole.loc["", "value"] - random.loc[random["seed"].isna(), "value"].item()
    assert whole.loc["random", "difference"] == pytest.approx(expected)
    assert (whole["difference_low"].iloc[1:] < whole["difference_high"].iloc[1:]).all()
    chance = gene[(gene["kind"] == "chance") & (gene["metric"] == "pds_l1")]
    assert chance["value"].tolist() == [0.5]
    baselines = ["control mean", "perturbed mean"]
    assert gene.loc[gene["kind"] == "baseline", "subject"].unique().tolist() == baselines
    assert not (gene["kind"] == "reference").any()
    known = cell_type[cell_type["kind"].isin(["baseline", "reference"])]
    assert set(known["subject"]) == {*baselines, "mean of the perturbation", "identity", "training PCA"}
    assert known["seed"].isna().all()
    assert set(frame["run"]) == {"simulated: cells"}
    undefined = frame[(frame["subject"] == "control mean") & (frame["metric"] == "pearson_delta")]
    assert set(undefined["reason"]) == {"undefined"}


def test_text_helps_only_where_it_exceeds_every_decisive_reference(frame):
    gene, cell_type = (frame[frame["protocol"] == p] for p in ("unseen-gene", "unseen-cell-type"))
    assert helps(gene) == {"good": True, "noise": False}
    # The mean of the perturbation in the other cell types is better.
    assert helps(cell_type) == {"good": False, "noise": False}


def test_tables_show_scores_and_signed_differences(frame):
    cell_type, _, gene, differences = tables(frame)
    kinds = {(row.name, row.kind) for row in gene.rows}
    assert {("good", "subject"), ("good, random", "random")} <= kinds
    assert ("identity", "reference") in {(row.name, row.kind) for row in cell_type.rows}
    assert [c.key for c in gene.columns] == ["pds_l1", "pds_cosine", "mae", "pearson_delta", "de_overlap"]
    assert [c.better for c in gene.columns] == ["higher", "higher", "lower", "higher", "higher"]
    rows = frame[(frame["protocol"] == "unseen-gene") & (frame["metric"] == "pds_l1") & frame["seed"].isna()]
    rows = rows.set_index(["subject", "kind", "reference"])
    assert gene.rows[0].cells["pds_l1"].value == rows.loc[("good", "subject", ""), "value"]
    assert [c.signed for c in differences.columns] == [True, True]
    assert len(differences.rows) == 2 * 3
    first = differences.rows[0].cells["pds_l1"]
    one = rows.loc[("good", "subject", "random")]
    assert (first.value, first.low, first.high) == (one["difference"], one["difference_low"], one["difference_high"])
    assert len(differences.conclusions) == 2


def test_results_do_not_depend_on_the_order_of_cells_or_genes_and_inputs_stay():
    adata, genes = simulate_perturbations(n_perturbations=10, **LIGHT)
    draw, values = np.random.default_rng(0), adata.X.copy()
    moved = adata[draw.permutation(adata.n_obs), draw.permutation(adata.n_vars)].copy()
    one, other = (bench.perturbation(x, {"text": genes}, seeds=1) for x in (adata, moved))
    key = ["subject", "kind", "protocol", "metric", "reference", "seed"]
    assert one[key].equals(other[key])
    for column in ("value", "low", "difference"):
        np.testing.assert_allclose(one[column], other[column], atol=1e-6)
    np.testing.assert_array_equal(adata.X, values)


def test_a_small_screen_of_one_cell_type_gives_its_reasons_and_reads_back(tmp_path):
    adata, genes = simulate_perturbations(n_perturbations=10, **(LIGHT | {"cell_types": ("a",)}))
    out = tmp_path / "r.parquet"
    adata.write_h5ad(tmp_path / "one.h5ad")
    genes.save(tmp_path / "g.safetensors")
    bench.perturbation(tmp_path / "one.h5ad", [f"text={tmp_path / 'g.safetensors'}"], seeds=2, out=out)
    frame = read_results(out)
    assert set(frame["run"]) == {"simulated: one"}
    failed = frame[frame["protocol"] == "unseen-cell-type"]
    assert failed["value"].isna().all()
    assert set(failed["reason"]) == {"too-few"}
    gene = frame[frame["protocol"] == "unseen-gene"]
    assert gene.loc[gene["metric"] == "mae", "value"].notna().all()
    # Two perturbations at a time: a difference, without an interval.
    apart = gene[(gene["metric"] == "pds_l1") & (gene["reference"] == "random")]
    assert apart["difference"].notna().all()
    assert apart["difference_low"].isna().all()
    assert set(apart["reason"]) == {"too-few"}
    assert helps(gene) == {"text": False}
    assert [len(t.rows) for t in tables_of(frame)["Perturbation"]] == [8, 6, 3]
    with pytest.raises(BftembedError, match="overwritten"):
        bench.perturbation(tmp_path / "one.h5ad", [tmp_path / "g.safetensors"], out=tmp_path / "one.h5ad")
