"""Similarity percentiles of names: how many terms of an ontology are closer to a name than its reference is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.datasets.fetch import find_data
from bftembed.io import canonical_json
from bftembed.tasks.llm.base import Kept
from bftembed.tasks.llm.gene_tools import gene_set_terms

if TYPE_CHECKING:
    import os
    from pathlib import Path

#: Library whose terms a reference is ranked among.
BACKGROUND = "GO biological process"


class SimilarityPercentile:
    """Percentile of a reference among the terms of GO biological process by cosine similarity to a name.

    ``1 - n / N`` with n the number of the N terms that are more similar to the name than the reference is (Nature
    Methods 2025, s41592-025-02748-6, figure 2; there with MedCPT and 12,320 terms). Percentiles are kept in the folder
    of the run, so that it is scored again without encoder and data.

    Parameters
    ----------
    encoder
        Spec of an encoder of texts, see `bftembed.encoders.base.encoder_from_spec`.
    folder
        That of the run.
    data
        Folder with ``gene_sets``; default the folders of ``$BFTEMBED_DATA``.
    """

    def __init__(self, encoder: str, folder: Path, data: str | os.PathLike[str] | None = None) -> None:
        self.spec, self._data, self._found = encoder, data, Kept(folder / "similarity.json")
        self.keep = self._found.keep
        self._encoder: Any = None
        self._terms: Any = None

    def __call__(self, name: str, reference: str) -> float:
        """Return the percentile, in [0, 1]; 0 for an empty name."""
        if not name.strip():
            return 0.0
        key = canonical_json([self.spec, name, reference])
        if key not in self._found:
            self._found[key] = self._percentile(name, reference)
        return float(self._found[key])

    def _percentile(self, name: str, reference: str) -> float:
        from sklearn.preprocessing import normalize

        from bftembed.encoders.base import encoder_from_spec

        if self._encoder is None:
            terms = gene_set_terms(find_data(self._data, "gene_sets").parent, BACKGROUND)
            self._encoder = encoder_from_spec(self.spec)
            self._terms = normalize(self._encoder.encode(terms))
        pair = normalize(self._encoder.encode([name, reference]))
        closer = self._terms @ pair[0] > pair[0] @ pair[1] + 1e-6  # the reference may be one of the terms
        return 1.0 - float(closer.mean())
