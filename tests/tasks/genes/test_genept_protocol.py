"""Protocol genept against a literal transcription of the notebooks' steps."""

from __future__ import annotations

import csv
import gzip
import random
import warnings

import numpy as np
import pytest
from gene_toys import card, pair_task, scores, symbols, vectors
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, train_test_split

import bftembed
from bftembed.tasks.genes import make_task
from bftembed.tasks.genes.splits import plan_genept


@pytest.fixture(autouse=True)
def _global_generators_and_warnings():
    """Put the global generators back, which the notebooks seed; their warnings are theirs."""
    before, own = np.random.get_state(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
    np.random.set_state(before)
    random.setstate(own)


def notebook_binary(embedding, positives, negatives):
    """Follow the notebook gene_level_task_table_1; fold AUCs of the logistic regression and of the forest."""
    x, y = [], []
    for gene in positives:
        if gene in embedding:
            x.append(embedding[gene])
            y.append(1)
    for gene in negatives:
        if gene in embedding:
            x.append(embedding[gene])
            y.append(0)
    x, y = np.array(x), np.array(y)
    np.random.seed(2023)
    random.seed(2023)
    cv = StratifiedKFold(n_splits=5)
    lr_aucs, rf_aucs = [], []
    for train, test in cv.split(x, y):
        clf = LogisticRegression()
        clf.fit(x[train], y[train])
        fpr, tpr, _ = roc_curve(y[test], clf.predict_proba(x[test])[:, 1])
        lr_aucs.append(auc(fpr, tpr))
        clf = RandomForestClassifier()
        clf.fit(x[train], y[train])
        fpr, tpr, _ = roc_curve(y[test], clf.predict_proba(x[test])[:, 1])
        rf_aucs.append(auc(fpr, tpr))
    return lr_aucs, rf_aucs


def case(seed, dtype, d=12, n_positive=37, n_negative=61, scale=1.0):
    """Return embedding and lists: zero vectors, repeated genes, absent genes, duplicated vectors."""
    draw = np.random.default_rng(seed)
    names = symbols(n_positive + n_negative, seed)
    positives, negatives = names[:n_positive], names[n_positive:]
    matrix = scale * draw.standard_normal((len(names), d))
    matrix[:n_positive, :3] += 0.7 * scale
    embedding = {name: matrix[i].astype(dtype) for i, name in enumerate(names)}
    for name in (positives[3], positives[20], negatives[5], negatives[6], negatives[40]):
        embedding[name] = np.zeros(d, dtype)
    embedding[negatives[9]] = embedding[negatives[10]].copy()
    for name in (positives[0], positives[11], negatives[-1], negatives[30]):
        del embedding[name]
    positives = [*positives[:7], positives[2], *positives[7:], positives[2]]
    negatives = [*negatives[:4], negatives[3], *negatives[4:], negatives[0]]
    return embedding, positives, negatives


@pytest.mark.parametrize(("seed", "scale", "dtype"), [(0, 1.0, np.float64), (1, 0.05, np.float32)])
def test_fold_aucs_are_those_of_the_notebook(dtype, seed, scale):
    embedding, positives, negatives = case(seed, dtype, scale=scale)
    expected_lr, expected_rf = notebook_binary(embedding, positives, negatives)

    labels = [1] * len(positives) + [0] * len(negatives)
    task = make_task(card(), "binary", [*positives, *negatives], labels)
    # The order of the file of vectors means nothing.
    genes = [*symbols(5, 99), *sorted(embedding)]
    matrix = np.array([embedding.get(g, np.ones(12, dtype)) for g in genes], dtype)
    frame = bftembed.bench.genes({"mine": vectors(genes, matrix)}, task, protocols="genept", baselines=False)

    lr, rf = (scores(frame, "mine", protocol=f"genept/{p}") for p in ("logistic", "forest"))
    assert np.abs(lr - expected_lr).max() < 1e-12
    assert np.abs(rf - expected_rf).max() < 1e-12
    assert 0.5 < np.mean(lr) < 1.0
    one = frame.iloc[0]
    n_absent = sum(g not in embedding for g in positives + negatives)
    assert (one["n"], one["n_missing"]) == (len(labels) - n_absent, n_absent)
    assert n_absent == 4
    assert "5 zero vectors among mine" in one["note"]


def table(path):
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def bag_of_words(shared_data):
    """Embed the RefSeq summaries by TF-IDF, without the product."""
    texts = {row["symbol"]: row["summary"] for row in table(shared_data("gene_text/refseq_gene_summary_human.tsv.gz"))}
    words = TfidfVectorizer(max_features=5000, dtype=np.float32).fit_transform(texts.values())
    matrix = TruncatedSVD(64, random_state=0).fit_transform(words).astype(np.float32)
    return dict(zip(texts, matrix, strict=True))


@pytest.mark.parametrize(
    ("name", "other", "n_items", "both"),
    [("no-methy", "no_methylation_gene_labels", 133, ["FOXP2"]), ("lys4", "lys4_only_gene_labels", 158, [])],
)
def test_real_labels_are_scored_as_in_the_notebook(shared_data, bag_of_words, monkeypatch, name, other, n_items, both):
    symbol = {row["ensembl_gene_id"]: row["symbol"] for row in table(shared_data("id_maps/hgnc_approved.tsv.gz"))}
    lists = [
        [symbol[i] for i in shared_data(f"gene_labels/{file}.txt").read_text().split() if i in symbol]
        for file in ("bivalent_gene_labels", other)
    ]
    assert sorted(set(lists[0]) & set(lists[1])) == both
    expected = notebook_binary(bag_of_words, *lists)

    monkeypatch.setenv("BFTEMBED_DATA", str(shared_data("gene_labels").parent))
    mine = {"mine": vectors(list(bag_of_words), np.array(list(bag_of_words.values())))}
    frame = bftembed.bench.genes(mine, name, protocols="genept,strict", seeds=1, baselines=False)
    of = {probe: frame[frame["protocol"] == probe] for probe in ("genept/logistic", "genept/forest", "strict/logistic")}
    for (protocol, rows), aucs in zip(of.items(), expected, strict=False):
        assert np.abs(scores(rows, "mine", protocol=protocol) - aucs).max() < 1e-12
        assert set(rows["n"]) == {n_items}
        assert np.mean(aucs) > 0.6
    # Protocol strict counts a gene of both labels, and leaves it out.
    assert set(of["strict/logistic"]["n"]) == {len(set(lists[0] + lists[1]) & set(bag_of_words)) - len(both)}
    for protocol, rows in of.items():
        assert rows["note"].str.contains("genes of both classes").all() == bool(both), protocol


def test_neither_global_generator_is_touched_nor_listened_to():
    embedding, positives, negatives = case(2, np.float64)
    labels = [1] * len(positives) + [0] * len(negatives)
    task = make_task(card(), "binary", [*positives, *negatives], labels)
    mine = {"mine": vectors(list(embedding), np.array(list(embedding.values())))}
    frames = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        before, own = np.random.get_state(), random.getstate()
        frames.append(bftembed.bench.genes(mine, task, protocols="genept,strict", seeds=1, baselines=False))
        after = np.random.get_state()
        assert after[0] == before[0]
        assert (after[1] == before[1]).all()
        assert after[2:] == before[2:]
        assert random.getstate() == own
    assert frames[0].equals(frames[1])


def notebook_pairs(embedding, train, test):
    """Follow the notebook gene_level_task_figure_2; the AUC on test."""
    parts = []
    for pairs in (train, test):
        x = [embedding[a] + embedding[b] for a, b, _ in pairs if a in embedding and b in embedding]
        y = [label for a, b, label in pairs if a in embedding and b in embedding]
        parts.append((np.array(x), np.array(y)))
    (x_train, y_train), (x_test, y_test) = parts
    clf = LogisticRegression()
    clf.fit(x_train, y_train)
    return roc_auc_score(y_test, clf.predict_proba(x_test)[:, 1])


def pair_rows(seed=0, n_genes=50):
    """Return (a, b, label) by part: with repeats, mirrored and self pairs, a contradiction, and NA as a gene."""
    draw = np.random.default_rng(seed)
    genes = ["NA", *symbols(n_genes - 1, seed)]
    worth = draw.standard_normal(n_genes)
    parts = {}
    for part, n in (("train", 240), ("unused", 60), ("test", 90)):
        a, b = draw.integers(n_genes, size=(2, n))
        label = (worth[a] + worth[b] + draw.standard_normal(n) > 0).astype(int)
        parts[part] = [(genes[i], genes[j], int(y)) for i, j, y in zip(a, b, label, strict=True)]
        first = parts[part][0]
        parts[part] += [first, (first[1], first[0], first[2]), (first[0], first[1], 1 - first[2])]
        parts[part] += [(genes[4], genes[4], 1)]
    return genes, worth, parts


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pairs_are_scored_as_in_the_notebook(dtype):
    genes, worth, parts = pair_rows()
    draw = np.random.default_rng(5)
    matrix = draw.standard_normal((len(genes), 10))
    matrix[:, 0] += worth
    matrix[7] = 0
    embedding = {g: v.astype(dtype) for g, v in zip(genes, matrix, strict=True) if g not in genes[20:23]}
    expected = notebook_pairs(embedding, parts["train"], parts["test"])
    rows = [(a, b, y, part) for part, found in parts.items() for a, b, y in found]
    task = pair_task(card(), [r[:2] for r in rows], [r[2] for r in rows], split=[r[3] for r in rows])
    mine = {"mine": vectors(list(embedding), np.array(list(embedding.values())))}
    frame = bftembed.bench.genes(mine, task, protocols="genept", baselines=False)
    found = scores(frame, "mine", protocol="genept/logistic")
    assert len(found) == 1
    assert abs(found[0] - expected) < 1e-12
    assert 0.6 < expected < 1.0
    assert set(frame["n"]) == {
        sum(label[0] in embedding and label[1] in embedding for p in ("train", "test") for label in parts[p])
    }
    assert "genept/forest" not in set(frame["protocol"])


def notebook_types(embedding, kinds):
    """Follow the notebook's gene-type section; predicted classes and truth of the test part."""
    kept = {g: k for g, k in kinds.items() if g in embedding and np.any(embedding[g])}
    sizes = {k: list(kept.values()).count(k) for k in set(kept.values())}
    kept = {g: k for g, k in kept.items() if sizes[k] > 75}
    x, y = np.array([embedding[g] for g in kept]), np.array(list(kept.values()))
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.30, random_state=2023)
    clf = LogisticRegression(max_iter=100)
    clf.fit(x_train, y_train)
    return float(np.mean(clf.predict(x_test) == y_test)), len(kept)


