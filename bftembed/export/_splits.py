"""What is held out: unseen cell types, unseen genes; each with a validation split, as TOML of cell-load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bftembed.export._cells import Screen, Target

ZEROSHOT, UNSEEN = "zeroshot_celltype", "unseen_gene"
#: Name of the data set in the TOML files: without a dot, where cell-load cuts it.
DATASET = "bft"
#: Shares of the perturbed genes that are drawn for test and for validation, at least one gene each.
_TEST_SHARE, _VAL_SHARE = 0.2, 0.1
_ABOUT = {
    ZEROSHOT: "Unseen cell types: their perturbations are seen in others, and their controls train.",
    UNSEEN: "Unseen genes: held out in every cell type. Only perturbation features can answer this.",
}


@dataclass(frozen=True)
class Question:
    """One way to hold cells out: the stem of its TOML file, and how it was chosen."""

    name: str
    note: str
    #: Cell type → ``"test"`` or ``"val"``: its perturbed cells are held out, its controls train.
    zeroshot: Mapping[str, str]
    #: Cell type → split → labels.
    fewshot: Mapping[str, Mapping[str, Sequence[str]]]
    #: Perturbed cells of each split.
    n_cells: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("train", "val", "test"), 0))


def questions_of(
    screens: Sequence[Screen],
    targets: Sequence[Target],
    control: str,
    *,
    test_cell_types: Sequence[str],
    val_cell_types: Sequence[str],
    test_genes: Sequence[str] | None,
    seed: int,
) -> list[Question]:
    """Return the questions of an export; that of unseen cell types only where there are several."""
    cell_types = sorted({cell_type for one in screens for cell_type in one.cell_type})
    labels, note = _split_genes(targets, test_genes, seed)
    zeroshot = _split_cell_types(cell_types, test_cell_types, val_cell_types, labels, seed)
    found = [*zeroshot, Question(UNSEEN, note, {}, dict.fromkeys(cell_types, labels))]
    for question in found:
        for one in screens:
            for cell_type, label in zip(one.cell_type, one.perturbation, strict=True):
                if label != control:
                    lists = question.fewshot.get(cell_type, {})
                    held = next((split for split in ("test", "val") if label in lists.get(split, ())), "train")
                    question.n_cells[question.zeroshot.get(cell_type, held)] += 1
        if empty := [split for split, n in question.n_cells.items() if not n]:
            raise BftembedError(
                f"{question.name}: no perturbed cells are left in {' and '.join(empty)} ({question.note}). Hold out "
                "fewer or others: training, validation and test need some each."
            )
    return found


def _split_genes(
    targets: Sequence[Target], held_out: Sequence[str] | None, seed: int
) -> tuple[dict[str, list[str]], str]:
    """Choose the labels of unseen genes, ``{"val": labels, "test": labels}``, and say how.

    Genes are drawn, not labels: two spellings of one gene go together, and a combination is held out when any of its
    genes is, so that no gene of test is seen in training or validation.
    """
    genes = sorted({gene for target in targets for gene in target.genes})
    if len(genes) < 3:
        raise BftembedError(f"{len(genes)} perturbed genes: training, validation and test take three at least.")
    draw = np.random.default_rng(seed)
    if held_out is None:
        test = {str(gene) for gene in draw.choice(genes, max(1, round(_TEST_SHARE * len(genes))), replace=False)}
    else:
        test = {_known_gene(name, genes, targets) for name in held_out}
    rest = [gene for gene in genes if gene not in test]
    n_val = max(1, round(_VAL_SHARE * len(genes)))
    val = {str(gene) for gene in draw.choice(rest, n_val, replace=False)} if n_val < len(rest) else set(rest)
    labels = {
        "val": [t.label for t in targets if not test & set(t.genes) and val & set(t.genes)],
        "test": [t.label for t in targets if test & set(t.genes)],
    }
    how = "as asked" if held_out is not None else f"drawn with seed {seed}"
    return labels, f"test: {len(test)} genes, {how}; validation: {n_val} genes, drawn with seed {seed}"


def _known_gene(name: str, genes: Sequence[str], targets: Sequence[Target]) -> str:
    of_label = {t.label: t.genes[0] for t in targets if len(t.genes) == 1}
    (found,) = GeneIndex.default().resolve([name])
    for gene in (name, of_label.get(name), found.entity):
        if gene is not None and gene in genes:
            return gene
    raise unknown_name("perturbed gene", name, genes)


def _split_cell_types(
    cell_types: Sequence[str],
    test: Sequence[str],
    val: Sequence[str],
    genes: Mapping[str, Sequence[str]],
    seed: int,
) -> list[Question]:
    """Return the question of unseen cell types, none where there is one cell type only.

    What is empty is drawn. Where no cell type is left to validate on, genes are, in the cell types that train.
    """
    for name in (*test, *val):
        if name not in cell_types:
            raise unknown_name("cell type", name, cell_types)
    if both := sorted(set(test) & set(val)):
        raise BftembedError(f"The cell type {examples(both)} is to be held out for test and for validation.")
    if len(cell_types) < 2 and not test and not val:
        return []
    draw = np.random.default_rng([seed, 1])
    how = ["as asked" if names else f"drawn with seed {seed}" for names in (test, val)]
    rest = sorted(set(cell_types) - {*test, *val})
    if not test and rest:
        test = [str(draw.choice(rest))]
        rest = [name for name in rest if name not in test]
    if not val and len(rest) > 1:
        val = [str(draw.choice(rest))]
    note = f"test: {', '.join(test)} ({how[0]}); validation: {', '.join(val)} ({how[1]})"
    if val:
        return [Question(ZEROSHOT, note, {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}, {})]
    note = f"test: {', '.join(test)} ({how[0]}); validation: genes held out of {', '.join(rest)}"
    return [Question(ZEROSHOT, note, dict.fromkeys(test, "test"), {name: {"val": genes["val"]} for name in rest})]


def toml_text(question: Question, folder: str) -> str:
    """Return the TOML that cell-load reads; `folder` is absolute. Its names hold no quotation mark and no backslash."""
    lines = [f"# {_ABOUT[question.name]}", f"# {question.note}", "[datasets]", f'{DATASET} = "{folder}"', ""]
    lines += ["[training]", f'{DATASET} = "train"', "", "[zeroshot]"]
    lines += [f'"{DATASET}.{name}" = "{split}"' for name, split in question.zeroshot.items()]
    for cell_type, lists in question.fewshot.items():
        lines += ["", f'[fewshot."{DATASET}.{cell_type}"]']
        for split, labels in lists.items():
            quoted = ", ".join(f'"{label}"' for label in labels)
            lines.append(f"{split} = [{quoted}]")
    return "\n".join(lines) + "\n"
