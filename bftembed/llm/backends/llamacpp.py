"""GGUF models through llama.cpp, inside this process: the prebuilt package xllamacpp, no server to start."""

from __future__ import annotations

import importlib.metadata
import re
import secrets
import struct
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from bftembed.errors import BftembedError, require
from bftembed.llm.backends.openai import body_of, option_scores
from bftembed.llm.base import Capabilities, Completion, Sampling
from bftembed.llm.chat import Template, closing_of, paragraphs, warn_of_no_template, with_closing, without_system
from bftembed.llm.models import model_files, weights_revision
from bftembed.llm.reasoning import open_reasoning
from bftembed.machine import free_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Message, Request

#: Tokens that a prompt may have when the context is left to us; ours have about 100.
_PROMPT_TOKENS = 1024
#: Most likely next tokens that are asked for where options are scored.
_TOP = 100
#: llama.cpp rounds a context up to a multiple of this.
_CONTEXT_STEP = 256
#: Type number of a value in a GGUF file → struct format; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(eq=False)
class LlamaCpp:
    """Greedy (or sampled) chat answers of a GGUF model, several at once.

    Parameters
    ----------
    model
        A GGUF file (of a split model, the first part), or ``builtin:NAME``.
    max_new_tokens
        Maximum length of an answer, in tokens; the context has room for it.
    threads
        CPU threads; 0 takes the cores that are free when the model is loaded.
    batch
        Answers at once (llama.cpp's slots). Not part of the identity of a profile, though the texts of a
        quantised model may differ with it.
    context
        Tokens of prompt and answer together; 0 takes `max_new_tokens` and 1,024 for the prompt, at most what the
        model was trained for. Memory grows with context × batch.
    """

    sampling: ClassVar[Sampling] = Sampling(max_new_tokens=256)

    model: str
    max_new_tokens: int = 256
    threads: int = 0
    batch: int = 8
    context: int = 0
    thinking: str = "auto"
    template: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or min(self.threads, self.context) < 0:
            raise BftembedError(
                f"llamacpp: batch={self.batch} must be at least 1; threads={self.threads} and context={self.context} "
                "at least 0 (0 chooses)."
            )
        require("xllamacpp", "llamacpp")
        self.batch_size = self.batch
        self._template = Template(self.thinking, self.template or {})
        parts = _gguf_parts(model_files("language-model", self.model) if "builtin:" in self.model else Path(self.model))
        self._file = parts[0]
        settings = _read_gguf_settings(self._file)
        self._quantization = _quantization(settings.get("general.file_type"))
        self._chat_template = str(settings.get("tokenizer.chat_template") or "")
        self._revision = ",".join(weights_revision(part) for part in parts)
        trained = int(settings.get(f"{settings.get('general.architecture')}.context_length", 0))
        if trained and self.context > trained:
            raise BftembedError(f"llamacpp: context={self.context}, but {self.model} was trained for {trained} tokens.")
        chosen = -(-(self.context or self.max_new_tokens + _PROMPT_TOKENS) // _CONTEXT_STEP) * _CONTEXT_STEP
        self.context = min(chosen, trained or chosen)
        self._server: Any = None
        self._drops_system = False

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, file, version, quantisation, context and sampling; nothing is loaded."""
        return {
            "engine": "llamacpp",
            "model": self.model,
            "revision": self._revision,
            "backend": {"xllamacpp": importlib.metadata.version("xllamacpp")},
            "quantization": self._quantization,
            "context": self.context,
            **self._template.fingerprint(self._chat_template),
        }

    def capabilities(self) -> Capabilities:
        """Return chat, JSON schemas (by a grammar), and scores of options that are one token."""
        return Capabilities(options=True, schema=True)

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
        params = xllamacpp.CommonParams()
        params.model.path = str(self._file)
        params.n_ctx, params.n_parallel = self.context * self.batch_size, self.batch_size
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads or free_cores()
        params.verbosity = -1
        params.warmup = False
        params.cache_ram_mib = 0
        params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
        # The engine cannot be had without a port on the loopback; nobody else on the machine may use it.
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [secrets.token_hex(16)]
        params.ui = params.endpoint_slots = False
        server = self._started(params)
        if not self._chat_template:
            warn_of_no_template(self.model)
            return server
        chat = ({"role": "system", "content": "ROLE"}, {"role": "user", "content": "QUESTION"})
        for self._drops_system in (False, True):
            sent = without_system(chat) if self._drops_system else chat
            prompt = _rendered(server, sent, self._template.options)
            if "ROLE" in prompt and "QUESTION" in prompt:
                break
        else:
            raise BftembedError(f"The chat template of {self.model} leaves out the content of messages.")
        closing = closing_of(prompt) if self._template.thinking == "off" else ""
        if closing:
            params.chat_template = with_closing(self._chat_template, closing)
            server = self._started(params)
        return server

    def _started(self, params: Any) -> Any:
        try:
            return require("xllamacpp", "llamacpp").Server(params)
        except RuntimeError as err:
            raise BftembedError(
                f"llama.cpp cannot load {self._file}: {err} The file may be damaged, its architecture too new for "
                f"this xllamacpp, or memory too small for batch={self.batch_size} × context={self.context}."
            ) from err

    def _answer(self, request: Request) -> Completion:
        chat = bool(request.messages and self._chat_template)
        asked: dict[str, Any] = {
            "top_k": 0,
            "min_p": 0.0,
            "top_p": 1.0,
            **body_of(request, _TOP, chat=chat),
            "seed": request.sampling.seed_of(request),
            # A prompt prefix left over from another item would make the text depend on the order of items.
            "cache_prompt": bool(request.options),
        }
        if not chat:
            prompt = request.prompt or paragraphs(request.messages)
            return self._completion(request, self._server.handle_completions({"prompt": prompt, **asked}))
        messages = without_system(request.messages) if self._drops_system else list(request.messages)
        # Verbose: the answer holds the rendered prompt.
        asked |= {"messages": messages, "verbose": True, "chat_template_kwargs": self._template.options}
        return self._completion(request, self._server.handle_chat_completions(asked))

    def _completion(self, request: Request, answer: dict[str, Any]) -> Completion:
        if "error" in answer:
            found = answer["error"]
            error = f"llama.cpp: {found.get('message', found)}"
            return Completion(request.id, "", "", "error", int(found.get("n_prompt_tokens", 0)), error=error)
        choice, usage = answer["choices"][0], answer["usage"]
        n_prompt, n_answer = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        if request.options:
            return Completion(request.id, prompt_tokens=n_prompt, scores=option_scores(choice, request.options))
        reason, most = choice["finish_reason"] or "", request.sampling.max_new_tokens
        if reason == "length" and n_answer < most:
            error = f"the prompt has {n_prompt} tokens; with max_new_tokens={most} it exceeds the context of "
            return Completion(request.id, "", "", "error", n_prompt, error=f"{error}{self.context}")
        if "message" in choice:
            text = open_reasoning(answer["__verbose"]["prompt"]) + (choice["message"]["content"] or "")
        else:
            text = choice["text"] or ""
        # The token that ends an answer is counted by llama.cpp, and not by us.
        return Completion(request.id, text, "", reason, n_prompt, max(0, n_answer - (reason != "length")))


def _rendered(server: Any, messages: Sequence[Message], options: dict[str, Any]) -> str:
    """Return a chat as the model's template renders it; ``""`` where it rejects the chat."""
    asked = {"messages": list(messages), "max_tokens": 1, "verbose": True, "chat_template_kwargs": options}
    answer = server.handle_chat_completions(asked)
    return str(answer.get("__verbose", {}).get("prompt", ""))


def _gguf_parts(path: Path) -> list[Path]:
    """Return the files of a model: one, or all of a split one (``NAME-00001-of-00003.gguf``)."""
    parts = [path.expanduser()]
    if split := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name):
        parts = [parts[0].with_name(f"{split[1]}-{i:05d}-of-{split[2]}.gguf") for i in range(1, int(split[2]) + 1)]
    for part in parts:
        if not part.is_file():
            raise BftembedError(f"No such GGUF file: {part}. Give the file itself; of a split model, all parts.")
    return parts


