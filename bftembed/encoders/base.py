"""The encoder seam: what an encoder is, what it says of itself, and how one is made from a spec."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bftembed.errors import BftembedError, unknown_name
from bftembed.progress import Progress, silent
from bftembed.registry import Registry, Spec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Add an encoder here: name → "module:Class". The class takes the spec's model (if any) and options.
REGISTRY = Registry(
    "encoder",
    {
        "builtin": "bftembed.encoders.sentence_transformer:SentenceTransformerEncoder",
        "st": "bftembed.encoders.sentence_transformer:SentenceTransformerEncoder",
        "openai": "bftembed.encoders.openai:OpenAIEncoder",
        "tfidf": "bftembed.encoders.tfidf:TfidfEncoder",
        "random": "bftembed.encoders.random:RandomEncoder",
    },
    "bftembed.encoders",
)


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is: all that decides its vectors, for the provenance.

    Attributes
    ----------
    name
        The spec's engine and model, for example ``"builtin:all-minilm-l6-v2"``.
    revision
        Commit or hash of the weights; ``""`` for an encoder without weights.
    dim
        Length d of a vector.
    max_tokens
        Longest input with its special tokens; None without a limit.
    pooling
        How token vectors become one vector; ``""`` where there are none.
    normalised
        Whether every vector (zero rows aside) has length 1.
    dtype
        Number type of the computation; the vectors are float32 in any case.
    long
        What is done with texts beyond the limit: ``"chunk"``, ``"truncate"``, or ``""``.
    uses_ids
        Whether it wants the entities' ids in place of their texts (random vectors).
    options
        Other settings that decide the vectors.
    versions
        Package → version.
    """

    name: str
    revision: str
    dim: int
    max_tokens: int | None = None
    pooling: str = ""
    normalised: bool = False
    dtype: str = "fp32"
    long: str = ""
    uses_ids: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class EncodingReport:
    """What happened to the texts of one `encode`.

    Attributes
    ----------
    n_texts
        Texts given.
    n_chunked
        Texts beyond the limit that were encoded in pieces.
    n_truncated
        Texts beyond the limit that were cut.
    n_chunks
        Pieces of the chunked texts, in all.
    n_tokens_total
        Tokens of all texts before any cut, special tokens not counted; 0 where the encoder has no tokens.
    n_tokens_dropped
        Tokens that were cut off.
    max_tokens
        The encoder's limit, special tokens included; None without one.
    """

    n_texts: int
    n_chunked: int = 0
    n_truncated: int = 0
    n_chunks: int = 0
    n_tokens_total: int = 0
    n_tokens_dropped: int = 0
    max_tokens: int | None = None

    @property
    def n_over_limit(self) -> int:
        """Texts beyond the encoder's limit, chunked or truncated."""
        return self.n_chunked + self.n_truncated

    def to_dict(self) -> dict[str, int | None]:
        """Return the fields and `n_over_limit` as JSON values."""
        return {**asdict(self), "n_over_limit": self.n_over_limit}


class Encoder(Protocol):
    """The encoder seam.

    `spec` is complete before the first `encode`, except that an encoder fitted on the texts themselves (TF-IDF)
    may lower ``spec.dim`` there. `report` tells of the last `encode`.
    """

    @property
    def spec(self) -> EncoderSpec:
        """Return what the encoder is."""

    @property
    def report(self) -> EncodingReport:
        """Return what the last `encode` did; zeros before the first."""

    def encode(self, texts: list[str], progress: Progress = silent) -> np.ndarray:
        """Return one vector per text, float32 (n, d), in the order of the texts.

        Raises
        ------
        BftembedError
            For no texts, or an empty or undecodable one; names its index.
        """


def encoder_from_spec(text: str) -> Encoder:
    """Make an encoder from its spec.

    Parameters
    ----------
    text
        ``builtin:all-minilm-l6-v2``, ``st:FOLDER_OR_HUB_NAME[,dtype=bf16,long=truncate,…]``,
        ``openai:text-embedding-ada-002[,base_url=…]``, ``tfidf[:dim=256]``, ``random:dim=384,seed=0``, or the name of
        a third party's entry point (group ``bftembed.encoders``).

    Raises
    ------
    BftembedError
        For an unknown name or option ("did you mean …"), a model that is not there, a missing package.
    """
    spec = parse_spec(text)
    if spec.engine == "builtin" and spec.model:
        # Both entries share a class, which tells a packaged model by its prefix.
        spec = Spec("builtin", f"builtin:{spec.model}", spec.options)
    elif "/" in spec.engine:
        raise BftembedError(f"{text!r} names no encoder. For a model's folder or hub name write st:{text}")
    return REGISTRY.create(spec)


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list, or refuse none at all, an empty one, or one that is not Unicode text."""
    if isinstance(texts, str):
        raise BftembedError("encode takes a list of texts, but got one string. Write [text].")
    checked = list(texts)
    if not checked:
        raise BftembedError("There are no texts to encode.")
    for i, text in enumerate(checked):
        if not isinstance(text, str) or not text.strip():
            raise BftembedError(f"Text {i} is empty ({text!r}); an empty text has no vector. Leave it out.")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as err:
                raise BftembedError(f"Text {i} is not valid Unicode text ({err.reason} at {err.start}).") from err
    return checked


def check_vectors(vectors: np.ndarray, texts: Sequence[str], name: str) -> np.ndarray:
    """Return `vectors` as float32 (n, d), or refuse NaN and infinite values; names the first text."""
    result = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = ~np.isfinite(result).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise BftembedError(
            f"The encoder {name} gave NaN or infinite values for {int(bad.sum())} of {len(texts)} texts; the first is "
            f"text {first}: {texts[first][:60]!r}. Try dtype=fp32, and check that the model's weights are whole."
        )
    return result


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return `vectors` (n, d) with rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def one_of(what: str, value: str, allowed: tuple[str, ...], encoder: str) -> str:
    """Return `value` if it is allowed, else raise with "did you mean"."""
    if value not in allowed:
        raise unknown_name(what, str(value), allowed, where=f"encoder {encoder!r}")
    return value


def versions(*packages: str) -> dict[str, str]:
    """Return package → installed version."""
    return {name: importlib.metadata.version(name) for name in packages}
