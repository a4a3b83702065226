"""GGUF models through llama.cpp, inside this process: the prebuilt package xllamacpp, no server to start."""

from __future__ import annotations

import importlib.metadata
import secrets
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require
from bftembed.machine import free_cores
from bftembed.models import packaged_file, weights_revision
from bftembed.profiles.generators.gguf_header import gguf_parts, read_gguf_header
from bftembed.profiles.reasoning import open_reasoning
from bftembed.profiles.records import Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.profiles.records import Request

#: Tokens that a prompt may have when the context is left to us; ours have about 100.
_PROMPT_TOKENS = 1024
#: llama.cpp rounds a context up to a multiple of this.
_CONTEXT_STEP = 256


class LlamaCppGenerator:
    """Greedy (or sampled) chat answers of a GGUF model, several at once.

    The prompt is made by the file's own chat template; without one, the texts follow each other as paragraphs.

    Parameters
    ----------
    model
        A GGUF file (of a split model, the first part), or ``builtin:NAME``.
    max_new_tokens
        Longest answer, in tokens; an answer that reaches it has finish reason ``"length"``.
    threads
        CPU threads; 0 takes the cores that are free when the model is loaded.
    batch
        Answers at once (llama.cpp's slots). Not part of the identity of a profile, though the texts of a
        quantised model may differ with it.
    temperature, top_p, seed
        Temperature 0 is greedy. Otherwise each item is sampled from `seed` and its key.
    context
        Tokens of prompt and answer together; 0 takes `max_new_tokens` + 1024, at most what the model was
        trained for. Memory grows with context × batch.
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 256,
        threads: int = 0,
        batch: int = 8,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        context: int = 0,
    ) -> None:
        if max_new_tokens < 1 or batch < 1 or threads < 0 or context < 0:
            raise BftembedError(
                f"llamacpp: max_new_tokens={max_new_tokens} and batch={batch} must be at least 1; threads={threads} "
                f"and context={context} at least 0 (0 chooses)."
            )
        if temperature < 0 or not 0 < top_p <= 1:
            raise BftembedError("llamacpp: temperature must be at least 0, and top_p in (0, 1].")
        if 0 < context <= max_new_tokens:
            raise BftembedError(
                f"llamacpp: context={context} leaves no room for a prompt beside max_new_tokens={max_new_tokens}."
            )
        require("xllamacpp", "llamacpp")
        self.model, self.max_new_tokens, self.batch_size = model, max_new_tokens, batch
        self._temperature, self._top_p, self._seed, self._threads = float(temperature), float(top_p), seed, threads
        parts = gguf_parts(_gguf_file(model))
        headers = [read_gguf_header(part) for part in parts]
        self._file, self._header = parts[0], headers[0]
        self._revision = ",".join(weights_revision(part) for part in parts)
        self._context = self._choose_context(context)
        self._server: Any = None

    def _choose_context(self, context: int) -> int:
        trained = self._header.context
        chosen = context or self.max_new_tokens + _PROMPT_TOKENS
        chosen = -(-chosen // _CONTEXT_STEP) * _CONTEXT_STEP
        if trained and context > trained:
            raise BftembedError(f"llamacpp: context={context}, but {self.model} was trained for {trained} tokens.")
        return min(chosen, trained) if trained else chosen

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, file, version, quantisation, context and sampling; nothing is loaded."""
        sampling: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self._temperature}
        if self._temperature > 0:
            sampling |= {"top_p": self._top_p, "seed": self._seed}
        return {
            "engine": "llamacpp",
            "model": self.model,
            "revision": self._revision,
            "backend": {"xllamacpp": importlib.metadata.version("xllamacpp")},
            "quantization": self._header.quantization,
            "context": self._context,
            "sampling": sampling,
        }

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions as they end, `batch` of them being written at any time.

        A prompt that does not fit the context together with its answer is an error completion.
        """
        if not requests:
            return
        if self._server is None:
            self._server = self._load()
        pool = ThreadPoolExecutor(self.batch_size, thread_name_prefix="llamacpp")
        try:
            for done in as_completed([pool.submit(self._answer, request) for request in requests]):
                yield done.result()
        finally:
            # After Ctrl-C the answers that wait are dropped; those being written end by themselves.
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Any:
        xllamacpp = require("xllamacpp", "llamacpp")
        self._threads = self._threads or free_cores()
        params = xllamacpp.CommonParams()
        params.model.path = str(self._file)
        params.n_ctx, params.n_parallel = self._context * self.batch_size, self.batch_size
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.verbosity = -1
        params.warmup = False
        params.cache_ram_mib = 0
        params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
        # The engine cannot be had without a port on the loopback; nobody else on the machine may use it.
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [secrets.token_hex(16)]
        params.ui = params.endpoint_slots = False
        try:
            return xllamacpp.Server(params)
        except RuntimeError as err:
            raise BftembedError(
                f"llama.cpp cannot load {self._file}: {err} The file may be damaged, its architecture newer than "
                f"xllamacpp {importlib.metadata.version('xllamacpp')}, or memory too small for batch="
                f"{self.batch_size} × context={self._context}. Lower these, fetch the file again, or upgrade xllamacpp."
            ) from err

    def _answer(self, request: Request) -> Completion:
        options = {
            "max_tokens": self.max_new_tokens,
            "temperature": self._temperature,
            "top_p": self._top_p,
            "top_k": 0,
            "min_p": 0.0,
            # llama.cpp takes 2**32 - 1 for "any seed".
            "seed": (self._seed ^ int(request.key[:8], 16)) & 0x7FFFFFFF,
            # A prompt prefix left over from another item would make the text depend on the order of items.
            "cache_prompt": False,
        }
        if self._header.has_chat_template:
            # Verbose: the answer holds the rendered prompt.
            asked = {"messages": list(request.messages), "verbose": True, **options}
            answer = self._server.handle_chat_completions(asked)
        else:
            prompt = "\n\n".join(m["content"] for m in request.messages) + "\n\n"
            answer = self._server.handle_completions({"prompt": prompt, **options})
        return self._completion(request.key, answer)

    def _completion(self, key: str, answer: dict[str, Any]) -> Completion:
        if "error" in answer:
            found = answer["error"]
            message = f"llama.cpp: {found.get('message', found)}"
            return Completion(key, "", "error", int(found.get("n_prompt_tokens", 0)), error=message)
        choice, usage = answer["choices"][0], answer["usage"]
        text = (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
        if "message" in choice:
            text = open_reasoning(answer["__verbose"]["prompt"]) + text
        n_prompt, n_answer = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        if choice["finish_reason"] != "length":
            # The token that ends an answer is counted by llama.cpp, and not by us.
            return Completion(key, text, choice["finish_reason"] or "", n_prompt, max(0, n_answer - 1))
        if n_answer < self.max_new_tokens:
            error = (
                f"the prompt has {n_prompt} tokens; with max_new_tokens={self.max_new_tokens} it exceeds the "
                f"context of {self._context}"
            )
            return Completion(key, "", "error", n_prompt, error=error)
        return Completion(key, text, "length", n_prompt, n_answer)


def _gguf_file(model: str) -> Path:
    if not model.startswith("builtin:"):
        return Path(model).expanduser()
    path, _ = packaged_file("language-model", model.removeprefix("builtin:"))
    return path