def test_gene_types_are_scored_by_accuracy_as_in_the_notebook():
    dtype = np.float32
    draw = np.random.default_rng(0)
    # "just" has 76 genes, of which one has a zero vector: no more than 75 are left.
    sizes = {"protein_coding": 150, "lncRNA": 100, "miRNA": 76, "just": 76, "rare": 40}
    names = symbols(sum(sizes.values()))
    of = draw.permutation(np.repeat(list(sizes), list(sizes.values())))
    kinds = dict(zip(names, of.tolist(), strict=True))
    codes = {k: i for i, k in enumerate(sorted(sizes))}
    matrix = draw.standard_normal((len(names), 6)) + np.eye(6)[[codes[k] for k in kinds.values()]] * 1.5
    embedding = {g: v.astype(dtype) for g, v in zip(names, matrix, strict=True)}
    embedding[next(g for g, k in kinds.items() if k == "just")] = np.zeros(6, dtype)
    del embedding[next(g for g, k in kinds.items() if k == "lncRNA")]
    expected, n = notebook_types(embedding, kinds)
    task = make_task(card(), "multiclass", names, [codes[k] for k in kinds.values()], label_names=sorted(sizes))
    mine = {"mine": vectors(list(embedding), np.array(list(embedding.values())))}
    frame = bftembed.bench.genes(mine, task, protocols="genept", baselines=False)
    found = scores(frame, "mine", metric="accuracy", protocol="genept/logistic")
    assert found == pytest.approx([expected], abs=1e-12)
    assert 0.4 < expected < 1.0
    assert set(frame["n"]) == {n}
    assert frame["note"].str.contains("3 types with more than 75 genes").all()
    assert "roc_auc" not in set(frame["metric"])


def test_what_the_notebooks_do_not_have_is_a_named_failure():
    many = make_task(card(), "multilabel", ["A", "B"], [[1, 0], [0, 1]], label_names=["x", "y"])
    with pytest.raises(bftembed.BftembedError, match="no multilabel task"):
        plan_genept(many)
    few = make_task(card(), "binary", [f"G{i}" for i in range(12)], [1] * 4 + [0] * 8)
    with pytest.raises(bftembed.BftembedError, match="the class 'positive' has 4 genes"):
        plan_genept(few)
    types = make_task(card(), "multiclass", [f"G{i}" for i in range(90)], [0] * 80 + [1] * 10, label_names=["x", "y"])
    with pytest.raises(bftembed.BftembedError, match="fewer than two types"):
        plan_genept(types)
