"""Gene embeddings: ids × matrix × provenance, as one `.safetensors` file.

`embed_genes` makes them from profiles, `GeneEmbeddings` holds, saves and loads them, `read_vectors` reads those of
others for benchmarks.
"""

from __future__ import annotations

from bftembed.embeddings.embed import embed_genes
from bftembed.embeddings.read import read_vectors
from bftembed.embeddings.table import FORMAT, SCHEMA, GeneEmbeddings

__all__ = ["FORMAT", "SCHEMA", "GeneEmbeddings", "embed_genes", "read_vectors"]
