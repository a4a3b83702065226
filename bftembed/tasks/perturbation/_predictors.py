"""Linear predictors of perturbation effects, NumPy alone, and the vectors that they take.

All predict deltas: mean expression less that of the controls of the same cell type. All know the perturbed mean, the
mean delta of the training conditions of the same cell type (of all, for a cell type without training conditions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.entities.genes import GeneIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.tasks.perturbation.data import Screen, Split

#: Ridge on both sides of the bilinear model, and dimensions of P and G: as in Ahlmann-Eltze et al. (2025).
RIDGE, PCA_DIM = 0.1, 10
CONTROL_MEAN, PERTURBED_MEAN, PERTURBATION_MEAN = "control mean", "perturbed mean", "mean of the perturbation"
# Components with a smaller share of the largest are rounding errors.
_MIN_SHARE = 1e-6


def _spectrum(gram: NDArray[Any], n_dims: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most `n_dims` eigenvalues that are not rounding errors, the largest first, and their vectors."""
    values, axes = np.linalg.eigh(gram)
    values, axes = values[::-1], axes[:, ::-1]
    k = int(min(n_dims, (values > _MIN_SHARE**2 * max(float(values[0]), 1e-300)).sum()))
    return values[:k], axes[:, :k]


def _reduced(vectors: NDArray[Any], train: NDArray[np.bool_], n_dims: int = PCA_DIM) -> NDArray[np.float64]:
    """Return at most `n_dims` principal components of vectors (n, d), float64 (n, k).

    They are fitted to the training rows, bool (n,), and have variance 1 in these: every P and G has the same scale, so
    that one ridge means the same for all.
    """
    mean = vectors[train].mean(axis=0, dtype=np.float64)
    known = vectors[train] - mean
    # The Gram matrix of the shorter side has the same spectrum, and is small.
    wide = known.shape[1] > known.shape[0]
    values, axes = _spectrum(known @ known.T if wide else known.T @ known, min(n_dims, max(len(known) - 1, 1)))
    if wide:
        axes = known.T @ (axes / np.sqrt(values))
    return np.asarray((vectors - mean) @ axes / np.sqrt(values / len(known)), dtype=np.float64)


def _expression_components(centered: NDArray[Any], n_dims: int = PCA_DIM) -> NDArray[np.float64]:
    """Return the training PCA of the genes, float64 (n_genes, k): left singular vectors of genes × conditions.

    Made of deltas less the perturbed mean of their cell type, (n_train, n_genes); scaled to a mean square of 1.
    """
    values, sides = _spectrum(centered @ centered.T, n_dims)
    loadings = centered.T @ (sides / np.sqrt(values))
    return np.asarray(loadings * np.sqrt(len(loadings)), dtype=np.float64)


def _bilinear(
    centered: NDArray[Any], of_genes: NDArray[Any], trained: NDArray[Any], tested: NDArray[Any], ridge: float = RIDGE
) -> NDArray[np.float64]:
    """Fit ``Y ~ G K P`` to centered deltas and predict the centered deltas of test conditions, (n_test, n_genes).

    ``K = (G'G + r I)^-1 G' Y P' (P P' + r I)^-1``, the linear model of Ahlmann-Eltze, Huber and Anders (Nature Methods
    2025; ``run_linear_pretrained_model.R``). Here Y is centered within each cell type (the paper has one), and P and G
    have the same scale (`_reduced`), where the paper takes principal components in the scale of the data.

    `centered` is Y' (n_train, n_genes), `of_genes` G (n_genes, k), `trained` and `tested` are P', `ridge` is r.
    """
    left = of_genes.T @ of_genes + ridge * np.eye(of_genes.shape[1])
    right = trained.T @ trained + ridge * np.eye(trained.shape[1])
    core = np.linalg.solve(left, of_genes.T @ (centered.T @ trained))
    core = np.linalg.solve(right, core.T).T
    return np.asarray((tested @ core.T) @ of_genes.T, dtype=np.float64)


