"""What a gene-level benchmark is run with, and on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bftembed.embeddings import GeneVectors

PROTOCOLS = ("strict", "genept")
#: Probes of protocol strict that can be chosen.
CHOICES = ("logistic", "mlp")
DEFAULT_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Settings:
    """What a benchmark is run with.

    Attributes
    ----------
    protocols
        Of `PROTOCOLS`.
    probes
        For ``strict``, of ``"logistic"`` and ``"mlp"``. Tasks with more than one label per gene take ``"ridge"``.
    seeds
        Divisions of ``strict``.
    floors
        Whether to score floors and ceilings too.
    own
        Whether to score each embedding on all genes that it has, besides on those that all have.
    n_replicates
        Of the bootstrap over genes; None takes 1000, and 200 for multilabel tasks.
    jobs
        Processes that fit side by side; see `bftembed.tasks.genes.workers.Workers`. No result depends on it.
    """

    protocols: tuple[str, ...] = ("strict",)
    probes: tuple[str, ...] = ("logistic",)
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    floors: bool = True
    own: bool = True
    n_replicates: int | None = None
    jobs: int = 1


@dataclass(frozen=True, eq=False)
class Embedding:
    """Gene vectors with what is known of their texts.

    Attributes
    ----------
    vectors
        The vectors.
    texts
        Gene → the text that its vector was made from; empty when not known.
    masked
        Task → vectors made from the same texts with the words that state the task's label taken out.
    """

    vectors: GeneVectors
    texts: Mapping[str, str] = field(default_factory=dict)
    masked: Mapping[str, GeneVectors] = field(default_factory=dict)
