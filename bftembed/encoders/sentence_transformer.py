"""Encoders from sentence-transformers: packaged, local or hub models, and plain BERT folders such as BioBERT's."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders._pieces import (
    Offsets,
    Pieces,
    check_texts,
    check_vectors,
    split_text,
    unit_rows,
    vectors_of_texts,
    versions,
)
from bftembed.encoders.base import EncoderSpec, EncodingReport
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.llm.models import quiet_transformers, resolve_model
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_LONG = ("chunk", "truncate")
_POOLINGS = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
#: Batches given to the model at once; progress is told between, and a cache stores their vectors.
_BATCHES_AT_ONCE = 16
#: Tokenizers without a limit say 1e30.
_NO_LIMIT = 1_000_000


class SentenceTransformerEncoder:
    """A sentence-transformers model, or a BERT-like model with pooling put on top.

    The weights are loaded when the object is made; remote code is never run. On a CPU in fp32 the same texts in
    the same order give equal bits, in another order or batch size equal values within 1e-5.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name. A BERT folder without ``modules.json`` gets mean pooling.
    dtype
        ``"fp32"``, or ``"bf16"``: faster on hardware that has it (a CPU without is slower); cosines of 0.999 and more
        to fp32.
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
    prompt
        What the model is to read before every text (every piece): the name of one of its own prompts, or the prompt
        itself, with one space after it. The model's default when None; a model with prompts of which none is used is
        named in a warning. ``""`` for none.
    truncate_dim
        Keep this many dimensions, for models that were trained for it (Matryoshka); all when None.
    device
        torch device such as ``"cpu"`` or ``"cuda:0"``; the best that is there when None.
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
        prompt: str | None = None,
        truncate_dim: int | None = None,
        device: str | None = None,
        allow_bin: bool = False,
    ) -> None:
        self._name = name = model if model.startswith("builtin:") else f"st:{model}"
        for what, value, known in (
            ("dtype", dtype, tuple(_DTYPES)),
            ("value of long", long, _LONG),
            ("pooling", pooling or "mean", _POOLINGS),
        ):
            if value not in known:
                raise unknown_name(what, value, known, where=f"encoder {name!r}")
        if batch_size < 1:
            raise BftembedError(f"{name}: batch_size={batch_size} must be at least 1.")
        local = resolve_model("encoder", model, allow_bin=allow_bin)
        self._model = _load(local.path, name, _DTYPES[dtype], device, allow_bin)
        self._batch_size = batch_size
        #: Texts that a cache gives at once: enough for batches of texts of one length.
        self.group_texts = batch_size * _BATCHES_AT_ONCE
        pooled = self._set_pooling(pooling)
        # By name: the modules' import paths moved between versions of sentence-transformers.
        scaling = [i for i, module in enumerate(self._model) if type(module).__name__ == "Normalize"]
        normalised = bool(scaling) if normalize is None else normalize
        for place in reversed(scaling if normalize is False else []):
            del self._model[place]
        # What the model scales in bf16 has length 1 to two digits only, and what is cut is shorter.
        self._normalise_here = normalised and not (scaling and dtype == "fp32" and truncate_dim is None)
        dim = int(self._model.get_embedding_dimension())
        if not 1 <= (truncate_dim or dim) <= dim:
            raise BftembedError(f"{name}: truncate_dim={truncate_dim}, but the vectors have {dim} dimensions.")
        self._prompt = self._chosen_prompt(prompt)
        self._limit, self._room = self._set_limit(max_tokens)
        chosen = {"prompt": self._prompt, "truncate_dim": truncate_dim}
        self.spec = EncoderSpec(
            name=name,
            revision=local.revision,
            dim=truncate_dim or dim,
            max_tokens=self._limit,
            pooling=pooled,
            normalised=normalised,
            dtype=dtype,
            long=long if self._limit is not None else "",
            options={"device": self._model.device.type} | {key: value for key, value in chosen.items() if value},
            versions=versions("sentence-transformers", "transformers", "torch"),
        )
        self.report = EncodingReport(0, max_tokens=self._limit)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """Return one vector per text, float32 (n, d), in order; `report` tells of pieces and dropped tokens.

        Raises
        ------
        BftembedError
            For an empty or undecodable text, and for NaN from the model (names the text).
        """
        given = check_texts(texts)
        pieces, report = self._cut(given)
        vectors = self._encode_pieces(pieces, progress)
        if report.n_chunked:
            vectors = vectors_of_texts(vectors, pieces, len(given), normalised=self.spec.normalised)
        if self._normalise_here:
            vectors = unit_rows(vectors)
        self.report = report
        return check_vectors(vectors, given, self._name)

    def _cut(self, texts: list[str]) -> tuple[Pieces, EncodingReport]:
        """Return what the model is given, and the report. A text to be truncated stays whole: the model cuts it."""
        room, tokenizer = self._room, self._model.tokenizer
        everything = np.arange(len(texts))
        report = EncodingReport(len(texts), max_tokens=self._limit)
        if room is None:
            return Pieces(texts, np.ones(len(texts)), everything), report
        offsets = _token_offsets(tokenizer, texts)
        lengths = np.array([len(o) for o in offsets])
        if not lengths.all():
            i = int(np.argmin(lengths))
            raise BftembedError(f"Text {i} ({texts[i][:40]!r}) has no token for {self._name}. Leave it out.")
        report = replace(report, n_tokens_total=int(lengths.sum()))
        over = lengths > room
        n_over = int(over.sum())
        if not n_over or self.spec.long == "truncate":
            dropped = int((lengths[over] - room).sum())
            return Pieces(texts, lengths, everything), replace(report, n_truncated=n_over, n_tokens_dropped=dropped)
        split = [
            split_text(text, tokens, room, lambda piece: _token_offsets(tokenizer, [piece])[0])
            for text, tokens in zip(texts, offsets, strict=True)
        ]
        counts = np.array([len(parts) for parts in split])
        flat = [part for parts in split for part in parts]
        pieces = Pieces([t for t, _ in flat], np.array([n for _, n in flat]), np.repeat(everything, counts))
        return pieces, replace(report, n_chunked=n_over, n_chunks=int(counts[over].sum()))

    def _encode_pieces(self, pieces: Pieces, progress: Progress) -> np.ndarray:
        n = len(pieces.texts)
        vectors = np.empty((n, self.spec.dim), dtype=np.float32)
        how: dict[str, Any] = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True}
        how |= {"prompt": self._prompt} if self._prompt or self._model.default_prompt_name else {}
        # The model sorts by length what it gets at once. Sorted over all, batches hold less padding still, and the
        # slowest come first.
        order = np.argsort(-pieces.tokens, kind="stable")
        for start in range(0, n, self.group_texts):
            places = order[start : start + self.group_texts]
            texts = [pieces.texts[i] for i in places]
            try:
                vectors[places] = self._model.encode(texts, **how)[:, : self.spec.dim]
            except Exception as err:
                longest, owner = int(pieces.tokens[places[0]]), int(pieces.owners[places[0]])
                raise BftembedError(
                    f"{self._name} fails on texts of up to {longest} tokens; the longest is text {owner}: "
                    f"{texts[0][:60]!r} ({_reason(err)}). Try a smaller max_tokens or batch_size."
                ) from err
            progress(start + len(places), n, "")
        return vectors

    def _set_pooling(self, mode: str | None) -> str:
        """Replace the pooling when `mode` is given; return the pooling's name, ``""`` without any."""
        places = [i for i, module in enumerate(self._model) if type(module).__name__ == "Pooling"]
        if not places:
            if mode is not None:
                raise BftembedError(f"{self._name} has no pooling that could be set to {mode!r}. Leave pooling out.")
            return ""
        pooling = self._model[places[0]]
        if mode is not None:
            self._model[places[0]] = pooling = type(pooling)(
                self._model[0].get_embedding_dimension(), pooling_mode=mode
            )
        modes = pooling.pooling_mode
        return modes if isinstance(modes, str) else "+".join(modes)

    def _chosen_prompt(self, prompt: str | None) -> str:
        own = {key: text for key, text in self._model.prompts.items() if text}
        if prompt is None:
            default = self._model.default_prompt_name
            if own and not default:
                warnings.warn(
                    f"{self._name} has prompts ({', '.join(own)}), and none is used: choose one with prompt=.",
                    stacklevel=3,
                )
            return own.get(default, "")
        if own and prompt not in own and prompt.isidentifier():
            raise unknown_name("prompt", prompt, own, where=self._name)
        return own.get(prompt) or (f"{prompt.rstrip()} " if prompt.strip() else "")

    def _set_limit(self, max_tokens: int | None) -> tuple[int | None, int | None]:
        """Return the limit with special tokens and the room that is left for text; None for a model without a limit."""
        model, tokenizer = self._model, self._model.tokenizer
        if not hasattr(tokenizer, "tokenize"):
            if max_tokens is not None:
                raise BftembedError(f"{self._name} has no token limit that could be set. Leave max_tokens out.")
            return None, None
        if not getattr(tokenizer, "is_fast", False):
            raise BftembedError(f"{self._name} has no tokenizer.json: save its folder with a fast tokenizer.")
        reserved = tokenizer.num_special_tokens_to_add() + len(tokenizer.tokenize(self._prompt))
        most = _positions(model[0].auto_model)
        if max_tokens is not None:
            if not reserved < max_tokens <= most:
                raise BftembedError(
                    f"{self._name}: max_tokens={max_tokens} must be from {reserved + 1} to {most} ({reserved} tokens "
                    f"are the model's own, {most} its longest input)."
                )
            model.max_seq_length = max_tokens
        elif model.max_seq_length is not None and model.max_seq_length > most:
            model.max_seq_length = most
        limit = model.max_seq_length
        return (None, None) if limit is None or limit > _NO_LIMIT else (int(limit), int(limit) - reserved)


