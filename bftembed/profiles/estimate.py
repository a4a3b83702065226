"""What a run would write and cost, before it does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.profiles.generators import generator_from_spec, generator_spec
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.shards import Shard
from bftembed.profiles.store import STORE_FILE, ProfileStore
from bftembed.profiles.wanted import Wanted, asked_of, check_kind

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

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


def estimate_profiles(
    genes: str | os.PathLike[str] | Sequence[str],
    *,
    generator: str,
    out: str | os.PathLike[str],
    prompt: str | None = None,
    kind: str = "gene",
    column: str | None = None,
    context: Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    unknown: str = "skip",
    shard: str | None = None,
    limit: int | None = None,
    price: tuple[float, float] | None = None,
) -> Estimate:
    """Count what `bftembed.profiles.runner.generate_profiles` would write; nothing is generated or written.

    The parameters are those of that function, and `price` (US dollars per million tokens of prompt and answer; default
    that of `PRICES`, half of it for the Batch API).

    Raises
    ------
    BftembedError
        As the run would for its list, spec and options.
    """
    check_kind(kind)
    template = get_prompt(prompt, kind)
    spec = generator_spec(generator, max_new_tokens=max_new_tokens)
    wanted = Wanted.of(genes, kind=kind, column=column, unknown=unknown, shard=Shard.parse(shard), limit=limit)
    engine = generator_from_spec(spec)
    fingerprint = engine.fingerprint()
    entities = stored = characters = messages = 0
    store = ProfileStore.open(out) if (Path(out) / STORE_FILE).exists() else None
    try:
        for _, subjects in wanted.parts():
            asked = asked_of(subjects, template, fingerprint, context or {})
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


def parse_price(text: str | None) -> tuple[float, float] | None:
    """Read ``"IN,OUT"``: US dollars per million tokens.

    Raises
    ------
    BftembedError
        For anything but two numbers that are not negative.
    """
    if text is None:
        return None
    try:
        asked, answered = (float(part) for part in text.split(","))
    except ValueError:
        asked = answered = -1.0
    if asked < 0 or answered < 0:
        raise BftembedError(f"price (--price) is {text!r}; give US dollars per million tokens as IN,OUT: 2.5,10")
    return asked, answered