class Training:
    """What the predictors of a split learn from the training rows of `delta`, (n_conditions, n_genes)."""

    def __init__(self, screen: Screen, delta: NDArray[Any], split: Split) -> None:
        own = [split.train & (screen.cell_type == i) for i in range(len(screen.cell_types))]
        overall = delta[split.train].mean(axis=0)
        means = np.stack([delta[rows].mean(axis=0) if rows.any() else overall for rows in own])
        self.n_labels = len(screen.labels)
        self.trained, self.tested = screen.label[split.train], screen.label[split.test]
        self.known = np.isin(np.arange(self.n_labels), self.trained)
        self.delta = delta[split.train]
        #: Perturbed mean of each test condition, (n_test, n_genes).
        self.center = means[screen.cell_type[split.test]]
        self.centered = self.delta - means[screen.cell_type[split.train]]
        self.of_genes = _expression_components(self.centered)

    def predict(self, of_labels: NDArray[Any]) -> NDArray[np.float64]:
        """Predict deltas (n_test, n_genes) from P' (n_labels, l), with the training PCA as G."""
        of_tested = _bilinear(self.centered, self.of_genes, of_labels[self.trained], of_labels[self.tested])
        return self.center + of_tested

    def label_means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean training row of each label, (n_labels, n_genes); 0 where there is none."""
        sums = np.zeros((self.n_labels, values.shape[1]))
        np.add.at(sums, self.trained, values)
        return np.asarray(sums / np.maximum(np.bincount(self.trained, minlength=len(sums)), 1)[:, None])


def rows_of(embedding: GeneEmbeddings) -> dict[str, int]:
    """Return gene → row, by approved symbols; the first of several is kept."""
    rows: dict[str, int] = {}
    for i, found in enumerate(GeneIndex.default().resolve(embedding.ids)):
        rows.setdefault(found.entity, i)
    return rows


def _drawn(vectors: NDArray[Any], kind: str, seed: int, draw: int) -> NDArray[Any]:
    """Return the vectors (n, d) of a ``"subject"``, ``"random"`` ones of their shape, or these ``"shuffled"``."""
    if kind == "random":
        return np.random.default_rng([seed, draw, 2]).standard_normal(vectors.shape, dtype=np.float32)
    if kind == "shuffled":
        return np.asarray(vectors[np.random.default_rng([seed, draw, 3]).permutation(len(vectors))])
    return vectors


class Predictor(NamedTuple):
    """A predictor, in `n_draws` draws per seed.

    `predict` makes deltas (n_test, n_genes) of a training, a seed and the number of a draw.
    """

    kind: str
    subject: str
    predict: Callable[[Training, int, int], NDArray[np.float64]]
    note: str = ""
    n_draws: int = 1


def predictors_of(
    screen: Screen, embeddings: Mapping[str, GeneEmbeddings], n_draws: int, *, seen: bool
) -> list[Predictor]:
    """Return all predictors of a protocol; `seen` says whether every tested perturbation is in training.

    With each embedding, which has all targeted genes, come random and shuffled vectors of its shape.
    """
    same = "mean effect of the same perturbation in the training cell types"
    found = [
        Predictor("baseline", CONTROL_MEAN, lambda t, *_: np.zeros_like(t.center), "no effect"),
        Predictor(
            "baseline", PERTURBED_MEAN, lambda t, *_: t.center, "mean effect in training, of the cell type if any"
        ),
    ]
    if seen:
        found += [
            Predictor("baseline", PERTURBATION_MEAN, lambda t, *_: t.label_means(t.delta)[t.tested], same),
            Predictor(
                "reference", "identity", lambda t, *_: t.predict(np.eye(t.n_labels)), "P = one axis per perturbation"
            ),
            Predictor("reference", "training PCA", _by_training_pca, "P = training PCA of the perturbations"),
        ]
    # The share of each targeted gene in each label: vectors of "A+B" are means.
    shares = np.array([[(gene in own) / len(own) for gene in screen.targeted] for own in screen.members])
    for name, embedding in embeddings.items():
        rows = rows_of(embedding)
        vectors = embedding.matrix[[rows[gene] for gene in screen.targeted]]
        for kind, n in (("subject", 1), ("random", n_draws), ("shuffled", n_draws)):

            def predict(t: Training, *draw: int, kind: str = kind, vectors: NDArray[Any] = vectors) -> Any:
                return t.predict(_reduced(shares @ _drawn(vectors, kind, *draw), t.known))

            found.append(Predictor(kind, name, predict, n_draws=n))
    return found


def _by_training_pca(training: Training, *_: int) -> NDArray[np.float64]:
    return training.predict(_reduced(training.label_means(training.centered), training.known))
