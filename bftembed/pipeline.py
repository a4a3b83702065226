"""The main job from one config: training, profiles, embeddings of genes and cells, benchmarks, evaluations, report.

Every step calls the public verb that a user would call, and writes the file that the next one reads. A step whose
inputs and options are those of an earlier run is not done again.
"""

from __future__ import annotations

import functools
import json
import random
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bftembed import bench
from bftembed.cells.embed import embed_cells
from bftembed.config import GrpoConfig, RunConfig, TuneConfig, load_config, save_config
from bftembed.config.loading import check_parts
from bftembed.datasets import data_path
from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.encoders.base import REGISTRY as ENCODERS
from bftembed.entities.classes import functional_classes
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.expression.source import open_expression
from bftembed.io import canonical_json, exclusive_lock, sha256_text, write_json, write_text
from bftembed.llm import model_from_spec
from bftembed.llm.base import Request
from bftembed.llm.models import model_identity
from bftembed.llm.store import AnswerStore
from bftembed.metrics.projection import umap_coordinates
from bftembed.profiles.estimate import expected_seconds, record_seconds
from bftembed.profiles.facts import Facts
from bftembed.profiles.generate import generate_profiles, get_prompt
from bftembed.profiles.screening import MARKS
from bftembed.progress import silent
from bftembed.registry import Spec, parse_spec
from bftembed.report.manifest import Coverage, ExampleProfile, Manifest, Step, Umap, versions, write_points
from bftembed.tasks.base import ordered, read_results, report, write_results
from bftembed.tasks.baselines import parse_baselines, provenance_of
from bftembed.tasks.data import check_groups, check_labels, read_cells
from bftembed.tasks.llm.grpo import grpo
from bftembed.tasks.llm.run import evaluate, evaluations_of
from bftembed.tuning.data import Conversation, Turn, write_conversations
from bftembed.tuning.run import tune
from bftembed.tuning.synthesis import synthesize

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from bftembed.config import ProfileSet
    from bftembed.config.recipes import Aggregation
    from bftembed.llm.base import Answer
    from bftembed.profiles.generate import GenerationReport
    from bftembed.progress import Progress
    from bftembed.tasks.llm.base import Evaluation

    #: Called with the name of a step that takes long; gives the progress callable for as long as it runs.
    Bar = Callable[[str], AbstractContextManager[Progress]]

#: Engines of the specs that mean the models tuned in the run: by conversations, and then by rewards.
_TUNED, _GRPO = "tuned", "grpo"
#: Training sets that are made in the run.
_FACTS, _SYNTHESIZED = "facts", "synthesized"
_STEPS = "steps.json"
#: Genes that a reader may know something about, shown first among the examples.
_WELL_KNOWN = ("CD3D", "MS4A1", "LYZ", "NKG7", "CD79A", "HLA-DRA", "CST3", "GNLY", "S100A8", "B2M")


@dataclass(frozen=True)
class PlannedStep:
    """A step of a run that was not made: its name, counts and tokens, and whether its output exists already.

    `seconds` is its estimated time: that of the last one like it on this machine (of profiles see
    `bftembed.profiles.estimate.Estimate`). None where there was none.
    """

    name: str
    detail: str
    done: bool
    seconds: float | None


def run_pipeline(
    config: RunConfig | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    n_genes: int | None = None,
    bar: Bar | None = None,
) -> Path:
    """Run a pipeline and write its report.

    Parameters
    ----------
    config
        The config, or its file.
    out
        Folder to write instead of that of the config.
    n_genes
        Number of genes to profile instead of that of the config.
    bar
        Called with the name of a step that takes long; gives its progress callback.

    Returns
    -------
    Path
        ``report.html``. In the same folder: ``results.parquet``, ``run.json``, ``cells.h5ad``, a profile store per set
        and a ``.safetensors`` per set and encoder, the answers to the evaluations, ``config.yaml``, and with a tuning
        its config and model.

    Raises
    ------
    BftembedError
        For a wrong config, before anything is written; for a folder with a run on other cells; when a step fails: what
        earlier steps wrote stays, and the next run goes on from it.
    """
    run = _Run.of(config, out, n_genes)
    with exclusive_lock(run.out / ".lock", holder=str(run.out)):
        run.check_folder()
        save_config(run.config, run.out / "config.yaml")
        if run.genes:
            write_text(run.out / "genes.txt", "\n".join(run.genes) + "\n")
        for step in run.steps():
            run.do(step, bar or (lambda name: nullcontext(silent)))
        return run.report()


