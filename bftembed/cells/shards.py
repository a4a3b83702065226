"""Merge of the shards of a file, the sidecars that ``cells embed --shard i/n`` wrote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.cells.output import UNS, check_target, coverage_column, sidecar_of
from bftembed.errors import BftembedError
from bftembed.expression.store import row_names
from bftembed.hdf5 import check_declared_size, open_h5ad
from bftembed.progress import silent
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress

#: Provenance of a shard alone, dropped on merge; and that of its cells, added up.
_OF_A_SHARD = ("shard", "first_row", "last_row", "cells_of_all", "genes_sha256", "expression_total")
_ADDED_UP = ("n_cells", "n_empty", "coverage", "empty_cells", "reason")
#: Numbers that are copied at a time: 16 MB.
_NUMBERS = 2**22


def merge_shards(
    parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, progress: Progress = silent
) -> dict[str, Any]:
    """Join the parts of a file that cells embed --shard made, in the order of its cells.

    Parameters
    ----------
    parts
        Sidecars (.h5ad) of all shards, in any order.
    out
        Sidecar to write.

    Other Parameters
    ----------------
    progress
        Called with the number of cells done.

    Returns
    -------
    dict
        The key of ``.obsm``, ``n_shards``, ``n_cells``, ``dim``, and ``out``.

    Raises
    ------
    BftembedError
        For a file that is not a shard, shards that are missing or given twice, and shards of different runs, options,
        embeddings, kernels or normalizations.
    """
    target = check_target(out, *parts)
    read = sorted((_read(Path(path)) for path in parts), key=lambda one: int(one[2]["first_row"]))
    if not read:
        raise BftembedError("There are no shards to merge. Give the sidecars of all of them.")
    _check_one_run(read)
    key, told = read[0][1], [about for _, _, about in read]
    n_cells, dim, done = sum(map(_n_written, told)), int(told[0]["dim"]), 0
    names: list[str] = []
    coverage: list[np.ndarray] = []
    with sidecar_of(target, key) as output:
        sink = output.sink((n_cells, dim))
        for path, _, about in read:
            with open_h5ad(path) as handle:
                size, step = _n_written(about), max(1, _NUMBERS // dim)
                for start in range(0, size, step):
                    sink.write(done + start, handle[f"obsm/{key}"][start : start + step])
                coverage.append(handle[f"obs/{coverage_column(key)}"][:])
                names += row_names(handle["obs"], slice(0, size))
            done += size
            progress(done, n_cells, "merging")
        output.write_rest(_provenance(told), np.concatenate(coverage), names)
    return {"key": key, "n_shards": len(read), "n_cells": n_cells, "dim": dim, "out": str(target)}


def _read(path: Path) -> tuple[Path, str, dict[str, Any]]:
    """Return the file, the key and the provenance of a shard whose arrays fit to it."""
    from anndata.io import read_elem

    with open_h5ad(path) as handle:
        check_declared_size(handle, str(path))
        entries = handle.get(f"uns/{UNS}")
        keys = list(entries) if isinstance(entries, h5py.Group) else []
        told = read_elem(entries[keys[0]]) if len(keys) == 1 and isinstance(entries[keys[0]], h5py.Group) else {}
        if not {*_OF_A_SHARD, *_ADDED_UP, "dim", "empty_policy"} <= told.keys():
            raise BftembedError(f"{path} is not a shard: give sidecars that were made with shard='i/n' (--shard i/n).")
        key = keys[0]
        found = [getattr(handle.get(x), "shape", None) for x in (f"obsm/{key}", f"obs/{coverage_column(key)}")]
        expected = [(_n_written(told), int(told["dim"])), (_n_written(told),)]
        if found != expected:
            raise BftembedError(f"{path}: the embedding has the shapes {found}, not {expected}. Make the shard again.")
    return path, key, {field: x.item() if isinstance(x, np.generic) else x for field, x in told.items()}


def _n_written(told: dict[str, Any]) -> int:
    dropped = int(told["n_empty"]) if told["empty_policy"] == "drop" else 0
    return int(told["last_row"]) - int(told["first_row"]) + 1 - dropped


def _check_one_run(read: list[tuple[Path, str, dict[str, Any]]]) -> None:
    """Check that shards, in the order of their cells, are all of one run and each there once."""
    path, key, first = read[0]
    count = parse_shard(first["shard"])[1]
    given = Counter(about["shard"] for _, _, about in read)
    expected = [f"{number}/{count}" for number in range(1, count + 1)]
    for other, its_key, told in read:
        apart = {"shard", "first_row", "last_row", "expression_total", *_ADDED_UP}
        differs = [name for name in sorted({*first, *told} - apart) if first.get(name) != told.get(name)]
        if differs or its_key != key or told["shard"] not in expected:
            raise BftembedError(
                f"{path} and {other} are not shards of one run: they differ in {', '.join(differs) or 'key'}. "
                f"Make them with the same data, embeddings and options; name normalize (--normalize) where that "
                f"differs, precision='exact' where the kernel does."
            )
        if given[told["shard"]] > 1:
            twice = [str(one) for one, _, about in read if about["shard"] == told["shard"]]
            raise BftembedError(f"Shard {told['shard']} is given twice: {', '.join(twice)}.")
    if missing := [shard for shard in expected if shard not in given]:
        raise BftembedError(f"Shards are missing: {', '.join(missing)}. Make them with --shard.")
    ends = [int(told["last_row"]) + 1 for _, _, told in read]
    if [int(told["first_row"]) for _, _, told in read] != [0, *ends[:-1]] or ends[-1] != int(first["cells_of_all"]):
        raise BftembedError(f"The rows of the shards, {path} and others, do not make up the cells. Make them again.")


def _provenance(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return that of the first shard, with what is added up."""
    total = sum(float(one["expression_total"]) for one in told)
    covered = sum(float(one["expression_total"]) * float(one["coverage"]) for one in told)
    several = len({one["reason"] for one in told}) > 1
    return {
        **{name: value for name, value in told[0].items() if name not in _OF_A_SHARD},
        "reason": told[0]["reason"] + (" (first shard)" if several else ""),
        "n_cells": sum(int(one["n_cells"]) for one in told),
        "n_empty": sum(int(one["n_empty"]) for one in told),
        "coverage": covered / total if total else 0.0,
        "empty_cells": np.concatenate([np.asarray(one["empty_cells"], dtype=object) for one in told]),
        "n_shards": len(told),
    }
