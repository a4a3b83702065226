"""Stores of the shards of a list: merged into one, or written by the tasks of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.entities.lists import read_names
from bftembed.errors import BftembedError, examples, require
from bftembed.llm.store import SCHEMA_VERSION, AnswerStore
from bftembed.profiles.generate import GenerationReport, generate_profiles
from bftembed.progress import silent
from bftembed.shards import ray_session

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress

#: How often a shard is begun again when its process dies; it goes on from its own store.
MAX_RETRIES = 3


def merge_stores(parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Copy the profiles of several stores into one.

    A profile that failed in one store gives way to one that did not. Nothing is removed: merging again adds nothing.

    Parameters
    ----------
    parts
        Folders of the profile stores of the shards.
    out
        Folder of the profile store to create or add to.

    Returns
    -------
    dict
        ``out``, ``parts`` (folders), ``added`` (profiles that were new in `out`) and ``same`` (those it had).

    Raises
    ------
    BftembedError
        When a part is no store or is `out` itself, or two stores hold different texts under one key; `out` then has
        the profiles of the parts before it.
    """
    target, folders = Path(out), [Path(part) for part in parts]
    if not folders:
        raise BftembedError("There is nothing to merge: name the folders of the shards.")
    if target.exists() and any(folder.exists() and folder.samefile(target) for folder in folders):
        raise BftembedError(f"{target} is one of the parts. Choose another folder for --out.")
    for folder in folders:
        with AnswerStore.open(folder) as part:  # all are looked at before the first is copied
            old = part.schema < SCHEMA_VERSION
        if old:
            with AnswerStore.writing(folder):
                pass  # brought to today's schema
    added = same = 0
    with AnswerStore.writing(target) as store:
        for folder in folders:
            if differing := store.differing(folder):
                raise BftembedError(
                    f"{folder} holds other texts than the stores before it for {examples(differing)}, under the same "
                    "keys. They are not shards of one run: merge them into separate folders."
                )
            new, known = store.absorb(folder)
            added, same = added + new, same + known
    return {"out": str(target), "parts": [str(folder) for folder in folders], "added": added, "same": same}


def generate_with_ray(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    out: str | os.PathLike[str],
    shard_count: int,
    address: str | None = None,
    column: str | None = None,
    progress: Progress = silent,
    **options: Any,
) -> GenerationReport:
    """Write the profiles of a list as tasks of Ray, a shard each, and merge them into the store at `out`.

    Shards are written to stores in ``OUT.shards``, which stay: a run that was stopped goes on from them, with the same
    number of shards. All machines have to find `out` under the same path. The result is that of one process.

    Parameters
    ----------
    genes, out, column
        See `bftembed.profiles.generate.generate_profiles`.
    shard_count
        Number of shards.
    address
        Of a running cluster, such as ``"auto"``; None uses one that `ray.init` was called for, else this machine.
    progress
        Called with the number of shards done.
    **options
        Of `generate_profiles`.

    Returns
    -------
    GenerationReport
        Of the whole list, from the merged store: all profiles are found there, and none is written by this process.

    Raises
    ------
    BftembedError
        When Ray is not installed or a shard fails; what the shards wrote stays.
    """
    if shard_count < 1:
        raise BftembedError(f"shard_count is {shard_count}; give 1 or more.")
    require("ray", "ray")
    names = read_names(genes, column=column).names
    target = Path(out).absolute()
    folder = target.with_name(f"{target.name}.shards")
    parts = {f"{i}/{shard_count}": folder / f"{i}-of-{shard_count}" for i in range(1, shard_count + 1)}
    with ray_session(address) as ray:
        task = ray.remote(max_retries=MAX_RETRIES)(_generate_shard)
        shared = ray.put(list(names))
        tasks = [task.remote(shared, shard, part, options) for shard, part in parts.items()]
        while tasks:
            (ready,), tasks = ray.wait(tasks)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as err:
                if cause := getattr(err, "cause", None):  # raised in the shard
                    raise cause from None
                raise BftembedError(f"A shard failed: {str(err).splitlines()[0]} What was written stays.") from err
            progress(shard_count - len(tasks), shard_count, "shards")
    merge_stores(list(parts.values()), target)
    return generate_profiles(names, out=target, **options)


def _generate_shard(names: list[str], shard: str, part: Path, options: dict[str, Any]) -> None:
    generate_profiles(names, out=part, shard=shard, **options)
