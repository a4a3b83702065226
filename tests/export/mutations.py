"""One thing broken in a good export, the finding that must come of it, and what cell-load 0.10.4 makes of it.

``"error"``: cell-load stops. ``"error with all"``: with output_space=all. ``"silent"``: it loads, and goes
wrong without a word. ``""``: nothing it looks at.
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
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTROL = "non-targeting"


@dataclass(frozen=True)
class Mutation:
    """How to break a folder, in which file a FAIL is expected, and what it says."""

    break_it: Callable[[Path], Any]
    file: str
    says: str
    cell_load: str


def cells(change: Callable[[anndata.AnnData], Any], name: str = "a") -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        path = folder / "cells" / f"{name}.h5ad"
        data = anndata.read_h5ad(path)
        changed = change(data)
        (data if changed is None else changed).write_h5ad(path)

    return break_it


def stored(change: Callable[[h5py.File], Any], name: str = "a") -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        with h5py.File(folder / "cells" / f"{name}.h5ad", "r+") as file:
            change(file)

    return break_it


def features(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        path = folder / "pert_features.pt"
        table = torch.load(path, weights_only=True)
        torch.save(change(table), path)

    return break_it


def text(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        path = folder / name
        changed, n = re.subn(pattern, new, path.read_text(), count=1, flags=re.MULTILINE | re.DOTALL)
        assert n == 1, f"{pattern} is not in {name}"
        path.write_text(changed)

    return break_it


def set_x(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def both(file: h5py.File) -> None:
        """X and X_hvg alike, so that they still fit."""
        x = change(file["X"][:])
        file["X"][:] = x
        file["obsm/X_hvg"][:] = x[:, file["var/highly_variable"][:]]

    return stored(both)


def replace_x(make: Callable[[Any], Any]) -> Callable[[Path], None]:
    def change(data: anndata.AnnData) -> None:
        data.X = make(data.X)

    return cells(change)


def in_obsm(key: str, make: Callable[[anndata.AnnData], Any], name: str = "a") -> Callable[[Path], None]:
    def change(data: anndata.AnnData) -> None:
        data.obsm[key] = make(data)

    return cells(change, name)


def without(key: str) -> Callable[[Path], None]:
    return stored(lambda file: file.__delitem__(key))


def relabel(column: str, rows: Any, value: Any) -> Callable[[Path], None]:
    def change(data: anndata.AnnData) -> None:
        values = data.obs[column].astype(object).to_numpy().copy()
        values[rows(data) if callable(rows) else rows] = value
        data.obs[column] = pd.Categorical(values)

    return cells(change)


def unused_category(data: anndata.AnnData) -> None:
    data.obs["gene"] = data.obs["gene"].cat.add_categories(["TP53"])


def named_index(data: anndata.AnnData) -> None:
    data.var = data.var.drop(columns="gene_name")
    data.var.index.name = "symbol"


def swapped_genes(file: h5py.File) -> None:
    hvg = file["obsm/X_hvg"][:]
    file["obsm/X_hvg"][:] = hvg[:, ::-1]


def other_order(data: anndata.AnnData) -> anndata.AnnData:
    data = data[:, ::-1].copy()
    data.obsm["X_hvg"] = np.asarray(data.X[:, data.var["highly_variable"]])
    data.uns["hvg_names"] = data.uns["hvg_names"][::-1]
    return data


def fewshot_elsewhere(folder: Path) -> None:
    """Take the whole list of one cell type away: its cells of the held-out genes train."""
    text("unseen_gene.toml", r'\[fewshot\."bft\.rpe1"\].*\Z', "")(folder)


def both_tables(folder: Path) -> None:
    text("unseen_gene.toml", r"\[zeroshot\]\n", '[zeroshot]\n"bft.k562" = "test"\n')(folder)


def combination(folder: Path) -> None:
    """Label some training cells as a combination with a held-out gene."""
    held = re.search(r'test = \["([^"]+)"', (folder / "unseen_gene.toml").read_text())[1]
    change = relabel("gene", lambda data: np.flatnonzero(data.obs["gene"] != CONTROL)[:2], f"{held}+TP53")
    change(folder)
    path = folder / "pert_features.pt"
    table = torch.load(path, weights_only=True)
    torch.save({**table, f"{held}+TP53": torch.ones(16)}, path)


def views(table: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    whole = torch.stack(list(table.values()))
    return dict(zip(table, whole, strict=True))


def drop(key: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda table: {k: v for k, v in table.items() if k != key}


def drop_first(table: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return drop(next(k for k in sorted(table) if k != CONTROL))(table)


def each(change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    return features(lambda table: {k: change(v) for k, v in table.items()})


def compressed_columns(x: Any) -> Any:
    return sparse.csc_matrix(x)


def first_longer(table: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = next(iter(table))
    return {k: torch.cat([v, v]) if k == first else v for k, v in table.items()}


def dotted(folder: Path) -> None:
    path = folder / ZERO
    path.write_text(path.read_text().replace('"bft.', '"bft.x.').replace("\nbft = ", '\n"bft.x" = '))


def no_file_left(folder: Path) -> None:
    text("zeroshot_celltype.toml", "/cells", "/no-cells")(folder)


A, FEATURES = "cells/a.h5ad", "pert_features.pt"
ZERO, UNSEEN, TRAIN = "zeroshot_celltype.toml", "unseen_gene.toml", "train.sh"
MUTATIONS = {
    # features
    "numpy values": Mutation(each(lambda v: v.numpy()), FEATURES, "STATE cannot load it", "error"),
    "np.str_ keys": Mutation(
        features(lambda t: {np.str_(k): v for k, v in t.items()}), FEATURES, "STATE cannot load it", "error"
    ),
    "float64": Mutation(each(lambda v: v.double()), FEATURES, "are float64", "error"),
    "float16": Mutation(each(lambda v: v.half()), FEATURES, "are float16", "error"),
    "shape (1, d)": Mutation(each(lambda v: v[None]), FEATURES, r"have shape \(1, 16\)", "error"),
    "views": Mutation(features(views), FEATURES, "views of a larger storage", "silent"),
    "control without vector": Mutation(features(drop(CONTROL)), FEATURES, "no vector for the control", "silent"),
    "perturbation without vector": Mutation(features(drop_first), FEATURES, "1 of 8 perturbations have no", "silent"),
    "lengths differ": Mutation(features(first_longer), FEATURES, "different length", "error"),
    "features not finite": Mutation(each(lambda v: v * np.nan), FEATURES, "NaN or infinite", "silent"),
    "a list": Mutation(features(lambda t: list(t.values())), FEATURES, "holds a list", "error"),
    # cells
    "CSC": Mutation(replace_x(compressed_columns), A, "X is stored as CSC", "error with all"),
    "negative": Mutation(set_x(lambda x: x - 0.5), A, "X has negative values", "silent"),
    "counts": Mutation(set_x(lambda x: np.rint(np.expm1(x))), A, "X holds whole numbers", "silent"),
    "not logged": Mutation(set_x(np.expm1), A, r"X reaches \d+", "silent"),
    "X not finite": Mutation(set_x(lambda x: np.where(x > 2, np.nan, x)), A, "X has NaN", "silent"),
    "no X": Mutation(without("X"), A, "there is no X", "silent"),
    "DataFrame in obsm": Mutation(
        in_obsm("X_bft", lambda d: pd.DataFrame(d.obsm["X_bft"], index=d.obs_names).add_prefix("d")),
        A,
        r"obsm\['X_bft'\] is stored as dataframe",
        "error",
    ),
    "one axis in obsm": Mutation(
        stored(lambda f: (f["obsm"].pop("X_bft"), f["obsm"].create_dataset("X_bft", data=np.ones(f["X"].shape[0])))),
        A,
        r"obsm\['X_bft'\] has shape",
        "error",
    ),
    "embedding not finite": Mutation(
        in_obsm("X_bft", lambda d: d.obsm["X_bft"] * np.nan), A, "X_bft'. has NaN or infinite", "silent"
    ),
    "dimensions differ": Mutation(
        in_obsm("X_bft", lambda d: d.obsm["X_bft"][:, :12], "b"), "cells/a.h5ad, cells/b.h5ad", "16, .* 12", "error"
    ),
    "no X_bft": Mutation(without("obsm/X_bft"), A, r"there is no obsm\['X_bft'\]", "error"),
    "no X_hvg": Mutation(without("obsm/X_hvg"), A, r"there is no obsm\['X_hvg'\]", "error"),
    "X_hvg too short": Mutation(
        in_obsm("X_hvg", lambda d: d.obsm["X_hvg"][:, :-1]), A, "19 columns, but 20 genes are named", "error"
    ),
    "X_hvg in another order": Mutation(stored(swapped_genes), A, "are not those of X that var", "silent"),
    "files in another order": Mutation(cells(other_order, "b"), "cells/b.h5ad", "in another order, than in", "silent"),
    "named index": Mutation(cells(named_index), A, "the index of var is named 'symbol'", "error"),
    "no gene_name": Mutation(without("var/gene_name"), A, "no column gene_name", "silent"),
    "no control in a file": Mutation(
        cells(lambda d: d[d.obs["gene"] != CONTROL].copy()), A, "no cell is a control", "error"
    ),
    "no control of a cell type": Mutation(
        cells(lambda d: d[(d.obs["gene"] != CONTROL) | (d.obs["cell_type"] != "rpe1")].copy()),
        A,
        "no control of the cell types 'rpe1'",
        "error",
    ),
    "mixed log1p": Mutation(without("uns/log1p"), A, 'uns."log1p".* in some files', "error with all"),
    "NaN labels": Mutation(relabel("gene", slice(0, 3), np.nan), A, r"3 cells have no value in obs\['gene'\]", "error"),
    "NaN cell types": Mutation(
        relabel("cell_type", slice(0, 3), np.nan), A, r"3 cells have no value in obs\['cell_type'\]", "silent"
    ),
    "unused category": Mutation(cells(unused_category), A, "1 categories of obs.'gene'. have no cells", "silent"),
    "labels as text": Mutation(
        stored(
            lambda f: (
                f["obs"].pop("gene"),
                f["obs"].create_dataset("gene", data=np.array([b"x"] * f["X"].shape[0])),
            )
        ),
        A,
        r"obs\['gene'\] is not categorical",
        "error",
    ),
    "no column": Mutation(without("obs/cell_type"), A, "obs has no column 'cell_type'", "error"),
    # splits
    "dataset name with a dot": Mutation(
        dotted,
        ZERO,
        "'bft.x' has a dot",
        "error",
    ),
    "no validation split": Mutation(
        text(ZERO, r'^[^\n]*= "val"\n', ""), ZERO, "there is no validation split", "silent"
    ),
    "no test split": Mutation(text(ZERO, r'^[^\n]*= "test"\n', ""), ZERO, "no cells are left to test on", "silent"),
    "unknown cell type": Mutation(
        text(ZERO, r'bft\.(\w+)" = "test"', r'bft.\1t" = "test"'), ZERO, "did you mean", "silent"
    ),
    "unknown gene": Mutation(
        text(UNSEEN, r'val = \["', 'val = ["XX'), UNSEEN, "no cells have the perturbation", "silent"
    ),
    "both tables": Mutation(both_tables, UNSEEN, r"in \[zeroshot\] and in \[fewshot\]", "silent"),
    "lists that differ": Mutation(fewshot_elsewhere, UNSEEN, "so they are not unseen", "silent"),
    "held-out gene in a combination": Mutation(combination, UNSEEN, "train in a combination", "silent"),
    "control held out": Mutation(
        text(UNSEEN, r'val = \["', f'val = ["{CONTROL}", "'), UNSEEN, "holds out the control", "silent"
    ),
    "val and test alike": Mutation(
        text(UNSEEN, r"val = (\[[^\]]*\])\ntest = [^\n]*", r"val = \1\ntest = \1"),
        UNSEEN,
        "is in val and in test",
        "silent",
    ),
    "relative path": Mutation(text(ZERO, r'^bft = "[^"]*"', 'bft = "cells"'), ZERO, "is relative", "error"),
    "path that matches nothing": Mutation(no_file_left, ZERO, "matches no .h5ad", "error"),
    "unknown split": Mutation(text(ZERO, '= "val"', '= "valid"'), ZERO, "a split is train, val or test", "error"),
    "no TOML": Mutation(text(ZERO, r"\[datasets\]", "[datasets"), ZERO, "it is no TOML", "error"),
    # scripts
    "output_space=embedding": Mutation(
        text(TRAIN, "output_space=gene", "output_space=embedding"), TRAIN, "output_space=embedding", ""
    ),
    "no control given": Mutation(
        text(TRAIN, r'  "data\.kwargs\.control_pert=[^\n]*\n', ""), TRAIN, "default is DMSO_TF", ""
    ),
    "another control given": Mutation(
        text(TRAIN, "control_pert='non-targeting'", "control_pert='DMSO_TF'"), TRAIN, "is no label of the cells", ""
    ),
    "no embed_key": Mutation(
        text(TRAIN, r'  "data\.kwargs\.embed_key=[^\n]*\n', ""), TRAIN, "embed_key is not given", ""
    ),
    "no decoder": Mutation(
        text(TRAIN, r'"model=state"\n  "[^\n]*decoder_bool=true"', '"model=state_sm"'), TRAIN, "no decoder to genes", ""
    ),
}
