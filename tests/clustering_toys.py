"""Results of the clustering task as its protocols record them: rows per seed, rows of intervals, floors."""

from __future__ import annotations

import math

import numpy as np

from bftembed.results import Result

STRICT = [f"{prefix}{m}" for prefix in ("", "leiden_k_", "leiden_best_") for m in ("ari", "ami", "nmi")]
SILHOUETTES = ["silhouette", "silhouette_cosine"]


def scored(
    embedding,
    level,
    *,
    protocol="strict",
    run="pbmc/cell_type",
    without=(),
    reason="error: no cell has both a label and a vector",
    intervals=True,
    floors=True,
    seeds=(0, 1, 2),
    note="",
):
    """All rows of one embedding whose scores lie near `level`; the silhouettes are lower, and may be negative."""
    rng = np.random.default_rng(abs(hash_of(embedding)) % 1000)
    seeded, whole = (
        ([*STRICT, "knn_accuracy"], SILHOUETTES) if protocol == "strict" else (["ari", "ami"], ["silhouette"])
    )
    seeds = (2023,) if protocol == "genept" else seeds
    rows = []

    def add(metric, value, seed=None, split="all", *, of=protocol, told=note):
        rows.append(Result(run, embedding, "clustering", of, metric, split, seed, value, 1200, 3, told))

    for metric in [*seeded, *whole]:
        centre = level + 0.06 * STRICT.index(metric) / 9 if metric in STRICT else level * 0.2 - 0.03
        centre = level + 0.3 if metric == "knn_accuracy" else centre
        some = seeds if metric in seeded else (None,)
        for i, seed in enumerate(some):
            failed = metric in without
            add(metric, math.nan if failed else centre + 0.01 * i, seed, told=reason if failed else note)
        if intervals and metric not in without:
            half = 0.02 + 0.05 * float(rng.random())
            add(metric, centre - half, split="ci95-low")
            add(metric, centre + half, split="ci95-high")
        if floors and protocol != "genept":
            floor = "permuted-labels" if protocol == "standard" else f"{protocol}/permuted-labels"
            for seed in seeds:
                add(metric, float(rng.normal(0, 0.003)) - (0.05 if metric in whole else 0), seed, of=floor)
    return rows


def hash_of(text):
    """Return a number of a text that is the same in every process."""
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))
