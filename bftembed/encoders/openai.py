"""Vectors from OpenAI or any server that speaks as it does, such as llama.cpp, vLLM or text-embeddings-inference."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bftembed.encoders.base import EncoderSpec, EncodingReport, check_texts
from bftembed.encoders.chunking import Offsets, split_text
from bftembed.encoders.pieces import Pieces, vectors_of_texts
from bftembed.errors import BftembedError
from bftembed.llm.server import ApiServer, ItemFault, NotFoundFault, TransientFault, said_in
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: OpenAI's own models and the length of their vectors, which have length 1.
_DIMENSIONS = {"text-embedding-ada-002": 1536, "text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
#: OpenAI's limits, per input and per request.
_INPUT_TOKENS, _REQUEST_TOKENS, _REQUEST_INPUTS = 8191, 300_000, 2048
#: At most one token of OpenAI's each, save for rare text: three ASCII characters, or one other.
_TOKEN = re.compile(r"[!-~]{1,3}|[^\s!-~]")
_LENGTH = re.compile(r"token|too (long|large|many)|length|maximum", re.IGNORECASE)


class EmbeddingServer(ApiServer):
    """A server that is asked for vectors."""

    def fault(self, err: Exception) -> Exception:
        """As for any server; llama.cpp says 500 of a text that is too long, and trying it again would not help."""
        fault = super().fault(err)
        if isinstance(fault, TransientFault) and re.search(r"too (large|long)|physical batch|context size", str(fault)):
            return ItemFault(str(fault))
        return fault


@dataclass(frozen=True)
class _Answer:
    """Vectors (n, d) of the pieces with these indices, and their tokens as the server counted them."""

    indices: list[int]
    vectors: np.ndarray
    tokens: int


class OpenAIEncoder:
    """An embedding model behind an OpenAI-compatible server.

    Texts beyond the limit are encoded in pieces and averaged, weighted by their tokens. Nothing here has the server's
    tokenizer, so tokens are estimated, on the high side: three ASCII characters, or one other. What the server
    still finds too long in all is asked in two halves.

    Parameters
    ----------
    model
        As the server calls it, for example ``text-embedding-ada-002``.
    dimensions
        Length of the vectors, sent to the server; its own when None.
    batch
        Texts per request, at most 2,048.
    concurrency
        Requests in flight.
    max_tokens
        Longest input of the server; set it lower for models of 512 tokens and the like.
    timeout
        Seconds until a request without an answer counts as failed, and is tried again.
    attempts, backoff
        Tries per request, and seconds of the first wait between two; it doubles up to a minute. A Retry-After of the
        server counts instead where there is one.
    base_url
        Address of the server, such as ``http://127.0.0.1:8000/v1``; empty takes ``$OPENAI_BASE_URL``, else OpenAI.

    Notes
    -----
    The key comes from ``$OPENAI_API_KEY`` alone. It is in no spec, error or cache.

    Raises
    ------
    BftembedError
        For an option out of range, a missing package.
    """

    #: Its vectors cost money: `bftembed.embeddings.embed_genes` keeps them without being asked.
    paid: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        batch: int = 64,
        concurrency: int = 4,
        max_tokens: int = _INPUT_TOKENS,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 1.0,
        base_url: str = "",
    ) -> None:
        if not 1 <= batch <= _REQUEST_INPUTS:
            raise BftembedError(f"openai: batch={batch} must be from 1 to {_REQUEST_INPUTS} texts.")
        if concurrency < 1 or max_tokens < 1 or (dimensions is not None and dimensions < 1):
            raise BftembedError(
                f"openai: concurrency={concurrency}, max_tokens={max_tokens} and dimensions={dimensions} must be at "
                "least 1."
            )
        self._server = EmbeddingServer(model, timeout, attempts, backoff, base_url)
        self._dimensions, self._room = dimensions, max_tokens
        self._batch, self._concurrency = batch, concurrency
        #: Texts that are asked for at once, so that no slot stays empty; a cache stores so many together.
        self.group_texts = batch * concurrency
        self.report = EncodingReport(0, max_tokens=max_tokens)

    @cached_property
    def spec(self) -> EncoderSpec:
        """Return what the encoder is.

        For a model that is not OpenAI's, without ``dimensions=``, the server is asked once for the length of a vector.

        Raises
        ------
        BftembedError
            When it has to be asked, and does not answer.
        """
        model = self._server.model
        dim = self._dimensions or _DIMENSIONS.get(model)
        if dim is None:
            dim = self._ask_all(["gene"], [[0]], None, silent)[0].vectors.shape[1]
        # The client's version decides no vector; in the spec it would make paid vectors void.
        return EncoderSpec(
            name=f"openai:{model}",
            revision="",
            dim=dim,
            max_tokens=self._room,
            normalised=model in _DIMENSIONS,
            dtype="",
            long="chunk",
            options={"server": self._server.shown, "dimensions": self._dimensions, "tokens": "estimated"},
        )

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return one vector per text, float32 (n, d), in order; `report` tells of pieces, and tokens as billed.

        An interrupt cancels what is in flight.

        Raises
        ------
        BftembedError
            For an empty text; a server that cannot be reached, refuses, or gives no answer; an answer with too few or
            too many vectors, or one that is missing, of another length, zero, NaN or infinite (names the text).
        """
        given = check_texts(texts)
        pieces = self._cut(given)
        answers = self._ask_all(pieces.texts, self._batches(pieces), self.spec.dim, progress, pieces.owners)
        vectors = np.empty((len(pieces.texts), self.spec.dim), dtype=np.float32)
        for answer in answers:
            vectors[answer.indices] = answer.vectors
        several = np.bincount(pieces.owners)
        self.report = EncodingReport(
            len(given),
            n_chunked=int((several > 1).sum()),
            n_chunks=int(several[several > 1].sum()),
            n_tokens_total=sum(answer.tokens for answer in answers),
            max_tokens=self._room,
        )
        return vectors_of_texts(vectors, pieces, len(given), normalised=self.spec.normalised)

    def _cut(self, texts: list[str]) -> Pieces:
        split = [split_text(text, _tokens(text), self._room, _tokens) for text in texts]
        # Blanks between two cuts have no vector.
        split = [[(piece, count) for piece, count in parts if count] or parts for parts in split]
        flat = [part for parts in split for part in parts]
        owners = np.repeat(np.arange(len(texts)), [len(parts) for parts in split])
        return Pieces([piece for piece, _ in flat], np.array([max(count, 1) for _, count in flat]), owners)

    def _batches(self, pieces: Pieces) -> list[list[int]]:
        batches: list[list[int]] = [[]]
        tokens = 0
        for i, count in enumerate(pieces.tokens.tolist()):
            if batches[-1] and (len(batches[-1]) == self._batch or tokens + count > _REQUEST_TOKENS):
                batches.append([])
                tokens = 0
            batches[-1].append(i)
            tokens += count
        return batches

    def _ask_all(
        self,
        texts: list[str],
        batches: list[list[int]],
        dim: int | None,
        progress: Progress,
        owners: np.ndarray | None = None,
    ) -> list[_Answer]:
        asking = _Asking(self._server, texts, np.arange(len(texts)) if owners is None else owners, dim)
        asking.dimensions = self._dimensions
        answers: list[_Answer] = []
        done = 0
        with contextlib.closing(self._server.stream(asking.batch, batches, self._concurrency)) as stream:
            for answer in stream:
                answers.append(answer)
                done += len(answer.indices)
                progress(done, len(texts), "")
        return answers


