"""Rules for the TOML files of splits: what cell-load does not check, and what would put test data into training."""

from __future__ import annotations

import difflib
import glob
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import examples
from bftembed.export.findings import FAIL, WARN, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bftembed.export.check_cells import CellFile

_SPLITS = ("train", "val", "test")
_EXPORT = "Correct the TOML file, or export again"


@dataclass(frozen=True)
class Splits:
    """A TOML file as cell-load understands it; `files` are those that its data sets name, by data set in `of`."""

    datasets: dict[str, str]
    training: dict[str, str]
    zeroshot: dict[str, str]
    fewshot: dict[str, dict[str, list[str]]]
    of: dict[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        """Every file that a data set names."""
        return [path for paths in self.of.values() for path in paths]


def read_toml(path: Path, found: list[Finding]) -> Splits | None:
    """Read a TOML file; None, and a finding, where it is none, and None alone where it is about something else."""
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        found.append(Finding(FAIL, path.name, f"it is no TOML ({err})", _EXPORT))
        return None
    tables = {name: whole.get(name, {}) for name in ("datasets", "training", "zeroshot", "fewshot")}
    wrong = [name for name, table in tables.items() if not isinstance(table, dict)]
    texts = [tables[name] for name in ("datasets", "training", "zeroshot") if name not in wrong]
    nested = tables["fewshot"].values() if "fewshot" not in wrong else ()
    bad_lists = not all(isinstance(lists, dict) and all(map(_is_list, lists.values())) for lists in nested)
    if wrong or bad_lists or not all(isinstance(v, str) for table in texts for v in table.values()):
        what = "its tables are not those of cell-load: text in [datasets], [training], [zeroshot], lists in [fewshot]"
        found.append(Finding(FAIL, path.name, what, _EXPORT))
        return None
    if not tables["datasets"]:
        found.append(Finding(FAIL, path.name, "it names no data set", "Add [datasets] with an absolute folder"))
        return None
    of = {name: _files_of(place) for name, place in tables["datasets"].items()}
    return Splits(tables["datasets"], tables["training"], tables["zeroshot"], tables["fewshot"], of)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _files_of(place: str) -> list[Path]:
    """Return the files of a data set: a folder, a file or a pattern, as cell-load looks for them."""
    patterns = [place]
    while any("{" in p and "}" in p for p in patterns) and len(patterns) < 1000:
        patterns = [q for p in patterns for q in _opened(p)]
    names: list[str] = []
    for pattern in patterns:
        if not any(c in place for c in "*?[]{}"):
            path = Path(place)
            names += [place] if path.is_file() else [str(p) for kind in ("*.h5", "*.h5ad") for p in path.glob(kind)]
        elif pattern.endswith((".h5", ".h5ad")):
            names += _matches(pattern)
        else:
            names += [n for kind in ("*.h5", "*.h5ad") for n in _matches(f"{pattern.rstrip('/')}/{kind}")]
    return [Path(name) for name in sorted(names)]


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern)  # noqa: PTH207  the pattern is one text, absolute or not, as cell-load has it


def _opened(pattern: str) -> list[str]:
    brace = re.search(r"\{([^}]+)\}", pattern)
    if brace is None:
        return [pattern.replace("{", "").replace("}", "")]
    return [pattern[: brace.start()] + one.strip() + pattern[brace.end() :] for one in brace[1].split(",")]


def check_toml(name: str, config: Splits, cells: Sequence[CellFile], control: str, found: list[Finding]) -> None:
    """Check one TOML file against the cells that it names, and add what is wrong to `found`."""

    def fail(what: str, remedy: str = _EXPORT) -> None:
        found.append(Finding(FAIL, name, what, remedy))

    _check_datasets(config, fail)
    cell_types = sorted({cell_type for one in cells for cell_type in one.cell_types})
    labels = {label for one in cells for label in one.labels}
    held = {key: key.split(".", 1) for key in (*config.zeroshot, *config.fewshot)}
    for key, parts in held.items():
        if len(parts) < 2 or parts[0] not in config.datasets:
            fail(f"{key!r} names no data set; expected 'DATASET.CELLTYPE' with {examples(config.datasets)}")
        elif cell_types and parts[1] not in cell_types:
            fail(f"no cells are of the type {parts[1]!r}{_near(parts[1], cell_types)}")
    for key, split in config.zeroshot.items():
        if split not in _SPLITS:
            fail(f"{key!r} is for {split!r}; a split is train, val or test")
    if both := sorted(set(config.zeroshot) & set(config.fewshot)):
        fail(f"{examples(both)} is in [zeroshot] and in [fewshot]: cell-load ignores the latter", "Keep one of them")
    _check_lists(config, labels, control, fail)
    if cells and cell_types:
        _check_counts(config, cells, control, fail)
        _check_unseen(config, cells, control, fail)
    if not any(value == "train" for value in config.training.values()):
        found.append(Finding(WARN, name, "[training] has no data set", 'Add DATASET = "train"'))


