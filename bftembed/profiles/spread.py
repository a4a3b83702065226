"""Shards of a list on the machines of a Ray cluster, or on the cores of this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.entities.lists import read_names
from bftembed.errors import BftembedError, require
from bftembed.profiles.generate import GenerationReport, generate_profiles
from bftembed.profiles.merge import merge_stores
from bftembed.progress import silent
from bftembed.shards import ray_session

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress

#: How often a shard is begun again when its process dies; it goes on from its own store.
RETRIES = 3


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
    """Write the profiles of a list as tasks of Ray, a shard each, and join them in the store at `out`.

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
        Told the shards that are done.
    **options
        Of `generate_profiles`.

    Returns
    -------
    GenerationReport
        Of the whole list, from the joined store: all profiles are found there, and none is written by this process.

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
        task = ray.remote(max_retries=RETRIES)(_generate_shard)
        shared = ray.put(list(names))
        tasks = [task.remote(shared, shard, part, options) for shard, part in parts.items()]
        while tasks:
            ready, tasks = ray.wait(tasks)
            for one in ready:
                _get(ray, one)
            progress(shard_count - len(tasks), shard_count, "shards")
    merge_stores(list(parts.values()), target)
    return generate_profiles(names, out=target, **options)


def _generate_shard(names: list[str], shard: str, part: Path, options: dict[str, Any]) -> None:
    generate_profiles(names, out=part, shard=shard, **options)


def _get(ray: Any, task: Any) -> None:
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, BftembedError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        raise BftembedError(
            f"A shard failed {RETRIES + 1} times: {str(err).splitlines()[0]} What was written stays; run again."
        ) from err
