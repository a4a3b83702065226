"""Hugging Face transformers on this machine: batches that rows leave and join, and likelihoods over shared prefixes."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.chat import Template, option_tokens, request_tokens, template_in
from bftembed.llm.models import DTYPES, attends_to_all_before, load_language_model, model_files, model_identity
from bftembed.llm.reasoning import with_reasoning_markers
from bftembed.machine import cpu_has_bf16, free_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request

#: Tokens (prompt and answer) that one batch may hold, and rows.
_TOKENS_PER_BATCH = 32_768
_MAX_BATCH = 128
#: Rows whose options are scored at once.
_MAX_SCORED = 32
#: Tokens that prompts must share at their beginning for it to be computed once.
_MIN_PREFIX = 16


class Transformers:
    """Answers and option scores of a causal language model.

    Parameters
    ----------
    model
        ``builtin:NAME``, a folder, or a hub name.
    batch_size
        Answers at once; 0 chooses by their length. Not part of the identity of an answer, though in bf16 the texts may
        differ with it.
    dtype
        ``"bf16"``, ``"fp16"``, ``"fp32"`` or ``"auto"``: bf16 where the processor multiplies it in hardware
        (or on a GPU), else fp32.
    threads
        CPU threads; 0 takes the cores that are free when the model is loaded.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
    thinking
        As in `bftembed.llm.chat.Template`.
    template
        Options of the chat template: ``template_enable_thinking=false``.
    """

    def __init__(
        self,
        model: str,
        batch_size: int = 0,
        dtype: str = "auto",
        threads: int = 0,
        device: str = "auto",
        thinking: str = "auto",
        template: dict[str, Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise BftembedError(f"transformers: dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
        if batch_size < 0 or threads < 0:
            raise BftembedError(f"transformers: batch_size={batch_size} and threads={threads} are at least 0.")
        require("transformers", "local")
        self._torch = require("torch", "local")
        self.model, self.batch_size, self._threads = model, batch_size or _MAX_BATCH, threads
        self._device = self._choose_device(device)
        self._dtype = self._choose_dtype(dtype)
        self._revision = model_identity("language-model", model)
        self._template = Template(thinking, template or {})
        self._engine: _Engine | None = None

    def _choose_device(self, device: str) -> str:
        if device == "auto":
            return "cuda" if self._torch.cuda.is_available() else "cpu"
        try:
            self._torch.device(device)
        except RuntimeError as err:
            raise BftembedError(f"transformers: torch does not know device={device!r} (cpu, cuda, …).") from err
        if device.startswith("cuda") and not self._torch.cuda.is_available():
            raise BftembedError(f"transformers: device={device!r}, but torch sees no CUDA device here.")
        return device

    def _choose_dtype(self, dtype: str) -> str:
        if dtype != "auto":
            return DTYPES[dtype]
        return "bfloat16" if self._device.startswith("cuda") or cpu_has_bf16() else "float32"

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, revision, versions, dtype, device and template options; no weights are loaded."""
        import transformers

        return {
            "engine": "transformers",
            "model": self.model,
            "revision": self._revision,
            "backend": {"transformers": transformers.__version__, "torch": self._torch.__version__},
            "dtype": self._dtype,
            "device": self._device.split(":")[0],
            **self._template.fingerprint(template_in(model_files("language-model", self.model))),
        }

    def capabilities(self) -> Capabilities:
        """Return chat and option scores."""
        return Capabilities(options=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions as they end, prompts of similar length together.

        A prompt that does not fit the model's context together with its answer is an error completion.
        """
        if not requests:
            return
        if self._engine is None:
            self._engine = self._load()
        engine = self._engine
        with self._using_threads(), self._torch.inference_mode():
            yield from engine.scored([r for r in requests if r.options])
            written = [_Row(r, engine.prompt_tokens(r)) for r in requests if not r.options]
            fitting = []
            for row in sorted(written, key=lambda row: len(row.prompt)):
                if engine.context and len(row.prompt) + row.request.sampling.max_new_tokens > engine.context:
                    error = (
                        f"the prompt has {len(row.prompt)} tokens; with "
                        f"max_new_tokens={row.request.sampling.max_new_tokens} it exceeds the model's context of "
                        f"{engine.context}"
                    )
                    yield Completion(row.request.id, "", "", "error", len(row.prompt), error=error)
                else:
                    fitting.append(row)
            yield from engine.written(fitting, self.batch_size)

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
        if model._is_stateful:
            raise BftembedError(f"transformers: {self.model} keeps a state in place of a cache. Serve it with vLLM.")
        self._template.apply(tokenizer, self.model)
        return _Engine(self._torch, model.to(self._device), tokenizer, self._template.options)


@dataclass
class _Row:
    """A request that is being answered."""

    request: Request
    prompt: list[int]
    answer: list[int] = field(default_factory=list)
    generator: Any = None
    ended: str = ""


@dataclass
class _Batch:
    """Rows with the cache of their keys and values; columns are right-aligned, and `mask` is 0 where a row has none."""

    rows: list[_Row]
    cache: Any
    mask: Any
    last: Any


class _Engine:
    def __init__(self, torch: Any, model: Any, tokenizer: Any, template_options: dict[str, Any]) -> None:
        self.torch, self.model, self.tokenizer = torch, model, tokenizer
        self.device = model.device
        configured = getattr(model.generation_config, "eos_token_id", None)
        ends = configured if isinstance(configured, list) else [configured]
        self.stop_ids = frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)
        self.context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
        self._options = template_options
        #: As the model's generation config asks for (arXiv 1909.05858).
        self._penalty = float(getattr(model.generation_config, "repetition_penalty", None) or 1)
        #: bf16 rounds sums that were taken in another order so coarsely that greedy texts change.
        self._shares = attends_to_all_before(model)
        self._shares_written = self._shares and model.dtype == torch.float32

    def prompt_tokens(self, request: Request) -> list[int]:
        """Return the tokens of a request's prompt."""
        return request_tokens(self.tokenizer, request, self._options)

    # -- writing ------------------------------------------------------------------------------------------

    def written(self, rows: list[_Row], batch_size: int) -> Iterator[Completion]:
        """Write answers, greedy or sampled. A row that has ended leaves the batch, and others join it."""
        from transformers import DynamicCache

        prefix = self._common([row.prompt for row in rows]) if self._shares_written else 0
        beginning = DynamicCache()
        if prefix:
            self._forward([rows[0].prompt[:prefix]], beginning)
        waiting, batch = deque(rows), None
        while waiting or batch is not None:
            batch = self._with_joiners(batch, waiting, batch_size, prefix, beginning)
            self._step(batch)
            ended = [row for row in batch.rows if row.ended]
            if ended:
                yield from map(self._completion, ended)
                batch = self._without_ended(batch)

    def _with_joiners(
        self, batch: _Batch | None, waiting: deque[_Row], batch_size: int, prefix: int, beginning: Any
    ) -> _Batch:
        present = batch.rows if batch else []
        longest = max(len(r.prompt) + r.request.sampling.max_new_tokens for r in [*present, *list(waiting)[:1]])
        room = max(1, min(batch_size, _TOKENS_PER_BATCH // longest)) - len(present)
        # Each joining reads prompts once more for the whole model: not for a row or two.
        if not waiting or (present and room < max(1, batch_size // 8) and room < len(waiting)):
            assert batch is not None
            return batch
        joining = [waiting.popleft() for _ in range(min(max(room, 1 - len(present)), len(waiting)))]
        for row in joining:
            if row.request.sampling.temperature > 0:
                seed = row.request.sampling.seed_of(row.request)
                row.generator = self.torch.Generator(self.device).manual_seed(seed)
        new = self._read(joining, prefix, beginning)
        return new if batch is None else self._joined(batch, new)

    def _read(self, rows: list[_Row], prefix: int, beginning: Any) -> _Batch:
        """Run the model over the prompts of new rows but for their last token."""
        torch, longest = self.torch, max(len(row.prompt) for row in rows)
        tokens = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            # Padding lies between the common beginning and the rest.
            rest = longest - len(row.prompt) + prefix
            tokens[i, :prefix], tokens[i, rest:] = torch.tensor(row.prompt[:prefix]), torch.tensor(row.prompt[prefix:])
            mask[i, :prefix], mask[i, rest:] = 1, 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        cache = self._repeated(beginning, len(rows))
        if longest - 1 > prefix:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix:-1]
            self.model(
                input_ids=tokens[:, prefix:-1],
                attention_mask=mask[:, :-1],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return _Batch(rows, cache, mask[:, :-1], tokens[:, -1])

    def _joined(self, batch: _Batch, new: _Batch) -> _Batch:
        torch = self.torch
        length = max(batch.mask.shape[1], new.mask.shape[1])

        def padded(values: Any) -> Any:  # of shape (rows, heads, columns, size)
            return torch.nn.functional.pad(values, (0, 0, length - values.shape[2], 0))

        for ours, theirs in zip(batch.cache.layers, new.cache.layers, strict=True):
            for name in ("keys", "values"):
                setattr(ours, name, torch.cat([padded(getattr(ours, name)), padded(getattr(theirs, name))]))
        masks = [torch.nn.functional.pad(m, (length - m.shape[1], 0)) for m in (batch.mask, new.mask)]
        rows = [*batch.rows, *new.rows]
        return _Batch(rows, batch.cache, torch.cat(masks), torch.cat([batch.last, new.last]))

    def _without_ended(self, batch: _Batch) -> _Batch | None:
        kept = [i for i, row in enumerate(batch.rows) if not row.ended]
        if not kept:
            return None
        which = self.torch.tensor(kept, device=self.device)
        mask = batch.mask[which]
        # Columns at the left that no row uses any more.
        unused = int(mask.any(0).int().argmax())
        for layer in batch.cache.layers:
            layer.keys, layer.values = layer.keys[which, :, unused:], layer.values[which, :, unused:]
        return _Batch([batch.rows[i] for i in kept], batch.cache, mask[:, unused:], batch.last[which])

    def _step(self, batch: _Batch) -> None:
        """Write one token of every row."""
        torch = self.torch
        batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
        logits = self.model(
            input_ids=batch.last[:, None],
            attention_mask=batch.mask,
            position_ids=batch.mask.sum(1, keepdim=True) - 1,
            past_key_values=batch.cache,
            use_cache=True,
        ).logits[:, -1]
        if self._penalty != 1:
            for i, row in enumerate(batch.rows):
                seen = torch.tensor(sorted({*row.prompt, *row.answer}), device=self.device)
                logits[i, seen] = torch.where(logits[i, seen] < 0, self._penalty, 1 / self._penalty) * logits[i, seen]
        tokens = logits.argmax(-1)
        for i, row in enumerate(batch.rows):
            if row.generator is not None:
                tokens[i] = self._sampled(logits[i].float(), row)
        batch.last = tokens
        for row, token in zip(batch.rows, tokens.tolist(), strict=True):
            if token in self.stop_ids:
                row.ended = "stop"
                continue
            row.answer.append(token)
            sampling = row.request.sampling
            if sampling.stop and any(s in self.tokenizer.decode(row.answer) for s in sampling.stop):
                row.ended = "stop"
            elif len(row.answer) >= sampling.max_new_tokens:
                row.ended = "length"

    def _sampled(self, logits: Any, row: _Row) -> Any:
        torch, sampling = self.torch, row.request.sampling
        chances, order = torch.softmax(logits / sampling.temperature, -1).sort(descending=True)
        chances[chances.cumsum(0) - chances >= sampling.top_p] = 0
        return order[torch.multinomial(chances, 1, generator=row.generator)[0]]

    def _completion(self, row: _Row) -> Completion:
        text = self.tokenizer.decode(row.answer, skip_special_tokens=True)
        if row.request.messages:
            raw = self.tokenizer.decode(row.answer, skip_special_tokens=False)
            text = with_reasoning_markers(text, raw, self.tokenizer.decode(row.prompt[-64:]))
        cut = [at for stop in row.request.sampling.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cut)] if cut else text
        return Completion(row.request.id, text, "", row.ended, len(row.prompt), len(row.answer))

    # -- scoring ------------------------------------------------------------------------------------------

    def scored(self, requests: list[Request]) -> Iterator[Completion]:
        """Yield the log-likelihoods of options; what prompts share at their beginning is computed once.

        Prompt and option are tokenized together, and a space at the end of the prompt is the option's.
        """
        asked = []
        for request in requests:
            context, whole = option_tokens(self.tokenizer, request, self._options)
            options = [ids[len(context) :] for ids in whole]
            longest = max(map(len, whole))
            if not all(options) or not context or (self.context and longest > self.context):
                error = f"prompt and options have {longest} tokens; the context of the model is {self.context}"
                error = error if all(options) and context else "an empty prompt or option has no likelihood"
                yield Completion(request.id, "", "", "error", len(context), error=error)
            else:
                asked.append((context, options, request))
        asked.sort(key=lambda one: one[0])
        start = 0
        while start < len(asked):
            end = start + 1
            shared = 0
            while self._shares and end < len(asked):
                common = _common_prefix(asked[start][0], asked[end][0])
                if common < max(_MIN_PREFIX, 0.8 * shared):
                    break
                shared, end = common, end + 1
            yield from self._scored_together(asked[start:end])
            start = end

    def _scored_together(self, asked: list[tuple[list[int], list[list[int]], Request]]) -> Iterator[Completion]:
        """Score requests whose prompts share their beginning."""
        from transformers import DynamicCache

        prefix = self._common([context for context, _, _ in asked]) if self._shares else 0
        beginning = DynamicCache()
        if prefix:
            self._forward([asked[0][0][:prefix]], beginning)
        # One row per request where all options are single tokens, else one per option.
        rows: list[tuple[list[int], list[tuple[int, int, int]]]] = []  # tokens; (option, position, target)
        where: list[int] = []
        for i, (context, options, _) in enumerate(asked):
            rest = context[prefix:]
            last = len(rest) - 1
            if all(len(option) == 1 for option in options):
                rows.append((rest, [(o, last, option[0]) for o, option in enumerate(options)]))
                where.append(i)
                continue
            for o, option in enumerate(options):
                rows.append((rest + option[:-1], [(o, last + t, token) for t, token in enumerate(option)]))
                where.append(i)
        scores = [[0.0] * len(options) for _, options, _ in asked]
        missing = Counter(where)
        order = sorted(range(len(rows)), key=lambda r: len(rows[r][0]))
        while order:
            # Rows of similar length, so that little is padded.
            shortest = len(rows[order[0]][0])
            most = max(1, min(_MAX_SCORED, _TOKENS_PER_BATCH // (prefix + 2 * shortest)))
            size = sum(len(rows[r][0]) <= 1.2 * shortest + 8 for r in order[:most])
            some, order = order[:size], order[size:]
            found = self._log_likelihoods([rows[r] for r in some], prefix, beginning)
            for r, values in zip(some, found, strict=True):
                one = where[r]
                for (which, _, _), value in zip(rows[r][1], values, strict=True):
                    scores[one][which] += value
                missing[one] -= 1
                if not missing[one]:
                    context, _, request = asked[one]
                    yield Completion(request.id, prompt_tokens=len(context), scores=tuple(scores[one]))

    def _log_likelihoods(
        self, rows: list[tuple[list[int], list[tuple[int, int, int]]]], prefix: int, beginning: Any
    ) -> list[list[float]]:
        torch, longest = self.torch, max(len(tokens) for tokens, _ in rows)
        # Padded at the right: no token looks at what comes after it.
        tokens = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows], device=self.device)
        cache = self._repeated(beginning, len(rows))
        wanted = [(i, position, target) for i, (_, targets) in enumerate(rows) for _, position, target in targets]
        positions = sorted({position for _, position, _ in wanted})
        place = {position: k for k, position in enumerate(positions)}
        logits = self.model(
            input_ids=tokens,
            position_ids=torch.arange(prefix, prefix + longest, device=self.device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(positions, device=self.device),
        ).logits
        at = sorted({(i, place[position]) for i, position, _ in wanted})
        row_of = {one: k for k, one in enumerate(at)}
        chosen = logits[[i for i, _ in at], [k for _, k in at]].float().log_softmax(-1)
        found = chosen[
            [row_of[i, place[position]] for i, position, _ in wanted], [target for _, _, target in wanted]
        ].tolist()
        values = iter(found)
        return [[next(values) for _ in targets] for _, targets in rows]

    def _repeated(self, beginning: Any, n: int) -> Any:
        """Return the cache of a beginning for several rows; nothing is copied before rows differ."""
        cache = copy.copy(beginning)
        cache.layers = [copy.copy(layer) for layer in beginning.layers]
        for layer in cache.layers:
            layer.keys, layer.values = (x.expand(n, *x.shape[1:]) for x in (layer.keys, layer.values))
        return cache

    def _forward(self, tokens: list[list[int]], cache: Any) -> None:
        ids = self.torch.tensor(tokens, device=self.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def _common(self, prompts: list[list[int]]) -> int:
        """Return the number of tokens that several prompts begin with, but for the last of the shortest."""
        if len(prompts) < 2:
            return 0
        common = min(_common_prefix(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
        return common if common >= _MIN_PREFIX else 0


def _common_prefix(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
