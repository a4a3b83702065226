"""What a run would write and cost, before it does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.profiles.store import STORE_FILE, ProfileStore
from bftembed.profiles.wanted import asked_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from bftembed.profiles.prompts import Prompt
    from bftembed.profiles.wanted import Wanted
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
    """

    entities: int
    already_stored: int
    to_write: int
    prompt_tokens: int
    most_completion_tokens: int | None
    most_cost: float | None
    price: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return asdict(self)


def estimate(
    wanted: Wanted,
    spec: Spec,
    fingerprint: dict[str, Any],
    template: Prompt,
    out: str | os.PathLike[str],
    context: Mapping[str, str],
    price: tuple[float, float] | None,
) -> Estimate:
    """Count what `bftembed.profiles.runner.generate_profiles` would write; nothing is generated or written."""
    entities = stored = characters = messages = 0
    store = ProfileStore.open(out) if (Path(out) / STORE_FILE).exists() else None
    try:
        for _, subjects in wanted.parts():
            asked = asked_of(subjects, template, fingerprint, context)
            known = store.outcomes(list(asked)) if store else {}
            entities += len(asked)
            stored += len(known)
            for key, one in asked.items():
                if key not in known:
                    messages += len(one.request.messages)
                    characters += sum(len(m["content"]) for m in one.request.messages)
    finally:
        if store is not None:
            store.close()
    tokens = characters // _CHARACTERS_PER_TOKEN + messages * _TOKENS_PER_MESSAGE
    longest = fingerprint.get("max_new_tokens") or _nested(fingerprint, "max_new_tokens")
    most = longest * (entities - stored) if isinstance(longest, int) else None
    price = price or _price(spec.engine, spec.model)
    cost = (tokens * price[0] + most * price[1]) / 1e6 if price and most is not None else None
    return Estimate(entities, stored, entities - stored, tokens, most, cost, price)


def _nested(fingerprint: Mapping[str, Any], name: str) -> Any:
    inner = [value for value in fingerprint.values() if isinstance(value, dict)]
    return next((value[name] for value in inner if name in value), None)


def _price(engine: str, model: str) -> tuple[float, float] | None:
    if engine not in ("openai", "openai-batch") or model not in PRICES:
        return None
    asked, answered = PRICES[model]
    return (asked / 2, answered / 2) if engine == "openai-batch" else (asked, answered)
