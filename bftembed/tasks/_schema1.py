"""Conversion of results of schema 1, in which kinds, intervals and comparisons were written into names and notes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("run", "embedding", "task", "protocol", "metric", "split", "seed", "value", "n_used", "n_missing", "note")
_ENDS = {"ci95-low": "difference_low", "ci95-high": "difference_high", "all": "difference"}
#: Pattern of a name → kind; its group is the subject. The first that matches the whole name counts.
_KINDS = (
    ("baseline: (random.*)", "random"),
    ("baseline: (shuffled.*)", "shuffled"),
    ("baseline: (tfidf.*)", "baseline"),
    ("baseline: (.*)", "reference"),
    ("ceiling: (.*)", "upper-bound"),
    ("floor: permuted labels of (.*)", "chance"),
    ("floor: (random.*)", "random"),
    ("floor: (.*)", "baseline"),
    ("(.*), label words masked", "label-masked"),
    ("(.*), without texts that state the label", "label-removed"),
    ("(.*)", "subject"),
)
#: Of perturbation.
_PREDICTORS = (
    ("(chance)", "chance"),
    ("(control mean|perturbed mean|mean of the perturbation)", "baseline"),
    ("bilinear: P = (identity|training PCA)", "reference"),
    (r"bilinear: P = random \((.*)'s shape\)", "random"),
    ("bilinear: P = (.*), shuffled", "shuffled"),
    ("bilinear: P = (.*)", "subject"),
    ("(.*)", "reference"),
)
_REFERENCES = {"perturbed_mean": "perturbed mean", "perturbation_mean": "mean of the perturbation"}


def convert(frame: pd.DataFrame, result: Callable[..., Any], over_seeds: Callable[[list[Any]], Any]) -> list[Any]:
    """Return the rows of a table of schema 1 (columns `COLUMNS`) as rows of schema 2.

    `result` and `over_seeds` are those of `bftembed.tasks.base`.
    """
    scores: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    compared: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for row in frame.fillna({"note": "", "n_used": 0, "n_missing": 0}).astype({"value": float}).to_dict("records"):
        kind, subject, protocol = _kind(row)
        metric, reference = _metric(row)
        key: tuple[str, ...] = (row["run"], subject, row["task"], protocol, metric, kind)
        if reference:
            compared.setdefault(key, {}).setdefault(reference, {})[_ENDS[row["split"]]] = row["value"]
        else:
            scores.setdefault(key, []).append(row)
    results: list[Any] = []
    for key, rows in scores.items():
        found = []
        for r in (r for r in rows if r["split"] == "all" or r["split"] not in _ENDS):
            seed, n = None if pd.isna(r["seed"]) else int(r["seed"]), int(r["n_used"])
            why = ("undefined" if "undefined: " in r["note"] else "error") if math.isnan(r["value"]) else ""
            counts = {"n": n, "n_missing": int(r["n_missing"]), "note": r["note"]}
            found.append(result(*key[:5], r["split"], seed, key[5], r["value"], reason=why, **counts))
        whole = [r for r in found if r.split == "all" and r.seed is None]
        seeded = [r for r in found if r not in whole and (r.split == "all" or r.split.startswith("fold"))]
        results += [r for r in found if r not in whole]
        if not whole and not seeded:  # parts without a whole, such as the share of each label
            continue
        summary = whole[0] if whole else over_seeds(seeded)
        ends = [[r["value"] for r in rows if r["split"] == end] for end in ("ci95-low", "ci95-high")]
        low, high = (sum(values) / len(values) if values else math.nan for values in ends)
        # Folds share their training parts: Student's t of them is too narrow.
        if not math.isnan(low) or any(r.split != "all" for r in seeded):
            summary = replace(summary, low=low, high=high)
        if key[2] == "perturbation" or key not in compared:
            results.append(summary)
        results += [replace(summary, reference=name, **of) for name, of in compared.get(key, {}).items()]
    return results


def _kind(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return kind, subject and protocol."""
    name, protocol = row["embedding"], row["protocol"]
    plain, _, permuted = protocol.rpartition("/")
    if permuted == "permuted-labels":
        return "chance", name, plain or "standard"
    patterns = _PREDICTORS if row["task"] == "perturbation" else _KINDS
    return next((kind, m[1], protocol) for pattern, kind in patterns if (m := re.fullmatch(pattern, name, re.DOTALL)))


def _metric(row: dict[str, Any]) -> tuple[str, str]:
    """Return metric and what it is compared with, ``""`` for nothing."""
    if row["metric"].endswith("_above_floor"):
        return row["metric"].removesuffix("_above_floor"), "best baseline"
    base, _, other = row["metric"].partition("_minus_")
    return (base, _REFERENCES.get(other, other)) if row["task"] == "perturbation" else (row["metric"], "")
