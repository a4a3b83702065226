"""What is run for the golden values: the public verbs, on packaged data and on small real data."""

from __future__ import annotations

import functools
import json
import os
import tomllib
from dataclasses import dataclass
from unittest import mock

import anndata
import cite_toys
import numpy as np
import pandas as pd
import scipy.sparse
from golden_lift import lift
from golden_values import digest, sketch

import bftembed
from bftembed import bench
from bftembed.cells.sentences import cell_sentences, embed_cells_as_sentences
from bftembed.export import check_state, export_state
from bftembed.profiles.selection import export_profiles
from bftembed.testing import simulate_perturbations

# Tolerances were found by runs with one and two threads, and with the instructions of another processor (OpenBLAS for
# Nehalem, NumPy without AVX2, PyTorch and XLA without any). All is repeatable to the last digit on one machine.
#: Of vectors, and of scores that are computed in float64.
CLOSE = 1e-6
#: Of vectors divided by small singular values.
WHITENED = 1e-4
#: Of scores that are computed in float32 (JAX).
FLOAT32 = 1e-4
#: kBET accepts or refuses each cell, so that a last digit moves it, and with it the aggregates.
KBET = {"|kbet_per_label|": 0.06, "|batch_correction|": 0.03, "|total|": 0.02}
#: So does the order of two genes in a ROC curve of few; a penalty is chosen by it, too.
ORDER = {"|monocyte|strict/": 0.03, "|TF-IDF of the text of ": 0.03, "own: tfidf|types|strict/ridge|subject|": 0.1}


@dataclass
class Case:
    """One call of a verb.

    Attributes
    ----------
    command, name
        File, and key in it.
    run
        Returns key → value.
    tolerance, loose
        See `golden_values.differences`.
    extras
        Packages without which it is skipped.
    """

    command: str
    name: str
    run: object
    tolerance: float
    loose: dict
    extras: tuple

    def __str__(self):
        return f"{self.command}: {self.name}"


#: MiniLM, and the metrics of integration.
SCORED = ("sentence_transformers", "scib_metrics")

CASES = []


def case(command, name, tolerance=CLOSE, loose=None, extras=()):
    """Register a function of `Inputs` as a case."""

    def keep(function):
        CASES.append(Case(command, name, function, tolerance, loose or {}, extras))
        return function

    return keep


class Inputs:
    """What several cases start from, each made once.

    Parameters
    ----------
    folder
        To write into.
    shared
        Gives the path of a file of the shared data, or leaves by an exception.
    """

    def __init__(self, folder, shared):
        self.folder, self.shared, self._stores = folder, shared, 0

    @functools.cached_property
    def pbmc(self):
        import scanpy

        return scanpy.datasets.pbmc68k_reduced()

    @functools.cached_property
    def pbmc_path(self):
        from bftembed.datasets import data_path

        return data_path("builtin:pbmc68k_reduced")

    def facts(self, names, **options):
        """Return entity → text of the generator `facts`, and the report."""
        self._stores += 1
        folder = self.folder / f"profiles {self._stores}"
        report = bftembed.generate_profiles(list(names), generator="facts", out=folder / "store", **options)
        export_profiles(folder / "store", folder / "profiles.parquet")
        table = pd.read_parquet(folder / "profiles.parquet")
        return dict(zip(table["entity"], table["text"], strict=True)), report

    @functools.cached_property
    def texts(self):
        """Facts about the genes of the packaged cells."""
        return self.facts(self.pbmc.raw.var_names)[0]

    @functools.cached_property
    def minilm(self):
        """MiniLM's vectors of the 100 genes that these cells express most."""
        means = np.asarray(self.pbmc.raw.X.mean(axis=0)).ravel()
        genes = [self.pbmc.raw.var_names[i] for i in np.argsort(-means, kind="stable")]
        chosen = [gene for gene in genes if gene in self.texts][:100]
        return bftembed.embed_genes({gene: self.texts[gene] for gene in chosen})

    @functools.cached_property
    def tfidf(self):
        return bftembed.embed_genes(self.texts, "tfidf:dim=64")

    @functools.cached_property
    def symphony(self):
        """300 cells of three batches, and facts about their genes."""
        cells = anndata.read_h5ad(self.shared("cells/symphony_pbmc_3batch.h5ad"))[::4].copy()
        return cells, self.facts(cells.var_names)[0]

    def embedded(self, step):
        """Return every so manyeth of the packaged cells, with an embedding."""
        cells = self.pbmc[::step].copy()
        bftembed.embed_cells(cells, self.minilm, use_raw=True, precision="exact")
        # Two batches of a size that every metric can do with.
        cells.obs["batch"] = cells.obs["phase"].astype(str).replace("G2M", "S")
        return cells


