"""Linear predictors of perturbation effects, NumPy alone, and the vectors that they take.

All predict deltas: mean expression less that of the controls of the same cell type. All know the perturbed mean, the
mean delta of the training conditions of the same cell type (of all, for a cell type without training conditions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.tasks.perturbation.data import Screen, Split

#: Ridge on both sides of the bilinear model, and dimensions of P and G: as in Ahlmann-Eltze et al. (2025).
RIDGE, PCA_DIM = 0.1, 10
CONTROL_MEAN, PERTURBED_MEAN, PERTURBATION_MEAN = "control mean", "perturbed mean", "mean of the perturbation"
# Components with a smaller share of the largest are rounding errors.
_MIN_SHARE = 1e-6


def reduced(vectors: NDArray[Any], train: NDArray[np.bool_], n_dims: int) -> NDArray[np.float64]:
    """Return at most `n_dims` principal components of vectors (n, d), float64 (n, k).

    They are fitted to the training rows, bool (n,), and have variance 1 in these: every P and G has the same scale, so
    that one ridge means the same for all.
    """
    mean = vectors[train].mean(axis=0, dtype=np.float64)
    known = vectors[train] - mean
    # The Gram matrix of the shorter side has the same spectrum, and is small.
    wide = known.shape[1] > known.shape[0]
    values, axes = np.linalg.eigh(known @ known.T if wide else known.T @ known)
    values, axes = values[::-1], axes[:, ::-1]
    k = int(min(n_dims, (values > _MIN_SHARE**2 * max(float(values[0]), 1e-300)).sum(), max(len(known) - 1, 1)))
    if wide:
        axes = known.T @ (axes[:, :k] / np.sqrt(values[:k]))
    scale = np.sqrt(values[:k] / len(known))
    return np.asarray((vectors - mean) @ axes[:, :k] / scale, dtype=np.float64)


def expression_components(centered: NDArray[Any], n_dims: int) -> NDArray[np.float64]:
    """Return the training PCA of the genes, float64 (n_genes, k): left singular vectors of genes × conditions.

    Made of deltas less the perturbed mean of their cell type, (n_train, n_genes); scaled to a mean square of 1.
    """
    values, sides = np.linalg.eigh(centered @ centered.T)
    values, sides = values[::-1], sides[:, ::-1]
    k = int(min(n_dims, (values > _MIN_SHARE**2 * max(float(values[0]), 1e-300)).sum()))
    loadings = centered.T @ (sides[:, :k] / np.sqrt(values[:k]))
    return np.asarray(loadings * np.sqrt(len(loadings)), dtype=np.float64)


def bilinear(
    centered: NDArray[Any], of_genes: NDArray[Any], trained: NDArray[Any], tested: NDArray[Any], ridge: float = RIDGE
) -> NDArray[np.float64]:
    """Fit ``Y ~ G K P`` to centered deltas and predict the centered deltas of test conditions.

    The linear model of Ahlmann-Eltze, Huber and Anders (Nature Methods 2025; code of the paper:
    ``run_linear_pretrained_model.R``): ``K = (G'G + r I)^-1 G' Y P' (P P' + r I)^-1``. Differences: Y is centered
    within each cell type (there is one in the paper), and P and G have the same scale (`reduced`), where the paper
    takes principal components in the scale of the data.

    Parameters
    ----------
    centered
        Y', (n_train, n_genes).
    of_genes
        G, (n_genes, k).
    trained, tested
        P' of the training and of the test conditions, (n_train, l) and (n_test, l).
    ridge
        r.

    Returns
    -------
    ndarray
        float64 (n_test, n_genes).
    """
    left = of_genes.T @ of_genes + ridge * np.eye(of_genes.shape[1])
    right = trained.T @ trained + ridge * np.eye(trained.shape[1])
    core = np.linalg.solve(left, of_genes.T @ (centered.T @ trained))
    core = np.linalg.solve(right, core.T).T
    return np.asarray((tested @ core.T) @ of_genes.T, dtype=np.float64)


class Training:
    """What the predictors of a split learn from its training conditions.

    Only the training rows of `delta`, (n_conditions, n_genes), are read.
    """

    def __init__(self, screen: Screen, delta: NDArray[Any], split: Split, n_dims: int, ridge: float) -> None:
        own = [split.train & (screen.cell_type == i) for i in range(len(screen.cell_types))]
        overall = delta[split.train].mean(axis=0)
        means = np.stack([delta[rows].mean(axis=0) if rows.any() else overall for rows in own])
        self.ridge, self.n_labels = ridge, len(screen.labels)
        self.trained, self.tested = screen.label[split.train], screen.label[split.test]
        self.known = np.isin(np.arange(self.n_labels), self.trained)
        self.delta = delta[split.train]
        #: Perturbed mean of each test condition, (n_test, n_genes).
        self.center = means[screen.cell_type[split.test]]
        self.centered = self.delta - means[screen.cell_type[split.train]]
        self.of_genes = expression_components(self.centered, n_dims)

    def predict(self, of_labels: NDArray[Any], of_genes: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Predict deltas (n_test, n_genes) from P' (n_labels, l) and G (n_genes, k), by default the training PCA."""
        g = self.of_genes if of_genes is None else of_genes
        return self.center + bilinear(self.centered, g, of_labels[self.trained], of_labels[self.tested], self.ridge)

    def label_means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean training row of each label, (n_labels, n_genes); 0 where there is none."""
        sums = np.zeros((self.n_labels, values.shape[1]))
        np.add.at(sums, self.trained, values)
        return np.asarray(sums / np.maximum(np.bincount(self.trained, minlength=len(sums)), 1)[:, None])


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of an embedding that a screen needs.

    `targeted`: vectors of ``screen.targeted``, float32 (n_targeted, d), a matrix per draw. `measured`: G of the first
    draw, principal components of the vectors of the measured genes, float64 (n_genes, k), zero where there is no
    vector; None where too few have one.
    """

    name: str
    targeted: tuple[NDArray[Any], ...]
    measured: NDArray[np.float64] | None

    @classmethod
    def of(cls, screen: Screen, name: str, draws: Sequence[GeneEmbeddings], n_dims: int) -> Vectors:
        """Gather them from one or several embeddings of one shape; all perturbations have a vector."""
        dims = sorted({draw.dim for draw in draws})
        if len(dims) > 1:
            raise BftembedError(f"Draws of {name!r} have {examples(dims)} dimensions; they must have the same.")
        rows = [_rows_of(draw) for draw in draws]
        targeted = [draw.matrix[[own[g] for g in screen.targeted]] for draw, own in zip(draws, rows, strict=True)]
        entities = [found.entity for found in GeneIndex.default().resolve(screen.genes)]
        known = np.array([gene in rows[0] for gene in entities])
        measured = None
        if known.sum() > n_dims:
            of_known = draws[0].matrix[[rows[0][g] for g in entities if g in rows[0]]]
            components = reduced(of_known, np.ones(len(of_known), dtype=bool), n_dims)
            measured = np.zeros((len(entities), components.shape[1]))
            measured[known] = components
        return cls(name, tuple(targeted), measured)

    def draw(self, kind: str, seed: int, draw: int, position: int) -> NDArray[Any]:
        """Return vectors of the targeted genes, (n_targeted, d), for the seed at a position in the list of seeds.

        Of kind ``"subject"`` the embedding's own, ``"random"`` standard normal ones, ``"shuffled"`` its own, permuted
        over the genes.
        """
        own = self.targeted[position % len(self.targeted)]
        if kind == "random":
            return np.random.default_rng([seed, draw, 2]).standard_normal(own.shape, dtype=np.float32)
        if kind == "shuffled":
            return np.asarray(own[np.random.default_rng([seed, draw, 3]).permutation(len(own))])
        return own


