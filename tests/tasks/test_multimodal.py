"""`bench.multimodal`: every form of a CITE-seq experiment, what is made in the run, and bad input."""

from __future__ import annotations

import math
import pathlib

import anndata
import cite_toys as toys
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from cite_toys import DIM, GENES, PANEL, counts, embeddings, names
from sklearn.metrics import homogeneity_score

from bftembed import bench
from bftembed.cells.transforms import GeneTransform, transformed
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tasks.base import read_results, tables_of
from bftembed.tasks.cells import integration
from bftembed.tasks.multimodal import score as task_score
from bftembed.tasks.multimodal._joint_space import (
    JointAggregation,
    _antibody_embeddings,
    joint_vectors,
    linked_features,
    read_modalities,
    rna_clusters,
)

pytest.importorskip("scib_metrics")


@pytest.fixture(autouse=True)
def _few_metrics(monkeypatch):
    """Score a few metrics only: all of them are tested with their own task."""
    profile = integration.PROFILES["current"]
    bio = ("silhouette_label",)
    batch = ("graph_connectivity", "pcr_comparison")
    monkeypatch.setitem(integration.PROFILES, "current", profile._replace(bio=bio, batch=batch))


def score(data, genes=None, **options):
    return bench.multimodal(data, genes or embeddings(), **{"label": "kind", "seeds": 1, **options})


def rows(frame, name="embeddings", task="matching"):
    return frame[(frame["subject"] == name) & (frame["task"] == task) & frame["seed"].isna()].set_index("metric")


def table(frame, name="embeddings", task="matching"):
    return rows(frame, name, task)["value"].to_dict()


def logged_and_clr():
    rna, protein, _ = counts()
    logged = np.log1p(1e4 * rna / rna.sum(axis=1, keepdims=True))
    return logged, np.log1p(protein / np.exp(np.log1p(protein).mean(axis=1, keepdims=True)))


def vectors(data, how=None, **options):
    cells = read_modalities(data, **{"label": "kind", **options})
    return cells, joint_vectors(cells, embeddings(), None, how or JointAggregation(), "e")


@pytest.fixture(scope="module")
def expected():
    """By hand: log1p of counts per 10,000 and CLR, times the vectors of genes, each cell of length 1."""
    genes = embeddings()
    logged, clr = logged_and_clr()
    of_genes = genes.matrix[[genes.ids.index(g) for g in GENES]]
    has = [i for i, symbols in enumerate(PANEL.values()) if symbols]
    of_panel = np.stack([genes.matrix[genes.rows(symbols)].mean(axis=0) for symbols in PANEL.values() if symbols])
    return tuple(s / np.linalg.norm(s, axis=1, keepdims=True) for s in (logged @ of_genes, clr[:, has] @ of_panel))


def framed():
    data = toys.with_obsm()
    del data.uns["ADT_names"]
    data.obsm["ADT"] = pd.DataFrame(data.obsm["ADT"], index=data.obs_names, columns=list(PANEL))
    return data


def written(data, path):
    getattr(data, f"write_{path.suffix[1:]}")(path)
    return path


def logged():
    data = toys.with_obsm()
    data.X, data.obsm["ADT"] = scipy.sparse.csr_matrix(logged_and_clr()[0]), scipy.sparse.csr_matrix(data.obsm["ADT"])
    return data


