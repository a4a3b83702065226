"""The gene-level benchmark: embeddings and tasks in, rows of the results table out, each beside its floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftembed.errors import BftembedError, unknown_name
from bftembed.progress import Progress, silent
from bftembed.tasks.genes.cache import ScoreCache
from bftembed.tasks.genes.floors import CEILING, FLOOR
from bftembed.tasks.genes.matching import unambiguous
from bftembed.tasks.genes.round import Round
from bftembed.tasks.genes.setup import CHOICES, PROTOCOLS
from bftembed.tasks.genes.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bftembed.results import Result
    from bftembed.tasks.genes.definition import GeneTask
    from bftembed.tasks.genes.setup import Embedding, Settings


def run(
    embeddings: Mapping[str, Embedding],
    tasks: Iterable[GeneTask],
    settings: Settings,
    *,
    cache: ScoreCache | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Score gene embeddings on tasks.

    Parameters
    ----------
    embeddings
        Name → embedding.
    tasks
        What is asked, see `bftembed.tasks.genes.builtin` and `bftembed.tasks.genes.folder`.
    settings
        Protocols, probes, seeds, floors.
    cache
        Where scores that were computed before are found; None computes all.
    progress
        Called once per task, protocol and set of genes.

    Returns
    -------
    list of Result
        ``run`` is ``"shared"`` (all embeddings on the items whose genes all of them have), ``"own: NAME"`` (an
        embedding, with floors of its own, on all items that it has; only where these are more) or ``"all genes"``
        (the floor of having a text at all). ``protocol`` names the probe too: ``"strict/logistic"``. The metric
        ``roc_auc`` (``accuracy`` for classes under ``genept``) has a row for every fold and seed, and rows
        ``ci95-low`` and ``ci95-high`` of the bootstrap over genes; ``roc_auc_above_floor`` is the paired difference to
        the floor with the highest mean. An embedding that cannot be scored has a NaN row that says why.

    Raises
    ------
    BftembedError
        For no embedding, an unknown protocol or probe, and a name that begins like a floor's.
    """
    _check(embeddings, settings)
    store = cache or ScoreCache(None)
    todo = list(tasks)
    results: list[Result] = []
    with Workers(settings.jobs) as workers:
        for i, task in enumerate(todo):
            for protocol in settings.protocols:
                progress(i, len(todo), f"{task.info.name}, {protocol}")
                asked = task if protocol == "genept" else unambiguous(task)
                results += Round(asked, protocol, settings, store, workers).results(embeddings)
    progress(len(todo), len(todo), "")
    return results


def _check(embeddings: Mapping[str, Embedding], settings: Settings) -> None:
    if not embeddings:
        raise BftembedError("No embedding was given.")
    if not settings.seeds:
        raise BftembedError("At least one seed is needed.")
    for name in embeddings:
        if name.startswith((FLOOR, CEILING)):
            raise BftembedError(f"The name {name!r} is that of a floor or ceiling. Give the embedding another name.")
    for protocol in settings.protocols:
        if protocol not in PROTOCOLS:
            raise unknown_name("protocol", protocol, PROTOCOLS)
    for probe in settings.probes:
        if probe not in CHOICES:
            raise unknown_name("probe", probe, CHOICES)