def _positions(network: Any) -> int:
    """Return the longest input: RoBERTa and its kin number positions from behind the padding, 514 of them hold 512."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            return int(module.num_embeddings) - (0 if module.padding_idx is None else int(module.padding_idx) + 1)
    return getattr(network.config, "max_position_embeddings", None) or _NO_LIMIT


def _token_offsets(tokenizer: Any, texts: Sequence[str]) -> list[Offsets]:
    """Return the tokens of every text, none cut off, as spans of characters."""
    how = {"add_special_tokens": False, "truncation": False, "padding": False, "return_attention_mask": False}
    encoded = tokenizer(list(texts), return_offsets_mapping=True, verbose=False, **how)
    return [list(offsets) for offsets in encoded["offset_mapping"]]


def _load(path: Path, name: str, dtype: str, device: str | None, allow_bin: bool) -> Any:
    """Load a SentenceTransformer from a folder; nothing is downloaded and no remote code is run."""
    torch = require("torch", "local")
    sentence_transformers = require("sentence_transformers", "local")
    if not any(path.rglob("*.safetensors")) and not (allow_bin and any(path.rglob("*.bin"))):
        raise BftembedError(
            f"{name}: {path} holds no weights as *.safetensors. Where they are .bin, a pickle file, convert them with "
            "transformers' save_pretrained, or accept them as plain tensors: allow_bin=true."
        )
    kind = getattr(torch, dtype)
    try:
        with quiet_transformers():
            model = sentence_transformers.SentenceTransformer(
                str(path), device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"dtype": kind}
            )
            return model.to(kind).eval()
    except Exception as err:
        raise BftembedError(
            f"{name}: {path} cannot be loaded as an encoder ({_reason(err)}). "
            f"Check that it is a whole sentence-transformers or BERT model, and the device."
        ) from err


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err).strip().partition(chr(10))[0]}"
