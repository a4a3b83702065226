"""Which conditions are trained on and which are predicted: unseen genes, unseen cell types, or a list of conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.data import Screen

UNSEEN_GENE, UNSEEN_CELL_TYPE, HELD_OUT_BY_STATE = "unseen-gene", "unseen-cell-type", "held-out-by-state"
#: A fifth of the targeted genes is held out at a time.
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Split:
    """One division of the conditions.

    Attributes
    ----------
    train, test
        bool (n_conditions,); they do not overlap. Controls are in training always, those of all cell types.
    """

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def unseen_gene(screen: Screen, seed: int) -> list[Split]:
    """Hold genes out in every cell type.

    The targeted genes are shuffled and dealt into five parts of equal size (fewer where there are fewer genes); each
    part is held out in turn, so that over the splits of one seed every gene is predicted once, and all seeds together
    weigh every gene alike. A combination is held out with any of its members (and so may be predicted twice).

    Parameters
    ----------
    screen
        The data.
    seed
        Of the shuffle.

    Returns
    -------
    list of Split
        At most five, each with about a fifth of the genes held out.
    """
    genes = screen.targeted
    order = np.random.default_rng([seed, 1]).permutation(len(genes))
    splits = []
    for part in np.array_split(order, min(FOLDS, len(genes))):
        held = {genes[i] for i in part}
        labels = np.array([any(gene in held for gene in members) for members in screen.members])
        test = labels[screen.label]
        if test.any() and not test.all():
            splits.append(Split(~test, test))
    return splits


def unseen_cell_type(screen: Screen) -> list[Split]:
    """Hold out each cell type in turn, all of its perturbations; its controls are in training, as in STATE.

    Conditions whose perturbation no other cell type has are neither trained on nor predicted.

    Raises
    ------
    BftembedError
        For one cell type only, or no perturbation that two of them share.
    """
    if len(screen.cell_types) < 2:
        raise BftembedError(f"there is one cell type only ({screen.cell_types[0]!r}): none can be held out")
    splits = []
    for number in range(len(screen.cell_types)):
        train = screen.cell_type != number
        test = ~train & np.isin(screen.label, screen.label[train])
        if test.any():
            splits.append(Split(train, test))
    if not splits:
        raise BftembedError("no perturbation is in two cell types: no cell type can be predicted from others")
    return splits


def has_unseen_genes(screen: Screen, split: Split) -> bool:
    """Return whether any condition to be predicted has a perturbation that training does not."""
    return not np.isin(screen.label[split.test], screen.label[split.train]).all()
