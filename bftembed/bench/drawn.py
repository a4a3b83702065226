"""Gene vectors that know nothing of the gene they stand for, drawn anew with every seed: what a text must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.embeddings import GeneEmbeddings, embed_genes

if TYPE_CHECKING:
    from collections.abc import Iterable

RANDOM, SHUFFLED = "random", "shuffled"


def random_vectors(genes: Iterable[str], dim: int, seed: int) -> GeneEmbeddings:
    """Return a Gaussian vector for each gene, float32 (n_genes, dim), the same in every list and order of genes."""
    return embed_genes({gene: gene for gene in sorted(set(genes))}, f"random:dim={dim},seed={seed}")


def shuffled_vectors(embeddings: GeneEmbeddings, seed: int) -> GeneEmbeddings:
    """Return the vectors of `embeddings`, dealt to its genes in another order."""
    order = np.random.default_rng(seed).permutation(len(embeddings))
    return GeneEmbeddings(embeddings.ids, embeddings.matrix[order], {"shuffled": seed, "of": embeddings.provenance})
