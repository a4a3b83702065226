"""What is scored: predictors by name, and the vectors that each gives to perturbations and genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples
from bftembed.tasks.perturbation import predictors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.tasks.perturbation.data import Screen
    from bftembed.tasks.perturbation.splits import Split

CONTROL_MEAN, PERTURBED_MEAN, PERTURBATION_MEAN = "control mean", "perturbed mean", "mean of the perturbation"
_MODEL = "bilinear: P = "
TEXT, RANDOM, SHUFFLED = "text", "random", "shuffled"


@dataclass(frozen=True, eq=False)
class Vectors:
    """An embedding in the terms of a screen.

    Attributes
    ----------
    name
        As in the results.
    targeted
        One matrix per draw, float32 (n_targeted, d): vectors of ``screen.targeted``.
    measured
        Of the first draw: float64 (n_genes, k), principal components of the vectors of the measured genes (G), zero
        where there is no vector; None where too few have one.
    """

    name: str
    targeted: tuple[NDArray[Any], ...]
    measured: NDArray[np.float64] | None


def name_of(kind: str, name: str) -> str:
    """Return the name of a bilinear predictor whose P is an embedding, or drawn in its shape."""
    return _MODEL + {TEXT: name, RANDOM: f"random ({name}'s shape)", SHUFFLED: f"{name}, shuffled"}[kind]


def with_text_genes(name: str) -> str:
    """Return the name of the bilinear predictor whose P and G are both an embedding."""
    return f"{_MODEL}{name}, G = {name}"


IDENTITY, TRAINING_PCA = f"{_MODEL}identity", f"{_MODEL}training PCA"


def lacking(screen: Screen, embeddings: Mapping[str, Sequence[GeneEmbeddings]]) -> dict[str, list[str]]:
    """Return the perturbations without a vector, by embedding; a combination needs one of each member."""
    found = {}
    for name, draws in embeddings.items():
        known = set.intersection(*(set(rows_of(draw)) for draw in draws))
        found[name] = [
            label for label, genes in zip(screen.labels, screen.members, strict=True) if not set(genes) <= known
        ]
    return {name: labels for name, labels in found.items() if labels}


def rows_of(embedding: GeneEmbeddings) -> dict[str, int]:
    """Return gene → row of an embedding; names resolved to approved symbols, the first of several kept."""
    rows: dict[str, int] = {}
    for i, found in enumerate(GeneIndex.default().resolve(embedding.ids)):
        rows.setdefault(found.entity, i)
    return rows


def vectors_of(screen: Screen, name: str, draws: Sequence[GeneEmbeddings], n_dims: int) -> Vectors:
    """Gather the vectors of an embedding that a screen needs.

    Parameters
    ----------
    screen
        With only perturbations that have a vector.
    name
        Of the embedding.
    draws
        One or several embeddings of one shape; seed s uses draw s modulo their number.
    n_dims
        Dimensions of G.

    Raises
    ------
    BftembedError
        When draws differ in their dimension.
    """
    dims = sorted({draw.dim for draw in draws})
    if len(dims) > 1:
        raise BftembedError(
            f"The draws of {name!r} have {examples(dims)} dimensions: draws of one embedding have one shape. Give "
            "other embeddings names of their own: --genes NAME=FILE."
        )
    rows = [rows_of(draw) for draw in draws]
    targeted = [draw.matrix[[own[g] for g in screen.targeted]] for draw, own in zip(draws, rows, strict=True)]
    entities = [found.entity for found in GeneIndex.default().resolve(screen.genes)]
    known = np.array([gene in rows[0] for gene in entities])
    measured = None
    if known.sum() > n_dims:
        of_known = draws[0].matrix[[rows[0][g] for g in entities if g in rows[0]]]
        components = predictors.reduced(of_known, np.ones(len(of_known), dtype=bool), n_dims)
        measured = np.zeros((len(entities), components.shape[1]))
        measured[known] = components
    return Vectors(name, tuple(targeted), measured)


def drawn(kind: str, vectors: Vectors, seed: int, draw: int, position: int) -> NDArray[Any]:
    """Return the vectors of the targeted genes, (n_targeted, d): those of the embedding, or a draw to compare with.

    Parameters
    ----------
    kind
        ``"text"``; ``"random"``: standard normal, of the same shape; ``"shuffled"``: the vectors of the embedding,
        dealt to other genes.
    vectors
        The embedding.
    seed, draw
        Of the random numbers.
    position
        Number of the seed: which draw of the embedding.
    """
    own = vectors.targeted[position % len(vectors.targeted)]
    if kind == RANDOM:
        return np.random.default_rng([seed, draw, 2]).standard_normal(own.shape, dtype=np.float32)
    if kind == SHUFFLED:
        return np.asarray(own[np.random.default_rng([seed, draw, 3]).permutation(len(own))])
    return own


def membership(screen: Screen) -> NDArray[np.float64]:
    """Return the share of each targeted gene in each label, (n_labels, n_targeted): vectors of "A+B" are means."""
    at = {gene: i for i, gene in enumerate(screen.targeted)}
    shares = np.zeros((len(screen.labels), len(at)))
    for row, genes in zip(shares, screen.members, strict=True):
        row[[at[g] for g in genes]] = 1 / len(genes)
    return shares


@dataclass(frozen=True, eq=False)
class Trained:
    """What all predictors of a split share.

    Attributes
    ----------
    screen, split
        The data and their division.
    centre
        (n_test, n_genes): the perturbed mean of each test condition.
    centred
        (n_train, n_genes): training deltas less the perturbed mean of their cell type.
    of_genes
        (n_genes, k): training PCA, G.
    ridge
        Of the bilinear model.
    """

    screen: Screen
    split: Split
    centre: NDArray[np.float64]
    centred: NDArray[np.float64]
    of_genes: NDArray[np.float64]
    ridge: float

    @classmethod
    def on(cls, screen: Screen, delta: NDArray[Any], split: Split, n_dims: int, ridge: float) -> Trained:
        """Compute it from the training conditions alone."""
        means = predictors.centres(screen, delta, split)
        centred = delta[split.train] - means[screen.cell_type[split.train]]
        of_genes = predictors.expression_components(centred, n_dims)
        return cls(screen, split, means[screen.cell_type[split.test]], centred, of_genes, ridge)

    def predict(self, of_labels: NDArray[Any], of_genes: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Predict deltas (n_test, n_genes) from P' (n_labels, l) and G (n_genes, k); None takes the training PCA."""
        trained, tested = (self.screen.label[rows] for rows in (self.split.train, self.split.test))
        g = self.of_genes if of_genes is None else of_genes
        return self.centre + predictors.bilinear(self.centred, g, of_labels[trained], of_labels[tested], self.ridge)

    def in_training(self) -> NDArray[np.bool_]:
        """Return which labels are trained on, bool (n_labels,)."""
        found = np.zeros(len(self.screen.labels), dtype=bool)
        found[self.screen.label[self.split.train]] = True
        return found

    def label_components(self, n_dims: int) -> NDArray[np.float64]:
        """Return the training PCA of the labels, (n_labels, k): scores of their mean centred deltas."""
        sums = np.zeros((len(self.screen.labels), self.centred.shape[1]))
        np.add.at(sums, self.screen.label[self.split.train], self.centred)
        n = np.bincount(self.screen.label[self.split.train], minlength=len(sums))
        return predictors.reduced(sums / np.maximum(n, 1)[:, None], n > 0, n_dims)
