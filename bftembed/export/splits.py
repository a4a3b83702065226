"""What is held out: unseen cell types, unseen genes; each with a validation split, as TOML of cell-load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bftembed.export.features import Target
    from bftembed.export.labels import CellLabels

ZEROSHOT, UNSEEN = "zeroshot_celltype", "unseen_gene"


@dataclass(frozen=True)
class Question:
    """One way to hold cells out.

    Attributes
    ----------
    name
        `ZEROSHOT` or `UNSEEN`; the stem of its TOML file.
    zeroshot
        Cell type → ``"test"`` or ``"val"``: its perturbed cells are held out, its controls train.
    fewshot
        Cell type → split → labels.
    n_cells
        Perturbed cells of ``train``, ``val`` and ``test``.
    note
        How it was chosen, in words.
    """

    name: str
    zeroshot: Mapping[str, str]
    fewshot: Mapping[str, Mapping[str, Sequence[str]]]
    note: str
    n_cells: Mapping[str, int] = field(default_factory=dict)


def split_of(question: Question, cell_type: str, label: str) -> str:
    """Return where cell-load puts perturbed cells: ``train``, ``val`` or ``test``."""
    if cell_type in question.zeroshot:
        return question.zeroshot[cell_type]
    lists = question.fewshot.get(cell_type, {})
    return next((split for split in ("test", "val") if label in lists.get(split, ())), "train")


def split_genes(
    targets: Mapping[str, Target], *, held_out: Sequence[str] | None, share: float, val_share: float, seed: int
) -> tuple[dict[str, list[str]], str]:
    """Choose the labels of unseen genes.

    Genes are drawn, not labels: two spellings of one gene go together, and a combination is held out when any of its
    genes is, so that no gene of test is seen in training or validation.

    Parameters
    ----------
    targets
        Label → its genes.
    held_out
        Genes of test, in any spelling; None draws `share` of them.
    share, val_share
        Shares of all perturbed genes, at least one gene each.
    seed
        Of the draws.

    Returns
    -------
    tuple
        ``{"val": labels, "test": labels}``, and how they were chosen.

    Raises
    ------
    BftembedError
        For fewer than three genes, an unknown gene, or when a split would be empty.
    """
    genes = sorted({gene for target in targets.values() for gene in target.genes})
    if len(genes) < 3:
        raise BftembedError(
            f"{len(genes)} perturbed gene{'' if len(genes) == 1 else 's'} ({examples(genes)}): to train, validate and "
            "test on unseen genes takes three at least. One perturbation is nothing to learn from."
        )
    for name, value in (("holdout_share", share), ("val_share", val_share)):
        if not 0 < value < 1:
            raise BftembedError(f"{name} is {value}; give a share above 0 and below 1.")
    draw = np.random.default_rng(seed)
    if held_out is None:
        test = {str(g) for g in draw.choice(genes, max(1, round(share * len(genes))), replace=False)}
    else:
        test = {_known_gene(name, genes, targets) for name in held_out}
    rest = [gene for gene in genes if gene not in test]
    n_val = max(1, round(val_share * len(genes)))
    if n_val >= len(rest):
        raise BftembedError(
            f"{len(test)} of {len(genes)} genes are held out for test and {n_val} for validation: no gene is left to "
            "train on. Hold out fewer (holdout_genes, holdout_share, val_share)."
        )
    val = {str(g) for g in draw.choice(rest, n_val, replace=False)}
    labels = {
        "val": [t.label for t in targets.values() if not test & set(t.genes) and val & set(t.genes)],
        "test": [t.label for t in targets.values() if test & set(t.genes)],
    }
    held = {label for some in labels.values() for label in some}
    left = [t for t in targets.values() if t.genes and t.label not in held]
    for what, some in (("validation", labels["val"]), ("train", left)):
        if not some:
            raise BftembedError(
                f"No perturbation is left for {what}: with combinations, {len(test)} genes held out for test and "
                f"{n_val} for validation take all. Hold out fewer genes."
            )
    how = "as asked" if held_out is not None else f"drawn with seed {seed}"
    return labels, f"test: {len(test)} genes, {how}; validation: {n_val} genes, drawn with seed {seed}"


def _known_gene(name: str, genes: Sequence[str], targets: Mapping[str, Target]) -> str:
    if name in genes:
        return name
    if name in targets and len(targets[name].genes) == 1:
        return targets[name].genes[0]
    (found,) = GeneIndex.default().resolve([name])
    if found.entity in genes:
        return found.entity
    raise unknown_name("perturbed gene", name, genes)


def unseen_gene(cell_types: Sequence[str], labels: Mapping[str, Sequence[str]], how: str) -> Question:
    """Return the question of unseen genes: the same lists for every cell type."""
    return Question(UNSEEN, {}, dict.fromkeys(cell_types, labels), how)


def zeroshot_celltype(
    cell_types: Sequence[str],
    test: Sequence[str],
    val: Sequence[str],
    genes: Mapping[str, Sequence[str]],
    *,
    seed: int,
) -> Question | None:
    """Return the question of unseen cell types, None where there is one cell type only.

    Parameters
    ----------
    cell_types
        All of them.
    test, val
        Those to hold out; drawn where empty. Where fewer than two are left beside `test`, the validation split is made
        of genes held out in the cell types that train.
    genes
        Labels of the unseen genes, of which ``"val"`` is taken then.
    seed
        Of the draws.

    Raises
    ------
    BftembedError
        For an unknown cell type, one that is in both, and when none is left to train on.
    """
    for name in (*test, *val):
        if name not in cell_types:
            raise unknown_name("cell type", name, sorted(cell_types))
    both = sorted(set(test) & set(val))
    if both:
        raise BftembedError(
            f"The cell type {examples(both)} is to be held out twice, for test (--holdout-cell-types) and for "
            "validation (--val-cell-types). Choose another one for validation."
        )
    asked = bool(test)
    if len(cell_types) < 2:
        if test or val:
            raise BftembedError(
                f"There is one cell type ({examples(cell_types)}): holding it out leaves nothing to train on."
            )
        return None
    draw = np.random.default_rng([seed, 1])
    rest = sorted(set(cell_types) - set(test) - set(val))
    if not test:
        test = [str(draw.choice(rest))] if rest else []
        rest = sorted(set(rest) - set(test))
    if not test or not rest:
        raise BftembedError(
            f"No cells are left to train on: of the cell types {examples(sorted(cell_types))}, test takes "
            f"{examples(test) or 'none'} and validation {examples(val) or 'none'}. Hold out fewer."
        )
    how = f"test: {', '.join(test)} ({'as asked' if asked else f'drawn with seed {seed}'}); validation: "
    if val:
        how += f"{', '.join(val)} (as asked)"
    elif len(rest) > 1:
        val = [str(draw.choice(rest))]
        rest = [name for name in rest if name not in val]
        how += f"{', '.join(val)} (drawn with seed {seed})"
    else:
        how += f"genes held out of {', '.join(rest)}, for there is no third cell type"
    held = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    fewshot = {} if val else {name: {"val": genes["val"]} for name in rest}
    return Question(ZEROSHOT, held, fewshot, how)


def counted(question: Question, files: Iterable[CellLabels], control: str) -> Question:
    """Return `question` with the number of perturbed cells of each split.

    Raises
    ------
    BftembedError
        When a split is empty.
    """
    n_cells = dict.fromkeys(("train", "val", "test"), 0)
    for labels in files:
        conditions, times = np.unique(
            np.stack([labels.cell_type.astype(str), labels.perturbation.astype(str)]), axis=1, return_counts=True
        )
        for (cell_type, label), n in zip(conditions.T, times, strict=True):
            if label != control:
                n_cells[split_of(question, str(cell_type), str(label))] += int(n)
    empty = [split for split, n in n_cells.items() if not n]
    if empty:
        raise BftembedError(
            f"{question.name}: no perturbed cells are left in {' and '.join(empty)} ({question.note}). Hold out others."
        )
    return Question(question.name, question.zeroshot, question.fewshot, question.note, n_cells)


def toml_text(question: Question, dataset: str, folder: str) -> str:
    """Return the TOML that cell-load reads: `folder` absolute, `dataset` without a dot."""
    what = {
        ZEROSHOT: "Unseen cell types: their perturbations are seen in others, and their controls train.",
        UNSEEN: "Unseen genes: held out in every cell type. Only perturbation features can answer this.",
    }[question.name]
    lines = [f"# {what}", f"# {question.note}", "[datasets]", f"{dataset} = {_quoted(folder)}", ""]
    lines += ["[training]", f'{dataset} = "train"', "", "[zeroshot]"]
    lines += [f"{_quoted(f'{dataset}.{name}')} = {_quoted(split)}" for name, split in question.zeroshot.items()]
    for cell_type, lists in question.fewshot.items():
        lines += ["", f"[fewshot.{_quoted(f'{dataset}.{cell_type}')}]"]
        lines += [f"{split} = [{', '.join(_quoted(label) for label in labels)}]" for split, labels in lists.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f'"{text}"'  # labels with quotation marks or backslashes were refused