def _read_gguf_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a GGUF file by their keys in it; arrays, such as the vocabulary, are left out.

    The reader of the package ``gguf`` takes many seconds for a vocabulary.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BftembedError(f"{path} is not a GGUF file. Take 'transformers' for a folder of safetensors.")
        try:
            version, _, n_settings = struct.unpack("<IQQ", file.read(20))
            if version not in (2, 3):
                raise ValueError(f"it has GGUF version {version}, known are 2 and 3")
            found = {_value(file, _STRING): _value(file) for _ in range(n_settings)}
        except (struct.error, ValueError, LookupError, ArithmeticError, MemoryError, OSError) as err:
            raise BftembedError(f"The header of {path} is damaged or cut: {err}. Fetch the file again.") from err
    return {name: value for name, value in found.items() if value is not None}


def _quantization(file_type: int | None) -> str:
    """Return the name of a file type (the setting ``general.file_type``), for example ``"Q4_1"``."""
    types = {int(t): t.name for t in require("gguf", "llamacpp").LlamaFileType} | {None: ""}
    return re.sub("^(?:MOSTLY|ALL)_", "", types.get(file_type, f"type {file_type}"))


def _value(file: BinaryIO, kind: int | None = None) -> Any:
    """Read a value, and its type before it where that is not known; whatever is cut is a struct.error."""

    def number(code: str) -> Any:
        return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]

    kind = number("I") if kind is None else kind
    if kind == _STRING:
        return file.read(number("Q")).decode("utf-8", errors="replace")
    if kind != _ARRAY:
        return number(_SCALARS[kind])
    inner, n = number("I"), number("Q")
    if inner in _SCALARS:
        file.seek(n * struct.calcsize(_SCALARS[inner]), 1)
    else:
        for _ in range(n):
            _value(file, inner)
    return None
