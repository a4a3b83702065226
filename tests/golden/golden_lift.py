"""A results table as flat keys and numbers. This file alone knows the schema; the golden files do not."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import pandas as pd

# Today (schema 1) the kind of a row is written into its name, an end of an interval is a row, a difference is a metric
# of its own, and the level of chance of a matching score stands in its note. With schema 2 these are columns, and what
# follows becomes a few lines; the keys stay:
#
#     run|task|protocol|kind|subject|metric|split|seed|WHAT
#
# WHAT is value, low, high, difference (to the best baseline), difference_low, difference_high; for perturbation, which
# takes differences to four things, "difference to random" and so on. Beside them "n" and "n_missing", once for a
# subject where all its rows agree. No value is None.

#: Baselines that integrate or reduce the expression itself.
REFERENCES = ("pca", "harmony", "bbknn", "scvi")
ENDS = {"ci95-low": "_low", "ci95-high": "_high"}
TO = {
    "_above_floor": "",
    "_minus_random": " to random",
    "_minus_shuffled": " to shuffled",
    "_minus_perturbed_mean": " to perturbed mean",
    "_minus_perturbation_mean": " to perturbation mean",
}


def lift(frame):
    """Return key → number of a table of `bftembed.results`."""
    found, counts = {}, defaultdict(dict)
    for row in frame.to_dict("records"):
        seed = "" if pd.isna(row["seed"]) else row["seed"]
        protocol, kind, subject = _kind(row["task"], row["protocol"], row["embedding"])
        metric, what = _metric(row["metric"], ENDS.get(row["split"], ""))
        split = "all" if row["split"] in ENDS else row["split"]
        head, tail = f"{row['run']}|{row['task']}|{protocol}|{kind}|{subject}", f"{metric}|{split}|{seed}"
        _put(found, f"{head}|{tail}|{what}", row["value"])
        n = counts[head].setdefault(tail, set())
        n.add((row["n_used"], row["n_missing"]))
        if chance := re.search(r"\bchance (\d[\d.e-]*)", row["note"] if row["task"] == "matching" else ""):
            _put(found, f"{row['run']}|{row['task']}|{protocol}|chance|chance|{metric}|all||value", float(chance[1]))
    for head, of_rows in counts.items():
        every = set.union(*of_rows.values())
        for tail, of_row in of_rows.items():
            where = head if len(every) == 1 else f"{head}|{tail}"
            (one,) = of_row
            found |= {f"{where}|n": one[0], f"{where}|n_missing": one[1]}
    return found


def _put(found, key, value):
    value = None if math.isnan(value) else float(value)
    assert found.setdefault(key, value) == value, f"two values of {key}: {found[key]} and {value}"


def _metric(metric, end):
    """Return the metric, and which of its numbers this is."""
    for suffix, to in TO.items():
        if metric.endswith(suffix):
            return metric.removesuffix(suffix), f"difference{end}{to}"
    return metric, end.removeprefix("_") or "value"


def _kind(task, protocol, name):
    """Return the protocol, the kind and the subject of a row."""
    if protocol.endswith("permuted-labels"):
        return protocol.removesuffix("permuted-labels").rstrip("/") or "standard", "chance", _made(name)[1]
    if task == "perturbation":
        return protocol, *_predictor(name)
    if name.startswith("baseline: "):
        return protocol, *_made(name)
    if name.startswith("ceiling: "):
        return protocol, "upper-bound", name.removeprefix("ceiling: ")
    if name.startswith("floor: "):
        return protocol, *_floor(name.removeprefix("floor: "))
    return protocol, "subject", name


def _made(name):
    name = name.removeprefix("baseline: ")
    word = name.split(" ")[0]
    return ("reference" if name in REFERENCES else word if word in ("random", "shuffled") else "baseline"), name


def _floor(name):
    if dim := re.fullmatch(r"random vectors \((\d+) dimensions\)", name):
        return "random", f"random {dim[1]}"
    if name.startswith("permuted labels of "):
        return "chance", name.removeprefix("permuted labels of ")
    name = name.removesuffix(" only")
    name = name.replace("text length of", "length of").replace("TF-IDF of the text of", "tfidf of")
    return "baseline", name


def _predictor(name):
    if name == "chance":
        return "chance", name
    if name.startswith("STATE: "):
        return "reference", "STATE"
    if not name.startswith("bilinear: P = "):
        return "baseline", name
    name = name.removeprefix("bilinear: P = ")
    if name in ("identity", "training PCA"):
        return "baseline", name
    if drawn := re.fullmatch(r"random \((.*)'s shape\)", name):
        return "random", f"random {drawn[1]}"
    if name.endswith(", shuffled"):
        return "shuffled", f"shuffled {name.removesuffix(', shuffled')}"
    return "subject", name
