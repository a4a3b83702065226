"""`bench.multimodal`: every form of a CITE-seq experiment, what is made in the run, and what is refused."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace

import anndata
import cite_toys as toys
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from bftembed.bench.drawn import random_vectors, shuffled_vectors
from bftembed.bench.joint_space import How, antibody_embeddings, joint_vectors
from bftembed.bench.linked import linked_features, rna_clusters
from bftembed.bench.modalities import read_modalities
from bftembed.results import read_results
from cite_toys import DIM, GENES, PANEL, counts, embeddings, names
from sklearn.metrics import homogeneity_score

from bftembed import bench
from bftembed.cells.transforms import GeneTransform, transformed
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError

pytest.importorskip("scib_metrics")


@pytest.fixture(autouse=True)
def _one_profile_s_worth(monkeypatch):
    """Score a few metrics only: which they are, is tested with the task."""
    from bftembed.tasks import integration

    profile = integration.PROFILES["current"]
    few = replace(profile, bio=("silhouette_label",), batch=("graph_connectivity", "pcr_comparison"))
    monkeypatch.setitem(integration.PROFILES, "current", few)


def score(data, genes=None, **options):
    return bench.multimodal(data, genes or embeddings(), **{"label": "kind", "seeds": 1, **options})


def table(frame, name="embeddings", task="matching"):
    rows = frame[(frame["embedding"] == name) & (frame["task"] == task)]
    return rows.groupby("metric")["value"].mean().to_dict()


def note(frame, metric="foscttm", name="embeddings"):
    return frame.loc[(frame["metric"] == metric) & (frame["embedding"] == name), "note"].iloc[0]


@pytest.fixture(scope="module")
def expected():
    """By hand: log1p of counts per 10,000 and CLR, times the vectors of genes, each cell of length 1."""
    rna, protein, labels = counts()
    genes = embeddings()
    logged = np.log1p(1e4 * rna / rna.sum(axis=1, keepdims=True))
    clr = np.log1p(protein / np.exp(np.log1p(protein).mean(axis=1, keepdims=True)))
    of_genes = genes.matrix[[genes.ids.index(g) for g in GENES]]
    has = [i for i, symbols in enumerate(PANEL.values()) if symbols]
    of_panel = np.stack([genes.matrix[genes.rows(symbols)].mean(axis=0) for symbols in PANEL.values() if symbols])
    sums = logged @ of_genes, clr[:, has] @ of_panel
    X, Y = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in sums)
    from bftembed.tasks import multimodal as task

    return {r.metric: r.value for r in task.run({"x": (X, Y)}, labels, run="r", seeds=[0]) if r.task == "matching"}


def test_every_form_of_the_same_experiment_gives_the_same_scores_and_those_by_hand(tmp_path, expected):
    toys.with_obsm().write_h5ad(tmp_path / "obsm.h5ad")
    toys.with_obsm(key="side").write_h5ad(tmp_path / "side.h5ad")
    toys.with_obsm().write_zarr(tmp_path / "obsm.zarr")
    toys.with_types().write_h5ad(tmp_path / "types.h5ad")
    toys.rna_data().write_h5ad(tmp_path / "rna.h5ad")
    toys.protein_data().write_h5ad(tmp_path / "adt.h5ad")
    framed = toys.with_obsm()
    del framed.uns["ADT_names"]
    framed.obsm["ADT"] = pd.DataFrame(framed.obsm["ADT"], index=framed.obs_names, columns=list(PANEL))
    frames = {
        "obsm": score(tmp_path / "obsm.h5ad"),
        "other key": score(tmp_path / "side.h5ad", obsm="side"),
        "zarr": score(tmp_path / "obsm.zarr"),
        "memory": score(toys.with_obsm()),
        "data frame": score(framed),
        "backed": score(anndata.read_h5ad(tmp_path / "obsm.h5ad", backed="r")),
        "types": score(toys.with_types()),
        "types in a file": score(tmp_path / "types.h5ad"),
        "two files": score(tmp_path / "rna.h5ad", protein_data=tmp_path / "adt.h5ad"),
        "label of the proteins": score(toys.rna_data(), protein_data=tmp_path / "adt.h5ad", label="type"),
        "two objects": score(toys.rna_data(), protein_data=toys.protein_data()),
        "mudata": score(toys.write_mudata(tmp_path / "a.h5mu")),
        "mudata, its own label": score(toys.write_mudata(tmp_path / "b.h5mu", label_in="both")),
        "mudata, label of proteins": score(toys.write_mudata(tmp_path / "c.h5mu", label_in="prot")),
        "mudata, shuffled": score(toys.write_mudata(tmp_path / "d.h5mu", shuffled=True)),
        "mudata, other names": score(
            toys.write_mudata(tmp_path / "e.h5mu", rna="x", adt="y", label_in="x"), rna="x", adt="y"
        ),
        "10x h5": score(toys.write_tenx_h5(tmp_path / "f.h5"), label=None),
        "10x mtx": score(toys.write_tenx_mtx(tmp_path / "mtx"), label=None),
    }
    for form, frame in frames.items():
        found = table(frame)
        if form.startswith("10x"):  # labels are clusters there
            found["label_matching_accuracy"] = expected["label_matching_accuracy"]
        assert found == pytest.approx(expected, abs=1e-3), form
        assert set(frame["n_used"]) == {120, 240}, form
    assert "order differed" in note(frames["mudata, shuffled"])
    assert "order differed" not in note(frames["mudata"])
    assert "proteins: obsm['ADT'], by its usual name" in note(frames["obsm"])
    assert set(frames["mudata"]["run"]) == {"a/kind/modality"}
    assert set(frames["memory"]["run"]) == {"cells/kind/modality"}


def test_a_layer_is_taken_where_the_types_tell_the_modalities_apart(tmp_path):
    data = toys.with_types()
    data.layers["counts"] = data.X.copy()
    data.X = np.ones(data.shape, np.float32)
    data.write_h5ad(tmp_path / "l.h5ad")
    expected = table(score(toys.with_types()))
    for given in (data, tmp_path / "l.h5ad"):
        assert table(score(given, layer="counts")) == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_mudata_in_memory_is_read_as_its_file_is(tmp_path):
    import mudata

    path = toys.write_mudata(tmp_path / "a.h5mu", shuffled=True)
    one, two = score(path), score(mudata.read_h5mu(path))
    assert table(one) == pytest.approx(table(two), abs=1e-9)


def test_cells_are_paired_by_name_and_those_alone_are_counted():
    proteins = toys.protein_data()[::-1][10:].copy()  # without c110 … c119, backwards
    rna = toys.rna_data()[5:].copy()
    frame = score(rna, protein_data=proteins)
    assert "cells paired by name, their order differed" in note(frame)
    assert "cells left out: 5 of the RNA and 5 of the proteins without a partner" not in note(frame)
    assert "cells left out: 10 of the RNA and 5 of the proteins without a partner" in note(frame)
    alone = score(toys.rna_data()[5:110].copy(), protein_data=toys.protein_data()[5:110].copy())
    assert table(frame) == pytest.approx(table(alone), abs=1e-9)
    assert set(frame["n_used"]) == {105, 210}


def test_what_was_used_is_told_in_the_notes():
    told = note(score(toys.with_obsm(), embeddings(drop=("ACTB", "CD14"))))
    assert "expression weights, raw gene matrix; 12 of 14 genes with a vector" in told
    assert "6 of 8 antibodies with a vector of their genes (without: 'CD14', 'IgG1_control')" in told
    assert told.startswith("chance 0.5; ")


def test_labels_that_are_clusters_are_said_to_be():
    frame = score(toys.with_obsm(), label=None)
    assert set(frame["run"]) == {"cells/RNA clusters/modality"}
    assert "RNA clusters (Leiden), not cell types" in note(frame)
    assert "RNA clusters (Leiden), not cell types" in note(frame, "total")
    data = read_modalities(toys.with_obsm())
    labels = rna_clusters(data.rna, "log1p-cp10k")
    assert (rna_clusters(data.rna, "log1p-cp10k") == labels).all()
    assert homogeneity_score(counts()[2], labels) > 0.7  # the types of the toys are far apart


def test_clusters_need_cells():
    with pytest.raises(BftembedError, match="at least 15 cells, and there are 9.*--label"):
        score(toys.with_obsm(9), label=None)


def test_one_transform_for_genes_and_proteins():
    genes = embeddings()
    half = genes.matrix[:9]
    for how in ("center", "whiten:3"):
        shared = GeneTransform.fit(half, how)
        np.testing.assert_array_equal(shared.of(half), transformed(half, how))
        # A protein with the vector of a gene keeps it: each centred on its own would not.
        np.testing.assert_allclose(shared.of(genes.matrix[3:4])[0], shared.of(half)[3], atol=1e-6)
    for wrong, reason in (("whitened", "give raw, center or whiten:K"), ("whiten:9", "only")):
        with pytest.raises(BftembedError, match=reason):
            GeneTransform.fit(half, wrong)


def test_embeddings_that_are_all_equal_have_nothing_left_when_centred():
    same = GeneEmbeddings(embeddings().ids, np.ones((len(embeddings().ids), 3)))
    with pytest.raises(BftembedError, match="no embedding is left"):
        score(toys.with_obsm(60), genes=same, gene_matrix="center")


def test_cells_may_be_centred_within_their_modality():
    data = read_modalities(toys.with_obsm(60), obsm="ADT")
    plain, centred = (joint_vectors(data, embeddings(), None, How(center_cells=c), "e") for c in (False, True))
    for before, after in ((plain.rna, centred.rna), (plain.protein, centred.protein)):
        moved = before - before.mean(axis=0)
        np.testing.assert_allclose(after, moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-5)
    assert "less the mean of the modality" in centred.note


def test_the_centre_is_that_of_the_genes_of_the_rna():
    extra = GeneEmbeddings([*embeddings().ids, "TP53"], np.vstack([embeddings().matrix, np.full(DIM, 99)]))
    for how in ("center", "whiten:4"):
        one, two = (score(toys.with_obsm(), g, gene_matrix=how) for g in (embeddings(), extra))
        if how == "center":
            assert table(one) == pytest.approx(table(two), abs=1e-9)
        assert f"{how} gene matrix" in note(one)
        assert table(one) != table(score(toys.with_obsm()))


def test_an_antibody_is_its_gene_or_the_mean_of_its_genes():
    genes = embeddings(drop=("CD3G",))
    found = antibody_embeddings(list(PANEL), genes)
    assert found.ids == ["CD14", "CD4", "CD3", "CD19", "NCAM1", "CD8A", "CD45RA"]
    np.testing.assert_allclose(found.vector("CD3"), genes.matrix[genes.rows(["CD3D", "CD3E"])].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.vector("CD45RA"), genes.vector("PTPRC"))
    with pytest.raises(BftembedError, match="None of the 2 proteins is one whose gene has an embedding.*'xx', 'yy'"):
        antibody_embeddings(["xx", "yy"], genes)


def test_protein_embeddings_are_taken_where_given():
    ids = ["CD3", "CD19", "CD14", "NCAM1"]
    proteins = GeneEmbeddings(ids, np.random.default_rng(9).normal(size=(4, DIM)))
    frame = score(toys.with_obsm(), embeddings(), proteins=proteins)
    assert "4 of 8 antibodies with a vector (without: 'CD8a', 'CD4', 'IgG1_control', 'CD45RA')" in note(frame)
    assert table(frame) != table(score(toys.with_obsm()))
    both = score(toys.with_obsm(), {"a": embeddings(), "b": embeddings()}, proteins={"b": proteins})
    assert table(both, "b") == pytest.approx(table(frame), abs=1e-9)
    assert table(both, "a") == pytest.approx(table(score(toys.with_obsm())), abs=1e-9)


def test_the_linked_features_are_the_antibodies_beside_the_rna_of_their_genes():
    rna, protein, _ = counts()
    data = read_modalities(toys.with_obsm())
    from bftembed.bench.joint_space import How

    linked = linked_features(data, How())
    assert linked.note.startswith("6 of 8 antibodies")
    logged = np.log1p(1e4 * rna / rna.sum(axis=1, keepdims=True))
    clr = np.log1p(protein / np.exp(np.log1p(protein).mean(axis=1, keepdims=True)))
    panel = [list(PANEL).index(p) for p in ("CD3_TotalSeqB", "anti-CD19", "CD14", "CD56", "CD8a", "CD4")]
    of_rna = [logged[:, [GENES.index(g) for g in list(PANEL.values())[p]]].mean(axis=1) for p in panel]
    np.testing.assert_allclose(linked.rna, np.stack(of_rna, axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linked.protein, clr[:, panel], rtol=1e-4, atol=1e-5)
    for part in linked.scaled():
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(axis=0), 1, rtol=1e-4)


def test_baselines_stand_beside_the_embedding(tmp_path):
    out = tmp_path / "r.parquet"
    made = "linked,harmony,bbknn,random"
    frame = score(toys.with_obsm(), baselines=made, draws=2, out=out)
    assert set(frame["embedding"]) == {"embeddings", *(f"baseline: {name}" for name in made.split(","))}
    pd.testing.assert_frame_equal(read_results(out), frame)
    pd.testing.assert_frame_equal(score(toys.with_obsm(), baselines=made, draws=2), frame)
    drawn = frame[frame["embedding"] == "baseline: random"]
    assert set(drawn["seed"]) == {0, 1}
    assert len(drawn) == 2 * len(frame[(frame["embedding"] == "embeddings")])
    assert "Gaussian vectors of 15 genes" in note(frame, name="baseline: random")
    # The toys' proteins follow the RNA of their genes.
    assert table(frame, "baseline: linked")["foscttm"] < 0.4
    assert table(frame, "baseline: linked", "integration")["pcr_comparison"] == pytest.approx(1, abs=1e-6)
    assert "before: 6 of 8 antibodies with the RNA of their genes, normalised, not scaled" in note(
        frame, "pcr_comparison"
    )
    assert frame["value"].notna().all()


def test_drawn_vectors_depend_on_the_seed_alone():
    one, two = random_vectors(["B", "A", "C"], 4, 0), random_vectors({"C", "B"}, 4, 0)
    np.testing.assert_array_equal(one.vector("B"), two.vector("B"))
    assert (one.matrix != random_vectors("ABC", 4, 1).matrix).all()
    dealt = shuffled_vectors(one, 0)
    assert dealt.ids == one.ids
    assert sorted(map(tuple, dealt.matrix)) == sorted(map(tuple, one.matrix))
    np.testing.assert_array_equal(dealt.matrix, shuffled_vectors(one, 0).matrix)
    assert any((shuffled_vectors(one, seed).matrix != one.matrix).any() for seed in range(3))


def test_every_embedding_has_shuffled_vectors_of_its_own():
    data, genes = toys.with_obsm(), embeddings()
    frame = score(data, baselines="shuffled", draws=2)
    drawn = frame[frame["embedding"] == "baseline: shuffled"]
    assert sorted(drawn["seed"].unique()) == [0, 1]
    assert "vectors of embeddings dealt to other genes" in note(frame, name="baseline: shuffled")
    assert drawn["value"].notna().all()
    both = score(data, {"a": genes, "b": random_vectors(genes.ids, DIM, 5)}, baselines="shuffled", draws=1)
    assert {"baseline: shuffled a", "baseline: shuffled b"} < set(both["embedding"])
    assert table(both, "baseline: shuffled a") != table(both, "baseline: shuffled b")


def test_a_cell_without_a_vector_is_left_out_of_both_modalities_and_of_random_draws_too():
    data = toys.with_obsm()
    data.obsm["ADT"][4] = 0
    frame = score(data, baselines="linked,random", draws=1)
    assert set(frame["n_missing"]) == {1, 2}
    assert "1 cells left out: 1 without a protein vector in embeddings" in note(frame)
    kept = score(data[np.arange(120) != 4].copy())
    assert table(frame) == pytest.approx(table(kept), abs=1e-9)


def test_without_linked_features_the_comparison_before_is_a_row_with_its_reason():
    data = toys.with_obsm()[:, [g in ("LYZ", "GNLY", "NKG7", "ACTB") for g in GENES]].copy()
    frame = score(data)
    row = frame[frame["metric"] == "pcr_comparison"].iloc[0]
    assert math.isnan(row["value"])
    assert "No protein is linked to the RNA of its gene" in row["note"]
    with pytest.raises(BftembedError, match="No protein is linked to the RNA of its gene"):
        score(data, baselines="linked")


def joined_data(n=120, kinds=("rna", "protein")):
    """Return what MaxFuse would leave: rows in any order, the cell and the modality in obs."""
    draw = np.random.default_rng(2)
    cells, kinds = np.repeat(names(n), 2), np.tile(kinds, n)
    order = draw.permutation(2 * n)
    X = np.repeat(draw.normal(size=(n, 5)), 2, axis=0) + 0.01 * draw.normal(size=(2 * n, 5))
    obs = pd.DataFrame({"cell": cells, "modality": kinds}, index=[str(i) for i in range(2 * n)])
    found = anndata.AnnData(np.zeros((2 * n, 1), np.float32), obs=obs, obsm={"X_maxfuse": X, "X_other": X + 1})
    return found[order].copy()


def test_joint_embeddings_of_other_programs_are_read_by_cell_name(tmp_path):
    joined_data().write_h5ad(tmp_path / "m.h5ad")
    frame = score(toys.with_obsm(), joined=tmp_path / "m.h5ad", joined_keys="X_maxfuse,X_other")
    assert table(frame, "X_maxfuse")["foscttm"] == 0
    assert table(frame, "X_other")["matching_accuracy"] == 1
    assert "120 of 120 cells, read from a file" in note(frame, name="X_maxfuse")
    less = score(toys.with_obsm(), joined=joined_data(kinds=("GEX", "ADT"))[:200].copy(), joined_keys="X_maxfuse")
    assert 60 < less["n_used"].min() < 110
    assert "without a" in note(less)


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda d: d.obs.__setitem__("modality", "atac"), {}, "holds 'atac'; give 'rna' or 'protein'"),
        (
            lambda d: d.obs.__setitem__("cell", [f"z{i}" for i in range(240)]),
            {},
            "no row of 'modality' 'rna' is a cell",
        ),
        (lambda d: d.obs.__setitem__("cell", "c1"), {}, "of 1 cells occur more than once .'c1'"),
        (lambda d: d.obs.__delitem__("cell"), {}, "Unknown obs column 'cell'"),
        (lambda d: None, {"joined_keys": "X_maxfus"}, "Did you mean 'X_maxfuse'"),
        (lambda d: None, {"joined_keys": ""}, "needs both its file .--joined. and its key"),
    ],
)
def test_a_joint_embedding_that_does_not_fit_is_named(change, options, reason):
    data = joined_data()
    change(data)
    with pytest.raises(BftembedError, match=reason):
        score(toys.with_obsm(), joined=data, **{"joined_keys": "X_maxfuse", **options})


def renamed(data, prefix):
    data.obs_names = [f"{prefix}{name}" for name in data.obs_names]
    return data


def twice(data):
    data.obs_names = ["c1", *data.obs_names[1:]]
    return data


def without_names():
    data = toys.with_obsm()
    del data.uns["ADT_names"]
    return data


def unmapped():
    data = toys.with_obsm()
    data.uns["ADT_names"] = np.array([f"marker{i}x" for i in range(len(PANEL))])
    return data


def one_type():
    data = toys.with_types()
    return data[:, : len(GENES)].copy()


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (toys.rna_data, {}, "proteins were looked for in .obsm .its keys: none. and .*none was found.*--obsm"),
        (toys.with_obsm, {"obsm": "ATD"}, "Unknown key of .obsm 'ATD'.*Did you mean 'ADT'"),
        (without_names, {}, "its columns have no names"),
        (unmapped, {}, "None of the 8 proteins is one whose gene.*'marker0x', 'marker1x'"),
        (one_type, {}, "proteins were looked for in .obsm .its keys: none. and by .var.'feature_types'., and none was"),
        (toys.with_obsm, {"label": "kinds"}, "Unknown obs column 'kinds'.*Did you mean 'kind'"),
        (toys.with_obsm, {"genes": GeneEmbeddings(["TP53"], np.ones((1, 3)))}, "None of the 8 proteins|none of its 14"),
        (
            toys.with_obsm,
            {"proteins": GeneEmbeddings(["CD14"], np.ones((1, 3)))},
            "have 6 dimensions, the protein .* 3",
        ),
        (toys.with_obsm, {"proteins": {"other": embeddings()}}, "Unknown name of embeddings 'other' in proteins"),
        (toys.with_obsm, {"genes": {}}, "No gene embeddings"),
        (toys.with_obsm, {"genes": {"baseline: a": embeddings()}}, "is kept for what is made in the run"),
        (toys.with_obsm, {"baselines": "linke"}, "Unknown baseline 'linke'.*Did you mean 'linked'"),
        (toys.with_obsm, {"profile": "papers"}, "Unknown profile 'papers'"),
        (toys.with_obsm, {"normalize": "clr"}, "Unknown normalize 'clr' in normalize of the RNA"),
        (toys.with_obsm, {"draws": 0}, "draws .--draws. is 0"),
        (toys.with_obsm, {"rna": "rna"}, "holds no modalities by name"),
        (toys.with_obsm, {"gene_matrix": "whiten"}, "give raw, center or whiten:K"),
        (toys.with_obsm, {"weights": "rnk"}, "Unknown weights 'rnk'"),
        (toys.with_obsm, {"protein_data": toys.protein_data(), "obsm": "ADT"}, "Give either a file of the proteins"),
        (toys.rna_data, {"protein_data": renamed(toys.protein_data(), "x")}, "No cell of .*'c0', 'c1'.*'xc0', 'xc1'"),
        (
            toys.rna_data,
            {"protein_data": twice(toys.protein_data())},
            "obs.*1 cell names occur more than once .'c1'|1 cell",
        ),
        (lambda: 3, {}, "Expected an AnnData, a MuData or a path, got int"),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_bad_input_is_named(tmp_path, make, options, reason):
    out = tmp_path / "r.parquet"
    genes = options.get("genes", embeddings())
    rest = {k: v for k, v in options.items() if k != "genes"}
    with pytest.raises(BftembedError, match=reason):
        bench.multimodal(make(), genes, **{"label": "kind", "seeds": 1, "out": out, **rest})
    assert not out.exists()


def test_bad_files_are_named(tmp_path):
    path = toys.write_mudata(tmp_path / "a.h5mu", rna="one", adt="two", label_in="one")
    with pytest.raises(BftembedError, match="modalities one, two; which of them is the RNA is not known.*--rna"):
        score(path)
    with pytest.raises(BftembedError, match="Unknown modality 'on'.*Did you mean 'one'"):
        score(path, rna="on", adt="two")
    with pytest.raises(BftembedError, match="given for the RNA and for the proteins"):
        score(path, rna="one", adt="one")
    with pytest.raises(BftembedError, match="holds its modalities itself"):
        score(path, obsm="ADT")
    with pytest.raises(BftembedError, match="Unknown obs column 'knd'.*'kind'"):
        score(path, rna="one", adt="two", label="knd")
    with pytest.raises(BftembedError, match="no feature types .10x version 2."):
        score(toys.write_tenx_h5(tmp_path / "two.h5", types=False), label=None)
    with pytest.raises(BftembedError, match="no proteins: .*8 of 'Custom', 14 of 'Gene Expression'"):
        score(toys.write_tenx_mtx(tmp_path / "custom", kinds=("Gene Expression", "Custom")), label=None)
    with pytest.raises(BftembedError, match="Unknown obs column 'kind'"):
        score(toys.write_tenx_h5(tmp_path / "three.h5"))
    with pytest.raises(BftembedError, match="it has no obsm, layers or raw"):
        score(tmp_path / "three.h5", layer="counts", label=None)
    with h5py.File(tmp_path / "three.h5", "r+") as handle:
        handle["matrix/indices"][3] = 4000
    with pytest.raises(BftembedError, match="cannot be read as a 10x matrix"):
        score(tmp_path / "three.h5", label=None)
    with h5py.File(tmp_path / "three.h5", "r+") as handle:
        del handle["matrix/barcodes"]
    with pytest.raises(BftembedError, match="cannot be read as a 10x matrix"):
        score(tmp_path / "three.h5", label=None)
    with h5py.File(tmp_path / "three.h5", "r+") as handle:
        del handle["matrix/shape"]
    with pytest.raises(BftembedError, match="cannot be read as a 10x matrix"):
        score(tmp_path / "three.h5", label=None)
    (toys.write_tenx_mtx(tmp_path / "mtx") / "features.tsv.gz").unlink()
    with pytest.raises(BftembedError, match="no features.tsv.gz"):
        score(tmp_path / "mtx", label=None)
    for i, head in enumerate((b"", b"%%MatrixMarket\n22 120\n", b"%" * 10_000 + b"x", b"22 120 many\n")):
        folder = toys.write_tenx_mtx(tmp_path / f"head {i}")
        (folder / "matrix.mtx.gz").write_bytes(gzip.compress(head))
        with pytest.raises(BftembedError, match="matrix.mtx.gz has no line with its size"):
            score(folder, label=None)
    with pytest.raises(BftembedError, match="No such file"):
        score(tmp_path / "none.h5ad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BftembedError, match="no zarr store"):
        score(tmp_path / "empty")


def test_10x_matrices_that_do_not_fit_are_refused_with_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr("bftembed.bench.expression.available_memory", lambda: 1000)
    for path in (toys.write_tenx_h5(tmp_path / "a.h5"), toys.write_tenx_mtx(tmp_path / "mtx")):
        with pytest.raises(BftembedError, match="120 cells and 22 genes need about .* Give a sample of the cells"):
            score(path, label=None)


def test_few_cells_are_refused_by_label_or_a_table_with_reasons():
    for n in (1, 2):
        with pytest.raises(BftembedError, match=f"is an identifier, not a label: {n} distinct values for {n} cells"):
            score(toys.with_obsm()[:n].copy())
        with pytest.raises(BftembedError, match=f"at least 15 cells, and there are {n}"):
            score(toys.with_obsm()[:n].copy(), label=None)
    data = toys.with_obsm()
    data.obsm["ADT"][5:] = 0
    frame = score(data)
    assert set(frame["n_used"]) == {5, 10}
    assert frame.loc[frame["metric"] == "matching_accuracy_10", "value"].isna().all()


def test_labels_of_one_class_or_missing_are_refused():
    data = toys.with_obsm()
    data.obs["kind"] = "one"
    with pytest.raises(BftembedError, match="has one label only"):
        score(data)
    data.obs["kind"] = None
    with pytest.raises(BftembedError, match="has no value for any"):
        score(data)


def test_input_is_never_the_output(tmp_path):
    path = tmp_path / "cells.h5ad"
    toys.with_obsm().write_h5ad(path)
    kept = path.read_bytes()
    embeddings().save(tmp_path / "g.safetensors")
    for out in (path, tmp_path / "g.safetensors"):
        with pytest.raises(BftembedError, match="is the input"):
            score(path, tmp_path / "g.safetensors", out=out)
    assert path.read_bytes() == kept


def test_too_many_cells_for_the_memory_are_told_before_any_vector_is_made(monkeypatch):
    monkeypatch.setattr("bftembed.tasks.integration.available_memory", lambda: 100_000)
    monkeypatch.setattr("bftembed.bench.pairing.cell_vectors", lambda *_, **__: pytest.fail("vectors were made"))
    with pytest.raises(BftembedError, match="240 cells in 6 dimensions need about .* of memory"):
        score(toys.with_obsm())


def test_a_logged_rna_and_sparse_proteins_are_taken():
    data = toys.with_obsm()
    logged = data.copy()
    logged.X = scipy.sparse.csr_matrix(np.log1p(1e4 * data.X.toarray() / data.X.toarray().sum(axis=1, keepdims=True)))
    logged.obsm["ADT"] = scipy.sparse.csr_matrix(data.obsm["ADT"])
    assert table(score(logged)) == pytest.approx(table(score(data)), abs=1e-3)


def test_real_cite_seq_of_500_cells(shared_data, monkeypatch):
    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    with h5py.File(path) as handle:
        names = [n.decode() for n in handle["var/_index"][()]]
    frame = score(
        path,
        random_vectors(names[:4000], 32, 0),
        label=None,
        baselines="linked,random",
        draws=1,
        gene_matrix="center",
    )
    assert set(frame["n_used"]) == {500, 1000}
    linked, text = table(frame, "baseline: linked"), table(frame)
    assert linked["foscttm"] < 0.35 < text["foscttm"] < 0.6
    assert linked["matching_accuracy_10"] > 0.1
    assert "49 antibodies" in note(frame)
    assert frame["value"].notna().all()
