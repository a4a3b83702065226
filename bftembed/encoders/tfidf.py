"""TF-IDF: how far mere words go, without any model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders._pieces import check_texts, check_vectors, unit_rows, versions
from bftembed.encoders.base import EncoderSpec, EncodingReport
from bftembed.errors import BftembedError, unknown_name
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

#: From this many texts on, a word must occur in two of them: one that occurs once relates no two genes.
_RARE_WORDS_FROM = 50
#: Options of scikit-learn's vectorizer.
_ANALYZERS: dict[str, dict[str, Any]] = {
    "word": {"stop_words": "english"},
    "char": {"analyzer": "char_wb", "ngram_range": (1, 3)},
}


class TfidfEncoder:
    """TF-IDF of words, reduced by truncated SVD (latent semantic analysis), rows of length 1.

    It is transductive: vocabulary, weights and axes are fitted on the texts given to `encode`, so the vector of a
    text depends on the other texts, and vectors of two calls must not be mixed. A text that shares no word with any
    other gets a **zero row**, the only encoder where that can happen; whoever uses it leaves such rows out.

    Parameters
    ----------
    dim
        Dimensions wanted; fewer where the texts have a lower rank, then ``spec.dim`` says so after `encode`.
    analyzer
        ``"word"``, or ``"char"`` for runs of one to three letters inside words: what the spelling of a name says.
    """

    def __init__(self, dim: int = 256, analyzer: str = "word") -> None:
        if dim < 1:
            raise BftembedError(f"tfidf: dim={dim!r} must be a whole number of at least 1.")
        if analyzer not in _ANALYZERS:
            raise unknown_name("analyzer of tfidf", str(analyzer), _ANALYZERS)
        self._dim, self._analyzer = dim, analyzer
        self.spec = EncoderSpec(
            name="tfidf",
            revision="",
            dim=dim,
            normalised=True,
            options={"sublinear_tf": True, **_ANALYZERS[analyzer], "svd_seed": 0},
            versions=versions("scikit-learn", "numpy"),
        )
        self.report = EncodingReport(0)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Fit on `texts` and return their vectors, float32 (n, at most dim); zero rows are possible.

        Raises
        ------
        BftembedError
            When no word is left once stop words and words of one text are dropped.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        documents = check_texts(texts)
        min_df = 1 if len(documents) < _RARE_WORDS_FROM else 2
        words = TfidfVectorizer(sublinear_tf=True, min_df=min_df, **_ANALYZERS[self._analyzer])
        try:
            weights = words.fit_transform(documents)
        except ValueError as err:
            raise BftembedError(f"TF-IDF finds no shared word in the {len(documents)} texts ({err}).") from err
        vectors = self._reduced(weights)
        # A row that the axes do not reach is noise too; scaled to length 1 it would look like a vector.
        vectors[np.linalg.norm(vectors, axis=1) < 1e-6] = 0
        self.spec = replace(self.spec, dim=vectors.shape[1], options={**self.spec.options, "min_df": min_df})
        self.report = EncodingReport(len(documents))
        progress(len(documents), len(documents), "")
        return check_vectors(unit_rows(vectors), documents, "tfidf")

    def _reduced(self, weights: Any) -> np.ndarray:
        """Return the projection of sparse `weights` (n, words) on their leading axes, (n, at most dim)."""
        from sklearn.decomposition import TruncatedSVD

        if weights.shape[1] == 1:
            return weights.toarray()
        # Texts that are all alike have no variance to explain, which sklearn divides by.
        with np.errstate(divide="ignore", invalid="ignore"):
            svd = TruncatedSVD(n_components=min(self._dim, *weights.shape), random_state=0).fit(weights)
        # Axes beyond the rank of the texts are rounding noise.
        rank = max(1, int((svd.singular_values_ > 1e-6 * svd.singular_values_[0]).sum()))
        return weights @ svd.components_[:rank].T
