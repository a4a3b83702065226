"""Vectors from OpenAI or any server that speaks as it does, such as llama.cpp, vLLM or text-embeddings-inference."""

from __future__ import annotations

import base64
import contextlib
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bftembed.encoders._pieces import Offsets, Pieces, check_texts, split_text, vectors_of_texts
from bftembed.encoders.base import EncoderSpec, EncodingReport
from bftembed.errors import BftembedError
from bftembed.llm.api_client import ApiServer, RequestFault
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: OpenAI's own models and the length of their vectors, which have length 1.
_DIMENSIONS = {"text-embedding-ada-002": 1536, "text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
#: OpenAI's limits, per input and per request.
_INPUT_TOKENS, _REQUEST_TOKENS, _REQUEST_INPUTS = 8191, 300_000, 2048
#: At most one token of OpenAI's each, save for rare text: three ASCII characters, or one other.
_TOKEN = re.compile(r"[!-~]{1,3}|[^\s!-~]")
_LENGTH = re.compile(r"token|too (long|large|many)|length|maximum|context size", re.IGNORECASE)


class _Answer(NamedTuple):
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
    timeout, max_retries, base_url
        As for `bftembed.llm.backends.openai.OpenAI`.

    Notes
    -----
    The key comes from ``$OPENAI_API_KEY`` alone. It is in no spec, error or cache.
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
        max_retries: int = 6,
        base_url: str = "",
    ) -> None:
        if (
            not 1 <= batch <= _REQUEST_INPUTS
            or min(concurrency, max_tokens, 1 if dimensions is None else dimensions) < 1
        ):
            raise BftembedError(
                f"openai: batch={batch} must be from 1 to {_REQUEST_INPUTS} texts; concurrency={concurrency}, "
                f"max_tokens={max_tokens} and dimensions={dimensions} at least 1."
            )
        self._server = ApiServer(model, timeout, max_retries, base_url)
        self._dimensions, self._room = dimensions, max_tokens
        self._batch, self._concurrency = batch, concurrency
        #: Texts that are asked for at once, so that no slot stays empty; a cache stores so many together.
        self.group_texts = batch * concurrency
        self.report = EncodingReport(0, max_tokens=max_tokens)

    @cached_property
    def spec(self) -> EncoderSpec:
        """Return what the encoder is.

        For a model that is not OpenAI's, without ``dimensions=``, the server is asked once for the length of a vector.
        """
        model = self._server.model
        dim = self._dimensions or _DIMENSIONS.get(model)
        if dim is None:
            dim = self._ask(Pieces(["gene"], np.ones(1), np.zeros(1, int)), None, silent)[0].vectors.shape[1]
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
        """Return one vector per text, float32 (n, d), in order; `report` counts pieces, and tokens as billed.

        Raises
        ------
        BftembedError
            For an empty text; a server that cannot be reached, refuses, or gives no answer; an answer with too few or
            too many vectors, or one that is missing, of another length, zero, NaN or infinite (names the text).
        """
        given = check_texts(texts)
        split = [split_text(text, _tokens(text), self._room, _tokens) for text in given]
        # Blanks between two cuts have no vector.
        split = [[(piece, count) for piece, count in parts if count] or parts for parts in split]
        several = np.array([len(parts) for parts in split])
        flat = [part for parts in split for part in parts]
        counts = np.array([max(count, 1) for _, count in flat])
        pieces = Pieces([piece for piece, _ in flat], counts, np.repeat(np.arange(len(given)), several))
        answers = self._ask(pieces, self.spec.dim, progress)
        vectors = np.empty((len(flat), self.spec.dim), dtype=np.float32)
        for answer in answers:
            vectors[answer.indices] = answer.vectors
        self.report = EncodingReport(
            len(given),
            n_chunked=int((several > 1).sum()),
            n_chunks=int(several[several > 1].sum()),
            n_tokens_total=sum(answer.tokens for answer in answers),
            max_tokens=self._room,
        )
        return vectors_of_texts(vectors, pieces, len(given), normalised=self.spec.normalised)

    def _ask(self, pieces: Pieces, dim: int | None, progress: Progress) -> list[_Answer]:
        server = self._server

        async def ask(client: Any, put: Callable[[_Answer], None], indices: list[int]) -> None:
            """Put the answer to one batch, or to halves of one that is too long."""
            wanted: dict[str, Any] = {"model": server.model, "input": [pieces.texts[i] for i in indices]}
            wanted |= {"dimensions": self._dimensions} if self._dimensions else {}
            try:
                # As base64 an answer has a quarter of the bytes; a server that sends numbers is understood, too.
                call = client.embeddings.with_raw_response.create(**wanted, encoding_format="base64")
                put(self._read(await server.json(call), pieces, indices, dim))
            except RequestFault as fault:
                if fault.unread or not _LENGTH.search(str(fault)):
                    raise BftembedError(f"openai: {fault}. With a cache (--cache), the next run goes on.") from None
                if len(indices) == 1:
                    raise BftembedError(
                        f"openai: {fault}. It is {_name(pieces, indices[0])}, too long for this server: give a smaller "
                        f"max_tokens=, and it is encoded in pieces."
                    ) from None
                half = len(indices) // 2
                await ask(client, put, indices[:half])
                await ask(client, put, indices[half:])

        answers: list[_Answer] = []
        done = 0
        with contextlib.closing(server.stream(ask, self._batches(pieces), self._concurrency)) as stream:
            for answer in stream:
                answers.append(answer)
                done += len(answer.indices)
                progress(done, len(pieces.texts), "")
        return answers

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

    def _read(self, answer: dict[str, Any], pieces: Pieces, indices: list[int], dim: int | None) -> _Answer:
        """Return the vectors of an answer; one that does not fit the texts is an error."""
        wrong = f"no vector for each of {len(indices)} texts, from {_name(pieces, indices[0])} on"
        rows: dict[int, np.ndarray] = {}
        with contextlib.suppress(TypeError, KeyError, AttributeError, ValueError):
            items = answer["data"]
            by_index = {item.get("index", i): item["embedding"] for i, item in enumerate(items)}
            whole = len(items) == len(indices) and sorted(by_index) == list(range(len(indices)))
            for i, place in enumerate(indices if whole else []):
                wrong = f"a vector for {_name(pieces, place)} that is of another length, empty, zero, NaN or infinite"
                row = _vector(by_index[i])
                if row.shape != (dim or rows.get(0, row).size,) or not row.any() or not np.isfinite(row).all():
                    break
                rows[i] = row
        if len(rows) < len(indices):
            raise BftembedError(
                f"openai: {self._server.shown} gave {wrong}. It is not stored. Run again, or leave that text out, or "
                f"check the model {self._server.model!r} and dimensions=."
            )
        tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        return _Answer(indices, np.stack(list(rows.values())), tokens)


def _vector(value: Any) -> np.ndarray:
    """Return a vector, float32, of base64 or of a list; anything else is a TypeError or ValueError."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
    with np.errstate(over="ignore"):
        return np.array(value, dtype=np.float64).astype(np.float32)


def _name(pieces: Pieces, i: int) -> str:
    return f"text {pieces.owners[i]} ({pieces.texts[i][:40]!r})"


def _tokens(text: str) -> Offsets:
    return [found.span() for found in _TOKEN.finditer(text)]
