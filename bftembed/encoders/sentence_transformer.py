"""Encoders from sentence-transformers: packaged, local or hub models, and plain BERT folders such as BioBERT's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders.base import (
    EncoderSpec,
    EncodingReport,
    check_texts,
    check_vectors,
    one_of,
    unit_rows,
    versions,
)
from bftembed.encoders.chunking import split_text, token_offsets
from bftembed.encoders.loading import check_devices, load_model, set_limit, set_normalised, set_pooling, start_pool
from bftembed.encoders.pieces import Pieces, vectors_of_texts
from bftembed.errors import BftembedError
from bftembed.llm.models import resolve_model
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_POOLINGS = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
#: Batches given to the model at once; progress is told between, and a cache stores their vectors.
_BATCHES_AT_ONCE = 16


class SentenceTransformerEncoder:
    """A sentence-transformers model, or a BERT-like model with pooling put on top.

    The weights are loaded when the object is made; remote code is never run. On a CPU in fp32 the same texts in
    the same order give equal bits, in another order or batch size equal values within 1e-5.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name. A BERT folder without ``modules.json`` gets mean pooling.
    dtype
        ``"fp32"``, or ``"bf16"``: faster on hardware that has it and refused on a CPU that has not; cosines of 0.999
        and more to fp32.
    long
        For texts beyond the limit: ``"chunk"`` encodes consecutive pieces that fit and averages their vectors
        weighted by their numbers of tokens, scaled to length 1 again where the vectors are; ``"truncate"`` drops
        the rest.
    max_tokens
        Limit with special tokens; the model's own when None.
    batch_size
        Texts per batch.
    normalize
        Scale vectors to length 1, or do not; as the model does it when None.
    pooling
        ``"mean"``, ``"cls"``, ``"max"``, ``"lasttoken"``, ``"weightedmean"`` or ``"mean_sqrt_len_tokens"``; the
        model's own when None.
    device
        torch device such as ``"cpu"`` or ``"cuda:0"``; the best that is there when None.
    devices
        CUDA devices that work at once, each with a process and a copy of the model of its own.
    allow_bin
        Load weights from a torch ``.bin`` file (tensors only, never code) where there are no safetensors.

    Raises
    ------
    BftembedError
        For a model that is not there or cannot be loaded, a missing package, an option out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "fp32",
        long: str = "chunk",
        max_tokens: int | None = None,
        batch_size: int = 32,
        normalize: bool | None = None,
        pooling: str | None = None,
        device: str | None = None,
        devices: int = 1,
        allow_bin: bool = False,
    ) -> None:
        name = model if model.startswith("builtin:") else f"st:{model}"
        one_of("dtype", dtype, tuple(_DTYPES), name)
        one_of("value of long", long, ("chunk", "truncate"), name)
        if pooling is not None:
            one_of("pooling", pooling, _POOLINGS, name)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise BftembedError(f"{name}: batch_size={batch_size!r} must be a whole number of at least 1.")
        check_devices(devices, device, name)
        local = resolve_model("encoder", model, allow_bin=allow_bin)
        self._model = load_model(local.path, name, dtype=_DTYPES[dtype], device=device, allow_bin=allow_bin)
        self._batch_size = batch_size
        self._devices, self._pool = devices, None
        #: Texts that a cache gives at once: enough for batches of texts of one length.
        self.group_texts = batch_size * _BATCHES_AT_ONCE * devices
        pooled = set_pooling(self._model, pooling, name)
        normalised, by_model = set_normalised(self._model, normalize)
        # What the model scales in bf16 has length 1 to two digits only.
        self._normalise_here = normalised and not (by_model and dtype == "fp32")
        limit, self._room = set_limit(self._model, max_tokens, name)
        self.spec = EncoderSpec(
            name=name,
            revision=local.revision,
            dim=int(self._model.get_embedding_dimension()),
            max_tokens=limit,
            pooling=pooled,
            normalised=normalised,
            dtype=dtype,
            long=long if limit is not None else "",
            options={"device": self._model.device.type},
            versions=versions("sentence-transformers", "transformers", "torch"),
        )
        self.report = EncodingReport(0, max_tokens=limit)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return one vector per text, float32 (n, d), in order; `report` tells of chunks and cuts.

        Parameters
        ----------
        texts
            Non-empty texts.
        progress
            Told the pieces done and in all.

        Raises
        ------
        BftembedError
            For an empty text (names its index), a text without any token, or NaN in the output.
        """
        given = check_texts(texts)
        pieces, report = self._cut(given)
        vectors = self._encode_pieces(pieces, progress)
        if report.n_chunked:
            vectors = vectors_of_texts(vectors, pieces, len(given), normalised=self.spec.normalised)
        if self._normalise_here:
            vectors = unit_rows(vectors)
        self.report = report
        return check_vectors(vectors, given, self.spec.name)

    def _cut(self, texts: list[str]) -> tuple[Pieces, EncodingReport]:
        """Return what the model is given, and the report. A text to be truncated stays whole: the model cuts it."""
        room, tokenizer = self._room, self._model.tokenizer
        everything = np.arange(len(texts))
        report = EncodingReport(len(texts), max_tokens=self.spec.max_tokens)
        if room is None:
            return Pieces(texts, np.ones(len(texts)), everything), report
        fast = bool(getattr(tokenizer, "is_fast", False))
        offsets = token_offsets(tokenizer, texts) if fast else []
        lengths = np.array([len(o) for o in offsets] if fast else [len(tokenizer.tokenize(t)) for t in texts])
        if not lengths.all():
            i = int(np.argmin(lengths))
            raise BftembedError(f"Text {i} ({texts[i][:40]!r}) has no token for {self.spec.name}. Leave it out.")
        report = replace(report, n_tokens_total=int(lengths.sum()))
        over = lengths > room
        n_over = int(over.sum())
        if not n_over or self.spec.long == "truncate":
            dropped = int((lengths[over] - room).sum())
            return Pieces(texts, lengths, everything), replace(report, n_truncated=n_over, n_tokens_dropped=dropped)
        if not fast:
            raise BftembedError(
                f"Text {int(np.argmax(over))} is longer than the {room} tokens of {self.spec.name}, whose tokenizer "
                f"cannot say where tokens lie. Use long=truncate, or a model with a tokenizer.json."
            )
        split = [
            split_text(text, tokens, room, lambda piece: token_offsets(tokenizer, [piece])[0])
            for text, tokens in zip(texts, offsets, strict=True)
        ]
        counts = np.array([len(parts) for parts in split])
        flat = [part for parts in split for part in parts]
        pieces = Pieces([t for t, _ in flat], np.array([n for _, n in flat]), np.repeat(everything, counts))
        return pieces, replace(report, n_chunked=n_over, n_chunks=int(counts[over].sum()))

    def _encode_pieces(self, pieces: Pieces, progress: Progress) -> np.ndarray:
        n = len(pieces.texts)
        vectors = np.empty((n, self.spec.dim), dtype=np.float32)
        if self._devices > 1 and self._pool is None:
            self._pool = start_pool(self._model, [f"cuda:{i}" for i in range(self._devices)])
        # The model sorts by length what it gets at once. Sorted over all, batches hold less padding still, and the
        # slowest come first.
        order = np.argsort(-pieces.tokens, kind="stable")
        step = self.group_texts
        for start in range(0, n, step):
            places = order[start : start + step]
            vectors[places] = self._model.encode([pieces.texts[i] for i in places], **self._how())
            progress(start + len(places), n, "")
        return vectors

    def _how(self) -> dict[str, Any]:
        how = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True}
        if self._pool is not None:
            how |= {"pool": self._pool, "chunk_size": self._batch_size}
        return how
