"""Hugging Face transformers on this machine: batches that rows leave and join, and likelihoods over shared prefixes."""

from __future__ import annotations

import contextlib
import copy
import functools
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
#: A token whose likelihood is wanted: number of the option, position in the row, token.
_Target = tuple[int, int, int]


@dataclass(eq=False)
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

    model: str
    batch_size: int = 0
    dtype: str = "auto"
    threads: int = 0
    device: str = "auto"
    thinking: str = "auto"
    template: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.batch_size < 0 or self.threads < 0:
            raise BftembedError(
                f"transformers: dtype={self.dtype!r} must be one of {', '.join(DTYPES)}, and "
                f"batch_size={self.batch_size} and threads={self.threads} at least 0."
            )
        require("transformers", "local")
        self._torch = require("torch", "local")
        cuda = self._torch.cuda.is_available()
        self.batch_size = self.batch_size or _MAX_BATCH
        if self.device == "auto":
            self.device = "cuda" if cuda else "cpu"
        if self.device.startswith("cuda") and not cuda:
            raise BftembedError(f"transformers: device={self.device!r}, but torch sees no CUDA device here.")
        bf16 = self.device.startswith("cuda") or cpu_has_bf16()
        self._dtype = DTYPES[self.dtype] if self.dtype != "auto" else "bfloat16" if bf16 else "float32"
        self._revision = model_identity("language-model", self.model)
        self._template = Template(self.thinking, self.template or {})
        self._engine: _Engine | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, revision, versions, dtype, device and template options; no weights are loaded."""
        import transformers

        return {
            "engine": "transformers",
            "model": self.model,
            "revision": self._revision,
            "backend": {"transformers": transformers.__version__, "torch": self._torch.__version__},
            "dtype": self._dtype,
            "device": self.device.split(":")[0],
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
            fitting = []
            for row in [_Row(r, engine.prompt_tokens(r)) for r in requests if not r.options]:
                n, new = len(row.prompt), row.request.sampling.max_new_tokens
                if engine.context and n + new > engine.context:
                    error = f"the prompt has {n} tokens; with max_new_tokens={new} it exceeds the model's context of "
                    yield _failure(row.request, n, f"{error}{engine.context}")
                else:
                    fitting.append(row)
            yield from engine.written(sorted(fitting, key=lambda row: len(row.prompt)), self.batch_size)

    @contextlib.contextmanager
    def _using_threads(self) -> Iterator[None]:
        """Set torch's threads for a while: an encoder after us must not depend on how busy the machine was."""
        before = self._torch.get_num_threads()
        if self.device == "cpu":
            self.threads = self.threads or free_cores()
            self._torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            self._torch.set_num_threads(before)

    def _load(self) -> _Engine:
        model, tokenizer, _ = load_language_model(self.model, self._dtype)
        if model._is_stateful:
            raise BftembedError(f"transformers: {self.model} keeps a state in place of a cache. Serve it with vLLM.")
        self._template.apply(tokenizer, self.model)
        return _Engine(self._torch, model.to(self.device), tokenizer, self._template.options)


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

    def written(self, rows: list[_Row], batch_size: int) -> Iterator[Completion]:
        """Write answers, greedy or sampled. Rows that wait take the places of those that have ended."""
        prefix, beginning = self._beginning([row.prompt for row in rows], self._shares_written)
        waiting, batch = deque(rows), None
        while waiting or batch is not None:
            batch = self._refilled(batch, waiting, batch_size, prefix, beginning)
            yield from map(self._completion, self._step(batch))
            batch = None if all(row.ended for row in batch.rows) else batch

    def _refilled(
        self, batch: _Batch | None, waiting: deque[_Row], batch_size: int, prefix: int, beginning: Any
    ) -> _Batch:
        active = [row for row in batch.rows if not row.ended] if batch else []
        longest = max(len(r.prompt) + r.request.sampling.max_new_tokens for r in [*active, *list(waiting)[:1]])
        room = min(max(1, min(batch_size, _TOKENS_PER_BATCH // longest)) - len(active), len(waiting))
        some = max(1, batch_size // 8)
        if batch is not None and (room <= 0 or (room < some and room < len(waiting))):
            # A row that has ended is computed on, until several have: to leave is to copy the cache.
            return batch if len(batch.rows) - len(active) < some else self._kept(batch)
        joining = [waiting.popleft() for _ in range(room)]
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
            self.model(
                input_ids=tokens[:, prefix:-1],
                attention_mask=mask[:, :-1],
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, prefix:-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return _Batch(rows, cache, mask[:, :-1], tokens[:, -1])

    def _joined(self, batch: _Batch, new: _Batch) -> _Batch:
        """Put new rows in the places of those that have ended; where there are more or fewer, behind the others."""
        torch = self.torch
        free = [i for i, row in enumerate(batch.rows) if row.ended]
        if len(free) != len(new.rows):
            batch, free = self._kept(batch), []
        length = max(batch.mask.shape[1], new.mask.shape[1])

        def merged(ours: Any, theirs: Any, columns: int) -> Any:
            """Merge arrays whose axis `columns` (from the end) is that of the columns, none if 0."""
            both = [ours, theirs]
            if columns:
                pads = [(0, 0) * (columns - 1) + (length - x.shape[-columns], 0) for x in both]
                both = [torch.nn.functional.pad(x, p) if p[-2] else x for x, p in zip(both, pads, strict=True)]
            if not free:
                return torch.cat(both)
            both[0][free] = both[1]
            return both[0]

        for ours, theirs in zip(batch.cache.layers, new.cache.layers, strict=True):
            ours.keys, ours.values = merged(ours.keys, theirs.keys, 2), merged(ours.values, theirs.values, 2)
        batch.mask, batch.last = merged(batch.mask, new.mask, 1), merged(batch.last, new.last, 0)
        for i, row in zip(free or range(len(batch.rows), len(batch.mask)), new.rows, strict=True):
            batch.rows[i : i + 1] = [row]
        return self._trimmed(batch)

    def _kept(self, batch: _Batch) -> _Batch:
        """Leave out the rows that have ended."""
        kept = [i for i, row in enumerate(batch.rows) if not row.ended]
        which = self.torch.tensor(kept, device=self.device)
        for layer in batch.cache.layers:
            layer.keys, layer.values = layer.keys[which], layer.values[which]
        return self._trimmed(_Batch([batch.rows[i] for i in kept], batch.cache, batch.mask[which], batch.last[which]))

    def _trimmed(self, batch: _Batch) -> _Batch:
        """Leave out the columns at the left that no row uses."""
        unused = int(batch.mask.any(0).int().argmax())
        for layer in batch.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
        batch.mask = batch.mask[:, unused:]
        return batch

    def _step(self, batch: _Batch) -> list[_Row]:
        """Write one token of every row, and return those that end with it."""
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
        batch.last = logits.argmax(-1)
        for i, row in enumerate(batch.rows):
            if row.generator is not None:
                batch.last[i] = self._sampled(logits[i].float(), row)
        active = [(row, token) for row, token in zip(batch.rows, batch.last.tolist(), strict=True) if not row.ended]
        for row, token in active:
            sampling = row.request.sampling
            if token in self.stop_ids:
                row.ended = "stop"
                continue
            row.answer.append(token)
            if sampling.stop and any(s in self.tokenizer.decode(row.answer) for s in sampling.stop):
                row.ended = "stop"
            elif len(row.answer) >= sampling.max_new_tokens:
                row.ended = "length"
        return [row for row, _ in active if row.ended]

    def _sampled(self, logits: Any, row: _Row) -> Any:
        torch, sampling = self.torch, row.request.sampling
        chances = torch.softmax(logits / sampling.temperature, -1)
        if sampling.top_p < 1:
            ordered, order = chances.sort(descending=True)
            chances[order[ordered.cumsum(0) - ordered >= sampling.top_p]] = 0
        return torch.multinomial(chances, 1, generator=row.generator)[0]

    def _completion(self, row: _Row) -> Completion:
        text = self.tokenizer.decode(row.answer, skip_special_tokens=True)
        if row.request.messages:
            raw = self.tokenizer.decode(row.answer, skip_special_tokens=False)
            text = with_reasoning_markers(text, raw, self.tokenizer.decode(row.prompt[-64:]))
        cut = [at for stop in row.request.sampling.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cut)] if cut else text
        return Completion(row.request.id, text, "", row.ended, len(row.prompt), len(row.answer))

    def scored(self, requests: list[Request]) -> Iterator[Completion]:
        """Yield the log-likelihoods of options; what prompts share at their beginning is computed once."""
        asked = []
        for request in requests:
            context, whole = option_tokens(self.tokenizer, request, self._options)
            options = [ids[len(context) :] for ids in whole]
            longest = max(map(len, whole))
            if not all(options) or not context:
                yield _failure(request, len(context), "an empty prompt or option has no likelihood")
            elif self.context and longest > self.context:
                error = f"prompt and options have {longest} tokens; the context of the model is {self.context}"
                yield _failure(request, len(context), error)
            else:
                asked.append((context, options, request))
        asked.sort(key=lambda one: one[0])
        start = 0
        while start < len(asked):
            end, shared = start + 1, 0
            while self._shares and end < len(asked):
                common = _common_prefix(asked[start][0], asked[end][0])
                if common < max(_MIN_PREFIX, 0.8 * shared):
                    break
                shared, end = common, end + 1
            yield from self._scored_together(asked[start:end])
            start = end

    def _scored_together(self, asked: list[tuple[list[int], list[list[int]], Request]]) -> Iterator[Completion]:
        """Score requests whose prompts share their beginning."""
        prefix, beginning = self._beginning([context for context, _, _ in asked], self._shares)
        # One row per request where all options are single tokens, else one per option.
        rows: list[tuple[int, list[int], list[_Target]]] = []  # request, tokens, targets
        for i, (context, options, _) in enumerate(asked):
            rest = context[prefix:]
            last = len(rest) - 1
            if all(len(option) == 1 for option in options):
                rows.append((i, rest, [(o, last, option[0]) for o, option in enumerate(options)]))
                continue
            for o, option in enumerate(options):
                rows.append((i, rest + option[:-1], [(o, last + t, token) for t, token in enumerate(option)]))
        scores = [[0.0] * len(options) for _, options, _ in asked]
        missing = Counter(i for i, _, _ in rows)
        rows.sort(key=lambda row: len(row[1]))
        while rows:
            # Rows of similar length, so that little is padded.
            shortest = len(rows[0][1])
            most = max(1, min(_MAX_SCORED, _TOKENS_PER_BATCH // (prefix + 2 * shortest)))
            size = sum(len(tokens) <= 1.2 * shortest + 8 for _, tokens, _ in rows[:most])
            some, rows = rows[:size], rows[size:]
            found = self._log_likelihoods([tokens for _, tokens, _ in some], [t for _, _, t in some], prefix, beginning)
            for (i, _, targets), values in zip(some, found, strict=True):
                for (o, _, _), value in zip(targets, values, strict=True):
                    scores[i][o] += value
                missing[i] -= 1
                if not missing[i]:
                    context, _, request = asked[i]
                    yield Completion(request.id, prompt_tokens=len(context), scores=tuple(scores[i]))

    def _log_likelihoods(
        self, rows: list[list[int]], targets: list[list[_Target]], prefix: int, beginning: Any
    ) -> list[list[float]]:
        torch, longest = self.torch, max(map(len, rows))
        # Padded at the right: no token looks at what comes after it.
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        positions = sorted({position for wanted in targets for _, position, _ in wanted})
        logits = self.model(
            input_ids=tokens,
            position_ids=torch.arange(prefix, prefix + longest, device=self.device)[None],
            past_key_values=self._repeated(beginning, len(rows)),
            use_cache=True,
            logits_to_keep=torch.tensor(positions, device=self.device),
        ).logits
        places = sorted({(i, positions.index(at)) for i, wanted in enumerate(targets) for _, at, _ in wanted})
        chosen = logits[[i for i, _ in places], [k for _, k in places]].float().log_softmax(-1)
        row_of = {place: row for row, place in enumerate(places)}
        which = [(row_of[i, positions.index(at)], token) for i, wanted in enumerate(targets) for _, at, token in wanted]
        values = iter(chosen[[row for row, _ in which], [token for _, token in which]].tolist())
        return [[next(values) for _ in wanted] for wanted in targets]

    def _beginning(self, prompts: list[list[int]], shares: bool) -> tuple[int, Any]:
        """Return how many tokens several prompts begin with (but for the last of the shortest), and their cache."""
        from transformers.cache_utils import Cache

        cache, common = Cache(layer_class_to_replicate=_growing_layer()), 0
        if shares and len(prompts) > 1:
            common = min(_common_prefix(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
        if common < _MIN_PREFIX:
            return 0, cache
        ids = self.torch.tensor([prompts[0][:common]], device=self.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return common, cache

    def _repeated(self, beginning: Any, n: int) -> Any:
        """Return the cache of a beginning for several rows; nothing is copied before rows differ."""
        cache = copy.copy(beginning)
        cache.layers = [copy.copy(layer) for layer in beginning.layers]
        for layer in cache.layers:
            layer.keys, layer.values = (x.expand(n, *x.shape[1:]) for x in (layer.keys, layer.values))
            layer.room = None
        return cache


@functools.cache
def _growing_layer() -> type:
    """Return a layer of a cache with room for more tokens; that of transformers copies itself for each token."""
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
        keys: Any
        values: Any
        room: list[Any] | None = None  # keys and values are its beginning

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            n, new = self.get_seq_length(), (key_states, value_states)
            end = n + key_states.shape[-2]
            if self.room is None or self.room[0].shape[-2] < end or self.room[0].data_ptr() != self.keys.data_ptr():
                self.room = [x.new_empty((*x.shape[:2], end + end // 4 + 64, x.shape[3])) for x in new]
                if n:
                    for room, before in zip(self.room, (self.keys, self.values), strict=True):
                        room[:, :, :n] = before
            for room, states in zip(self.room, new, strict=True):
                room[:, :, n:end] = states
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            return self.keys, self.values

    return GrowingLayer


def _common_prefix(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _failure(request: Request, n_prompt: int, error: str) -> Completion:
    return Completion(request.id, "", "", "error", n_prompt, error=error)
