"""The encoder seam: what an encoder is, what it reports, and how one is made from a spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bftembed.errors import BftembedError
from bftembed.progress import Progress, silent
from bftembed.registry import Registry, Spec, parse_spec

if TYPE_CHECKING:
    import numpy as np

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
    """All that decides an encoder's vectors, for the provenance.

    Attributes
    ----------
    name, revision
        The spec's engine and model, such as ``"builtin:all-minilm-l6-v2"``, and the commit or hash of its weights.
    dim
        Length d of a vector.
    max_tokens, long
        Longest input with its special tokens (None without a limit), and what is done with texts beyond it:
        ``"chunk"``, ``"truncate"``, or ``""``.
    pooling
        How token vectors become one vector; ``""`` where there are none.
    normalised
        Whether every vector (zero rows aside) has length 1.
    dtype
        Number type of the computation; the vectors are float32 in any case.
    uses_ids
        Whether it wants the entities' ids in place of their texts (random vectors).
    options, versions
        Other settings that decide the vectors, and package → version.
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
    n_chunked, n_truncated
        Texts beyond the limit that were encoded in pieces, and that were cut.
    n_chunks
        Pieces of the chunked texts, in all.
    n_tokens_total, n_tokens_dropped
        Tokens of all texts before any cut, special tokens not counted (0 where the encoder has no tokens); and those
        that were cut off.
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
    may lower ``spec.dim`` there.
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
        For an unknown name or option, a model that is not there, a missing package.
    """
    spec = parse_spec(text)
    if spec.engine == "builtin" and spec.model:
        # Both entries share a class, which tells a packaged model by its prefix.
        spec = Spec("builtin", f"builtin:{spec.model}", spec.options)
    elif "/" in spec.engine:
        raise BftembedError(f"{text!r} names no encoder. For a model's folder or hub name write st:{text}")
    return REGISTRY.create(spec)
