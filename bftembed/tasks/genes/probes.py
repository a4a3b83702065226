"""Features of genes and pairs, and the classifiers (probes) that are fitted to them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.classification import roc_auc
from bftembed.tasks.genes.splits import GENEPT_SEED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from bftembed.tasks.genes.splits import Fold

#: Inverse strengths of the L2 penalty, from which a fold's training part chooses one.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Features are divided by their own standard deviation, or all by one number. The first suits features of equal worth;
#: it makes noise of the last axes of an SVD as large as the first axis, and a baseline of such features too low.
SCALINGS = ("each", "common")
_PENALTIES = tuple(float(a) for a in np.logspace(-1, 5, 7))
_CHOICES = [(scaling, strength) for scaling in SCALINGS for strength in STRENGTHS]
# Beyond so many training items one inner division says as much as three.
_MANY = 5000
_BATCH = 200
_BLOCK_ROWS = 8192


def summed(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[Any]:
    """Return the vector of each gene, or the sum of the two of each pair: (n, d), in the dtype of `vectors`."""
    features = vectors[items[:, 0]]
    if items.shape[1] == 2:
        # In blocks: the notebooks' pairs are hundreds of thousands.
        for start in range(0, len(items), _BLOCK_ROWS):
            features[start : start + _BLOCK_ROWS] += vectors[items[start : start + _BLOCK_ROWS, 1]]
    return features


def symmetric(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vector of each gene (n, d), or sum | absolute difference | product of each pair (n, 3 d), float32."""
    one, other = vectors[items[:, 0]], vectors[items[:, -1]]
    features = one if items.shape[1] == 1 else np.concatenate([one + other, np.abs(one - other), one * other], axis=1)
    return features.astype(np.float32, copy=False)


