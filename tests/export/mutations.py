"""One thing broken in a good export, the rule that must find it and where, and what cell-load 0.10.4 makes of it.

``"error"``: cell-load stops. ``"error with all"``: with output_space=all. ``"silent"``: it loads, and goes wrong
silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTROL = "non-targeting"
A, B, FEATURES = "cells/a.h5ad", "cells/b.h5ad", "pert_features.pt"
ZERO, UNSEEN = "zeroshot_celltype.toml", "unseen_gene.toml"


@dataclass(frozen=True)
class Mutation:
    """How to break a folder, which rule fails, and in which file."""

    break_it: Callable[[Path], Any]
    rule: str
    file: str
    cell_load: str = "silent"


def cells(change: Callable[[anndata.AnnData], Any], name: str = A) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        data = anndata.read_h5ad(folder / name)
        changed = change(data)
        (data if changed is None else changed).write_h5ad(folder / name)

    return break_it


def stored(change: Callable[[h5py.File], Any], name: str = A) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        with h5py.File(folder / name, "r+") as file:
            change(file)

    return break_it


def features(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        table = torch.load(folder / FEATURES, weights_only=True)
        torch.save(change(table), folder / FEATURES)

    return break_it


def text(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        changed, n = re.subn(pattern, new, (folder / name).read_text(), count=1, flags=re.MULTILINE | re.DOTALL)
        assert n == 1, f"{pattern} is not in {name}"
        (folder / name).write_text(changed)

    return break_it


def set_x(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def both(file: h5py.File) -> None:
        """X and X_hvg alike, so that they still fit."""
        x = change(file["X"][:])
        file["X"][:] = x
        file["obsm/X_hvg"][:] = x[:, file["var/highly_variable"][:]]

    return stored(both)


def relabel(column: str, rows: Any, value: Any) -> Callable[[Path], None]:
    def change(data: anndata.AnnData) -> None:
        values = data.obs[column].astype(object).to_numpy().copy()
        values[rows(data) if callable(rows) else rows] = value
        data.obs[column] = pd.Categorical(values)

    return cells(change)


def unused_category(data: anndata.AnnData) -> None:
    data.obs["gene"] = data.obs["gene"].cat.add_categories(["TP53"])


def embeddings(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[anndata.AnnData], None]:
    return lambda data: data.obsm.__setitem__("X_bft", change(data.obsm["X_bft"]))


def swapped_genes(file: h5py.File) -> None:
    file["obsm/X_hvg"][:] = file["obsm/X_hvg"][:][:, ::-1]


def other_order(data: anndata.AnnData) -> anndata.AnnData:
    data = data[:, ::-1].copy()
    data.obsm["X_hvg"] = np.asarray(data.X[:, data.var["highly_variable"]])
    data.uns["hvg_names"] = data.uns["hvg_names"][::-1]
    return data


def combination(folder: Path) -> None:
    """Label some training cells as a combination with a held-out gene."""
    held = re.search(r'test = \["([^"]+)"', (folder / UNSEEN).read_text())[1]
    relabel("gene", lambda data: np.flatnonzero(data.obs["gene"] != CONTROL)[:2], f"{held}+TP53")(folder)
    features(lambda table: {**table, f"{held}+TP53": torch.ones(16)})(folder)


def without_one(table: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    gone = next(key for key in sorted(table) if key != CONTROL)
    return {key: vector for key, vector in table.items() if key != gone}


MUTATIONS = {
    "missing labels": Mutation(relabel("gene", slice(0, 3), np.nan), "labels", A, "error"),
    "unused category": Mutation(cells(unused_category), "labels", A),
    "no control of a cell type": Mutation(
        cells(lambda d: d[(d.obs["gene"] != CONTROL) | (d.obs["cell_type"] != "rpe1")].copy()), "controls", A, "error"
    ),
    "negative": Mutation(set_x(lambda x: x - 0.5), "logged", A),
    "counts": Mutation(set_x(lambda x: np.rint(np.expm1(x))), "logged", A),
    "not logged": Mutation(set_x(np.expm1), "logged", A),
    "X not finite": Mutation(set_x(lambda x: np.where(x > 2, np.nan, x)), "logged", A),
    "mixed log1p": Mutation(stored(lambda f: f.__delitem__("uns/log1p")), "mixed-log", B, "error with all"),
    "X_hvg in another order": Mutation(stored(swapped_genes), "gene-order", A),
    "files in another order": Mutation(cells(other_order, B), "gene-order", B),
    "embedding not finite": Mutation(cells(embeddings(lambda x: x * np.nan)), "embeddings", A),
    "dimensions differ": Mutation(cells(embeddings(lambda x: x[:, :12]), B), "embeddings", B, "error"),
    "perturbation without vector": Mutation(features(without_one), "features", FEATURES),
    "features not finite": Mutation(features(lambda t: {k: v * np.nan for k, v in t.items()}), "features", FEATURES),
    "a list of features": Mutation(features(lambda t: list(t.values())), "features", FEATURES, "error"),
    "no validation split": Mutation(text(ZERO, r'^[^\n]*= "val"\n', ""), "validation", ZERO),
    "lists that differ": Mutation(text(UNSEEN, r'\[fewshot\."bft\.rpe1"\].*\Z', ""), "leaks", UNSEEN),
    "held-out gene in a combination": Mutation(combination, "leaks", UNSEEN),
    "both tables": Mutation(text(UNSEEN, r"\[zeroshot\]\n", '[zeroshot]\n"bft.k562" = "test"\n'), "leaks", UNSEEN),
    "val and test alike": Mutation(
        text(UNSEEN, r"val = (\[[^\]]*\])\ntest = [^\n]*", r"val = \1\ntest = \1"), "leaks", UNSEEN
    ),
    "unknown cell type": Mutation(text(ZERO, r'bft\.(\w+)" = "test"', r'bft.\1t" = "test"'), "names", ZERO),
    "control held out": Mutation(text(UNSEEN, r'val = \["', f'val = ["{CONTROL}", "'), "names", UNSEEN),
    "not TOML": Mutation(text(ZERO, r"\[datasets\]", "[datasets"), "readable", ZERO, "error"),
}
