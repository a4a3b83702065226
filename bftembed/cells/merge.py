"""Shards of one run joined: the vectors of row ranges of a file, in order, in blocks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.cells.names import Table
from bftembed.cells.sidecar import check_sidecar, sidecar_of
from bftembed.cells.stream import DECIDES, Shard
from bftembed.cells.writing import UNS, coverage_column
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import check_declared_size, damage_named, open_h5ad, strings
from bftembed.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from bftembed.progress import Progress

#: Of a shard alone; not of what is merged.
_OF_A_SHARD = ("shard", "first_row", "last_row", "cells_of_all", "genes_sha256", "expression_total", "decides_sha256")

#: Numbers that are copied at a time: 16 MB.
_NUMBERS = 2**22


@dataclass(frozen=True)
class MergeReport:
    """What was joined: the key, how many shards, cells and dimensions, and the file that was written."""

    key: str
    n_shards: int
    n_cells: int
    dim: int
    out: Path

    def as_dict(self) -> dict[str, Any]:
        """Return every field as what JSON holds."""
        return {**self.__dict__, "out": str(self.out)}


@dataclass(frozen=True)
class _Part:
    path: Path
    told: dict[str, Any]
    shard: Shard
    n_cells: int

    @property
    def dim(self) -> int:
        return int(self.told["dim"])


def merge_shards(
    parts: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    key: str | None = None,
    *,
    progress: Progress = silent,
) -> MergeReport:
    """Join the parts of a file that cells embed --shard made, in the order of its cells.

    With the kernels ``"axpy"`` and ``"scipy"`` the vectors are those of the run without shards, byte for byte. The
    dense ones may round a cell in the last place by where its block begins, as they do for another `block_rows`.

    Parameters
    ----------
    parts
        Sidecars (.h5ad) of all shards, in any order.
    out
        Sidecar to write: .h5ad, .zarr or .parquet.

    Other Parameters
    ----------------
    key
        Key of ``.obsm``, where a part has several.
    progress
        Called with the number of cells done.

    Raises
    ------
    BftembedError
        For a file that is not a shard, shards that are missing or given twice, and shards of different runs, options,
        embeddings, kernels or normalizations.
    """
    if not parts:
        raise BftembedError("There are no shards to merge. Give the sidecars of all of them.")
    target = check_sidecar(out, *parts)
    read = [_part(Path(path), key) for path in parts]
    if len({name for name, _ in read}) > 1:
        raise BftembedError(f"The shards have different keys: {examples(sorted({name for name, _ in read}))}.")
    name, ordered = read[0][0], _in_order([part for _, part in read])
    n_cells, done = sum(part.n_cells for part in ordered), 0
    with sidecar_of(target, name, n_cells) as destination:
        for part in ordered:
            with open_h5ad(part.path) as handle:
                sink = destination.sink((part.n_cells, part.dim))
                step = max(1, _NUMBERS // part.dim)
                for start in range(0, part.n_cells, step):
                    with damage_named(str(part.path)):
                        vectors = handle[f"obsm/{name}"][start : min(start + step, part.n_cells)]
                    sink.write(start, vectors)
                    progress(done + start + len(vectors), n_cells, "merging")
                with damage_named(str(part.path)):
                    coverage = handle[f"obs/{coverage_column(name)}"][:]
                names = _reader(handle)
                destination.take(Table(str(part.path), names, range(part.n_cells), coverage))
            done += part.n_cells
        destination.finish(_provenance(ordered))
    return MergeReport(name, len(ordered), n_cells, ordered[0].dim, target)


def _reader(handle: h5py.File) -> Callable[[range], list[str]]:
    index = handle["obs/_index"]
    return lambda cells: strings(index, slice(cells.start, cells.stop))


def _part(path: Path, key: str | None) -> tuple[str, _Part]:
    from anndata.io import read_elem

    with open_h5ad(path) as handle:
        check_declared_size(handle, str(path))
        entries = handle.get(f"uns/{UNS}")
        keys = list(entries) if isinstance(entries, h5py.Group) else []
        if key is not None and key not in keys:
            raise unknown_name("key", key, keys, where=str(path))
        if key is None and len(keys) != 1:
            listed = ", ".join(keys) or "none"
            raise BftembedError(f"{path} has not one cell embedding ({listed}). Say which with key.")
        name = key or keys[0]
        with damage_named(str(path)):
            told = read_elem(entries[name])
        needed = {*_OF_A_SHARD, *DECIDES, "normalize", "kernel"}
        if not isinstance(told, dict) or not needed <= set(told):
            raise BftembedError(
                f"{path} is not a shard: its provenance does not say which rows it holds. Give sidecars that were made "
                f"with shard='i/n' (--shard i/n)."
            )
        vectors, coverage = handle.get(f"obsm/{name}"), handle.get(f"obs/{coverage_column(name)}")
        n_cells = int(told["last_row"]) - int(told["first_row"]) + 1 - _n_dropped(told)
        for what, member, shape in (
            (f".obsm[{name!r}]", vectors, (n_cells, int(told["dim"]))),
            (f".obs[{coverage_column(name)!r}]", coverage, (n_cells,)),
            (".obs_names", handle.get("obs/_index"), (n_cells,)),
        ):
            if getattr(member, "shape", None) != shape:
                found = getattr(member, "shape", "nothing")
                raise BftembedError(f"{path}: {what} has shape {found}, expected {shape}. Make the shard again.")
    return name, _Part(path, told, Shard.parse(told["shard"]), n_cells)


def _n_dropped(told: dict[str, Any]) -> int:
    return int(told["n_empty"]) if told["empty_policy"] == "drop" else 0


def _in_order(parts: list[_Part]) -> list[_Part]:
    first = parts[0]
    for part in parts:
        if part.shard.count != first.shard.count:
            both = f"{first.path} is shard {first.shard} and {part.path} is shard {part.shard}"
            raise BftembedError(f"{both}: they are of different runs. Give the shards of one.")
        _refuse_other_run(first, part)
    ordered = sorted(parts, key=lambda part: part.shard.number)
    for one, other in itertools.pairwise(ordered):
        if one.shard == other.shard:
            raise BftembedError(f"{one.path} and {other.path} are both shard {one.shard}. Give each shard once.")
    there = {part.shard.number for part in parts}
    missing = [f"{number}/{first.shard.count}" for number in range(1, first.shard.count + 1) if number not in there]
    if missing:
        given = examples(part.path for part in ordered)
        raise BftembedError(f"Shards are missing: {', '.join(missing)}. Given: {given}. Make them with --shard.")
    for part in ordered:
        cells = part.shard.cells(int(part.told["cells_of_all"]), str(part.path))
        if (cells.start, cells.stop - 1) != (int(part.told["first_row"]), int(part.told["last_row"])):
            raise BftembedError(f"{part.path} does not hold the rows of shard {part.shard}. Make it again.")
    return ordered


def _refuse_other_run(first: _Part, part: _Part) -> None:
    one, other = first.told, part.told
    both = f"{first.path} and {part.path}"
    if one["normalize"] != other["normalize"]:
        raise BftembedError(
            f"{both} took their values differently: {one['normalize']!r} ({one['reason']}) and {other['normalize']!r} "
            f"({other['reason']}). Make all shards again with normalize='log1p-cp10k' or 'none' (--normalize)."
        )
    for name in (*DECIDES, "cells_of_all", "genes_sha256", "decides_sha256"):
        if one[name] != other[name]:
            raise BftembedError(
                f"{both} are not shards of one run: {name} is {one[name]!r} in the first and {other[name]!r} in the "
                f"second. Make them with the same data, embeddings and options."
            )
    if one["kernel"] != other["kernel"]:
        raise BftembedError(
            f"{both} were made with different kernels, {one['kernel']!r} and {other['kernel']!r}, which round "
            "differently. Make all shards again with precision='exact'."
        )


def _provenance(parts: Sequence[_Part]) -> dict[str, Any]:
    """Return that of the first shard, with what is added up."""
    told = [part.told for part in parts]
    kept = {name: _plain(value) for name, value in told[0].items() if name not in _OF_A_SHARD}
    total = sum(float(one["expression_total"]) for one in told)
    covered = sum(float(one["expression_total"]) * float(one["coverage"]) for one in told)
    reasons = {str(one["reason"]) for one in told}
    return {
        **kept,
        "reason": kept["reason"] + (" (first shard)" if len(reasons) > 1 else ""),
        "n_cells": sum(int(one["n_cells"]) for one in told),
        "n_empty": sum(int(one["n_empty"]) for one in told),
        "coverage": covered / total if total else 0.0,
        "empty_cells": np.concatenate([np.asarray(one["empty_cells"], dtype=object) for one in told]),
        "n_shards": len(parts),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