@dataclass
class _Asking:
    """The requests for the vectors of some pieces."""

    server: EmbeddingServer
    texts: list[str]
    owners: np.ndarray
    dim: int | None
    dimensions: int | None = None

    async def batch(self, client: Any, put: Callable[[_Answer], None], indices: list[int]) -> None:
        """Put the answer to one batch, or to halves of one that is too long."""
        wanted: dict[str, Any] = {"model": self.server.model, "input": [self.texts[i] for i in indices]}
        if self.dimensions is not None:
            wanted["dimensions"] = self.dimensions
        try:
            answer = await self.server.ask(
                # As base64 an answer has a quarter of the bytes; a server that sends numbers is understood, too.
                lambda: client.embeddings.with_raw_response.create(**wanted, encoding_format="base64"),
                lambda text: self._read(self.server.json(text), indices),
            )
        except NotFoundFault as fault:
            raise await self.server.unknown_model(client, fault) from None
        except TransientFault as fault:
            raise BftembedError(f"openai: {fault}. With a cache of vectors (--cache), the next run goes on.") from None
        except ItemFault as fault:
            if not _LENGTH.search(str(fault)):
                raise BftembedError(f"openai: {fault}. Check the model and the options of the encoder.") from None
            if len(indices) == 1:
                raise BftembedError(
                    f"openai: {fault}. It is {self._name(indices[0])}, too long for this server: give a smaller "
                    f"max_tokens=, and it is encoded in pieces."
                ) from None
            half = len(indices) // 2
            await self.batch(client, put, indices[:half])
            await self.batch(client, put, indices[half:])
        else:
            put(answer)

    def _read(self, answer: dict[str, Any], indices: list[int]) -> _Answer:
        items = answer.get("data")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            said = said_in(answer)[0] if "error" in answer else "its answer holds no list of vectors (data)"
            raise TransientFault(f"{self.server.shown} answered 200, but {said}")
        if len(items) != len(indices):
            raise self._refused(f"{len(items)} vectors for {len(indices)} texts, from {self._name(indices[0])} on")
        numbers = [item.get("index", place) for place, item in enumerate(items)]
        if not all(type(n) is int for n in numbers) or sorted(numbers) != list(range(len(items))):
            raise self._refused(
                f"vectors that are numbered {str(numbers[:5])[1:-1]} …, not 0 to {len(items) - 1}, for the "
                f"{len(items)} texts from {self._name(indices[0])} on"
            )
        rows = [self._vector(item.get("embedding"), indices[n]) for n, item in zip(numbers, items, strict=True)]
        if len({len(row) for row in rows}) > 1:
            raise self._refused("vectors of several lengths in one answer")
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
        return _Answer([indices[n] for n in numbers], np.stack(rows), tokens if isinstance(tokens, int) else 0)

    def _vector(self, value: Any, i: int) -> np.ndarray:
        try:
            if isinstance(value, str):
                row = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
            elif isinstance(value, list) and all(type(number) in (int, float) for number in value):
                with np.errstate(over="ignore"):
                    row = np.array(value, dtype=np.float64).astype(np.float32)
            else:
                raise TypeError
        except (ValueError, TypeError, OverflowError, binascii.Error):
            raise self._refused(f"no vector (null, or what is not numbers) for {self._name(i)}") from None
        if len(row) != (self.dim or len(row)) or not len(row):
            wanted = f", where {self.dim} were expected" if self.dim else ""
            raise self._refused(f"a vector of {len(row)} numbers for {self._name(i)}{wanted}")
        if not np.isfinite(row).all():
            raise self._refused(f"NaN or infinite values for {self._name(i)}")
        if not row.any():
            raise self._refused(f"a vector of zeros for {self._name(i)}")
        return row

    def _name(self, i: int) -> str:
        return f"text {self.owners[i]} ({self.texts[i][:40]!r})"

    def _refused(self, what: str) -> BftembedError:
        return BftembedError(
            f"openai: {self.server.shown} gave {what}. It is not stored. Run again; if it comes again, leave that text "
            f"out, or check the model {self.server.model!r} and dimensions=."
        )


def _tokens(text: str) -> Offsets:
    return [found.span() for found in _TOKEN.finditer(text)]
