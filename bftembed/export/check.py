"""Ten rules whose violation cell-load accepts silently, or explains badly, and that ruin what STATE learns.

They hold for a folder of `export_state`, or one made by hand: h5ad files, TOML files of splits, a ``.pt`` file of
perturbation features. STATE's own errors (a wrong type, a path that does not exist) are left to STATE.
"""

from __future__ import annotations

import glob
import json
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.errors import BftembedError, examples, require
from bftembed.export._cells import HVG_KEY, TOO_LARGE
from bftembed.hdf5 import check_declared_size, is_array, is_group, open_h5ad

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

#: Rule → what it asks for.
RULES = {
    "labels": "every cell has a perturbation and a cell type, and no category is unused: it would be a perturbation",
    "controls": "every cell type of every file has control cells: they are taken from the same file alone",
    "logged": "X and X_hvg are log1p values: finite, at least 0, below 15, not counts",
    "mixed-log": "uns['log1p'] is in all files or in none",
    "gene-order": "X_hvg is X[:, var['highly_variable']], with the same genes in every file",
    "embeddings": "the embeddings of cells are finite, and of one length in every file",
    "features": "every perturbation and the control have a finite vector: cell-load fills in zeros",
    "validation": "train, validation and test have cells: without validation STATE selects its checkpoint on test",
    "leaks": "a held-out gene is in the same split in every cell type, and in no combination that trains",
    "names": "the TOML files hold out cell types and genes that exist, and not the control",
    "readable": "every file can be read",
}
_BLOCK_NUMBERS = 2**23
_USUAL = {"pert": "gene", "cell_type": "cell_type", "control": "non-targeting"}
_UNREADABLE = (BftembedError, OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True)
class Finding:
    """What is wrong in a `file` of the folder (``""``: the folder) by a rule of `RULES`.

    A ``"FAIL"`` stops STATE, or ruins what it learns silently; a ``"WARN"`` may not be what is meant.
    """

    rule: str
    file: str
    what: str
    level: Literal["FAIL", "WARN"] = "FAIL"

    def __str__(self) -> str:
        return f"{self.level} {self.file or '.'}: {self.what}. Rule: {RULES[self.rule]}."

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON, and as ``remedy`` what the rule asks for."""
        return asdict(self) | {"remedy": RULES[self.rule]}


def check_state(
    folder: str | os.PathLike[str],
    *,
    pert_col: str | None = None,
    cell_type_key: str | None = None,
    control: str | None = None,
) -> list[Finding]:
    """Find what STATE would go wrong with silently in a folder.

    Every value is read, in blocks; a .pt file is loaded by torch with weights_only=True. The command exits with 3 when
    there is a FAIL.

    Parameters
    ----------
    folder
        Folder made by bftembed export state or by hand, with .toml, .h5ad and .pt files.
    pert_col
        Column of .obs with the perturbed gene. By default as in manifest.json, or gene.
    cell_type_key
        Column of .obs with the cell type. By default as in manifest.json, or cell_type.
    control
        Label of control cells. By default as in manifest.json, or non-targeting.

    Returns
    -------
    list of Finding
        Empty when all is well.

    Raises
    ------
    BftembedError
        When there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BftembedError(
            f"No such folder: {root}. Make one with: bftembed export state DATA.h5ad --genes G --out DIR"
        )
    found: list[Finding] = []
    columns = dict(_USUAL)
    try:
        manifest = root / "manifest.json"
        columns |= json.loads(manifest.read_text(encoding="utf-8"))["columns"] if manifest.exists() else {}
    except (*_UNREADABLE, RecursionError) as err:
        found.append(Finding("readable", "manifest.json", f"it is not a manifest ({err})", "WARN"))
    asked = {"pert": pert_col, "cell_type": cell_type_key, "control": control}
    columns |= {name: value for name, value in asked.items() if value is not None}
    configs = [_read_toml(path, found) for path in sorted(root.glob("*.toml"))]
    paths = {p.resolve(): p for p in sorted(root.rglob("*.h5ad")) if "runs" not in p.relative_to(root).parts}
    for config in configs:
        paths = {path: path for path in config.dataset_of} | paths
    cells = [one for path in paths.values() if (one := _read_cells(path, root, columns, found)) is not None]
    if not paths:
        found.append(Finding("readable", "", "there is no h5ad file"))
    if not configs:
        found.append(Finding("validation", "", "there is no TOML file of splits"))
    for one in cells[1:]:
        same = {"mixed-log": "logged", "embeddings": "lengths", "gene-order": "variable_genes"}
        for rule, name in same.items():
            if getattr(one, name) != getattr(cells[0], name):
                found.append(Finding(rule, one.name, f"{name.replace('_', ' ')} differ from those of {cells[0].name}"))
    for config in configs:
        own = [one for one in cells if one.path.resolve() in config.dataset_of]
        if own:
            found += [Finding(rule, config.name, what) for rule, what in _wrong_splits(config, own, columns["control"])]
    for path in sorted(root.glob("*.pt")):
        found += _wrong_features(path, {label for one in cells for _, label in one.conditions}, columns["control"])
    return sorted(found, key=lambda one: (one.level, one.file))


