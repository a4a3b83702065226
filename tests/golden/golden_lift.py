"""A results table as flat keys and numbers. This file alone knows the schema; the golden files do not."""

from __future__ import annotations

import math

import pandas as pd

KEY = ("run", "task", "protocol", "kind", "subject", "metric", "split")
WHAT = ("value", "low", "high", "n", "n_missing")
DIFFERENCES = ("difference", "difference_low", "difference_high")


def lift(frame):
    """Return ``run|task|protocol|kind|subject|metric|split|seed|WHAT`` → number of a table of `bftembed.tasks.base`.

    Differences have the name of their reference after WHAT. The row without a seed is the score over all seeds. A value
    that is missing is None; ends and differences that are NaN are left out.
    """
    found = {}
    for row in frame.to_dict("records"):
        seed = "" if pd.isna(row["seed"]) else str(int(row["seed"]))
        head = "|".join([*(str(row[k]) for k in KEY), seed])
        found[f"{head}|value"] = None if math.isnan(row["value"]) else float(row["value"])
        for what in WHAT[1:]:
            if not (isinstance(row[what], float) and math.isnan(row[what])):
                found[f"{head}|{what}"] = row[what]
        for what in DIFFERENCES:
            if row["reference"] and not math.isnan(row[what]):
                found[f"{head}|{what} to {row['reference']}"] = row[what]
    return found
