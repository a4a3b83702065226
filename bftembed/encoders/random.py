"""Random vectors: the baseline that any embedding must exceed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from bftembed.encoders._pieces import check_texts, versions
from bftembed.encoders.base import EncoderSpec, EncodingReport
from bftembed.errors import BftembedError
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence


class RandomEncoder:
    """Standard normal vectors that depend on the seed and the string alone.

    `bftembed.embeddings.embed_genes` gives it the entities' ids in place of their texts (``spec.uses_ids``), so a
    gene has the same vector whatever was written about it, in any list and any order.

    Parameters
    ----------
    dim
        Length of a vector.
    seed
        Another seed, other vectors.
    """

    def __init__(self, dim: int = 384, seed: int = 0) -> None:
        if dim < 1:
            raise BftembedError(f"random: dim={dim!r} must be a whole number of at least 1.")
        options, package = {"seed": seed}, versions("numpy")
        self.spec = EncoderSpec("random", revision="", dim=dim, uses_ids=True, options=options, versions=package)
        self.report = EncodingReport(0)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return float32 (n, dim), standard normal; equal strings have equal vectors."""
        strings = check_texts(texts)
        vectors = np.empty((len(strings), self.spec.dim), dtype=np.float32)
        for i, string in enumerate(strings):
            digest = hashlib.sha256(f"{self.spec.options['seed']}\0{string}".encode()).digest()
            generator = np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
            vectors[i] = generator.standard_normal(self.spec.dim, dtype=np.float32)
        progress(len(strings), len(strings), "")
        self.report = EncodingReport(len(strings))
        return vectors
