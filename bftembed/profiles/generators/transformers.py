"""Hugging Face transformers on this machine: chat template, left padding, length-bucketed static batches."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.chat import prompt_tokens
from bftembed.errors import BftembedError, require
from bftembed.machine import cpu_has_bf16, free_cores
from bftembed.models import attends_to_all_before, load_language_model, model_identity
from bftembed.profiles.reasoning import with_reasoning_markers
from bftembed.profiles.records import Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.profiles.records import Message, Request

_DTYPES = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
_DTYPES |= {"fp32": "float32", "float32": "float32", "auto": "auto"}

#: Tokens (prompt and answer) that one batch may hold when the batch size is left to us.
_TOKENS_PER_BATCH = 32_768
_MAX_BATCH = 128
#: Tokens that prompts have to begin with alike for the beginning to be read by itself.
_LEAST_BEGINNING = 16


class TransformersGenerator:
    """Greedy (or sampled) chat answers of a causal language model.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name.
    max_new_tokens
        Longest answer, in tokens; an answer that reaches it has finish reason ``"length"``.
    batch_size
        Prompts at once; 0 chooses by `max_new_tokens`. Not part of the identity of a profile, though in bf16
        the texts may differ with it.
    dtype
        ``"bf16"``, ``"fp16"``, ``"fp32"`` or ``"auto"``: bf16 where the processor multiplies it in hardware
        (or on a GPU), else fp32.
    temperature, top_p, seed
        Temperature 0 is greedy. Otherwise sampling starts each batch from `seed` and the batch's first key.
    threads
        CPU threads; 0 takes the cores that are free when the model is loaded.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 512,
        batch_size: int = 0,
        dtype: str = "auto",
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        threads: int = 0,
        device: str = "auto",
    ) -> None:
        if dtype not in _DTYPES:
            raise BftembedError(f"transformers: dtype={dtype!r} is not one of {', '.join(_DTYPES)}.")
        if max_new_tokens < 1 or batch_size < 0 or threads < 0:
            raise BftembedError(
                f"transformers: max_new_tokens={max_new_tokens} must be at least 1; batch_size={batch_size} and "
                f"threads={threads} at least 0 (0 chooses)."
            )
        if temperature < 0 or not 0 < top_p <= 1:
            raise BftembedError("transformers: temperature must be at least 0, and top_p in (0, 1].")
        require("transformers", "local")
        self._torch = require("torch", "local")
        self.model, self.max_new_tokens = model, max_new_tokens
        self.batch_size = batch_size or max(1, min(_MAX_BATCH, _TOKENS_PER_BATCH // (max_new_tokens + 128)))
        self._temperature, self._top_p, self._seed, self._threads = float(temperature), float(top_p), seed, threads
        self._device = self._choose_device(device)
        self._dtype = self._choose_dtype(dtype)
        self._revision = model_identity("language-model", model)
        self._engine: _Engine | None = None

    def _choose_device(self, device: str) -> str:
        if device == "auto":
            return "cuda" if self._torch.cuda.is_available() else "cpu"
        try:
            self._torch.device(device)
        except RuntimeError as err:
            raise BftembedError(f"transformers: device={device!r} is none that torch knows (cpu, cuda, …).") from err
        if device.startswith("cuda") and not self._torch.cuda.is_available():
            raise BftembedError(f"transformers: device={device!r}, but torch sees no CUDA device here.")
        return device

    def _choose_dtype(self, dtype: str) -> str:
        if dtype != "auto":
            return _DTYPES[dtype]
        return "bfloat16" if self._device.startswith("cuda") or cpu_has_bf16() else "float32"

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, revision, versions, dtype, device and sampling; no weights are loaded."""
        import transformers

        sampling: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self._temperature}
        if self._temperature > 0:
            sampling |= {"top_p": self._top_p, "seed": self._seed}
        return {
            "engine": "transformers",
            "model": self.model,
            "revision": self._revision,
            "backend": {"transformers": transformers.__version__, "torch": self._torch.__version__},
            "dtype": self._dtype,
            "device": self._device.split(":")[0],
            "sampling": sampling,
        }

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions batch by batch, prompts of similar length together.

        A prompt that does not fit the model's context together with `max_new_tokens` is an error completion.
        """
        if not requests:
            return
        if self._engine is None:
            self._engine = self._load()
        engine = self._engine
        prompts = [(request, engine.token_ids(request.messages)) for request in requests]
        prompts.sort(key=lambda item: len(item[1]))
        fitting = []
        for request, ids in prompts:
            if engine.context and len(ids) + self.max_new_tokens > engine.context:
                error = (
                    f"the prompt has {len(ids)} tokens; with max_new_tokens={self.max_new_tokens} it exceeds the "
                    f"model's context of {engine.context}"
                )
                yield Completion(request.key, "", "error", len(ids), error=error)
            else:
                fitting.append((request, ids))
        with self._using_threads():
            beginning = self._beginning(engine, [ids for _, ids in fitting])
            for start in range(0, len(fitting), self.batch_size):
                yield from self._batch(engine, fitting[start : start + self.batch_size], beginning)

    @contextlib.contextmanager
    def _using_threads(self) -> Iterator[None]:
        """Set torch's threads for a while: an encoder after us must not depend on how busy the machine was."""
        before = self._torch.get_num_threads()
        if self._device == "cpu":
            self._threads = self._threads or free_cores()
            self._torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            self._torch.set_num_threads(before)

    def _load(self) -> _Engine:
        model, tokenizer, _ = load_language_model(self.model, self._dtype)
        tokenizer.padding_side = "left"
        model.to(self._device)
        return _Engine(model, tokenizer, _stop_ids(model, tokenizer), _context(model))

    def _beginning(self, engine: _Engine, prompts: list[list[int]]) -> _Beginning:
        """Read the common beginning of several prompts (system message, wording of the question) once.

        In float32 alone: bf16 rounds sums that were taken in another order so coarsely that greedy texts change.
        """
        common = 0
        if len(prompts) > 1 and self._dtype == "float32" and attends_to_all_before(engine.model):
            first, last = min(prompts), max(prompts)
            most = min(len(ids) for ids in prompts) - 1
            common = next((i for i in range(most) if first[i] != last[i]), most)
        if common < _LEAST_BEGINNING:
            return _Beginning(0, None)
        with self._torch.inference_mode():
            ids = self._torch.tensor([prompts[0][:common]], device=self._device)
            return _Beginning(common, engine.model.base_model(ids, use_cache=True).past_key_values)

    def _batch(
        self, engine: _Engine, batch: list[tuple[Request, list[int]]], beginning: _Beginning
    ) -> Iterator[Completion]:
        torch = self._torch
        longest, common = max(len(ids) for _, ids in batch), beginning.length
        tokens = torch.full((len(batch), longest), engine.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        # Padding lies between the common beginning and the rest.
        for row, (_, ids) in enumerate(batch):
            rest = longest - len(ids) + common
            tokens[row, :common], tokens[row, rest:] = torch.tensor(ids[:common]), torch.tensor(ids[common:])
            mask[row, :common], mask[row, rest:] = 1, 1
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._temperature > 0:
            sampling = {"do_sample": True, "temperature": self._temperature, "top_p": self._top_p, "top_k": 0}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(self._seed ^ int(batch[0][0].key[:8], 16))
            out = engine.model.generate(
                input_ids=tokens.to(self._device),
                attention_mask=mask.to(self._device),
                max_new_tokens=self.max_new_tokens,
                pad_token_id=engine.tokenizer.pad_token_id,
                eos_token_id=sorted(engine.stop_ids) or None,
                past_key_values=beginning.repeated(len(batch)),
                **sampling,
            )
        for (request, ids), row in zip(batch, out[:, longest:].tolist(), strict=True):
            stop = next((i for i, token in enumerate(row) if token in engine.stop_ids), None)
            answer = row if stop is None else row[:stop]
            text = engine.tokenizer.decode(answer, skip_special_tokens=True)
            text = with_reasoning_markers(text, answer, engine.tokenizer, request.messages)
            yield Completion(request.key, text, "length" if stop is None else "stop", len(ids), len(answer))


@dataclass(frozen=True)
class _Beginning:
    """Tokens that all prompts begin with, and what the model remembers of them."""

    length: int
    cache: Any

    def repeated(self, rows: int) -> Any:
        """Return the cache for a batch; generation appends to it."""
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(rows)
        return cache


@dataclass(frozen=True)
class _Engine:
    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    context: int

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's tokens by the model's chat template; without one, the texts as paragraphs."""
        return prompt_tokens(self.tokenizer, messages)


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _context(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", 0) or 0)
