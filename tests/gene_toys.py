"""Gene tasks and vectors of which the right score is known, for the tests of the gene-level benchmark."""

from __future__ import annotations

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.tasks.genes import make_task
from bftembed.tasks.genes.definition import TaskInfo


def card(name="toy"):
    return TaskInfo(name, "a test", "CC0")


def symbols(n, seed=0):
    """Return n names that no gene has, without any pattern."""
    draw = np.random.default_rng([seed, 77])
    found = {}
    while len(found) < n:
        found["ZQ" + "".join(draw.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 6))] = None
    return list(found)


def vectors(genes, matrix):
    return GeneEmbeddings(list(genes), matrix, as_published=True)


def pair_task(info, pairs, labels, **options):
    return make_task(info, "pairs", pairs, labels, **options)


def binary(n=60, n_positive=None, seed=0, name="toy", **options):
    """Return a binary task of n genes in random order, and its labels."""
    labels = np.zeros(n, np.int64)
    labels[: n // 2 if n_positive is None else n_positive] = 1
    labels = np.random.default_rng(seed).permutation(labels)
    return make_task(card(name), "binary", symbols(n, seed), labels, **options), labels


def signal(labels, strength=1.0, d=8, seed=0, dtype=np.float32):
    """Return noise (n, d) whose first axis is moved by the label."""
    matrix = np.random.default_rng([seed, 5]).standard_normal((len(labels), d))
    matrix[:, 0] += strength * np.asarray(labels)
    return matrix.astype(dtype)


def random_pairs(n_genes=60, n_pairs=300, seed=0, name="toy pairs", **options):
    """Return a task of positive pairs alone, drawn at random."""
    draw = np.random.default_rng([seed, 9])
    genes = symbols(n_genes, seed)
    a, b = np.triu_indices(n_genes, 1)
    chosen = draw.choice(len(a), n_pairs, replace=False)
    pairs = [(genes[i], genes[j]) for i, j in zip(a[chosen], b[chosen], strict=True)]
    return pair_task(card(name), pairs, np.ones(n_pairs, np.int64), **options)


def rows_of(frame, subject, kind="subject", metric="roc_auc", run="shared", protocol=None):
    """Return the rows of one score."""
    chosen = {"subject": subject, "kind": kind, "metric": metric, "run": run}
    chosen |= {} if protocol is None else {"protocol": protocol}
    for column, value in chosen.items():
        frame = frame[frame[column] == value]
    assert frame["protocol"].nunique() == 1, chosen
    return frame


def scores(frame, subject, kind="subject", **where):
    """Return the values of the folds, in the order of seeds and folds."""
    rows = rows_of(frame, subject, kind, **where)
    return rows[rows["seed"].notna()].sort_values(["seed", "split"])["value"].to_numpy()


def mean(frame, subject, kind="subject", **where):
    """Return the row over all folds and seeds."""
    rows = rows_of(frame, subject, kind, **where)
    (row,) = rows[rows["seed"].isna()].to_dict("records")
    return row
