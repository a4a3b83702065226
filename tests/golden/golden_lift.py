"""A results table as flat keys and numbers. This file alone knows the schema; the golden files do not."""

from __future__ import annotations

import math
from collections import defaultdict

import pandas as pd

HEAD = ("run", "task", "protocol", "kind", "subject")


def lift(frame):
    """Return ``run|task|protocol|kind|subject|metric|split|seed|WHAT`` → number of a table of `bftembed.tasks.base`.

    WHAT is value, low, high, or a difference with the name of its reference. The row without a seed is the score over
    all seeds. A value that is missing is None; other numbers that are NaN are left out. ``n`` and ``n_missing`` stand
    once for a subject where all its rows agree.
    """
    found, counts = {}, defaultdict(dict)
    for row in frame.to_dict("records"):
        head = "|".join(str(row[k]) for k in HEAD)
        tail = f"{row['metric']}|{row['split']}|{'' if pd.isna(row['seed']) else int(row['seed'])}"
        found[f"{head}|{tail}|value"] = None if math.isnan(row["value"]) else float(row["value"])
        for what in ("low", "high"):
            if not math.isnan(row[what]):
                found[f"{head}|{tail}|{what}"] = row[what]
        for what in ("difference", "difference_low", "difference_high"):
            if row["reference"] and not math.isnan(row[what]):
                found[f"{head}|{tail}|{what} to {row['reference']}"] = row[what]
        counts[head][tail] = (row["n"], row["n_missing"])
    for head, of_rows in counts.items():
        for tail, (n, n_missing) in of_rows.items():
            where = head if len(set(of_rows.values())) == 1 else f"{head}|{tail}"
            found |= {f"{where}|n": n, f"{where}|n_missing": n_missing}
    return found
