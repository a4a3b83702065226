"""Classifiers (probes) of genes and pairs, and their fits to all candidates and folds of a plan."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.classification import roc_auc
from bftembed.tasks.genes.splits import GENEPT_SEED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes._baselines import Candidate
    from bftembed.tasks.genes.splits import Fold, Plan

    Scores = dict[str, list[NDArray[Any]]]  # probe → scores of each fold

# Inverse strengths of the L2 penalty, from which a fold's training part chooses one.
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Features are divided by their own standard deviation, or all by one number. The first suits features of equal worth;
# it makes noise of the last axes of an SVD as large as the first axis, and a baseline of such features too low.
_SCALINGS = ("each", "common")
_PENALTIES = tuple(float(a) for a in np.logspace(-1, 5, 7))
_CHOICES = [(scaling, strength) for scaling in _SCALINGS for strength in _STRENGTHS]
# Beyond so many training items one inner division says as much as three.
_MANY = 5000
_BLOCK_ROWS = 8192


def scores_of(
    plan: Plan, candidates: Sequence[Candidate], protocol: str, probes: list[str], jobs: int
) -> dict[tuple[str, str], Scores]:
    """Fit every candidate on every fold; (kind, name) → probe → scores of the test items of each fold.

    Protocol ``strict`` has ``"logistic"`` (log-odds, float64 (n_test,)) and ``"ridge"`` (float32 (n_test, n_labels)),
    ``genept`` has ``"logistic"`` and ``"forest"``, which is last (the probability of the positive class; with more than
    two classes the predicted class). `jobs` is the number of processes.
    """
    fit = _genept_scores if protocol == "genept" else _strict_scores
    seeds = list(dict.fromkeys(fold.seed for fold in plan.folds))
    calls = []
    for candidate in candidates:
        folds = [f.permuted() if candidate.kind == "chance" else f for f in plan.folds]
        for i, seed in enumerate(seeds):
            calls.append(([f for f in folds if f.seed == seed], candidate.draws[i % len(candidate.draws)], probes))
    fitted = iter(parallel(fit, calls, jobs))
    found = {}
    for candidate in candidates:
        parts = [next(fitted) for _ in seeds]
        found[candidate.kind, candidate.name] = {probe: [s for part in parts for s in part[probe]] for probe in probes}
    return found


def parallel(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int) -> list[Any]:
    """Return the results of calls in `jobs` processes, each on one thread: they do not depend on their number."""
    from sklearn.utils.parallel import Parallel, delayed

    return list(Parallel(n_jobs=jobs)(delayed(on_one_thread)(call, *given) for given in arguments))


def on_one_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call that computes on one thread: sums in another order give other last digits."""
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return call(*arguments)


def _strict_scores(folds: list[Fold], vectors: NDArray[Any], names: list[str]) -> Scores:
    probes: dict[str, Callable[..., NDArray[Any]]] = {"logistic": _logistic, "ridge": _ridge}
    return {name: [probes[name](fold, vectors) for fold in folds] for name in names}


def _logistic(fold: Fold, vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Fit a standardized logistic regression.

    Scaling and C are those with the highest mean ROC-AUC over inner divisions of the training part (three stratified
    ones; one beyond 5,000 items; for pairs one whose genes do not meet), the first of equals.
    """
    train, labels = _symmetric(vectors, fold.train_items), fold.train_labels
    found = []
    for fit, held in _inner(fold):
        if min(len(np.unique(labels[part])) for part in (fit, held)) == 2:
            parts = [_scaled(train[fit], train[held], scaling) for scaling in _SCALINGS]
            scores = [_log_odds(known, labels[fit], new, c) for known, new in parts for c in _STRENGTHS]
            found.append([roc_auc(labels[held], of_choice) for of_choice in scores])
    scaling, strength = _CHOICES[int(np.argmax(np.mean(found or [[0.0] * len(_CHOICES)], axis=0)))]
    train, test = _scaled(train, _symmetric(vectors, fold.test_items), scaling)
    return _log_odds(train, labels, test, strength).astype(np.float64)


def _ridge(fold: Fold, vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Fit a ridge regression to every label at once: hundreds of labels cost little more than one.

    Scaling and penalty are chosen for each label by leave-one-out on the training part, in closed form.
    """
    from sklearn.linear_model import RidgeCV

    labels = fold.train_labels.reshape(len(fold.train_labels), -1).astype(np.float32)
    found, best = np.zeros((len(fold.test_items), labels.shape[1]), np.float32), np.full(labels.shape[1], -np.inf)
    for scaling in _SCALINGS:
        train, test = _scaled(_symmetric(vectors, fold.train_items), _symmetric(vectors, fold.test_items), scaling)
        model = RidgeCV(alphas=_PENALTIES, alpha_per_target=True).fit(train, labels)
        better = model.best_score_ > best
        found[:, better] = model.predict(test).reshape(found.shape)[:, better]
        best = np.maximum(best, model.best_score_)
    return found


def _genept_scores(folds: list[Fold], vectors: NDArray[Any], names: list[str]) -> Scores:
    """Fit the classifiers of GenePT's notebooks, with all defaults of scikit-learn written out.

    Nothing is scaled; vectors are fitted in their dtype. The forest, after the logistic regression of each fold, takes
    one generator, seeded before the first fold; the notebooks seed the global one.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    generator = np.random.RandomState(GENEPT_SEED)
    models = {"logistic": LogisticRegression(C=1.0, max_iter=100)}
    models["forest"] = RandomForestClassifier(100, random_state=generator)
    found: Scores = {name: [] for name in names}
    for fold in folds:
        train, test = _summed(vectors, fold.train_items), _summed(vectors, fold.test_items)
        for name, scores in found.items():
            model = _fitted(models[name], train, fold.train_labels)
            several = len(model.classes_) > 2
            scores.append(model.predict(test) if several else model.predict_proba(test)[:, 1])
    return found


def _summed(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[Any]:
    """Return the vector of each gene, or the sum of the two of each pair: (n, d), in the dtype of `vectors`."""
    features = vectors[items[:, 0]]
    if items.shape[1] == 2:
        # In blocks: the notebooks' pairs are hundreds of thousands.
        for start in range(0, len(items), _BLOCK_ROWS):
            features[start : start + _BLOCK_ROWS] += vectors[items[start : start + _BLOCK_ROWS, 1]]
    return features


def _symmetric(vectors: NDArray[Any], items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vector of each gene (n, d), or sum | absolute difference | product of each pair (n, 3 d), float32."""
    one, other = vectors[items[:, 0]], vectors[items[:, -1]]
    features = one if items.shape[1] == 1 else np.concatenate([one + other, np.abs(one - other), one * other], axis=1)
    return features.astype(np.float32, copy=False)


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
    elif (n := min(3, int(np.bincount(labels, minlength=2).min()))) > 1:
        yield from StratifiedKFold(n, shuffle=True, random_state=seed).split(items, labels)


def _log_odds(train: NDArray[np.float32], labels: NDArray[Any], test: NDArray[np.float32], c: float) -> NDArray[Any]:
    from sklearn.linear_model import LogisticRegression

    model = _fitted(LogisticRegression(C=c, tol=1e-3, max_iter=500), train, labels)
    # decision_function without its validation, which takes as long as the product: 31 fits of 25 folds.
    return np.asarray((test @ model.coef_.T + model.intercept_).ravel())


def _fitted(model: Any, features: NDArray[Any], labels: NDArray[Any]) -> Any:
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


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