def plan_pipeline(
    config: RunConfig | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    n_genes: int | None = None,
) -> list[PlannedStep]:
    """Return what `run_pipeline` would do, and what is there already; nothing is generated or written.

    Parameters
    ----------
    config, out, n_genes
        As in `run_pipeline`.
    """
    run = _Run.of(config, out, n_genes)
    run.check_folder()
    done, planned = True, []
    for step in run.steps():
        detail, seconds = step.detail, expected_seconds([step.name, step.detail], 1)
        there = step.output.exists() and (step.inputs is None or step.name in run.done)
        if step.profiles:
            detail, seconds, there = run.estimate(step.profiles)
        done = done and there  # a step is done again after one that is
        planned.append(PlannedStep(step.name, detail, done, 0.0 if done else seconds))
    return planned


@dataclass(frozen=True)
class _Step:
    """A step: what does it and returns the details, and what its output is made from (None: the verb looks itself)."""

    name: str
    do: Callable[[Progress], list[str]]
    output: Path
    inputs: Any = None
    call: str = ""  # the command that does the same
    detail: str = ""  # what it works on, as far as known before
    profiles: ProfileSet | None = None


@dataclass
class _Run:
    """A pipeline that runs: its inputs, and what it has done."""

    config: RunConfig
    cells: Path
    genes: list[str]
    n_cells: int
    done: dict[str, str]  # name of a step → digest of its inputs
    log: list[Step] = field(default_factory=list)
    generated: dict[str, GenerationReport] = field(default_factory=dict)
    tuned: Any = None
    rewarded: Any = None

    @classmethod
    def of(cls, config: RunConfig | str | os.PathLike[str], out: Any, n_genes: int | None) -> _Run:
        """Read the config and the names of the genes, and check all that would fail only after minutes."""
        chosen = config if isinstance(config, RunConfig) else load_config(config, RunConfig)
        given = {"out": None if out is None else str(out), "n_genes": n_genes}
        chosen = chosen.model_copy(update={k: v for k, v in given.items() if v is not None})
        check_parts(chosen, where="the config" if isinstance(config, RunConfig) else str(config))
        cells, done = Path(data_path(chosen.cells or "")), dict[str, str]()
        if chosen.cells and not cells.is_file():
            raise BftembedError(f"No such file: {cells} (key 'cells').")
        with suppress(OSError, ValueError):
            done = json.loads((Path(chosen.out) / _STEPS).read_text(encoding="utf-8"))
        run = cls(chosen, cells, *(_genes_of(cells, chosen) if chosen.cells else ([], 0)), done)
        _check_sets(run)
        _check_labels(chosen, cells)
        return run

    def check_folder(self) -> None:
        """Raise where the folder holds a run on other cells."""
        file = self.out / "config.yaml"
        before = load_config(file) if file.is_file() else self.config
        for key in ("cells", "use_raw", "layer"):
            old, new = getattr(before, key, None), getattr(self.config, key)
            if old != new:
                raise BftembedError(f"{self.out} holds a run with {key}={old!r}, not {new!r}. Choose another 'out'.")

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    def store(self, name: str) -> Path:
        return self.out / f"profiles-{_slug(name)}"

    def file(self, name: str) -> Path:
        return self.out / f"genes-{_slug(name)}.safetensors"

    @functools.cached_property
    def vectors(self) -> dict[str, tuple[ProfileSet, str]]:
        """Name in tables → set of profiles and encoder of all gene embeddings."""
        several = len(self.config.encoders) > 1
        pairs = [(p, e) for p in self.config.profiles for e in self.config.encoders]
        return {f"{p.name}, {e}" if several else p.name: (p, e) for p, e in pairs}

    @functools.cached_property
    def wanted(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """Key of obsm → name in tables, gene embeddings and options of all embeddings of the cells."""
        pairs = [(name, how) for name in self.vectors for how in self.config.aggregations]
        return {f"X_{_slug(n := _aggregated(name, how))}": (n, name, how.options) for name, how in pairs}

    @functools.cached_property
    def models(self) -> dict[str, str]:
        """Name → spec of the language models that are evaluated."""
        config = self.config
        if not config.eval or config.eval.models:
            return config.eval.models if config.eval else {}
        if made := [name for name, wanted in ((_TUNED, config.tune), (_GRPO, config.grpo)) if wanted]:
            return {"base": self.base_model, **{name: name for name in made}}
        return {p.name: p.generator for p in config.profiles if not p.baseline}

    @property
    def base_model(self) -> str:
        """Spec of the model before any tuning in this run."""
        tune, rewarded = self.config.tune, self.config.grpo
        return str(Spec("transformers", tune.model if tune else rewarded.model if rewarded else ""))

    @functools.cached_property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations, whose data and judge are there."""
        wanted = self.config.eval
        given = {name: wanted.options[name] for name in ("judge", "data") if name in wanted.options} if wanted else {}
        return list(evaluations_of(wanted.evaluations, **given)) if wanted else []

    # -- steps -----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[_Step]:
        """Yield the steps; the inputs of one are known when those before it have been done."""
        config, out, partial = self.config, self.out, functools.partial
        if config.synthesize:
            options, file = dict(config.synthesize.options), self.synthesis / "pairs.jsonl"
            call = f"bftembed tune synthesize {options.pop('source')} --out {self.synthesis} {_shell(options)}"
            detail = f"{config.synthesize.options['source']} by {options['teacher']}"
            yield _Step("synthesis", self.synthesize, file, None, call, detail)
        if tune := config.tune:
            folder, detail = Path(self.tuning.out), f"{tune.steps} steps of {tune.batch_size}, {tune.objective.name}"
            yield _Step("tuning", self.tune, folder / "model", None, f"bftembed tune {out}/tune.yaml", detail)
        if rewarded := config.grpo:
            folder, detail = Path(self.rewarding.out), f"{rewarded.training.max_steps} steps, {rewarded.questions}"
            yield _Step("GRPO", self.grpo, folder / "report.json", None, f"bftembed tune grpo {out}/grpo.yaml", detail)
        for one in config.profiles:
            store, spec = self.store(one.name), self.spec(one.generator)
            call = f'bftembed profiles generate {out}/genes.txt --generator "{spec}" --out {store} --unknown keep'
            call += f" --prompt {one.prompt}" if one.prompt else ""
            yield _Step(f"profiles: {one.name}", partial(self.profile, one), store, call=call, profiles=one)
        keys = {name: list(report.keys) for name, report in self.generated.items()}
        made, n = list[Any](), len(self.genes)
        for name, (one, encoder) in self.vectors.items():
            file, marks = self.file(name), sorted(one.allow_marks)
            call = f"bftembed genes embed {self.store(one.name)} --encoder {encoder} --out {file}"
            call += f" --allow-marks {','.join(marks)}" if marks else ""
            made.append([sorted(keys.get(one.name, [])), marks, encoder])
            do = partial(self.embed_genes, name, keys.get(one.name, []))
            yield _Step(f"gene embeddings: {name}", do, file, made[-1], call, f"{n:,} genes")
        if self.wanted:
            file, stat, first = out / "cells.h5ad", self.cells.stat(), self.file(next(iter(self.vectors)))
            made += [[str(self.cells), stat.st_size, stat.st_mtime_ns], self.matrix, list(self.wanted.values())]
            call = f"bftembed cells embed {config.cells} --genes {first} --out {file}"
            detail = f"{self.n_cells:,} cells × {len(self.wanted)} embeddings"
            yield _Step("cell embeddings", self.embed_cells, file, made, call, detail)
        for i, b in enumerate(config.benchmarks, 1):
            file, words = out / f"results-{i}-{b.task}.parquet", [f"{k}={v}" for k, v in b.options.items()]
            call = f"bftembed bench {b.task} … {_shell(b.options)}"
            do, inputs = partial(self.score, b.task, b.options, file), [made, b.options, config.reference]
            yield _Step(f"benchmark {i}: {b.task}", do, file, inputs, call, ", ".join(words))
        if of_eval := config.eval:
            models, names = {name: self.spec(spec) for name, spec in self.models.items()}, ",".join(of_eval.evaluations)
            folder, given = self.answers, "".join(f' --model "{name}={spec}"' for name, spec in models.items())
            call = f"bftembed eval run {names} --limit {of_eval.limit} --out {folder}{given}"
            detail = f"{names}: {of_eval.limit or 'all'} questions each for {', '.join(models)}"
            do, inputs = partial(self.evaluate, models), [of_eval.model_dump(), models]
            yield _Step("evaluations", do, folder / "results.parquet", inputs, call, detail)
        for i, (key, umap) in enumerate(self.maps, 1):
            do, detail = partial(self.draw, key, out / umap.path), f"{self.n_cells if key else n:,} points"
            yield _Step(f"UMAP {i}: {umap.title}", do, out / umap.path, [made, key, self.label], "", detail)

    def do(self, step: _Step, bar: Bar) -> None:
        """Do a step, time it and note it, unless its output was made from the same inputs."""
        inputs = "" if step.inputs is None else sha256_text(canonical_json(step.inputs))
        if inputs and step.output.exists() and self.done.get(step.name) == inputs:
            return
        started, new = time.monotonic(), not step.output.exists()
        with bar(step.name) as progress:
            detail = ", ".join(step.do(progress))
        seconds = round(time.monotonic() - started, 1)
        self.log.append(Step(name=step.name, call=step.call, seconds=seconds, detail=detail))
        if new and step.detail:
            record_seconds([step.name, step.detail], 1, seconds)
        if inputs:
            self.done[step.name] = inputs
            write_json(self.out / _STEPS, self.done)

    def spec(self, text: str, *, trained: bool = True) -> str:
        """Return a spec with the model in place of ``tuned`` and ``grpo``; unless `trained` the one they start from."""
        given, config = parse_spec(text), self.config
        keys = {_TUNED: "tune", _GRPO: "grpo"}
        if given.engine not in keys:
            return text
        if given.model or not getattr(config, key := keys[given.engine]):
            raise BftembedError(f"{text!r} is a model tuned in this run: it needs the key {key!r}, and no other model.")
        folder = self.tuning.out if given.engine == _TUNED else self.rewarding.out
        made = f"{folder}/model" if trained else parse_spec(self.base_model).model
        return str(Spec("transformers", made, given.options))

    @property
    def synthesis(self) -> Path:
        """Folder of the training data that a teacher writes, named after all that decides them."""
        wanted = self.config.synthesize
        return self.out / f"synthesis-{sha256_text(canonical_json(wanted.options if wanted else {}))[:8]}"

    def synthesize(self, progress: Progress) -> list[str]:
        assert self.config.synthesize is not None
        made = synthesize(**self.config.synthesize.options, out=self.synthesis, progress=progress)
        return [f"{made.rows} conversations of {made.chunks} texts", f"{sum(made.dropped.values())} dropped"]

    @functools.cached_property
    def pairs(self) -> list[Any]:
        """The instruction pairs that are made here."""
        wanted, sets = self.config.tune, self.config.profiles
        if not wanted or all(one.path != _FACTS for one in wanted.train):
            return []
        prompts = [p.prompt for p in sorted(sets, key=lambda p: parse_spec(p.generator).engine != _TUNED)]
        return fact_pairs(self.genes, wanted.rows, wanted.seed, get_prompt(prompts[0] if prompts else None, "gene"))

    @functools.cached_property
    def tuning(self) -> TuneConfig:
        """The config of the tuning, in a folder named after all that decides the weights."""
        wanted = self.config.tune
        assert wanted is not None
        training: dict[str, Any] = {"max_steps": wanted.steps, "seed": wanted.seed, "batch_size": wanted.batch_size}
        training |= {"learning_rate": wanted.learning_rate}
        parts = {"model": wanted.model, "objective": wanted.objective.model_dump(), "training": training}
        data: dict[str, Any] = {"max_length": wanted.max_length}
        texts = [[(t.role, t.content) for t in p.turns] for p in self.pairs]
        sets = [one.model_dump() for one in wanted.train]
        made_of = {_FACTS: texts, _SYNTHESIZED: self.synthesis.name}
        decisive = [parts, data, [one | {"path": made_of.get(one["path"], one["path"])} for one in sets]]
        decisive.append(model_identity("language-model", wanted.model))
        folder = self.out / f"tuned-{sha256_text(canonical_json(decisive))[:8]}"
        files = {_FACTS: folder / "pairs.jsonl", _SYNTHESIZED: self.synthesis / "pairs.jsonl"}
        train = [one | {"path": str(files.get(one["path"], one["path"]))} for one in sets]
        data |= {"train": train, "over_long": "drop" if self.config.synthesize else "error"}
        return TuneConfig.model_validate({**parts, "data": data, "out": str(folder)})

    def tune(self, progress: Progress) -> list[str]:
        if self.pairs:
            write_conversations(self.pairs, Path(self.tuning.out) / "pairs.jsonl")
        save_config(self.tuning, self.out / "tune.yaml")
        self.tuned = tune(self.tuning, progress=progress)
        log = json.loads((Path(self.tuned.out) / "log.json").read_text(encoding="utf-8"))
        nll = [line["nll"] for line in log if "nll" in line]
        return [f"{self.tuned.steps} steps", f"NLL {nll[0]:.2f} → {nll[-1]:.2f}", *self.tuned.warnings]

    @functools.cached_property
    def rewarding(self) -> GrpoConfig:
        """The config of GRPO, in a folder named after all that decides the weights."""
        assert self.config.grpo is not None
        wanted = self.config.grpo.model_dump()
        if wanted["model"] == _TUNED:
            wanted["model"] = f"{self.tuning.out}/model"
        folder = self.out / f"grpo-{sha256_text(canonical_json(wanted))[:8]}"
        return GrpoConfig.model_validate({**wanted, "out": str(folder)})

    def grpo(self, progress: Progress) -> list[str]:
        save_config(self.rewarding, self.out / "grpo.yaml")
        self.rewarded = made = grpo(self.rewarding, progress=progress)
        details = [f"{made.steps} steps", *made.warnings]
        if made.before and made.after:
            details.insert(1, f"accuracy {made.before[0]:.2f} → {made.after[0]:.2f}")
        return details

    def estimate(self, one: ProfileSet) -> tuple[str, float | None, bool]:
        """Return the counts and tokens of a set of profiles, the time of what is missing, and if nothing is."""
        spec = self.spec(one.generator)
        if not Path(parse_spec(spec).model or "").is_dir():
            spec = self.spec(one.generator, trained=False)
        options: Any = {"prompt": one.prompt, "unknown": "keep", "dry_run": True}
        known = generate_profiles(self.genes, generator=spec, out=self.store(one.name), **options).estimate
        assert known is not None
        most = f", at most {known.most_completion_tokens:,} of answers" if known.most_completion_tokens else ""
        stored, prompts = known.already_stored, known.prompt_tokens
        told = f"{known.to_write:,} to write, {stored:,} stored; {prompts:,} tokens of prompts{most}"
        return told, known.seconds, not known.to_write

    def profile(self, one: ProfileSet, progress: Progress) -> list[str]:
        options: Any = {"generator": self.spec(one.generator), "prompt": one.prompt, "unknown": "keep"}
        made = generate_profiles(self.genes, out=self.store(one.name), progress=progress, **options)
        self.generated[one.name] = made
        speed = [f"{made.tokens / made.seconds:.0f} tokens/s"] if made.seconds and made.tokens else []
        return [f"{made.written} written", f"{made.already_stored} from the store", *speed]

    def embed_genes(self, name: str, keys: Sequence[str], progress: Progress) -> list[str]:
        one, encoder = self.vectors[name]
        options: Any = {"encoder": encoder, "allow_marks": one.allow_marks, "keys": keys, "progress": progress}
        return [f"{len(embed_genes(self.store(one.name), out=self.file(name), **options)):,} genes"]

    @functools.cached_property
    def embeddings(self) -> dict[str, GeneEmbeddings]:
        """Name → gene embeddings of each set and encoder, of the genes that all sets cover."""
        found = {name: GeneEmbeddings.load(self.file(name)) for name in self.vectors}
        first = next(iter(found.values()))
        shared = [gene for gene in first.ids if all(gene in other for other in found.values())]
        if len(shared) < 2:
            counts = ", ".join(f"{name}: {len(e)}" for name, e in found.items())
            raise BftembedError(f"The sets of profiles have {len(shared)} genes in common ({counts}); two are needed.")
        return {name: embeddings.subset(shared) for name, embeddings in found.items()}

    @property
    def references(self) -> list[str]:
        return [self.config.reference] if self.config.reference else []

    @property
    def matrix(self) -> dict[str, Any]:
        return {"use_raw": self.config.use_raw, "layer": self.config.layer}

    def embed_cells(self, progress: Progress) -> list[str]:
        source = self.cells
        for i, (key, (name, of, options)) in enumerate(self.wanted.items()):
            # Each key is added to a copy, so that a run that is killed leaves the file as it was.
            made = self.out / f".cells-{i}.h5ad"
            given = {"empty_cells": "nan", **self.matrix, **options}
            embed_cells(source, self.embeddings[of], key=key, out=made, **given)
            if source != self.cells:
                source.unlink()
            source = made
            progress(i + 1, len(self.wanted), name)
        source.replace(self.out / "cells.h5ad")
        return [f"{self.n_cells:,} cells × {len(self.wanted)} embeddings"]

    @functools.cached_property
    def written(self) -> dict[str, dict[str, Answer]]:
        """Name of a set → gene → its profile of this run."""
        found = {}
        for name, made in self.generated.items():
            with AnswerStore.open(made.out) as store:
                found[name] = {p.entity: p for p in store.answers(keys=list(made.keys))}
        return found

    def score(self, task: str, options: dict[str, Any], file: Path, progress: Progress) -> list[str]:
        of = {name: self.written[one.name] for name, (one, _) in self.vectors.items()}
        texts = {name: {gene: of[name][gene].text for gene in genes.ids} for name, genes in self.embeddings.items()}
        if task == "genes":
            frame = bench.genes(self.embeddings, texts=texts, progress=progress, **options)
        else:
            first = next(iter(texts))
            run = "/".join([self.cells.stem, *(str(options[k]) for k in ("label", "batch") if k in options)])
            given = {"genes": self.embeddings[first], "texts": texts[first], "run": run, **self.matrix, **options}
            keys = [*self.wanted, *self.references]
            frame = getattr(bench, task)(self.out / "cells.h5ad", keys, progress=progress, **given)
        # Names of the config take the place of keys, and baselines and references are known as such.
        frame = frame.assign(subject=frame["subject"].replace({key: name for key, (name, *_) in self.wanted.items()}))
        names = [(n, one) for n, (one, _) in self.vectors.items()]
        names += [(n, self.vectors[of_genes][0]) for n, of_genes, _ in self.wanted.values()]
        kinds = {name: "baseline" for name, one in names if one.baseline} | dict.fromkeys(self.references, "reference")
        found = frame["subject"].map(kinds).where(frame["kind"] == "subject")
        write_results(frame.assign(kind=found.fillna(frame["kind"])), file)
        return [f"{len(frame):,} rows"]

    @property
    def answers(self) -> Path:
        """Folder of the evaluations, one for each list of models: the first is what the others are compared with."""
        return self.out / f"eval-{_slug(' '.join(self.models))}"

    def evaluate(self, models: dict[str, str], progress: Progress) -> list[str]:
        wanted = self.config.eval
        assert wanted is not None
        options = {"limit": wanted.limit, **wanted.options}
        if options.get("judge"):
            options["judge"] = self.spec(options["judge"])
        frame = evaluate(wanted.evaluations, model=models, out=self.answers, progress=progress, **options)
        return [f"{len(frame):,} rows"]

    # -- report ----------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Column of the cells by which their maps are colored."""
        return next((str(o["label"]) for b in self.config.benchmarks if "label" in (o := b.options)), "")

    @functools.cached_property
    def maps(self) -> list[tuple[str, Umap]]:
        """Key of obsm (``""`` for genes) and entry in the report of every map."""
        if not self.config.maps or not self.vectors:
            return []
        names = {key: name for key, (name, *_) in self.wanted.items()} | {r: r for r in self.references}
        found = [
            (key, f"Cells: {name}", f"Cells, colored by {self.label}.") for key, name in names.items() if self.label
        ]
        found.append(("", f"Genes: {next(iter(self.vectors))}", "Genes, colored by functional class."))
        parts = enumerate(found)
        return [(key, Umap(title=title, caption=about, path=f"umap-{i}.parquet")) for i, (key, title, about) in parts]

    def draw(self, key: str, file: Path, progress: Progress) -> list[str]:
        genes = next(iter(self.embeddings.values()))
        matrix, labels = genes.matrix, list(functional_classes(genes.ids))
        if key:
            columns, matrices, _ = read_cells(self.out / "cells.h5ad", [key], [self.label])
            finite = np.isfinite(matrices[key]).all(axis=1)
            matrix, labels = matrices[key][finite], [str(x) for x in columns[self.label][finite]]
        write_points(umap_coordinates(matrix), labels, file)
        return [f"{len(matrix):,} points"]

    def report(self) -> Path:
        config = self.config
        files = [self.out / f"results-{i}-{b.task}.parquet" for i, b in enumerate(config.benchmarks, 1)]
        frames = [read_results(file) for file in files]
        if config.eval:  # the folder may have other evaluations of an earlier run
            found = read_results(self.answers / "results.parquet")
            frames.append(found[found["task"].isin([e.name for e in self.evaluations])])
        write_results(ordered(pd.concat(frames, ignore_index=True), str(self.out)), self.out / "results.parquet")
        Manifest(
            title=config.title,
            description=tuple(self.about()),
            steps=tuple(self.log),
            coverage=tuple(self.coverage()) if self.vectors else (),
            profiles=tuple(self.examples()) if self.vectors else (),
            umaps=tuple(umap for _, umap in self.maps),
            settings=config.model_dump(),
            versions=versions(),
        ).save(self.out)
        return report(self.out / "results.parquet", self.out / "report.html", title=config.title)

    def about(self) -> Iterator[str]:
        config = self.config
        if self.vectors:
            sets, shared = ", ".join(p.generator for p in config.profiles), len(next(iter(self.embeddings.values())))
            yield (
                f"{len(self.genes):,} genes of {config.cells} were profiled by {sets}, and the profiles encoded by "
                f"{', '.join(config.encoders)}. {self.n_cells:,} cells were embedded from the {shared:,} genes that "
                "all sets of profiles cover."
            )
        if config.tune:
            known = {_FACTS: "HGNC facts of genes that are not profiled here"}
            if config.synthesize:
                known[_SYNTHESIZED] = f"written by {config.synthesize.options['teacher']}"
            pairs = " and ".join(known.get(one.path, one.path) for one in config.tune.train)
            yield (
                f"'tuned' is {config.tune.model} after {self.tuned.steps} steps under the objective "
                f"{config.tune.objective.name} on {self.tuned.rows['train']:,} instruction pairs ({pairs})."
            )
        if config.grpo:
            start = "the tuned model" if config.grpo.model == _TUNED else config.grpo.model
            yield (
                f"'grpo' is {start} after {self.rewarded.steps} steps of GRPO by the rewards "
                f"{', '.join(config.grpo.rewards)} on {self.rewarded.questions['train']:,} questions of "
                f"{config.grpo.questions}."
            )
        if self.models:
            models = ", ".join(f"{name} ({spec})" if name != spec else name for name, spec in self.models.items())
            yield f"Language models that were evaluated: {models}."

    def coverage(self) -> Iterator[Coverage]:
        for name, made in self.generated.items():
            names = {f"names {status}": n for status, n in made.resolution.items()}
            yield Coverage(name=name, counts=names | {f"profiles {m}": n for m, n in made.marks.items() if n})
        facts = provenance_of(self.out / "cells.h5ad", next(iter(self.wanted)))
        counts = {
            "genes of the matrix": int(facts["n_genes"]),
            "genes with an embedding": int(facts["n_matched"]),
            "expression covered (%)": round(100 * float(facts["coverage"])),
            "cells": int(facts["n_cells"]),
            "cells without a vector": int(facts["n_empty"]),
        }
        yield Coverage(name="cells", counts=counts)

    def examples(self) -> Iterator[ExampleProfile]:
        """Yield the same genes of every set: well-known ones, and for each quality flag one that has it."""
        sets = self.written
        shared = [e for e in next(iter(sets.values())) if all(e in profiles for profiles in sets.values())]
        order = sorted(shared, key=lambda e: e not in _WELL_KNOWN)
        flagged = {mark: e for profiles in sets.values() for e in reversed(order) for mark in profiles[e].marks}
        shown = dict.fromkeys([*order[:3], *flagged.values()])
        for p, name in ((profiles[entity], name) for entity in shown for name, profiles in sets.items()):
            text, reason = p.text or p.error, p.finish_reason
            yield ExampleProfile(entity=p.entity, generator=name, text=text, marks=p.marks, finish_reason=reason)


def _aggregated(name: str, how: Aggregation) -> str:
    return f"{name}, {how.name}" if how.name else name


def _shell(options: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())


def _slug(name: str) -> str:
    """Return `name` as a part of file names and keys: lower case letters, digits and underscores."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def fact_pairs(profiled: Sequence[str], rows: int, seed: int, prompt: Any) -> list[Any]:
    """Return instruction pairs of genes that are not profiled: the question of the profiles, and HGNC facts as answer.

    Left out are all genes that a name of `profiled` may mean. The `seed` orders all genes of HGNC, so that another list
    of profiled genes changes few of the `rows` that are drawn.
    """
    index = GeneIndex.default()
    taken = {symbol for r in index.resolve(list(profiled)) for symbol in (r.entity, *r.candidates)}
    records = [record for symbol in index if (record := index.get(symbol)) is not None]
    rich = [r.symbol for r in records if r.locus_type == "gene with protein product" and r.alias_symbols]
    random.Random(seed).shuffle(rich)
    genes = [symbol for symbol in rich if symbol not in taken][:rows]
    if len(genes) < rows:
        raise BftembedError(f"tune.rows={rows}, but HGNC has only {len(genes)} genes to learn from.")
    requests = [Request(gene, prompt.messages(gene), metadata={"entity": gene, "kind": "gene"}) for gene in genes]
    texts = {completion.id: completion.text for completion in Facts().generate(requests)}
    return [
        Conversation(gene, (*(Turn(m["role"], m["content"]) for m in prompt.messages(gene)), Turn("assistant", text)))
        for gene, text in texts.items()
    ]


def _check_sets(run: _Run) -> None:
    """Raise for names, specs, prompts and packages that would fail only after minutes of generation."""
    config, wanted = run.config, run.config.eval
    for encoder in config.encoders:
        if (engine := parse_spec(encoder).engine) not in ENCODERS.names():
            raise unknown_name("encoder", engine, ENCODERS.names(), where="key 'encoders'")
    slugs = [_slug(p.name) for p in config.profiles]
    for i, one in enumerate(config.profiles):
        if not slugs[i] or slugs.count(slugs[i]) > 1:
            raise BftembedError(f"profiles.{i}.name {one.name!r} is empty or like another: choose another name.")
        get_prompt(one.prompt, "gene")
        for mark in one.allow_marks:
            if mark not in MARKS:
                raise unknown_name("quality flag", mark, MARKS, where=f"profiles.{i}.allow_marks")
    if config.tune or config.grpo:
        require("trl", "train")
    if config.grpo and not config.grpo.questions.endswith(".jsonl"):
        evaluations_of([config.grpo.questions], data=config.grpo.data)
    if config.tune:
        for held in config.tune.train:
            if held.path not in (_FACTS, _SYNTHESIZED) and not Path(held.path).is_file():
                raise BftembedError(f"No such file: {held.path} (key 'tune.train').")
    if run.evaluations and not run.models:
        raise BftembedError("There is no language model to evaluate (key 'eval.models').")
    judge = wanted.options.get("judge") if wanted else None
    for spec in [*(p.generator for p in config.profiles), *run.models.values(), *([judge] if judge else [])]:
        model_from_spec(run.spec(spec, trained=False))


def _check_labels(config: RunConfig, cells: Path) -> None:
    """Raise for labels, batches and a reference that the file does not have, and for extras that are missing."""
    for i, benchmark in enumerate(config.benchmarks):
        if benchmark.task == "genes":
            continue
        options, where = benchmark.options, f"{cells} (benchmarks.{i})"
        baselines = parse_baselines(options.get("baselines", ()))
        extras = {
            "igraph": benchmark.task == "clustering" and "strict" in str(options.get("protocol", "strict")),
            "scib_metrics.utils": benchmark.task == "integration",
            "harmonypy": "harmony" in baselines,
            "bbknn": "bbknn" in baselines,
        }
        for package in (package for package, needed in extras.items() if needed):
            require(package, "scib")
        columns = [str(options[k]) for k in ("label", "batch") if k in options]
        found, _, _ = read_cells(cells, [config.reference] if config.reference else [], columns)
        check_labels(found[columns[0]], columns[0], where)
        for column in columns[1:]:
            check_groups(found[column], column, where)


def _genes_of(cells: Path, config: RunConfig) -> tuple[list[str], int]:
    """Return the genes of the expression matrix, or those with the highest mean in the file's order, and n_cells."""
    with open_expression(cells, use_raw=config.use_raw, layer=config.layer) as expression:
        names, n_cells = list(expression.genes), expression.n_cells
        if config.n_genes is None or config.n_genes >= len(names):
            return names, n_cells
        totals = np.zeros(len(names))
        for rows in expression.matrix.rows(4096):
            totals += np.asarray(rows.to_csr(len(names)).sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-totals, kind="stable")[: config.n_genes])
    return [names[i] for i in chosen], n_cells
