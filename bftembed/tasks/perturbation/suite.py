"""The whole benchmark: all predictors on all splits and seeds, as rows of the results table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, unknown_name
from bftembed.progress import Progress, silent
from bftembed.tasks.perturbation import candidates as made
from bftembed.tasks.perturbation import predictors
from bftembed.tasks.perturbation.rows import CHANCE, Rows, Scores, names_of, rows_of
from bftembed.tasks.perturbation.scoring import Truth, chance, of_one_cell_type, score
from bftembed.tasks.perturbation.second import CELL_EVAL2, second_scores
from bftembed.tasks.perturbation.splits import (
    HELD_OUT_BY_STATE,
    UNSEEN_CELL_TYPE,
    UNSEEN_GENE,
    Split,
    has_unseen_genes,
    unseen_cell_type,
    unseen_gene,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.results import Result
    from bftembed.tasks.perturbation.data import Screen

SPLITS = (UNSEEN_GENE, UNSEEN_CELL_TYPE)


@dataclass(frozen=True)
class Settings:
    """How the benchmark is run.

    Attributes
    ----------
    splits
        Of `SPLITS`.
    seeds
        Seeds of divisions and draws.
    draws
        Draws of random and shuffled vectors for each seed.
    pca_dim, ridge
        Dimensions of P and G, and the ridge on both sides.
    top
        At most so many changed genes of a condition count in ``de_overlap``; None takes all significant ones.
    second_scorer
        ``"cell-eval2"`` scores all predictors but random and shuffled vectors once more; see
        `bftembed.tasks.perturbation.second`.
    """

    splits: tuple[str, ...] = SPLITS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    draws: int = 4
    pca_dim: int = predictors.PCA_DIM
    ridge: float = predictors.RIDGE
    top: int | None = None
    second_scorer: str | None = None

    def __post_init__(self) -> None:
        for name in self.splits:
            if name not in SPLITS:
                raise unknown_name("split", name, SPLITS)
        if self.second_scorer not in (None, CELL_EVAL2):
            raise unknown_name("second scorer", str(self.second_scorer), [CELL_EVAL2])
        if not self.seeds or not self.splits:
            raise BftembedError("At least one seed and one split are needed.")
        if self.draws < 2 or self.pca_dim < 1 or self.ridge <= 0 or (self.top is not None and self.top < 1):
            raise BftembedError(
                f"draws = {self.draws} must be at least 2, pca_dim = {self.pca_dim} and top = {self.top} at least 1, "
                f"ridge = {self.ridge} above 0."
            )


@dataclass(frozen=True, eq=False)
class Predictions:
    """What another program predicted, to be scored beside our predictors.

    Attributes
    ----------
    name
        In the results.
    screen
        The data in the gene space of the predictions.
    held_out
        bool (n_conditions,): which conditions are predicted; all others are what our predictors train on.
    delta
        float64 (n_predicted, n_genes), from the true controls.
    """

    name: str
    screen: Screen
    held_out: NDArray[np.bool_]
    delta: NDArray[np.float64]


def run(
    screen: Screen,
    embeddings: Mapping[str, Sequence[GeneEmbeddings]],
    settings: Settings,
    *,
    run: str,
    note: str = "",
    predictions: Sequence[Predictions] = (),
    progress: Progress = silent,
) -> list[Result]:
    """Score linear predictors of perturbation effects with and without embeddings of the perturbed genes.

    Parameters
    ----------
    screen
        The data; every perturbation has a vector in every embedding.
    embeddings
        Name → one or several draws of gene embeddings.
    settings
        Splits, seeds, dimensions.
    run
        Name of the run in the table.
    note
        Begins the note of every row.
    predictions
        Of other programs: for each a protocol ``"held-out-by-state"``, in which our predictors are trained on what was
        not predicted and scored on what was, in the same gene space.
    progress
        Called for every seed.

    Returns
    -------
    list of Result
        Protocol = split; embedding = predictor, the model being ``Y ~ G K P + b``
        (`bftembed.tasks.perturbation.predictors.bilinear`):

        - ``control mean``, ``perturbed mean``; ``mean of the perturbation`` where its gene is in training.
        - ``bilinear: P = NAME``: P is the embedding, reduced by a PCA that is fitted to the training perturbations; G
          is the training PCA of the genes.
        - ``bilinear: P = NAME, G = NAME``: G is the embedding of the measured genes, reduced by PCA; a gene without a
          vector gets b. (Vectors of measured genes are known without the data, so this PCA takes them all.)
        - ``bilinear: P = random (NAME's shape)`` and ``bilinear: P = NAME, shuffled``: the same with normal vectors,
          and with the vectors dealt to other genes; means over draws.
        - ``bilinear: P = identity`` and ``bilinear: P = training PCA`` where the gene is in training: a gene that is
          unseen has neither.

        One row per seed, or one without a seed where nothing is random; ``ci95-low`` and ``ci95-high`` over
        perturbations and seeds. ``chance`` has the levels of the discrimination scores and of ``de_overlap``, exact.
        Rows ``METRIC_minus_random``, ``_minus_shuffled``, ``_minus_perturbed_mean`` and, where that is,
        ``_minus_perturbation_mean`` of ``bilinear: P = NAME`` are paired differences with intervals
        (`bftembed.tasks.perturbation.verdict`); the ``mae`` of a text that helps is lower, its difference negative.

    Raises
    ------
    BftembedError
        When draws differ in their dimension.
    """
    results: list[Result] = []
    spaces = [(screen, name, None) for name in settings.splits] + [
        (one.screen, HELD_OUT_BY_STATE, one) for one in predictions
    ]
    done, total = 0, len(spaces) * len(settings.seeds)
    for space, protocol, other in spaces:
        vectors = [made.vectors_of(space, name, draws, settings.pca_dim) for name, draws in embeddings.items()]
        row = Rows(run, protocol, note, len(screen.left_out))
        truth = Truth.of(space, settings.top)
        scores = Scores(len(settings.seeds), len(space.label))
        try:
            for position, seed in enumerate(settings.seeds):
                splits = _splits(protocol, space, seed, other)
                for split in splits:
                    _score_split(scores, truth, split, vectors, settings, position, other)
                done += 1
                progress(done, total, f"{protocol}, seed {seed}")
        except _Undefined as err:
            results += row.failed(names_of(vectors, protocol), str(err))
            continue
        results += rows_of(row, scores, space, vectors, settings.seeds, settings.pca_dim, settings.draws)
    return results


class _Undefined(Exception):
    """A split that the data do not allow."""


def _splits(protocol: str, screen: Screen, seed: int, other: Predictions | None) -> list[Split]:
    if other is not None:
        train = ~other.held_out
        if not train.any():
            raise _Undefined("the predictions hold every condition of the data: nothing is left to train on")
        return [Split(train, other.held_out)]
    if protocol == UNSEEN_GENE:
        splits = unseen_gene(screen, seed)
        if not splits:
            raise _Undefined("no division leaves perturbations to train on: too few genes, or all in combinations")
        return splits
    try:
        return unseen_cell_type(screen)
    except BftembedError as err:
        raise _Undefined(str(err)) from err


def _score_split(
    scores: Scores,
    truth: Truth,
    split: Split,
    vectors: Sequence[made.Vectors],
    settings: Settings,
    position: int,
    other: Predictions | None,
) -> None:
    """Score all predictors on one split."""
    screen, seed, dims = truth.screen, settings.seeds[position], settings.pca_dim
    trained = made.Trained.on(screen, truth.delta, split, dims, settings.ridge)
    known, shares, rows = trained.in_training(), made.membership(screen), np.flatnonzero(split.test)
    scores.fewest = min(scores.fewest, *(len(own) for own in of_one_cell_type(screen, rows)))

    def keep(name: str, predicted: NDArray[Any], draw: int = 0, n_draws: int = 1) -> None:
        found = score(truth, split, predicted)
        if settings.second_scorer and n_draws == 1:
            found |= second_scores(truth, split, predicted)
        scores.add(name, position, draw, rows, found, n_draws)

    keep(made.CONTROL_MEAN, np.zeros_like(trained.centre))
    keep(made.PERTURBED_MEAN, trained.centre)
    scores.add(CHANCE, position, 0, rows, chance(truth, split))
    if not has_unseen_genes(screen, split):
        keep(made.PERTURBATION_MEAN, predictors.mean_per_perturbation(screen, truth.delta, split))
        keep(made.IDENTITY, trained.predict(np.eye(len(screen.labels))))
        keep(made.TRAINING_PCA, trained.predict(trained.label_components(dims)))
    for one in vectors:
        for kind in (made.TEXT, made.RANDOM, made.SHUFFLED):
            n_draws = 1 if kind == made.TEXT else settings.draws
            name = made.name_of(kind, one.name)
            scores.seeded[name] = kind != made.TEXT or len(one.targeted) > 1
            for draw in range(n_draws):
                p = predictors.reduced(shares @ made.drawn(kind, one, seed, draw, position), known, dims)
                keep(name, trained.predict(p), draw, n_draws)
                if kind == made.TEXT and one.measured is not None:
                    scores.seeded[made.with_text_genes(one.name)] = scores.seeded[name]
                    keep(made.with_text_genes(one.name), trained.predict(p, one.measured))
    if other is not None:
        keep(other.name, other.delta)
        scores.notes[other.name] = "deltas from the true controls; genes by position"
