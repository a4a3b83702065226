"""Estimates of the profiles, tokens, cost and time of a run that was not made."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import require
from bftembed.io import canonical_json, sha256_text, write_json
from bftembed.llm.models import cache_folder, model_files
from bftembed.llm.store import STORE_FILE, AnswerStore

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from bftembed.llm.base import LanguageModel, Request
    from bftembed.registry import Spec

#: US dollars per million tokens of prompt and answer: OpenAI's list prices of mid-2025. `price` overrides them.
PRICES = {
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
}
#: Characters of English text per token, roughly, and tokens that a chat adds per message.
_CHARACTERS_PER_TOKEN, _TOKENS_PER_MESSAGE = 4, 4
#: Requests that are looked up at once.
_AT_ONCE = 2048
#: Seconds below which a run is mostly loading, so that a larger one is not estimated from it.
_START_UP = 10


@dataclass(frozen=True)
class Estimate:
    """A run that was not made.

    Attributes
    ----------
    entities, already_stored, to_write
        Entities of the list, those whose profile is stored, and the rest.
    prompt_tokens
        Of the rest, from 4 characters per token.
    most_completion_tokens
        Of the rest, were every answer as long as allowed; None where the generator has no limit.
    most_cost
        US dollars for both; None for a model without a known price.
    price
        US dollars per million tokens of prompt and answer; None where unknown.
    seconds
        Time to write the rest, see `expected_seconds`; for ``transformers`` without a recorded run, the time of the
        matrix products of answers as long as allowed (`products_seconds`). None where unknown, such as for a server.
    """

    entities: int
    already_stored: int
    to_write: int
    prompt_tokens: int
    most_completion_tokens: int | None
    most_cost: float | None
    price: tuple[float, float] | None
    seconds: float | None = None


def estimate(
    requests: Iterator[Request],
    spec: Spec,
    model: LanguageModel,
    fingerprint: Mapping[str, Any],
    out: str | os.PathLike[str],
    price: tuple[float, float] | None,
) -> Estimate:
    """Count what `bftembed.profiles.generate.generate_profiles` would write; nothing is generated or written."""
    entities = stored = characters = messages = 0
    with AnswerStore.open(out) if (Path(out) / STORE_FILE).exists() else nullcontext() as store:
        while part := list(islice(requests, _AT_ONCE)):
            known = store.outcomes([request.id for request in part]) if store else {}
            entities, stored = entities + len(part), stored + len(known)
            texts = [m["content"] for request in part if request.id not in known for m in request.messages]
            characters, messages = characters + sum(map(len, texts)), messages + len(texts)
    tokens = characters // _CHARACTERS_PER_TOKEN + messages * _TOKENS_PER_MESSAGE
    sampling = fingerprint.get("sampling")
    most = sampling["max_new_tokens"] * (entities - stored) if sampling else None
    if price is None and spec.engine in ("openai", "openai-batch") and spec.model in PRICES:
        share = 0.5 if spec.engine == "openai-batch" else 1
        price = PRICES[spec.model][0] * share, PRICES[spec.model][1] * share
    cost = (tokens * price[0] + most * price[1]) / 1e6 if price and most is not None else None
    seconds = expected_seconds(fingerprint, entities - stored)
    if seconds is None and most is not None and spec.engine == "transformers":
        seconds = products_seconds(fingerprint, most, model.batch_size)
    return Estimate(entities, stored, entities - stored, tokens, most, cost, price, seconds)


def record_seconds(kind: Any, items: int, seconds: float) -> None:
    """Keep how long the largest run of a kind took on this machine: profiles of a generator, steps of a tuning."""
    if items > 0 and items >= _recorded(kind)[0]:
        with suppress(OSError):
            write_json(_record(kind), [items, seconds])


def expected_seconds(kind: Any, items: int) -> float | None:
    """Return the time of `items` in proportion to the recorded run; None where there is none, or too short a one."""
    n, seconds = _recorded(kind)
    if items and (not n or (items > n and seconds < _START_UP)):
        return None
    return seconds * items / n if items else 0.0


def _recorded(kind: Any) -> tuple[int, float]:
    try:
        n, seconds = json.loads(_record(kind).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0.0
    return n, seconds


def _record(kind: Any) -> Path:
    return cache_folder() / "seconds" / f"{sha256_text(canonical_json(kind))[:16]}.json"


def products_seconds(fingerprint: Mapping[str, Any], tokens: int, batch_size: int) -> float:
    """Return 2 × parameters × tokens over the rate at which this machine multiplies a batch with a layer's weights.

    The rate is measured for .3 s in the model's precision and on its device. Attention and prompts are not in it.
    """
    torch, transformers = require("torch", "local"), require("transformers", "local")
    from torch.utils.benchmark import Timer

    path = model_files("language-model", fingerprint["model"])
    folder, gguf = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **gguf)
    with torch.device("meta"):
        parameters = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    width = config.get_text_config().hidden_size
    options = {"dtype": getattr(torch, fingerprint["dtype"]), "device": fingerprint["device"]}
    rows, weights = torch.ones(batch_size, width, **options), torch.ones(width, 4 * width, **options)
    timer = Timer("rows @ weights", globals={"rows": rows, "weights": weights}, num_threads=torch.get_num_threads())
    seconds = timer.blocked_autorange(min_run_time=0.3).median
    return seconds * parameters / weights.numel() * tokens / batch_size