def _rows_of(embedding: GeneEmbeddings) -> dict[str, int]:
    """Return gene → row, by approved symbols; the first of several is kept."""
    rows: dict[str, int] = {}
    for i, found in enumerate(GeneIndex.default().resolve(embedding.ids)):
        rows.setdefault(found.entity, i)
    return rows


def with_vectors(
    screen: Screen, embeddings: Mapping[str, Sequence[GeneEmbeddings]], *, allow_missing: bool = False
) -> Screen:
    """Return the screen with the perturbations that have a vector in every embedding; "A+B" needs one of each gene.

    Raises
    ------
    BftembedError
        For perturbations without a vector, unless `allow_missing`, and fewer than two with one.
    """
    lacking: dict[str, list[str]] = {}
    for name, draws in embeddings.items():
        known = set.intersection(*(set(_rows_of(draw)) for draw in draws))
        own = [label for label, genes in zip(screen.labels, screen.members, strict=True) if not known.issuperset(genes)]
        lacking |= {name: own} if own else {}
    if lacking and not allow_missing:
        listed = "; ".join(f"{name!r} lacks {examples(labels, 20)}" for name, labels in lacking.items())
        raise BftembedError(
            f"Perturbations without a vector: {listed}. Embed these genes too, or leave the perturbations out: "
            "allow_missing=True (--allow-missing)."
        )
    left = sorted(set().union(*lacking.values()))
    if len(screen.labels) - len(left) < 2:
        raise BftembedError(
            f"Fewer than two perturbations have a vector in every embedding; {examples(left)} have none."
        )
    return screen.without(left) if left else screen