# Profiles


@case("profiles", "genes")
def _(inputs):
    texts, report = inputs.facts(inputs.pbmc.raw.var_names)
    return _profiles(texts, report, ["CD3D", "LYZ", "MS4A1", "HLA-DRA", "GNLY"])


@case("profiles", "proteins")
def _(inputs):
    names = ["CD3", "anti-CD19", "CD45RA", "CD45RO", "CD56", "HLA-DR", "P04637", "TCRgd", "no protein"]
    texts, report = inputs.facts(names, kind="protein")
    return _profiles(texts, report, list(texts)[:6])


def _profiles(texts, report, shown):
    # The keys of profiles are left out: the backbone identifies a completion in another way.
    told = report.to_dict()
    counts = ("listed", "duplicates", "entities", "written", "resolution", "marks")
    found = {name: told[name] for name in counts} | {"skipped": len(report.skipped), "failed": len(report.failed)}
    found |= {f"text|{entity}": digest(texts[entity]) for entity in shown}
    return found | {"texts": digest(json.dumps(sorted(texts.items())))}


# Gene embeddings


@case("gene_embeddings", "minilm", extras=("sentence_transformers",))
def _(inputs):
    return sketch(inputs.minilm.matrix, inputs.minilm.ids)


@case("gene_embeddings", "minilm, a text in chunks", extras=("sentence_transformers",))
def _(inputs):
    words = " ".join(inputs.texts[gene] for gene in sorted(inputs.texts)[:40])
    found = bftembed.embed_genes({"long": words, "short": words[:200]})
    cut = bftembed.embed_genes({"long": words}, "builtin:all-minilm-l6-v2,long=truncate")
    return {"chunked": sketch(found.matrix, found.ids), "truncated": sketch(cut.matrix, cut.ids)}


@case("gene_embeddings", "tfidf")
def _(inputs):
    return sketch(inputs.tfidf.matrix, inputs.tfidf.ids)


@case("gene_embeddings", "random")
def _(inputs):
    found = bftembed.embed_genes(inputs.texts, "random:dim=32")
    return sketch(found.matrix, found.ids)


# Cell embeddings. `precision="exact"` leaves the choice of a kernel, which the clock makes, 1e-6 of the cosine.


AGGREGATIONS = {
    "default": {},
    "rank": {"weights": "rank"},
    "idf": {"weights": "idf"},
    "top 20": {"top_k": 20},
    "rank, top 20": {"weights": "rank", "top_k": 20},
    "center": {"gene_matrix": "center"},
    "whiten": {"gene_matrix": "whiten:20"},
    "no l2": {"l2": False},
    "no l2, matched expression": {"l2": False, "denominator": "matched-expression"},
    "no l2, idf, matched expression": {"l2": False, "weights": "idf", "denominator": "matched-expression"},
}


def _aggregation(name):
    @case("cells", name, tolerance=WHITENED if name == "whiten" else CLOSE, extras=("sentence_transformers",))
    def _(inputs):
        cells = inputs.pbmc.copy()
        bftembed.embed_cells(cells, inputs.minilm, use_raw=True, precision="exact", **AGGREGATIONS[name])
        return _cells(cells, "X_bft")