@dataclass(eq=False)
class _Cells:
    """One h5ad file: its pairs of cell type and label, lengths of embeddings, and genes of X_hvg."""

    path: Path
    name: str
    logged: bool
    conditions: set[tuple[str, str]] = field(default_factory=set)
    lengths: dict[str, int] = field(default_factory=dict)
    variable_genes: list[str] | None = None


@dataclass(frozen=True)
class _Config:
    """A TOML file as cell-load understands it; `dataset_of` has every file, resolved, of its data sets."""

    name: str
    training: dict[str, str]
    zeroshot: dict[str, str]
    fewshot: dict[str, dict[str, list[str]]]
    dataset_of: dict[Path, str]

    def split(self, key: str, label: str) -> str | None:
        """Return where cell-load puts perturbed cells of a ``DATASET.CELLTYPE``; None where it leaves them out."""
        if key in self.zeroshot:
            return self.zeroshot[key]
        lists = self.fewshot.get(key, {})
        held = next((split for split in ("test", "val") if label in lists.get(split, ())), None)
        trains = key in self.fewshot or self.training.get(key.split(".", 1)[0]) == "train"
        return held or ("train" if trains else None)


def _read_cells(path: Path, root: Path, columns: dict[str, str], found: list[Finding]) -> _Cells | None:
    name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    try:
        with open_h5ad(path) as file:
            check_declared_size(file, name)
            one = _Cells(path, name, logged="log1p" in file.get("uns", ()))
            wrong = list(_wrong_labels(file["obs"], one, columns))
            for key, matrix in {"X": file["X"], **file["obsm"]}.items():
                low, high, whole = _range(matrix)
                finite = np.isfinite([low, high]).all()
                if key in ("X", HVG_KEY) and not (
                    finite and low >= 0 and high < TOO_LARGE and not (whole and high > 0)
                ):
                    wrong.append(("logged", f"{key} has {'integers' if whole else 'values'} from {low:g} to {high:g}"))
                elif not finite:
                    wrong.append(("embeddings", f"obsm[{key!r}] has NaN or infinite values"))
                if key != "X":
                    one.lengths[key] = int((matrix.shape if is_array(matrix) else matrix.attrs["shape"])[1])
            if HVG_KEY in file["obsm"] and not _same_genes(file, one):
                wrong.append(("gene-order", f"{HVG_KEY} is not X[:, var['highly_variable']]"))
    except _UNREADABLE as err:
        text = str(err).replace(str(path), name) or type(err).__name__
        found.append(Finding("readable", name, f"it cannot be read ({text.rstrip('.')})"))
        return None
    found += [Finding(rule, name, what) for rule, what in wrong]
    return one


def _wrong_labels(obs: Any, one: _Cells, columns: dict[str, str]) -> Iterator[tuple[str, str]]:
    import pandas as pd
    from anndata.io import read_elem

    table = {}
    for what in ("pert", "cell_type"):
        values = table[what] = pd.Categorical(read_elem(obs[columns[what]]))
        if n := int(values.isna().sum()):
            yield "labels", f"{n} cells have no value in obs[{columns[what]!r}]"
        if unused := sorted(set(values.categories) - set(values.dropna())):
            yield "labels", f"categories of obs[{columns[what]!r}] without cells: {examples(unused, 3)}"
    pairs = pd.DataFrame(table).dropna().astype(str).drop_duplicates()
    one.conditions = set(zip(pairs["cell_type"], pairs["pert"], strict=True))
    of_control = {cell_type for cell_type, label in one.conditions if label == columns["control"]}
    if without := sorted(set(pairs["cell_type"]) - of_control):
        yield "controls", f"no cell of the cell types {examples(without)} is a control ({columns['control']!r})"