def membership(screen: Screen) -> NDArray[np.float64]:
    """Return the share of each targeted gene in each label, (n_labels, n_targeted): vectors of "A+B" are means."""
    at = {gene: i for i, gene in enumerate(screen.targeted)}
    shares = np.zeros((len(screen.labels), len(at)))
    for row, genes in zip(shares, screen.members, strict=True):
        row[[at[g] for g in genes]] = 1 / len(genes)
    return shares


#: Training, seed, draw and number of the seed → deltas (n_test, n_genes).
Predict = Callable[[Training, int, int, int], "NDArray[np.float64]"]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A predictor: kind, subject and note in the results, and function.

    There are `n_draws` of its vectors per seed; `seeded` says whether it depends on the seed, `problem` why it cannot
    be applied.
    """

    kind: str
    subject: str
    predict: Predict
    note: str = ""
    n_draws: int = 1
    seeded: bool = False
    problem: str = ""


def predictors_of(
    screen: Screen, vectors: Sequence[Vectors], n_dims: int, n_draws: int, *, seen: bool
) -> list[Predictor]:
    """Return all predictors of a protocol.

    With each embedding come random and shuffled vectors of its shape, in `n_draws` draws per seed, and the model in
    which the vectors of the measured genes are G. (These are known without the data, so their PCA takes them all.)
    `seen` says whether every tested perturbation is in training: it has a mean and a training PCA of its own then.
    """
    mean = "mean effect of the training perturbations in the same cell type, or in all where it has none"
    found = [
        Predictor("baseline", CONTROL_MEAN, lambda t, *_: np.zeros_like(t.center), "no effect"),
        Predictor("baseline", PERTURBED_MEAN, lambda t, *_: t.center, mean),
    ]
    if seen:
        same = "mean effect of the same perturbation in the training cell types"
        axes, pca = "P = one axis per perturbation, not reduced", "P = training PCA of the perturbations"

        def of_pca(t: Training, *_: int) -> NDArray[np.float64]:
            return t.predict(reduced(t.label_means(t.centered), t.known, n_dims))

        found += [
            Predictor("baseline", PERTURBATION_MEAN, lambda t, *_: t.label_means(t.delta)[t.tested], same),
            Predictor("reference", "identity", lambda t, *_: t.predict(np.eye(t.n_labels)), axes),
            Predictor("reference", "training PCA", of_pca, pca),
        ]
    shares = membership(screen)
    for one in vectors:

        def predict_with(kind: str, of_genes: NDArray[Any] | None = None, one: Vectors = one) -> Predict:
            return lambda t, *draw: t.predict(reduced(shares @ one.draw(kind, *draw), t.known, n_dims), of_genes)

        several, both = len(one.targeted) > 1, f"{one.name}, G = {one.name}"
        too_few = "" if one.measured is not None else f"fewer than {n_dims + 1} measured genes have a vector"
        found.append(Predictor("subject", one.name, predict_with("subject"), seeded=several))
        found.append(Predictor("subject", both, predict_with("subject", one.measured), seeded=several, problem=too_few))
        for kind in ("random", "shuffled"):
            found.append(Predictor(kind, one.name, predict_with(kind), n_draws=n_draws, seeded=True))
    return found