for _name in AGGREGATIONS:
    _aggregation(_name)


@case("cells", "file", extras=("sentence_transformers",))
def _(inputs):
    out = inputs.folder / "embedded.h5ad"
    options = {"key": "X_file", "use_raw": True, "precision": "exact"}
    report = bftembed.embed_cells(inputs.pbmc_path, inputs.minilm, out=out, **options)
    told = {"matched": report.n_matched, "genes": report.n_genes, "cells": report.n_cells}
    return _cells(anndata.read_h5ad(out), "X_file") | told | {"normalize": report.normalize}


@case("cells", "sidecar", extras=("sentence_transformers",))
def _(inputs):
    out = inputs.folder / "sidecar.h5ad"
    bftembed.embed_cells(inputs.pbmc_path, inputs.minilm, sidecar=out, use_raw=True, precision="exact")
    return _cells(anndata.read_h5ad(out), "X_bft")


@case("cells", "counts")
def _(inputs):
    found = {}
    for name, options in {
        "auto": {},
        "as they are": {"normalize": "none"},
        "proteins": {"obsm": "ADT", "kind": "protein", "normalize": "clr"},
        "proteins, no l2": {"obsm": "ADT", "kind": "protein", "normalize": "clr", "l2": False},
    }.items():
        cells = cite_toys.with_obsm()
        bftembed.embed_cells(cells, cite_toys.embeddings(), precision="exact", **options)
        found[name] = _cells(cells, "X_bft")
    return found


@case("cells", "empty cells")
def _(inputs):
    cells = cite_toys.rna_data(30)
    counts = np.where((np.arange(30) % 7 == 3)[:, None], 0, cells.X.toarray())
    counts[:, -1] = 1  # every cell expresses one gene, which has no vector
    cells.X = scipy.sparse.csr_matrix(counts)
    kept = bftembed.embed_cells(cells, cite_toys.embeddings(drop=["ACTB"]), empty_cells="drop", precision="exact")
    return _cells(kept, "X_bft")


@case("cells", "real counts", extras=("sentence_transformers",))
def _(inputs):
    path, found = inputs.shared("cells/citefuse_citeseq_pbmc500.h5ad"), {}
    cells = anndata.read_h5ad(path)
    for key, options in {
        "log1p-cp10k": {},
        "idf": {"weights": "idf"},
        "ADT": {"obsm": "ADT", "kind": "protein", "normalize": "clr", "empty_cells": "nan"},
    }.items():
        genes = cite_toys.embeddings() if key == "ADT" else inputs.minilm
        bftembed.embed_cells(cells, genes, key=key + "_", precision="exact", **options)
        found[key] = _cells(cells, key + "_")
    return found


def _cells(cells, key):
    coverage = cells.obs[f"{key}_coverage"].to_numpy(dtype=np.float64)
    return sketch(cells.obsm[key], cells.obs_names) | {"coverage": float(coverage.mean())}


@case("cells", "sentences", extras=("sentence_transformers",))
def _(inputs):
    cells = inputs.pbmc[::50].copy()
    options = {"use_raw": True, "top_genes": 40}
    embed_cells_as_sentences(cells, encoder="builtin:all-minilm-l6-v2", **options)
    sentences = cell_sentences(cells, **options)
    return _cells(cells, "X_sentence") | {"sentences": digest("\n".join(sentences))}


# bench clustering


@case("clustering", "packaged", extras=("sentence_transformers", "igraph"))
def _(inputs):
    frame = bench.clustering(
        inputs.embedded(2),
        ["X_bft", "X_umap"],
        "bulk_labels",
        protocol="strict,genept,standard",
        baselines="pca,random:2,shuffled,tfidf",
        texts=inputs.texts,
        genes=inputs.minilm,
        use_raw=True,
        seeds=2,
        run="pbmc",
    )
    return lift(frame)


