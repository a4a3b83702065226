"""Conversion of results of schema 1, in which kinds, intervals and comparisons were written into names and notes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = (
    *("run", "embedding", "task", "protocol", "metric", "split", "seed"),
    *("value", "n_used", "n_missing", "note"),
)
_LOW, _HIGH = "ci95-low", "ci95-high"
_ENDINGS = {", label words masked": "label-masked", ", without texts that state the label": "label-removed"}
_MEANS = ("control mean", "perturbed mean", "mean of the perturbation")
_OTHERS = {
    **{"random": "random", "shuffled": "shuffled"},
    **{"perturbed_mean": "perturbed mean", "perturbation_mean": "mean of the perturbation"},
}
_CHANCE = re.compile(r"(?:^|; )chance ([-+.\de]+)(?:;|$)")


def convert(frame: pd.DataFrame, result: Callable[..., Any], over_seeds: Callable[[list[Any]], Any]) -> list[Any]:
    """Return the rows of a table of schema 1 (columns `COLUMNS`) as rows of schema 2.

    `result` and `over_seeds` are those of `bftembed.tasks.base`.
    """
    scores: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    compared: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in frame.fillna({"note": "", "n_used": 0, "n_missing": 0}).astype({"value": float}).to_dict("records"):
        kind, subject, protocol = _kind(row)
        metric, reference = _metric(row)
        key: tuple[str, ...] = (row["run"], subject, row["task"], protocol, metric, kind)
        of_key = compared.setdefault(key, {}).setdefault(reference, []) if reference else scores.setdefault(key, [])
        of_key.append(row)
    results: list[Any] = []
    chances: dict[tuple[str, ...], tuple[int, float]] = {}
    for key, rows in scores.items():
        run, subject, task, protocol, metric, kind = key
        found = []
        for r in (r for r in rows if r["split"] not in (_LOW, _HIGH)):
            seed, n = None if pd.isna(r["seed"]) else int(r["seed"]), int(r["n_used"])
            counts = {"n": n, "n_missing": int(r["n_missing"]), "note": r["note"]}
            reason = _reason(r["note"]) if math.isnan(r["value"]) else ""
            found.append(result(*key[:5], r["split"], seed, kind, r["value"], reason=reason, **counts))
            if task == "matching" and (level := _CHANCE.search(r["note"])):
                place = (run, task, protocol, metric)
                chances[place] = max(chances.get(place, (0, 0.0)), (n, float(level[1])))
        whole = [r for r in found if r.split == "all" and r.seed is None]
        details = [r for r in found if r not in whole]
        seeded = [r for r in details if r.split == "all" or r.split.startswith("fold")]
        results += details
        if not whole and not seeded:  # parts without a whole, such as the share of each label
            continue
        summary = whole[0] if whole else over_seeds(seeded)
        ends = [[r["value"] for r in rows if r["split"] == end] for end in (_LOW, _HIGH)]
        low, high = (sum(values) / len(values) if values else math.nan for values in ends)
        # Folds share their training parts: Student's t of them is too narrow.
        if not math.isnan(low) or any(r.split != "all" for r in seeded):
            summary = replace(summary, low=low, high=high)
        if task == "perturbation" or key not in compared:
            results.append(summary)
        for name, of in compared.get(key, {}).items():
            at = {r["split"]: r["value"] for r in of}
            columns = {"all": "difference", _LOW: "difference_low", _HIGH: "difference_high"}
            difference = {column: at.get(split, math.nan) for split, column in columns.items()}
            results.append(replace(summary, reference=_OTHERS.get(name) or _best(of, frame), **difference))
    for (run, task, protocol, metric), (n, value) in chances.items():
        results.append(result(run, "chance", task, protocol, metric, kind="chance", value=value, n=n))
    return results


def _kind(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return kind, subject and protocol."""
    name, protocol = row["embedding"], row["protocol"]
    if protocol.rpartition("/")[2] == "permuted-labels":
        return "chance", name, protocol.rpartition("/")[0] or "standard"
    if row["task"] == "perturbation":
        return (*_predictor(name), protocol)
    if name.startswith("baseline: "):
        plain = name.removeprefix("baseline: ")
        kinds = {"random": "random", "shuffled": "shuffled", "tfidf": "baseline"}
        return kinds.get(plain.split(" ")[0], "reference"), plain, protocol
    if name.startswith("ceiling: "):
        return "upper-bound", name.removeprefix("ceiling: "), protocol
    if name.startswith("floor: permuted labels of "):
        return "chance", name.removeprefix("floor: permuted labels of "), protocol
    if name.startswith("floor: "):
        plain = name.removeprefix("floor: ")
        return "random" if plain.startswith("random") else "baseline", plain, protocol
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind, name.removesuffix(ending), protocol
    return "subject", name, protocol


def _predictor(name: str) -> tuple[str, str]:
    if name in ("chance", *_MEANS):
        return "chance" if name == "chance" else "baseline", name
    if not name.startswith("bilinear: P = "):
        return "reference", name
    plain = name.removeprefix("bilinear: P = ")
    if plain in ("identity", "training PCA"):
        return "reference", plain
    if found := re.fullmatch(r"random \((.*)'s shape\)", plain):
        return "random", found[1]
    if plain.endswith(", shuffled"):
        return "shuffled", plain.removesuffix(", shuffled")
    return "subject", plain


def _metric(row: dict[str, Any]) -> tuple[str, str]:
    """Return metric and what it is compared with, ``"best"`` for the best baseline, ``""`` for nothing."""
    metric = row["metric"]
    if metric.endswith("_above_floor"):
        return metric.removesuffix("_above_floor"), "best"
    base, minus, other = metric.partition("_minus_")
    return (base, other) if minus and row["task"] == "perturbation" else (metric, "")


def _best(rows: list[dict[str, Any]], frame: pd.DataFrame) -> str:
    """Return the best baseline that a note names; one name may be the beginning of another."""
    told = next((r["note"].removeprefix("best floor: ") for r in rows if r["note"].startswith("best floor: ")), "")
    names = {n.removeprefix("floor: ") for n in frame["embedding"] if n.startswith("floor: ")}
    told = told.removeprefix("floor: ")
    return max((n for n in names if told.startswith(n)), key=len, default=told.split(";")[0])


def _reason(note: str) -> str:
    if "undefined: " in note:  # the notes of perturbation begin with those of the run
        return "undefined"
    return "no-vectors" if note.startswith("none of the task's genes") else "error"
