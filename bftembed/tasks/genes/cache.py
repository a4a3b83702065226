"""Scores that were computed before: a rerun with one more embedding fits only the new one."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import atomic_path, canonical_json, sha256_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.splits import Plan

#: Raised whenever equal input may give other scores.
VERSION = 2


class ScoreCache:
    """Scores of test items by the hash of all that decides them; one `.npz` of plain numbers each.

    Parameters
    ----------
    folder
        Made when missing; None keeps nothing. A file that is damaged counts as absent and is written again.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.n_found = self.n_computed = 0

    def get(self, key: str, n_folds: int) -> list[NDArray[Any]] | None:
        """Return the scores of every fold, or None."""
        if self.folder is None:
            return None
        try:
            with np.load(self._file(key), allow_pickle=False) as stored:
                found = [stored[f"fold{i}"] for i in range(n_folds)]
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile):
            return None
        self.n_found += 1
        return found

    def put(self, key: str, scores: Sequence[NDArray[Any]]) -> None:
        """Keep the scores of every fold."""
        self.n_computed += 1
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise BftembedError(
                f"The cache {self.folder} cannot be made ({err.strerror}). Name another folder."
            ) from err
        with atomic_path(self._file(key)) as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **{f"fold{i}": s for i, s in enumerate(scores)})

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.npz"


def plan_digest(plan: Plan) -> str:
    """Return the sha256 of all items and labels of a plan."""
    return arrays_digest(
        part
        for fold in plan.folds
        for part in (
            np.array([fold.seed, fold.fold]),
            fold.train_items,
            fold.train_labels,
            fold.test_items,
            fold.test_labels,
        )
    )


def arrays_digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the sha256 of arrays: dtypes, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def score_key(**parts: Any) -> str:
    """Return the key of scores: the sha256 of what decides them and of the versions of the libraries."""
    import scipy
    import sklearn

    made_by = {"numpy": np.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__}
    return sha256_text(canonical_json({"version": VERSION, "made_by": made_by, **parts}))