@case("clustering", "real", extras=("igraph",))
def _(inputs):
    cells, texts = inputs.symphony
    cells = cells.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).where(np.arange(len(cells)) > 6)
    bftembed.embed_cells(cells, bftembed.embed_genes(texts, "tfidf:dim=64"), precision="exact", gene_matrix="center")
    return lift(bench.clustering(cells, "X_bft", "cell_type", baselines="pca,random", seeds=1, run="symphony"))


# bench integration


@case("integration", "packaged, current", tolerance=FLOAT32, loose=KBET, extras=SCORED)
def _(inputs):
    cells = inputs.embedded(3)
    options = {"use_raw": True, "seeds": 2, "run": "pbmc"}
    frame = bench.integration(
        cells, "X_bft", "bulk_labels", "batch", baselines="pca,harmony,bbknn,random", genes=inputs.minilm, **options
    )
    return lift(frame)


@case("integration", "packaged, paper", tolerance=FLOAT32, loose=KBET, extras=SCORED)
def _(inputs):
    frame = bench.integration(
        inputs.embedded(3),
        "X_bft",
        "bulk_labels",
        "batch",
        profile="paper",
        baselines="pca,harmony,bbknn,random:2,shuffled,tfidf",
        texts=inputs.texts,
        genes=inputs.minilm,
        use_raw=True,
        seeds=1,
        run="pbmc",
    )
    return lift(frame)


@case("integration", "real, paper", tolerance=FLOAT32, extras=("scib_metrics",))
def _(inputs):
    cells, _ = inputs.symphony
    options = {"profile": "paper", "seeds": 1, "halves": 3, "run": "symphony"}
    found = lift(bench.integration(cells, "", "cell_type", "batch", baselines="pca,harmony", **options))
    # Without the intervals that hold kBET: another processor moves its lower end, of half the cells, by .2.
    return {key: x for key, x in found.items() if not (key.endswith(("|low", "|high")) and any(k in key for k in KBET))}


# bench genes


@case("genes", "strict, with all that is made of texts", loose=ORDER)
def _(inputs):
    options = {"seeds": 1, "texts": inputs.texts}
    return _without_names(lift(bench.genes({"tfidf": inputs.tfidf}, [_task_folders(inputs)["monocyte"]], **options)))


@case("genes", "strict, pairs and sets, genes without a vector", loose=ORDER)
def _(inputs):
    folders = _task_folders(inputs)
    few = {gene: text for i, (gene, text) in enumerate(sorted(inputs.texts.items())) if i % 4}
    given = {"tfidf": inputs.tfidf, "few": bftembed.embed_genes(few, "random:dim=64")}
    frame = bench.genes(given, [folders["partners"], folders["types"]], seeds=1, texts=inputs.texts)
    return _without_names(lift(frame))


def _without_names(values):
    """Leave out the baseline of the gene's name: another processor turns the axes of its TF-IDF, and changes it by .15.

    They are as many as the names, and many explain equally little. `genept` has the baseline too, on one split.
    """
    return {key: value for key, value in values.items() if "|baseline|name only|" not in key}


@case("genes", "genept")
def _(inputs):
    folders = _task_folders(inputs)
    given, options = {"tfidf": inputs.tfidf}, {"protocols": "genept", "own": False, "texts": inputs.texts}
    # Forests of all floors would take ten seconds.
    forest = bench.genes(given, [folders["monocyte"]], baselines=False, **options)
    return lift(forest) | lift(bench.genes(given, [folders["partners"]], **options))


@case("genes", "real tasks")
def _(inputs):
    root = inputs.shared("gene_labels").parent
    # Neither has a gene of both classes: what becomes of one changes nothing here.
    with mock.patch.dict(os.environ, {"BFTEMBED_DATA": str(root)}):
        from bftembed.tasks.genes.builtin import get_task

        texts, _ = inputs.facts(sorted({gene for task in ("tf-range", "lys4") for gene in get_task(task).genes}))
        given = {"tfidf": bftembed.embed_genes(texts, "tfidf:dim=32")}
        strict = bench.genes(given, "tf-range", seeds=2, baselines=False)
        genept = bench.genes(given, "tf-range,lys4", protocols="genept", baselines=False)
        return lift(strict) | lift(genept)


