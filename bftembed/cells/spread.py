"""Shards of a file on the machines of a Ray cluster, or on the cores of this one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cells.merge import merge_shards
from bftembed.cells.sidecar import check_sidecar
from bftembed.errors import BftembedError, require
from bftembed.progress import silent
from bftembed.shards import ray_session

if TYPE_CHECKING:
    from bftembed.cells.merge import MergeReport
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.progress import Progress

#: How often a shard is begun again when its process dies or a file cannot be read or written.
RETRIES = 3


def embed_with_ray(
    data: str | os.PathLike[str],
    embeddings: GeneEmbeddings | str | os.PathLike[str],
    sidecar: str | os.PathLike[str],
    *,
    shard_count: int,
    key: str = "X_bft",
    kernel: str | None = None,
    progress: Progress = silent,
    **options: Any,
) -> MergeReport:
    """Embed the shards of a file as tasks of Ray, and join them.

    A running cluster is used where Ray finds one (`ray.init` before, or its own settings), else this machine alone.
    Files must be found under the same path by all of its machines. Nothing is kept of a run that fails.

    Parameters
    ----------
    data, embeddings, sidecar, key
        See `bftembed.cells.embed.embed_cells`; one file.
    shard_count
        Number of shards.
    kernel
        Pin it, and all shards run at once; else the first one runs alone and the others take its kernel.
    progress
        Told the shards that are done.
    **options
        Of `embed_cells`.

    Raises
    ------
    BftembedError
        When Ray is not installed, and as `embed_cells` does.
    """
    if shard_count < 1:
        raise BftembedError(f"shard_count is {shard_count}; give 1 or more.")
    require("ray", "ray")
    paths = [p for p in (data, embeddings) if isinstance(p, str | os.PathLike)]
    target = check_sidecar(sidecar, *paths).absolute()
    source = Path(data).absolute()
    genes = Path(embeddings).absolute() if isinstance(embeddings, str | os.PathLike) else embeddings
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as err:
        raise BftembedError(f"Cannot write {target}: {err.strerror}. Choose a folder that you may write to.") from err
    try:
        with ray_session() as ray:
            task = ray.remote(max_retries=RETRIES, retry_exceptions=[OSError])(_embed_shard)
            shared = ray.put(genes)
            parts = {f"{i}/{shard_count}": folder / f"{i}.h5ad" for i in range(1, shard_count + 1)}
            waiting = dict(parts)
            if kernel is None:
                shard = next(iter(parts))
                kernel = _result(ray, task.remote(source, shared, shard, waiting.pop(shard), key, None, options))
                progress(1, shard_count, "shards")
            tasks = [task.remote(source, shared, shard, part, key, kernel, options) for shard, part in waiting.items()]
            while tasks:
                ready, tasks = ray.wait(tasks)
                for one in ready:
                    _result(ray, one)
                progress(shard_count - len(tasks), shard_count, "shards")
        return merge_shards(list(parts.values()), target, key)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _embed_shard(
    source: Path,
    genes: GeneEmbeddings | Path,
    shard: str,
    part: Path,
    key: str,
    kernel: str | None,
    options: dict[str, Any],
) -> str:
    from bftembed.cells.embed import embed_cells
    from bftembed.cells.report import CellEmbeddingReport

    report = embed_cells(source, genes, sidecar=part, shard=shard, key=key, kernel=kernel, **options)
    assert isinstance(report, CellEmbeddingReport)
    return report.kernel


def _result(ray: Any, task: Any) -> str:
    try:
        return str(ray.get(task))
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, BftembedError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        raise BftembedError(
            f"A shard failed {RETRIES + 1} times: {str(err).splitlines()[0]} Is there memory enough for as many shards "
            f"at a time? Give more shards, or a memory budget (memory=)."
        ) from err
