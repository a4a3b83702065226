"""The demo tunes its model: facts of genes that are not profiled, as answers to the question of the profiles."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.config import TuneConfig, save_config
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.models import model_identity
from bftembed.profiles.generators.facts import FactsGenerator
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import Request
from bftembed.registry import Spec, parse_spec
from bftembed.tuning.data import Conversation, Turn, write_conversations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bftembed.config import DemoConfig, ProfileSet
    from bftembed.profiles.prompts import Prompt
    from bftembed.progress import Progress
    from bftembed.tuning.stage import TuneReport

#: Engine of the generator spec that means the model tuned in this run.
TUNED = "tuned"

_LOCUS_TYPE = "gene with protein product"


@dataclass(frozen=True)
class Tuned:
    """What the tuning step leaves.

    Attributes
    ----------
    report
        Of the tuning.
    config
        What was tuned.
    log
        A record per step, as in ``log.json``: ``step``, ``loss``, ``nll`` …
    """

    report: TuneReport
    config: TuneConfig
    log: tuple[dict[str, float], ...]


def tuned_sets(config: DemoConfig) -> list[ProfileSet]:
    """Return the sets of profiles that the tuned model writes."""
    return [p for p in config.profiles if parse_spec(p.generator).engine == TUNED]


def tuned_spec(generator: str, model: str) -> Spec:
    """Return the spec that generates with the folder or model `model`, with the options of the spec `generator`.

    Raises
    ------
    BftembedError
        When `generator` names a model, or no spec could hold the path `model`.
    """
    asked = parse_spec(generator)
    if asked.model:
        raise BftembedError(
            f"{generator!r}: 'tuned' is the model tuned in this run and takes no other; see key 'tune'."
        )
    spec = Spec("transformers", model, asked.options)
    with suppress(BftembedError):
        if parse_spec(str(spec)) == spec:
            return spec
    raise BftembedError(f"A generator spec cannot hold the folder {model!r}. Choose one without comma (key 'out').")


def generator_of(generator: str, tuned: Tuned | None) -> str:
    """Return the spec to generate with: `generator` itself, or what ``tuned`` means in this run."""
    if tuned is None or parse_spec(generator).engine != TUNED:
        return generator
    return str(tuned_spec(generator, tuned.report.model))


def facts_of(genes: Sequence[str], prompt: Prompt) -> dict[str, str]:
    """Return gene symbol → its profile by the generator ``facts``."""
    requests = [Request(key=gene, messages=prompt.messages(gene), entity=gene) for gene in genes]
    return {completion.key: completion.text for completion in FactsGenerator().generate(requests)}


def conversations(profiles: Mapping[str, str], prompt: Prompt) -> list[Conversation]:
    """Return a conversation per profile: the chat that asks a generator for it, then its text.

    Parameters
    ----------
    profiles
        Gene symbol → text.
    prompt
        That the tuned model will be asked with.
    """
    return [
        Conversation(gene, (*(Turn(m["role"], m["content"]) for m in prompt.messages(gene)), Turn("assistant", text)))
        for gene, text in profiles.items()
    ]


def genes_to_learn_from(profiled: Sequence[str], rows: int, seed: int) -> list[str]:
    """Draw genes whose facts are rich enough to learn from and that are not profiled.

    Parameters
    ----------
    profiled
        Names of the genes to profile. What they mean is left out, and all that an ambiguous one may mean.
    rows
        How many to draw.
    seed
        Of the draw. It orders all genes of HGNC, so that another list of profiled genes changes few of the drawn.

    Returns
    -------
    list of str
        Symbols of genes with a protein and at least one alias.

    Raises
    ------
    BftembedError
        When there are fewer.
    """
    index = GeneIndex.default()
    taken = {symbol for r in index.resolve(list(profiled)) for symbol in (r.entity, *r.candidates)}
    records = [record for symbol in index if (record := index.get(symbol)) is not None]
    rich = [r.symbol for r in records if r.locus_type == _LOCUS_TYPE and r.alias_symbols]
    random.Random(seed).shuffle(rich)
    found = [symbol for symbol in rich if symbol not in taken]
    if len(found) < rows:
        raise BftembedError(f"tune.rows={rows}, but HGNC has only {len(found)} genes to learn from. Lower tune.rows.")
    return found[:rows]


def tune_model(config: DemoConfig, genes: Sequence[str], progress: Progress) -> Tuned:
    """Tune the model of ``config.tune`` for a run that profiles `genes`; a finished tuning is taken as it is.

    Writes ``tune.yaml`` and a folder ``tuned-…``, named after all that decides the weights: a run on other genes in the
    same ``config.out`` tunes anew, and each finds its own again.
    """
    from bftembed.tuning.stage import tune

    wanted = tune_config(config, genes)
    save_config(wanted, Path(config.out) / "tune.yaml")
    report = tune(wanted, progress=progress)
    log = json.loads((Path(report.out) / "log.json").read_text(encoding="utf-8"))
    return Tuned(report, wanted, tuple(line for line in log if "nll" in line))


def tune_config(config: DemoConfig, genes: Sequence[str]) -> TuneConfig:
    """Write the instruction pairs for a run that profiles `genes`, and return the config that learns from them."""
    asked = config.tune
    if asked is None:
        raise BftembedError("Nothing to tune: the key 'tune' is empty.")
    prompt = get_prompt(tuned_sets(config)[0].prompt, "gene")
    pairs = conversations(facts_of(genes_to_learn_from(genes, asked.rows, asked.seed), prompt), prompt)
    parts = {
        "model": asked.model,
        "objective": asked.objective.model_dump(),
        "training": {
            "max_steps": asked.steps,
            "batch_size": asked.batch_size,
            "learning_rate": asked.learning_rate,
            "seed": asked.seed,
        },
    }
    texts = [[(t.role, t.content) for t in pair.turns] for pair in pairs]
    decides = [parts, asked.max_length, texts, model_identity("language-model", asked.model)]
    folder = Path(config.out) / f"tuned-{sha256_text(canonical_json(decides))[:8]}"
    write_conversations(pairs, folder / "pairs.jsonl")
    data = {"train": str(folder / "pairs.jsonl"), "max_length": asked.max_length}
    return TuneConfig.model_validate({**parts, "data": data, "out": str(folder)})