def _task_folders(inputs):
    """Write tasks about genes of the packaged cells: where they are expressed, and which are expressed together."""
    raw = inputs.pbmc.raw
    genes = [gene for gene in raw.var_names if gene in inputs.texts][::6]
    labels = inputs.pbmc.obs["bulk_labels"].astype(str).to_numpy()
    x = pd.DataFrame(raw.X.toarray(), columns=raw.var_names)[genes]
    means = x.groupby(labels).mean()
    in_monocytes = (means.loc["CD14+ Monocyte"] > means.loc["CD19+ B"]).astype(int)
    similar = np.corrcoef(x.to_numpy(dtype=np.float64).T)
    np.fill_diagonal(similar, 0)
    ranked = np.argsort(-similar, axis=1, kind="stable")
    ends = {1: ranked[:, :3], 0: ranked[:, -3:]}
    pairs = {frozenset((i, int(j))): label for label, of in ends.items() for i in range(len(of)) for j in of[i]}
    pairs = sorted((*sorted(pair), label) for pair, label in pairs.items())
    most = means.to_numpy().argmax(axis=0)
    sets = {f"set {i}": (most == i).astype(int) for i in range(len(means)) if (most == i).sum() >= 12}
    return {
        "monocyte": _task_folder(
            inputs,
            "name: monocyte\nkind: binary\nlabel_words: [receptor, chemokine]\n",
            {"symbol": genes},
            {"label": in_monocytes.tolist()},
        ),
        "partners": _task_folder(
            inputs,
            "name: partners\nkind: pairs\n",
            {"symbol_a": [genes[i] for i, _, _ in pairs], "symbol_b": [genes[j] for _, j, _ in pairs]},
            {"label": [label for _, _, label in pairs]},
        ),
        "types": _task_folder(inputs, "name: types\nkind: multilabel\n", {"symbol": genes}, sets),
    }


def _task_folder(inputs, card, entities, outcomes):
    folder = inputs.folder / card.split()[1]
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(card)
    pd.DataFrame(entities).to_csv(folder / "entities.csv", index=False)
    pd.DataFrame(outcomes).to_csv(folder / "outcomes.csv", index=False)
    return folder


# bench multimodal


@case("multimodal", "simulated, current", tolerance=FLOAT32, extras=("scib_metrics",))
def _(inputs):
    frame = bench.multimodal(
        cite_toys.with_obsm(),
        {"toys": cite_toys.embeddings(), "others": cite_toys.embeddings(seed=1, drop=["CD14"])},
        label="kind",
        baselines="linked,harmony,bbknn,random,shuffled",
        draws=2,
        seeds=1,
        run="toys",
    )
    return lift(frame)


@case("multimodal", "real, paper", tolerance=FLOAT32, extras=("scib_metrics", "igraph"))
def _(inputs):
    cells = anndata.read_h5ad(inputs.shared("cells/citefuse_citeseq_pbmc500.h5ad"))[:200].copy()
    genes = bftembed.embed_genes({**inputs.texts, **inputs.facts(cite_toys.GENES)[0]}, "tfidf:dim=32")
    frame = bench.multimodal(
        cells,
        {"tfidf": genes},
        gene_matrix="center",
        center_cells=True,
        baselines="linked,random",
        draws=2,
        profile="paper",
        seeds=1,
        run="citefuse",
    )
    return lift(frame)


# bench perturbation