def _check_datasets(config: Splits, fail: Any) -> None:
    for dataset, place in config.datasets.items():
        if "." in dataset:
            fail(f"the data set {dataset!r} has a dot in its name, where cell-load cuts it", "Rename it")
        if not Path(place).is_absolute():
            fail(f"the path {place!r} is relative: to where STATE is started, not to this file", "Write it absolute")
        if not config.of[dataset]:
            fail(f"{place!r} matches no .h5ad or .h5 file", "Correct the path; was the folder moved?")
        stems = Counter(path.stem for path in config.of[dataset])
        if double := [stem for stem, n in stems.items() if n > 1]:
            fail(f"files of {dataset!r} share the name {examples(double)}: cell-load keeps one of them", "Rename one")
    for dataset in config.training:
        if dataset not in config.datasets:
            fail(f"[training] names {dataset!r}, which is not in [datasets]")


def _check_lists(config: Splits, labels: set[str], control: str, fail: Any) -> None:
    unknown: dict[str, None] = {}
    for key, lists in config.fewshot.items():
        for split in lists:
            if split not in ("val", "test"):
                fail(f"[fewshot] {key!r} has a list {split!r}, which cell-load ignores", "Name val and test alone")
        if double := sorted(set(lists.get("val", ())) & set(lists.get("test", ()))):
            fail(f"[fewshot] {key!r}: {examples(double)} is in val and in test", "Keep one of them")
        held = [label for one in lists.values() for label in one]
        if control in held:
            fail(f"[fewshot] {key!r} holds out the control {control!r}", "Take it out of the list")
        unknown |= dict.fromkeys(label for label in held if label not in labels)
    for label in list(unknown)[:20] if labels else ():
        fail(f"[fewshot] no cells have the perturbation {label!r}{_near(label, labels)}")


def _split(config: Splits, key: str, label: str) -> str | None:
    """Return where cell-load puts perturbed cells; None where it leaves them out."""
    if key in config.zeroshot:
        return config.zeroshot[key]
    if key in config.fewshot:
        lists = config.fewshot[key]
        return next((s for s in ("test", "val") if label in lists.get(s, ())), "train")
    return "train" if config.training.get(key.split(".", 1)[0]) == "train" else None


def _conditions(config: Splits, cells: Iterable[CellFile], control: str) -> dict[tuple[str, str], str | None]:
    """Return cell type (with its data set) and label → split, of all perturbed cells."""
    dataset_of = {path.resolve(): name for name, paths in config.of.items() for path in paths}
    found: dict[tuple[str, str], str | None] = {}
    for one in cells:
        dataset = dataset_of[one.path.resolve()]
        for cell_type, label in one.conditions:
            if label != control:
                key = f"{dataset}.{cell_type}"
                found[key, label] = _split(config, key, label)
    return found


def _check_counts(config: Splits, cells: Iterable[CellFile], control: str, fail: Any) -> None:
    there = set(_conditions(config, cells, control).values())
    if "val" not in there:
        fail(
            "there is no validation split: cell-load gives the TEST cells then, and best.ckpt is chosen on them",
            "Hold a cell type or genes out as val",
        )
    if "test" not in there:
        fail("no cells are left to test on", "Hold a cell type or genes out as test")
    if "train" not in there:
        fail("no perturbed cells are left to train on", "Hold out fewer, and name the data set in [training]")


def _check_unseen(config: Splits, cells: Iterable[CellFile], control: str, fail: Any) -> None:
    """Look for labels of [fewshot] that train, or are in another split, elsewhere."""
    conditions = _conditions(config, cells, control)
    where: dict[str, dict[str, str]] = {}
    for (key, label), split in conditions.items():
        if key not in config.zeroshot and split is not None:
            where.setdefault(label, {})[key] = split
    fewshot = {label for lists in config.fewshot.values() for one in lists.values() for label in one}
    torn = sorted(label for label in fewshot if len(set(where.get(label, {}).values())) > 1)
    if torn:
        first = "; ".join(f"{key}: {split}" for key, split in sorted(where[torn[0]].items()))
        fail(
            f"{len(torn)} held-out genes are in another split in another cell type, so they are not unseen: "
            f"{examples(torn)} ({first})",
            "Repeat the same lists for every cell type",
        )
    splits_of = {label: next(iter(set(by_type.values()))) for label, by_type in where.items() if by_type}
    train = [label for label, split in splits_of.items() if split == "train" and "+" in label]
    seen = {p: label for label in train for part in label.split("+") if (p := part.strip()) in fewshot}
    if seen:
        gene, label = next(iter(seen.items()))
        fail(
            f"{len(seen)} held-out genes train in a combination: {gene!r} in {label!r}", "Hold the combinations out too"
        )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
