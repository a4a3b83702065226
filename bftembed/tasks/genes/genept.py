"""Protocol ``genept``: the steps of the GenePT notebooks to the letter, because the published numbers come from them.

Single genes (notebook ``gene_level_task_table_1``): five stratified folds in file order, unshuffled; in each a logistic
regression with defaults, then a random forest of 100 trees that takes the generator seeded with 2023 before the first
fold; the area under the ROC curve. Nothing is scaled, zero vectors are kept. Gene type: one split, accuracy.
Pairs (``gene_level_task_figure_2``): the sum of the two vectors, a logistic regression, one train and test part.

What the libraries take by default is written out, so that another version of them changes nothing.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.tasks.genes.definition import TEST, TRAIN, of_both_labels
from bftembed.tasks.genes.features import summed
from bftembed.tasks.genes.splits import N_FOLDS, Fold, Plan, both_classes, enough_genes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

SEED = 2023
#: Gene types with this many genes or fewer are dropped.
RARE_TYPE = 75


def plan_genept(task: GeneTask) -> Plan:
    """Divide a task as the notebooks do; the items keep the order and the repeats of the source.

    A gene in the lists of both classes is an item of each.

    A task that brings its split is divided by it, as the notebooks do with GGI.

    Raises
    ------
    BftembedError
        When a class has fewer items than folds, one side has one class, or the notebooks have no such kind of task.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    notes: list[str] = []
    rows = np.arange(len(task))
    both_labels = of_both_labels(task)
    if both_labels.any():
        names = examples(gene for gene, has_both in zip(task.genes, both_labels, strict=True) if has_both)
        notes.append(
            f"{int(both_labels.sum())} genes of both classes, once with each label as in the notebook: {names}"
        )
    if task.kind == "multilabel":
        raise BftembedError(
            f"Task {task.info.name}: the GenePT notebooks have no multilabel task. Use protocol strict."
        )
    if task.split is not None:
        parts = [(np.flatnonzero(task.split == TRAIN), np.flatnonzero(task.split == TEST))]
        if unused := len(rows) - sum(map(len, parts[0])):
            notes.append(f"{unused} items that the split leaves unused")
        if both := len(np.intersect1d(task.items[parts[0][0]], task.items[parts[0][1]])):
            notes.append(f"{both} genes on both sides of the split")
    elif task.kind == "binary":
        enough_genes(task, task.labels)
        parts = list(StratifiedKFold(N_FOLDS, shuffle=False).split(rows, task.labels))
    elif task.kind == "multiclass":
        often = np.bincount(task.labels, minlength=len(task.label_names)) > RARE_TYPE
        rows = np.flatnonzero(often[task.labels])
        notes.append(f"{int(often.sum())} types with more than {RARE_TYPE} genes")
        if int(often.sum()) < 2:
            raise BftembedError(f"Task {task.info.name}: fewer than two types have more than {RARE_TYPE} genes.")
        parts = [tuple(train_test_split(rows, test_size=0.30, random_state=SEED))]
    else:
        parts = [tuple(train_test_split(rows, test_size=0.30, random_state=SEED))]
    folds = [
        Fold(SEED, i, task.items[train], task.labels[train], task.items[test], task.labels[test])
        for i, (train, test) in enumerate(parts)
    ]
    both_classes(task, folds)
    n_items = len(rows) if len(folds) > 1 else sum(map(len, parts[0]))
    return Plan(tuple(folds), task.label_names, n_items, tuple(notes))


def genept_scores(plan: Plan, vectors: NDArray[Any], forest: bool) -> dict[str, list[NDArray[Any]]]:
    """Fit the notebooks' classifiers on every fold.

    Parameters
    ----------
    plan
        From `plan_genept`.
    vectors
        (n_genes, d), in the dtype in which they are to be fitted.
    forest
        Whether to fit the random forest too, after the logistic regression of each fold.

    Returns
    -------
    dict
        ``"logistic"`` (and ``"forest"``) → for each fold the probability of the positive class, float (n_test,); with
        more than two classes the predicted class, int64.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found: dict[str, list[NDArray[Any]]] = {name: [] for name in ("logistic", "forest")[: 1 + forest]}
    generator = np.random.RandomState(SEED)  # the notebooks seed the global one
    for fold in plan.folds:
        train, test = summed(vectors, fold.train_items), summed(vectors, fold.test_items)
        models: dict[str, Callable[[], Any]] = {"logistic": lambda: LogisticRegression(C=1.0, max_iter=100)}
        if forest:
            models["forest"] = lambda: RandomForestClassifier(100, random_state=generator)
        for name, make in models.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = make().fit(train, fold.train_labels)
            several = len(model.classes_) > 2
            found[name].append(model.predict(test) if several else model.predict_proba(test)[:, 1])
    return found