@case("perturbation", "simulated")
def _(inputs):
    cells, genes = simulate_perturbations(n_perturbations=12, n_genes=50, cells_per_perturbation=8)
    held = cells.obs["cell_type"] == "jurkat"
    predicted = anndata.AnnData(cells.X[held] * np.float32(0.9), cells.obs.loc[held, ["gene", "cell_type"]].astype(str))
    predicted.var_names = [str(i) for i in range(predicted.n_vars)]
    predicted.write_h5ad(inputs.folder / "adata_pred.h5ad")
    options = {"seeds": 2, "draws": 2, "run": "simulated", "state": inputs.folder / "adata_pred.h5ad"}
    return lift(bench.perturbation(cells, {"text": genes}, **options))


@case("perturbation", "real, unseen genes")
def _(inputs):
    path = inputs.shared("perturbation/papalexi2021_eccite_thp1_299genes.h5ad")
    cells = anndata.read_h5ad(path, backed="r")
    texts, _ = inputs.facts(sorted({*cells.obs["gene"], *cells.var_names} - {"non-targeting"}))
    genes = {"tfidf": bftembed.embed_genes(texts, "tfidf:dim=32")}
    options = {"cell_type_key": "cell_line", "split": "unseen-gene", "seeds": 2, "draws": 2, "run": "papalexi"}
    return lift(bench.perturbation(path, genes, allow_missing=True, **options))


@case("perturbation", "real, combinations")
def _(inputs):
    path = inputs.shared("perturbation/perturbench_devel_norman2019_mcfaline2024_500genes.h5ad")
    cells = anndata.read_h5ad(path, backed="r")
    single = {gene for label in cells.obs["perturbation"].unique() for gene in label.split("+")}
    texts, _ = inputs.facts(sorted({*single, *cells.var_names} - {"control"}))
    genes = {"tfidf": bftembed.embed_genes(texts, "tfidf:dim=32")}
    options = {"pert_col": "perturbation", "control": "control", "seeds": 1, "draws": 2, "run": "perturbench"}
    return lift(bench.perturbation(path, genes, allow_missing=True, **options))


# export state


@case("state", "simulated", extras=("torch",))
def _(inputs):
    import torch

    cell_types = ("k562", "rpe1", "jurkat")
    cells, genes = simulate_perturbations(
        n_perturbations=8, n_genes=60, cells_per_perturbation=6, cell_types=cell_types, dim=16, seed=3
    )
    for name, some in (("a", cell_types[:2]), ("b", cell_types[2:])):
        cells[cells.obs["cell_type"].isin(some)].copy().write_h5ad(inputs.folder / f"{name}.h5ad")
    out = inputs.folder / "state"
    done = export_state([inputs.folder / "a.h5ad", inputs.folder / "b.h5ad"], genes, out, hvg=20)
    found = {
        "report": {name: getattr(done, name) for name in ("n_cells", "n_perturbations", "dim", "n_genes", "n_hvg")}
    }
    found["findings"] = len(check_state(out))
    for name in ("a", "b"):
        written = anndata.read_h5ad(out / "cells" / f"{name}.h5ad")
        found[name] = {
            "X": _sums(written.X) | {"genes": digest("\n".join(written.var_names))},
            "X_hvg": _sums(written.obsm["X_hvg"]) | {"genes": digest("\n".join(written.uns["hvg_names"]))},
            "X_bft": sketch(written.obsm["X_bft"], written.obs_names),
            "obs": {
                column: {str(value): int(n) for value, n in written.obs[column].value_counts().items()}
                for column in ("gene", "cell_type", "gem_group")
            },
        }
    features = torch.load(out / "pert_features.pt", weights_only=True)
    names = sorted(features)
    found["features"] = sketch(np.stack([features[name].numpy() for name in names]), names)
    for question in ("zeroshot_celltype", "unseen_gene"):
        split = tomllib.loads((out / f"{question}.toml").read_text())
        found[question] = json.dumps({part: split.get(part, {}) for part in ("training", "zeroshot", "fewshot")})
    return found


def _sums(matrix):
    matrix = np.asarray(matrix, dtype=np.float64)
    return {"shape": f"{matrix.shape[0]} x {matrix.shape[1]}", "sum": matrix.sum(), "squares": (matrix**2).sum()}