def _range(matrix: Any) -> tuple[float, float, bool]:
    """Return the least and largest value (0 counted, NaN shows), and whether all are integers; read in blocks."""
    values = matrix["data"] if is_group(matrix) else matrix
    height = max(1, _BLOCK_NUMBERS // max(1, int(np.prod(values.shape[1:]))))
    low, high, whole = 0.0, 0.0, True
    for start in range(0, values.shape[0], height):
        block = np.asarray(values[start : start + height])
        low, high = np.minimum(low, block.min(initial=0)), np.maximum(high, block.max(initial=0))
        whole = whole and bool((block == np.rint(block)).all())
    return float(low), float(high), whole


def _same_genes(file: Any, one: _Cells) -> bool:
    """Return whether X_hvg has the columns of X that cell-load names for it; in 256 cells, where both are dense."""
    from anndata.io import read_elem

    var = read_elem(file["var"])
    if "highly_variable" not in var:
        return True
    mask = var["highly_variable"].to_numpy(dtype=bool)
    one.variable_genes = list(var.get("gene_name", var.index.to_series())[mask].astype(str))
    both = file["X"], file["obsm"][HVG_KEY]
    if not all(map(is_array, both)) or both[1].shape[1] != mask.sum():
        return not is_array(both[1]) or both[1].shape[1] == mask.sum()
    step = max(1, both[0].shape[0] // 256)
    x, hvg = (np.stack([m[row] for row in range(0, m.shape[0], step)]) for m in both)
    return bool(np.allclose(x[:, mask], hvg, rtol=1e-3, atol=1e-4, equal_nan=True))


def _wrong_features(path: Path, labels: set[str], control: str) -> Iterator[Finding]:
    torch: Any = require("torch", "local")
    try:
        table = {str(label): vector.numpy() for label, vector in torch.load(path, weights_only=True).items()}
        bad = sorted(label for label, x in table.items() if x.ndim != 1 or not np.isfinite(x).all())
    except Exception as err:  # noqa: BLE001  torch raises many kinds
        why = (str(err) or type(err).__name__).splitlines()[0][:160]
        yield Finding("features", path.name, f"it is not a dict of str → tensor ({why})")
        return
    if bad:
        yield Finding("features", path.name, f"NaN or infinite values, or not one axis: {examples(bad)}")
    if absent := sorted((labels | {control} if labels else labels) - set(table)):
        yield Finding("features", path.name, f"{len(absent)} perturbations have no vector: {examples(absent)}")
    if zero := sorted(label for label in labels & set(table) - {control} if not table[label].any()):
        what = f"{len(zero)} perturbations are zero vectors, like the control: {examples(zero)}"
        yield Finding("features", path.name, what, "WARN")


def _read_toml(path: Path, found: list[Finding]) -> _Config:
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
        datasets, training, zeroshot = (
            {str(key): str(value) for key, value in whole.get(name, {}).items()}
            for name in ("datasets", "training", "zeroshot")
        )
        fewshot = {
            key: {split: [str(label) for label in labels] for split, labels in lists.items()}
            for key, lists in whole.get("fewshot", {}).items()
        }
        files: dict[Path, str] = {}
        for dataset, place in datasets.items():
            where = place if not Path(place).is_dir() else f"{glob.escape(place)}/*.h5ad"
            files |= {Path(one).resolve(): dataset for one in glob.glob(where)}  # noqa: PTH207  as cell-load
    except (*_UNREADABLE, RecursionError) as err:
        found.append(Finding("readable", path.name, f"it is not a TOML file of splits ({err})"))
        return _Config(path.name, {}, {}, {}, {})
    if not files:
        found.append(Finding("readable", path.name, "[datasets] names no h5ad file: was the folder moved?"))
    return _Config(path.name, training, zeroshot, fewshot, files)


def _wrong_splits(config: _Config, cells: list[_Cells], control: str) -> Iterator[tuple[str, str]]:
    """Yield rule and what is wrong in a TOML file, given the cells that it names."""
    perturbed = {
        (key, label): config.split(key, label)
        for one in cells
        for cell_type, label in one.conditions
        for key in [f"{config.dataset_of[one.path.resolve()]}.{cell_type}"]
    }
    keys, labels = ({condition[i] for condition in perturbed} for i in (0, 1))
    held = {label for lists in config.fewshot.values() for one in lists.values() for label in one}
    unknown = ({*config.zeroshot, *config.fewshot} - keys) | (held - labels)
    if unknown := unknown | ({*config.zeroshot.values()} - {"train", "val", "test"}):
        yield "names", f"there are no cells, or no split, of the name {examples(sorted(unknown))}"
    if control in held:
        yield "names", f"[fewshot] holds out the control {control!r}"
    perturbed = {key: split for key, split in perturbed.items() if key[1] != control}
    for split in sorted({"train", "val", "test"} - {*perturbed.values()}):
        yield "validation", f"no perturbed cells are in the split {split}"
    if both := sorted(set(config.zeroshot) & set(config.fewshot)):
        yield "leaks", f"{examples(both)} is in [zeroshot] and in [fewshot]: cell-load ignores the latter"
    twice = {x for lists in config.fewshot.values() for x in set(lists.get("val", ())) & set(lists.get("test", ()))}
    if twice:
        yield "leaks", f"[fewshot] has {examples(sorted(twice))} in val and in test"
    splits: dict[str, set[str]] = {}
    for (key, label), where in perturbed.items():
        if where is not None and key not in config.zeroshot:
            splits.setdefault(label, set()).add(where)
    if torn := sorted(label for label in held if len(splits.get(label, ())) > 1):
        yield "leaks", f"{len(torn)} held-out genes are in another split in another cell type: {examples(torn)}"
    trained = [label for label, some in splits.items() if "train" in some and "+" in label]
    if seen := sorted(label for label in trained if held & {part.strip() for part in label.split("+")}):
        yield "leaks", f"held-out genes train in the combinations {examples(seen)}"