def logistic(fold: Fold, vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Fit a standardized logistic regression and return the log-odds of the test items, float64 (n_test,).

    Scaling (`SCALINGS`) and C (`STRENGTHS`) are those with the highest mean ROC-AUC over inner divisions of the
    training part (three stratified ones; one beyond 5,000 items; for pairs one whose genes do not meet), the first of
    equals.
    """
    train, labels = symmetric(vectors, fold.train_items), fold.train_labels
    found = [_inner_scores(train, labels, inner) for inner in _inner(fold)]
    means = np.mean([f for f in found if f is not None] or [[0.0] * len(_CHOICES)], axis=0)
    scaling, strength = _CHOICES[int(np.argmax(means))]
    train, test = _scaled(train, symmetric(vectors, fold.test_items), scaling)
    return _regression(train, labels, strength).decision_function(test).astype(np.float64)


def mlp(fold: Fold, vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Fit a network with one hidden layer of 64 on standardized features; probabilities of the test items, (n_test,).

    It stops when a held-out tenth of the training part has not improved for 10 epochs and 200 steps; with 10 training
    items or fewer, or one of a class, none is held out. Multilabel labels are not taken.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    train, test = _scaled(symmetric(vectors, fold.train_items), symmetric(vectors, fold.test_items))
    hold_out = len(train) > 10 and int(np.bincount(fold.train_labels, minlength=2).min()) > 1
    network = MLPClassifier(
        (64,),
        alpha=1e-2,
        early_stopping=hold_out,
        # Ten epochs of a small task are ten steps: nothing would be learned.
        n_iter_no_change=max(10, 200 * _BATCH // len(train)),
        max_iter=200,
        batch_size=min(_BATCH, len(train) * 9 // 10),
        random_state=fold.seed * 100 + fold.fold,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(train, fold.train_labels)
    return network.predict_proba(test)[:, 1].astype(np.float64)


def ridge(fold: Fold, vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Fit a ridge regression to every label at once; its predictions for the test items, float32 (n_test, n_labels).

    Scaling and penalty are chosen for each label by leave-one-out on the training part, which ridge regression gives in
    closed form. Hundreds of labels cost little more than one.
    """
    from sklearn.linear_model import RidgeCV

    labels = fold.train_labels.reshape(len(fold.train_labels), -1).astype(np.float32)
    found, best = np.zeros((len(fold.test_items), labels.shape[1]), np.float32), np.full(labels.shape[1], -np.inf)
    for scaling in SCALINGS:
        parts = symmetric(vectors, fold.train_items), symmetric(vectors, fold.test_items)
        train, test = _scaled(*parts, scaling)
        model = RidgeCV(alphas=_PENALTIES, alpha_per_target=True).fit(train, labels)
        better = model.best_score_ > best
        found[:, better] = model.predict(test).reshape(found.shape)[:, better]
        best = np.maximum(best, model.best_score_)
    return found


def probe_scores(folds: list[Fold], vectors: NDArray[Any], names: list[str]) -> dict[str, list[NDArray[Any]]]:
    """Fit probes of `PROBES` on each fold; probe → scores of the test items of each fold."""
    return {name: [PROBES[name](fold, vectors) for fold in folds] for name in names}


def genept_scores(folds: list[Fold], vectors: NDArray[Any], names: list[str]) -> dict[str, list[NDArray[Any]]]:
    """Fit the classifiers of GenePT's notebooks on each fold, with all defaults of scikit-learn written out.

    Nothing is scaled; vectors are fitted in their dtype. The forest, after the logistic regression of each fold, takes
    one generator, seeded before the first fold; the notebooks seed the global one. `names` are ``"logistic"`` (and
    ``"forest"``). Returns name → for each fold the probability of the positive class; with more than two classes the
    predicted class.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    generator = np.random.RandomState(GENEPT_SEED)
    for fold in folds:
        train, test = summed(vectors, fold.train_items), summed(vectors, fold.test_items)
        for name, scores in found.items():
            model: Any = LogisticRegression(C=1.0, max_iter=100)
            if name == "forest":
                model = RandomForestClassifier(100, random_state=generator)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(train, fold.train_labels)
            several = len(model.classes_) > 2
            scores.append(model.predict(test) if several else model.predict_proba(test)[:, 1])
    return found


PROBES: dict[str, Callable[[Fold, NDArray[Any]], NDArray[Any]]] = {"logistic": logistic, "mlp": mlp, "ridge": ridge}


def _inner(fold: Fold) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    seed = fold.seed * 100 + fold.fold
    items, labels = fold.train_items, fold.train_labels
    if items.shape[1] == 2:
        held = np.random.default_rng(seed).random(int(items.max()) + 1) < 0.3
        inside = held[items]
        yield np.flatnonzero((~inside).all(axis=1)), np.flatnonzero(inside.all(axis=1))
    elif len(items) > _MANY:
        yield from StratifiedShuffleSplit(1, test_size=0.25, random_state=seed).split(items, labels)
    else:
        n = min(3, int(np.bincount(labels, minlength=2).min()))
        if n > 1:
            yield from StratifiedKFold(n, shuffle=True, random_state=seed).split(items, labels)


def _inner_scores(
    features: NDArray[np.float32], labels: NDArray[Any], inner: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> list[float] | None:
    """Return the ROC-AUC of every choice on the held part, or None when a part has one class only."""
    fit, held = inner
    if min(len(np.unique(labels[fit])), len(np.unique(labels[held]))) < 2:
        return None
    found = []
    for scaling in SCALINGS:
        train, test = _scaled(features[fit], features[held], scaling)
        for strength in STRENGTHS:
            model = _regression(train, labels[fit], strength)
            found.append(roc_auc(labels[held], model.decision_function(test)))
    return found


def _regression(features: NDArray[np.float32], labels: NDArray[Any], strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, tol=1e-3, max_iter=500).fit(features, labels)


def _scaled(
    train: NDArray[np.float32], test: NDArray[np.float32], scaling: str = "each"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both centered and scaled by `train`, whose variances then sum to their number; constant features are 0."""
    mean = train.mean(axis=0, dtype=np.float64)
    spread = train.std(axis=0, dtype=np.float64)
    varies = spread > 1e-12 * np.maximum(np.abs(mean), 1e-12)
    if scaling == "common":
        spread = np.where(varies, np.sqrt(np.mean(spread**2)), 0.0)
    factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
    shift, scale = mean.astype(np.float32), factor.astype(np.float32)
    return (train - shift) * scale, (test - shift) * scale