FORMS = {
    "obsm": lambda t: written(toys.with_obsm(), t / "a.h5ad"),
    "zarr": lambda t: written(toys.with_obsm(), t / "a.zarr"),
    "memory": lambda t: toys.with_obsm(),
    "data frame": lambda t: framed(),
    "backed": lambda t: anndata.read_h5ad(written(toys.with_obsm(), t / "a.h5ad"), backed="r"),
    "types": lambda t: toys.with_types(),
    "logged": lambda t: logged(),
    "two files": lambda t: (
        written(toys.rna_data(), t / "a.h5ad"),
        {"protein_data": written(toys.protein_data(), t / "b.h5ad")},
    ),
    "label of the proteins": lambda t: (toys.rna_data(), {"protein_data": toys.protein_data(), "label": "type"}),
    "mudata": lambda t: toys.write_mudata(t / "a.h5mu"),
    "mudata, shuffled": lambda t: toys.write_mudata(t / "a.h5mu", shuffled=True),
    "mudata, other names": lambda t: (
        toys.write_mudata(t / "a.h5mu", rna="x", adt="y", label_in="x"),
        {"rna": "x", "adt": "y"},
    ),
    "10x h5": lambda t: (toys.write_tenx_h5(t / "a.h5"), {"label": None}),
    "10x mtx": lambda t: (toys.write_tenx_mtx(t / "a"), {"label": None}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore::FutureWarning", "ignore::UserWarning")
def test_every_form_of_an_experiment_gives_the_vectors_by_hand(tmp_path, expected, form):
    made = FORMS[form](tmp_path)
    data, options = made if isinstance(made, tuple) else (made, {})
    cells, found = vectors(data, **options)
    for part, by_hand in zip((found.rna, found.protein), expected, strict=True):
        np.testing.assert_allclose(part, by_hand, atol=2e-3)
    assert cells.labels is None if options.get("label", "") is None else cells.labels.tolist() == counts()[2].tolist()
    assert cells.stem == ("a" if isinstance(data, pathlib.Path) or data.isbacked else "cells")


def test_the_scores_are_those_of_the_vectors(expected):
    frame = score(toys.with_obsm())
    found = task_score({"x": expected}, counts()[2], run="r", seeds=[0])
    by_hand = {r.metric: r.value for r in found if r.task == "matching" and r.subject == "x"}
    assert table(frame) == pytest.approx(by_hand, abs=1e-3)
    assert set(frame["n"]) == {120, 240}
    assert set(frame["run"]) == {"cells/kind/modality"}


def test_cells_are_paired_by_name_and_those_alone_are_counted():
    proteins = toys.protein_data()[::-1][10:].copy()  # without c110 … c119, backwards
    frame = score(toys.rna_data()[5:].copy(), protein_data=proteins)
    alone = score(toys.rna_data()[5:110].copy(), protein_data=toys.protein_data()[5:110].copy())
    assert table(frame) == pytest.approx(table(alone), abs=1e-9)
    assert set(frame["n"]) == {105, 210}
    note = rows(frame, "chance").loc["foscttm", "note"]
    assert "10 of the RNA and 5 of the proteins without a partner" in note
    matching = tables_of(frame)["Multimodal"][0]
    assert f"{note}." in matching.footnotes


def test_labels_that_are_clusters_are_said_to_be():
    frame = score(toys.with_obsm(), label=None)
    for tables in tables_of(frame).values():
        assert any("RNA clusters (Leiden), not cell types" in line for line in tables[0].footnotes)
    labels = rna_clusters(read_modalities(toys.with_obsm()).rna, "log1p-cp10k")
    assert homogeneity_score(counts()[2], labels) > 0.7  # the types of the toys are far apart
    with pytest.raises(BftembedError):
        score(toys.with_obsm(9), label=None)


def test_one_transform_for_genes_and_proteins():
    genes = embeddings()
    half = genes.matrix[:9]
    for how in ("center", "whiten:3"):
        shared = GeneTransform.fit(half, how)
        np.testing.assert_array_equal(shared.of(half), transformed(half, how))
        # A protein with the vector of a gene keeps it: each centered on its own would not.
        np.testing.assert_allclose(shared.of(genes.matrix[3:4])[0], shared.of(half)[3], atol=1e-6)
    # The center is that of the genes of the RNA.
    cells = read_modalities(toys.with_obsm(60))
    extra = GeneEmbeddings([*genes.ids, "TP53"], np.vstack([genes.matrix, np.full(DIM, 99)]))
    one, two, raw = (
        joint_vectors(cells, g, None, JointAggregation(gene_matrix=how), "e").protein
        for g, how in ((genes, "center"), (extra, "center"), (genes, "raw"))
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.abs(one - raw).max() > 0.1
    same = GeneEmbeddings(genes.ids, np.ones((len(genes.ids), 3)))
    with pytest.raises(BftembedError, match="equal"):
        score(toys.with_obsm(60), genes=same, gene_matrix="center")


def test_cells_may_be_centered_within_their_modality():
    data = read_modalities(toys.with_obsm(60))
    plain, centered = (
        joint_vectors(data, embeddings(), None, JointAggregation(center_cells=c), "e") for c in (False, True)
    )
    for before, after in ((plain.rna, centered.rna), (plain.protein, centered.protein)):
        moved = before - before.mean(axis=0)
        np.testing.assert_allclose(after, moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-5)


def test_an_antibody_is_its_gene_or_the_mean_of_its_genes():
    genes = embeddings(drop=("CD3G",))
    found = _antibody_embeddings(list(PANEL), genes)
    assert found.ids == ["CD14", "CD4", "CD3", "CD19", "NCAM1", "CD8A", "CD45RA"]
    np.testing.assert_allclose(found.vector("CD3"), genes.matrix[genes.rows(["CD3D", "CD3E"])].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.vector("CD45RA"), genes.vector("PTPRC"))


def test_protein_embeddings_are_taken_where_given():
    proteins = GeneEmbeddings(["CD3", "CD19", "CD14", "NCAM1"], np.random.default_rng(9).normal(size=(4, DIM)))
    one, without = (score(toys.with_obsm(), proteins=p) for p in (proteins, None))
    assert "4 of 8 antibodies with a vector" in rows(one).loc["foscttm", "note"]
    assert "7 of 8 antibodies with a vector of their genes" in rows(without).loc["foscttm", "note"]
    both = score(toys.with_obsm(), {"a": embeddings(), "b": embeddings()}, proteins={"b": proteins})
    assert table(both, "b") == pytest.approx(table(one), abs=1e-9)
    assert table(both, "a") == pytest.approx(table(without), abs=1e-9)


def test_the_linked_features_are_the_antibodies_and_the_rna_of_their_genes():
    linked = linked_features(read_modalities(toys.with_obsm()), "clr")
    of_genes, clr = logged_and_clr()
    panel = [list(PANEL).index(p) for p in ("CD3_TotalSeqB", "anti-CD19", "CD14", "CD56", "CD8a", "CD4")]
    of_rna = [of_genes[:, [GENES.index(g) for g in list(PANEL.values())[p]]].mean(axis=1) for p in panel]
    np.testing.assert_allclose(linked.rna, np.stack(of_rna, axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linked.protein, clr[:, panel], rtol=1e-4, atol=1e-5)
    for part in linked.scaled():
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(axis=0), 1, rtol=1e-4)


def test_references_and_baselines_of_the_run(tmp_path):
    out = tmp_path / "r.parquet"
    made = "linked,harmony,bbknn,random,shuffled"
    frame = score(toys.with_obsm(), baselines=made, draws=2, out=out)
    kinds = frame[frame["task"] == "integration"].groupby("subject")["kind"].unique().map(list).to_dict()
    assert kinds == {
        "embeddings": ["subject"],
        **{name: ["reference"] for name in ("linked", "harmony", "bbknn")},
        **{name: [name] for name in ("random", "shuffled")},
    }
    pd.testing.assert_frame_equal(read_results(out), frame)
    for name in ("random", "shuffled"):
        drawn = frame[(frame["subject"] == name) & (frame["metric"] == "foscttm")]
        assert drawn["seed"].fillna(-1).tolist() == [-1, 0, 1]
        whole, *draws = drawn["value"]
        assert whole == pytest.approx(np.mean(draws))
        half = 12.7062047 * abs(draws[0] - draws[1]) / 2  # Student's t with one degree of freedom
        assert drawn[["low", "high"]].to_numpy()[0] == pytest.approx([whole - half, whole + half])
        assert drawn["low"].isna().tolist() == [False, True, True]
    # The toys' proteins follow the RNA of their genes.
    assert table(frame, "linked")["foscttm"] < 0.4
    assert table(frame, "linked", "integration")["pcr_comparison"] == pytest.approx(1, abs=1e-6)
    assert frame["value"].notna().all()

    (matching,) = tables_of(frame)["Multimodal"]
    assert [(c.title, c.better) for c in matching.columns] == [
        ("FOSCTTM", "lower"),
        *((title, "higher") for title in ("Matching accuracy", "Among 10 nearest", "Label matching")),
    ]
    assert [r.kind for r in matching.rows] == ["subject", *["reference"] * 3, "shuffled", "random", "chance"]
    assert {k: c.value for k, c in matching.rows[-1].cells.items()} == pytest.approx(
        {
            "foscttm": 0.5,
            "matching_accuracy": 1 / 120,
            "matching_accuracy_10": 1 / 12,
            "label_matching_accuracy": 1 / 3,
        }
    )
    assert matching.best(matching.columns[0]) == min(r.cells["foscttm"].value for r in matching.rows)
    assert not matching.conclusions
    (of_scib,) = tables_of(frame)["Integration"]
    assert [r.kind for r in of_scib.rows] == [r.kind for r in matching.rows[:-1]]
    assert not of_scib.conclusions  # intervals over draws are none of the embeddings


def test_a_cell_without_a_vector_is_left_out_of_both_modalities_and_of_random_draws_too():
    data = toys.with_obsm()
    data.obsm["ADT"][4] = 0
    frame = score(data, baselines="linked,random", draws=1)
    scored = frame[frame["kind"] != "chance"]
    assert set(scored["n_missing"]) == {1, 2}
    kept = score(data[np.arange(120) != 4].copy(), baselines="random", draws=1)
    for name in ("embeddings", "random"):
        assert table(frame, name) == pytest.approx(table(kept, name), abs=1e-9)


def test_without_linked_features_the_comparison_before_is_a_row_with_its_reason():
    data = toys.with_obsm()[:, [g in ("LYZ", "GNLY", "NKG7", "ACTB") for g in GENES]].copy()
    row = rows(score(data), task="integration").loc["pcr_comparison"]
    assert (row["reason"], math.isnan(row["value"])) == ("undefined", True)
    with pytest.raises(BftembedError, match="linked"):
        score(data, baselines="linked")


def changed(data, **obs_or_uns):
    for name, value in obs_or_uns.items():
        getattr(data, name)[next(iter(value))] = next(iter(value.values()))
    return data


def renamed(data, cells):
    data.obs_names = cells
    return data


UNMAPPED = {"ADT_names": np.array([f"marker{i}x" for i in range(len(PANEL))])}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (toys.rna_data, {}),
        (lambda: toys.with_types()[:, : len(GENES)].copy(), {}),
        (lambda: changed(toys.with_obsm(), uns=UNMAPPED), {}),
        (toys.with_obsm, {"proteins": GeneEmbeddings(["CD14"], np.ones((1, 3)))}),
        (toys.with_obsm, {"genes": {}}),
        (toys.with_obsm, {"genes": {"linked": embeddings()}, "baselines": "linked"}),
        (toys.with_obsm, {"draws": 0}),
        (toys.rna_data, {"protein_data": renamed(toys.protein_data(), [f"x{i}" for i in range(120)])}),
        (toys.rna_data, {"protein_data": renamed(toys.protein_data(), ["c1", *names(119)])}),
        (lambda: changed(toys.with_obsm(), obs={"kind": "one"}), {}),
        (lambda: 3, {}),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_bad_input_is_an_error(tmp_path, make, options):
    out = tmp_path / "r.parquet"
    with pytest.raises(BftembedError):
        bench.multimodal(make(), **{"genes": embeddings(), "label": "kind", "seeds": 1, "out": out, **options})
    assert not out.exists()


@pytest.mark.parametrize(
    "option",
    [
        *({"obsm": "ATD"}, {"label": "kinds"}, {"proteins": {"other": embeddings()}}, {"baselines": "linke"}),
        {"profile": "scib"},
    ],
)
def test_unknown_names_are_errors(option):
    with pytest.raises(UnknownNameError):
        score(toys.with_obsm(), **option)


def test_bad_files_are_errors(tmp_path):
    path = toys.write_mudata(tmp_path / "a.h5mu", rna="one", adt="two", label_in="one")
    with pytest.raises(BftembedError):
        score(path)
    for option in ({"rna": "on"}, {"rna": "one", "label": "knd"}):
        with pytest.raises(UnknownNameError):
            score(path, adt="two", **option)
    toys.write_tenx_mtx(tmp_path / "custom", kinds=("Gene Expression", "Custom"))
    toys.write_tenx_h5(tmp_path / "two.h5", types=False)
    toys.write_tenx_h5(tmp_path / "three.h5")
    with h5py.File(tmp_path / "three.h5", "r+") as handle:
        handle["matrix/indices"][3] = 4000
    (toys.write_tenx_mtx(tmp_path / "mtx") / "features.tsv.gz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("custom", "two.h5", "three.h5", "mtx", "empty", "none.h5ad"):
        with pytest.raises(BftembedError):
            score(tmp_path / name, label=None)


def test_input_is_never_the_output(tmp_path):
    path = written(toys.with_obsm(), tmp_path / "cells.h5ad")
    kept = path.read_bytes()
    embeddings().save(tmp_path / "g.safetensors")
    for out in (path, tmp_path / "g.safetensors"):
        with pytest.raises(BftembedError, match="is the input"):
            score(path, tmp_path / "g.safetensors", out=out)
    assert path.read_bytes() == kept


def test_too_many_cells_for_the_memory_are_an_error(monkeypatch):
    monkeypatch.setattr("bftembed.tasks.cells.integration.available_memory", lambda: 100_000)
    with pytest.raises(BftembedError, match="of memory"):
        score(toys.with_obsm())
