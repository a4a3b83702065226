"""The main job from one config: tuning, profiles, gene embeddings, cell embeddings, benchmarks, report.

Every step calls the public verb that a user would call, and writes the file that the next one reads. A step whose
inputs and options are those of an earlier run is not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.config import RunConfig, TuneConfig, load_config, save_config
from bftembed.config.loading import check_parts
from bftembed.config.run import Aggregation
from bftembed.datasets import data_path
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import canonical_json, exclusive_lock, sha256_text, write_json, write_text
from bftembed.progress import silent
from bftembed.registry import Spec, parse_spec
from bftembed.report.manifest import Coverage, ExampleProfile, Manifest, Step, Umap, versions, write_points

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import pandas as pd

    from bftembed.config import ProfileSet
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.llm.base import Answer
    from bftembed.profiles.generate import GenerationReport
    from bftembed.progress import Progress

    #: Called with the name of a step that takes long; gives the progress callable for as long as it runs.
    Bar = Callable[[str], AbstractContextManager[Progress]]

#: Engine of the generator spec that means the model tuned in the run.
TUNED = "tuned"
_STEPS = "steps.json"
#: Genes that a reader may know something about, shown first among the examples.
_WELL_KNOWN = ("CD3D", "MS4A1", "LYZ", "NKG7", "CD79A", "HLA-DRA", "CST3", "GNLY", "S100A8", "B2M")


@dataclass(frozen=True)
class PlannedStep:
    """A step of a run that was not made.

    Attributes
    ----------
    name
        What would be done.
    detail
        Counts, tokens and cost.
    done
        Whether its output is there already.
    seconds
        Estimated time: of profiles see `bftembed.profiles.estimate.Estimate`; of another step that of the last one like
        it on this machine, in proportion to its items. None where there was none.
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
        and a ``.safetensors`` per set and encoder, ``config.yaml``, and with a tuning its config and model.

    Raises
    ------
    BftembedError
        For a wrong config, before anything is written; for a folder with a run on other cells; when a step fails: what
        earlier steps wrote stays, and the next run goes on from it.
    """
    run = _Run.of(config, out, n_genes, bar)
    with exclusive_lock(run.out / ".lock", holder=str(run.out)):
        run.start()
        run.tune()
        for profile_set in run.config.profiles:
            run.profile(profile_set)
        embeddings = run.embed_genes()
        keys = run.embed_cells(embeddings)
        run.score(embeddings, keys)
        return run.report(embeddings, keys)


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
    from bftembed.profiles.estimate import expected_seconds
    from bftembed.profiles.generate import generate_profiles

    run = _Run.of(config, out, n_genes, None)
    run.check_folder()
    steps = {
        name: PlannedStep(name, detail, name in run.done, expected_seconds(kind, n))
        for name, (kind, n, detail) in run.work.items()
    }
    model = run.config.tune.model if run.config.tune else ""
    if run.tuned_sets:
        folder = Path(run.tune_config(write=False).out) / "model"
        steps["tuning"] = dataclasses.replace(steps["tuning"], done=folder.is_dir())
        model = str(folder) if folder.is_dir() else model
    for one in run.config.profiles:
        tuned = parse_spec(one.generator).engine == TUNED
        spec = str(tuned_spec(one.generator, model)) if tuned else one.generator
        known = generate_profiles(
            run.genes, generator=spec, out=run.store(one.name), prompt=one.prompt, unknown="keep", dry_run=True
        ).estimate
        assert known is not None
        most = f", at most {known.most_completion_tokens:,} of answers" if known.most_completion_tokens else ""
        cost = f", at most ${known.most_cost:.2f}" if known.most_cost is not None else ""
        stored, prompts = known.already_stored, known.prompt_tokens
        detail = f"{known.to_write:,} to write, {stored:,} stored; {prompts:,} tokens of prompts{most}{cost}"
        name = f"profiles: {one.name}"
        steps[name] = PlannedStep(name, detail, not known.to_write, known.seconds)
    done, planned = True, []
    for step in steps.values():  # a step is done again after one that is
        done = done and step.done
        planned.append(dataclasses.replace(step, done=done, seconds=0.0 if done else step.seconds))
    return planned


@dataclass
class _Run:
    """A pipeline that runs: its inputs, and what it has done."""

    config: RunConfig
    cells: Path
    genes: list[str]
    n_cells: int
    bar: Bar
    steps: list[Step] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)
    tuned: Any = None
    generated: dict[str, GenerationReport] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig | str | os.PathLike[str], out: Any, n_genes: int | None, bar: Bar | None) -> _Run:
        """Read the config and the names of the genes, and check all that would fail only after minutes."""
        where = "the config" if isinstance(config, RunConfig) else str(config)
        chosen = config if isinstance(config, RunConfig) else load_config(config)
        if not isinstance(chosen, RunConfig):
            raise BftembedError(f"{where} is not of the recipe 'run'.")
        given = {"out": None if out is None else str(out), "n_genes": n_genes}
        chosen = chosen.model_copy(update={k: v for k, v in given.items() if v is not None})
        check_parts(chosen, where=where)
        if not chosen.benchmarks:
            raise BftembedError(f"{where} names no benchmark, so there would be nothing to report (key 'benchmarks').")
        cells = Path(data_path(chosen.cells))
        if not cells.is_file():
            raise BftembedError(f"No such file: {cells} (key 'cells').")
        _check_sets(chosen)
        _check_labels(chosen, cells)
        run = cls(chosen, cells, *_genes_of(cells, chosen), bar or (lambda name: nullcontext(silent)))
        with suppress(OSError, ValueError):
            run.done = json.loads((run.out / _STEPS).read_text(encoding="utf-8"))
        return run

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def tuned_sets(self) -> list[ProfileSet]:
        return [p for p in self.config.profiles if parse_spec(p.generator).engine == TUNED]

    @property
    def vectors(self) -> list[tuple[str, ProfileSet, str]]:
        """Name in tables, set of profiles and encoder of all gene embeddings."""
        several = len(self.config.encoders) > 1
        return [
            (f"{p.name}, {e}" if several else p.name, p, e) for p in self.config.profiles for e in self.config.encoders
        ]

    @property
    def references(self) -> list[str]:
        return [self.config.reference] if self.config.reference else []

    def store(self, name: str) -> Path:
        return self.out / f"profiles-{slug(name)}"

    def check_folder(self) -> None:
        """Raise where the folder holds a run on other cells."""
        file = self.out / "config.yaml"
        if not file.is_file():
            return
        before = load_config(file)
        for key in ("cells", "use_raw", "layer"):
            old, new = getattr(before, key, None), getattr(self.config, key)
            if old != new:
                raise BftembedError(f"{self.out} holds a run with {key}={old!r}, not {new!r}. Choose another 'out'.")

    def start(self) -> None:
        self.check_folder()
        save_config(self.config, self.out / "config.yaml")
        write_text(self.out / "genes.txt", "\n".join(self.genes) + "\n")

    @functools.cached_property
    def work(self) -> dict[str, tuple[Any, int, str]]:
        """Name of a step before the report → what its time depends on, its number of items, and both in words."""
        found: dict[str, tuple[Any, int, str]] = {}
        if self.tuned_sets and (tuning := self.config.tune):
            kind = [tuning.model, tuning.objective.model_dump(), tuning.batch_size, tuning.max_length]
            detail = f"{tuning.steps} steps of {tuning.batch_size}, objective {tuning.objective.name}"
            found["tuning"] = (kind, tuning.steps, detail)
        found |= {f"profiles: {p.name}": (None, 0, "") for p in self.config.profiles}  # estimated by the generator
        n, n_keys = len(self.genes), len(self.vectors) * len(self.config.aggregations)
        found |= {f"gene embeddings: {name}": (encoder, n, f"{n:,} genes") for name, _, encoder in self.vectors}
        detail = f"{self.n_cells:,} cells × {n_keys} embeddings"
        found["cell embeddings"] = ("cell embeddings", self.n_cells * n_keys, detail)
        for i, b in enumerate(self.config.benchmarks, 1):
            options = self.config.options_of(b)
            n = len(self.vectors) if b.task == "genes" else self.n_cells * n_keys
            detail = ", ".join(f"{k}={v}" for k, v in options.items())
            found[f"benchmark {i}: {b.task}"] = ([b.task, options], n, detail)
        return found

    def is_done(self, name: str, inputs: Any, file: Path) -> bool:
        """Return whether `file` was made from these inputs by an earlier run."""
        return file.exists() and self.done.get(name) == _digest(inputs)

    @contextmanager
    def step(
        self, name: str, call: str = "", *, inputs: Any = None, timed: bool = True
    ) -> Iterator[tuple[list[str], Progress]]:
        """Time a step and note it; the body appends its details. `call` is the command that does the same.

        With `inputs` a later run with the same finds the step done. `timed` keeps its time for estimates.
        """
        from bftembed.profiles.estimate import record_seconds

        started, detail = time.monotonic(), list[str]()
        with self.bar(name) as progress:
            yield detail, progress
        seconds = round(time.monotonic() - started, 1)
        self.steps.append(Step(name=name, call=call, seconds=seconds, detail=", ".join(detail)))
        kind, n, _ = self.work.get(name, (None, 0, ""))
        if timed:
            record_seconds(kind, n, seconds)
        if inputs is not None:
            self.done[name] = _digest(inputs)
            write_json(self.out / _STEPS, self.done)

    # -- steps -----------------------------------------------------------------------------------------------------

    def tune(self) -> None:
        if not self.tuned_sets:
            return
        from bftembed.tuning.stage import tune

        wanted = self.tune_config(write=True)
        save_config(wanted, self.out / "tune.yaml")
        call = f"bftembed tune {self.out / 'tune.yaml'}"
        fresh = not any((Path(wanted.out) / name).is_dir() for name in ("checkpoints", "model"))
        with self.step("tuning", call, timed=fresh) as (detail, progress):
            self.tuned = tune(wanted, progress=progress)
            log = json.loads((Path(self.tuned.out) / "log.json").read_text(encoding="utf-8"))
            nll = [line["nll"] for line in log if "nll" in line]
            detail += [f"{self.tuned.steps} steps", f"NLL {nll[0]:.2f} → {nll[-1]:.2f}"]
            detail += self.tuned.warnings

    def tune_config(self, *, write: bool) -> TuneConfig:
        """Return the config of the tuning; its pairs are written where they are made here."""
        from bftembed.llm.models import model_identity
        from bftembed.profiles.prompts import get_prompt
        from bftembed.tuning.data import write_conversations

        wanted = self.config.tune
        assert wanted is not None  # checked with the sets
        training = {"max_steps": wanted.steps, "seed": wanted.seed, "batch_size": wanted.batch_size}
        parts = {
            "model": wanted.model,
            "objective": wanted.objective.model_dump(),
            "training": training | {"learning_rate": wanted.learning_rate},
        }
        data: dict[str, Any] = {"max_length": wanted.max_length}
        pairs: list[Any] = []
        if wanted.train is None:
            pairs = fact_pairs(self.genes, wanted.rows, wanted.seed, get_prompt(self.tuned_sets[0].prompt, "gene"))
        texts = [[(t.role, t.content) for t in pair.turns] for pair in pairs] or wanted.train
        decisive = [parts, data, texts, model_identity("language-model", wanted.model)]
        folder = self.out / f"tuned-{_digest(decisive)[:8]}"
        data["train"] = wanted.train or str(folder / "pairs.jsonl")
        if write and pairs:
            write_conversations(pairs, folder / "pairs.jsonl")
        return TuneConfig.model_validate({**parts, "data": data, "out": str(folder)})

    def profile(self, wanted: ProfileSet) -> None:
        from bftembed.profiles.generate import generate_profiles

        spec = wanted.generator
        if parse_spec(spec).engine == TUNED:
            spec = str(tuned_spec(spec, self.tuned.model))
        store = self.store(wanted.name)
        call = f'bftembed profiles generate {self.out}/genes.txt --generator "{spec}" --out {store} --unknown keep'
        call += f" --prompt {wanted.prompt}" if wanted.prompt else ""
        name = f"profiles: {wanted.name}"
        with self.step(name, call) as (detail, progress):
            made = generate_profiles(
                self.genes, generator=spec, prompt=wanted.prompt, out=store, unknown="keep", progress=progress
            )
            detail += [f"{made.written} written", f"{made.already_stored} from the store"]
            detail += [f"{made.tokens / made.seconds:.0f} tokens/s"] if made.seconds and made.tokens else []
        self.generated[wanted.name] = made

    def embed_genes(self) -> dict[str, GeneEmbeddings]:
        """Return name → gene embeddings of each set and encoder, of the genes that all sets cover."""
        from bftembed.embeddings import GeneEmbeddings, embed_genes

        found = {}
        for name, one, encoder in self.vectors:
            keys, file, step = self.generated[one.name].keys, self.genes_file(name), f"gene embeddings: {name}"
            marks = f" --allow-marks {','.join(one.allow_marks)}" if one.allow_marks else ""
            call = f"bftembed genes embed {self.store(one.name)} --encoder {encoder} --out {file}{marks}"
            inputs = [sorted(keys), sorted(one.allow_marks), encoder]
            if not self.is_done(step, inputs, file):
                options: Any = {"encoder": encoder, "allow_marks": one.allow_marks, "keys": keys, "out": file}
                with self.step(step, call, inputs=inputs) as (detail, progress):
                    made = embed_genes(self.store(one.name), progress=progress, **options)
                    detail.append(f"{len(made):,} genes")
            found[name] = GeneEmbeddings.load(file)
        first = next(iter(found.values()))
        shared = [gene for gene in first.ids if all(gene in other for other in found.values())]
        if len(shared) < 2:
            counts = ", ".join(f"{name}: {len(e)}" for name, e in found.items())
            raise BftembedError(f"The sets of profiles have {len(shared)} genes in common ({counts}); two are needed.")
        return {name: embeddings.subset(shared) for name, embeddings in found.items()}

    def genes_file(self, name: str) -> Path:
        return self.out / f"genes-{slug(name)}.safetensors"

    def embed_cells(self, embeddings: dict[str, GeneEmbeddings]) -> dict[str, str]:
        """Embed the cells with each set of gene embeddings and aggregation; return key of obsm → name in tables."""
        from bftembed.cells.embed import embed_cells

        target = self.out / "cells.h5ad"
        source_is = [str(self.cells), self.cells.stat().st_size, self.cells.stat().st_mtime_ns]
        wanted = [
            (f"{name}, {how.name}" if how.name else name, vectors, self.config.options_of(how))
            for name, vectors in embeddings.items()
            for how in self.config.aggregations
        ]
        matrix = {"use_raw": self.config.use_raw, "layer": self.config.layer}
        keys = {f"X_{slug(name)}": name for name, _, _ in wanted}
        inputs = [source_is, matrix, [(n, v.fingerprint(), o) for n, v, o in wanted]]
        if self.is_done("cell embeddings", inputs, target):
            return keys
        first = self.genes_file(next(iter(embeddings)))
        call = f"bftembed cells embed {self.config.cells} --genes {first} --out {target}"
        with self.step("cell embeddings", call, inputs=inputs) as (detail, progress):
            source = self.cells
            for i, (name, vectors, options) in enumerate(wanted):
                # Each key is added to a copy, so that a run that is killed leaves the file as it was.
                made = self.out / f".cells-{i}.h5ad"
                given = {"empty_cells": "nan", **matrix, **options}
                embed_cells(source, vectors, key=f"X_{slug(name)}", out=made, **given)
                if source != self.cells:
                    source.unlink()
                source = made
                progress(i + 1, len(wanted), name)
            source.replace(target)
            detail.append(f"{self.n_cells:,} cells × {len(wanted)} embeddings")
        return keys

    def score(self, embeddings: dict[str, GeneEmbeddings], keys: dict[str, str]) -> None:
        """Run the benchmarks and write all results."""
        import pandas as pd

        from bftembed import bench
        from bftembed.tasks.base import ordered, read_results, write_results

        first = next(iter(embeddings))
        cells = {"genes": embeddings[first], "use_raw": self.config.use_raw, "layer": self.config.layer}
        scored = [*keys, *self.references]
        fingerprints = [e.fingerprint() for e in embeddings.values()]
        frames = []
        for i, benchmark in enumerate(self.config.benchmarks, 1):
            file, options = self.out / f"results-{i}-{benchmark.task}.parquet", self.config.options_of(benchmark)
            step = f"benchmark {i}: {benchmark.task}"
            inputs = [self.done.get("cell embeddings"), fingerprints, options, self.config.reference]
            if not self.is_done(step, inputs, file):
                with self.step(step, _call(benchmark.task, options), inputs=inputs) as (detail, progress):
                    texts = self.texts(embeddings)
                    if benchmark.task == "genes":
                        frame = bench.genes(embeddings, texts=texts, progress=progress, **options)
                    else:
                        run = "/".join(
                            [self.cells.stem, *(str(options[k]) for k in ("label", "batch") if k in options)]
                        )
                        given = {**cells, "texts": texts[first], "run": run, **options}
                        verb = getattr(bench, benchmark.task)
                        frame = verb(self.out / "cells.h5ad", scored, progress=progress, **given)
                    write_results(self.named(frame, keys), file)
                    detail.append(f"{len(frame):,} rows")
            frames.append(read_results(file))
        write_results(ordered(pd.concat(frames, ignore_index=True), str(self.out)), self.out / "results.parquet")

    def named(self, frame: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
        """Return results with names of the config in place of keys of obsm, and baselines and references as such."""
        kinds = {
            f"{name}, {how.name}" if how.name else name: "baseline" if one.baseline else "subject"
            for name, one, _ in self.vectors
            for how in (Aggregation(), *self.config.aggregations)
        }
        kinds |= dict.fromkeys(self.references, "reference")
        named = frame.assign(subject=frame["subject"].replace(keys))
        scored = named["kind"] == "subject"
        return named.assign(kind=named["kind"].where(~scored, named["subject"].map(kinds).fillna("subject")))

    @functools.cached_property
    def written(self) -> dict[str, dict[str, Answer]]:
        """Name of a set → gene → its profile of this run."""
        from bftembed.llm.store import AnswerStore

        found = {}
        for name, made in self.generated.items():
            keys = set(made.keys)
            with AnswerStore.open(made.out) as store:
                found[name] = {p.entity: p for p in store.answers() if p.key in keys}
        return found

    def texts(self, embeddings: dict[str, GeneEmbeddings]) -> dict[str, dict[str, str]]:
        """Return name of embeddings → gene → profile."""
        of = {name: self.written[one.name] for name, one, _ in self.vectors}
        return {name: {gene: of[name][gene].text for gene in genes.ids} for name, genes in embeddings.items()}

    # -- report ----------------------------------------------------------------------------------------------------

    def report(self, embeddings: dict[str, GeneEmbeddings], keys: dict[str, str]) -> Path:
        from bftembed.tasks.base import report

        umaps = tuple(self.maps(embeddings, keys)) if self.config.maps else ()
        sets = ", ".join(p.generator for p in self.config.profiles)
        n_shared = len(next(iter(embeddings.values())))
        about = [
            f"{len(self.genes):,} genes of {self.config.cells} were profiled by {sets}, and the profiles encoded "
            f"by {', '.join(self.config.encoders)}. {self.n_cells:,} cells were embedded from the "
            f"{n_shared:,} genes that all sets of profiles cover."
        ]
        if self.tuned and (wanted := self.config.tune):
            pairs = "HGNC facts of genes that are not profiled here" if wanted.train is None else wanted.train
            about.append(
                f"'tuned' is {wanted.model} after {self.tuned.steps} steps under the objective {wanted.objective.name} "
                f"on {self.tuned.rows['train']:,} instruction pairs ({pairs})."
            )
        Manifest(
            title=self.config.title,
            description=tuple(about),
            steps=tuple(self.steps),
            coverage=tuple(self.coverage(keys)),
            profiles=tuple(self.examples()),
            umaps=umaps,
            settings=self.config.model_dump(),
            versions=versions(),
        ).save(self.out / "run.json")
        return report(self.out / "results.parquet", self.out / "report.html", title=self.config.title)

    def coverage(self, keys: dict[str, str]) -> list[Coverage]:
        from bftembed.tasks.baselines import provenance_of

        tables = []
        for name, made in self.generated.items():
            names = {f"names {status}": n for status, n in made.resolution.items()}
            tables.append(Coverage(name=name, counts=names | {f"profiles {m}": n for m, n in made.marks.items() if n}))
        facts = provenance_of(self.out / "cells.h5ad", next(iter(keys)))
        counts = {
            "genes of the matrix": int(facts["n_genes"]),
            "genes with an embedding": int(facts["n_matched"]),
            "expression covered (%)": round(100 * float(facts["coverage"])),
            "cells": int(facts["n_cells"]),
            "cells without a vector": int(facts["n_empty"]),
        }
        return [*tables, Coverage(name="cells", counts=counts)]

    def examples(self) -> list[ExampleProfile]:
        """Return the same genes of every set: well-known ones, and for each quality flag one that has it."""
        sets = self.written
        entities = [e for e in next(iter(sets.values())) if all(e in profiles for profiles in sets.values())]
        order = sorted(entities, key=lambda e: (e not in _WELL_KNOWN, entities.index(e)))
        shown = order[:3]
        for profiles in sets.values():
            for mark in dict.fromkeys(m for e in order for m in profiles[e].marks):
                if all(mark not in profiles[e].marks for e in shown):
                    shown.append(next(e for e in order if mark in profiles[e].marks))
        return [
            ExampleProfile(
                entity=entity,
                generator=name,
                text=profiles[entity].text or profiles[entity].error,
                marks=profiles[entity].marks,
                finish_reason=profiles[entity].finish_reason,
            )
            for entity in shown
            for name, profiles in sets.items()
        ]

    def maps(self, embeddings: dict[str, GeneEmbeddings], keys: dict[str, str]) -> Iterator[Umap]:
        from bftembed.entities.classes import functional_classes
        from bftembed.metrics.projection import umap_coordinates
        from bftembed.tasks.data import read_cells

        labels = [str(o["label"]) for b in self.config.benchmarks if "label" in (o := self.config.options_of(b))][:1]
        wanted: list[tuple[str, str, np.ndarray, list[str]]] = []
        if labels:
            names = keys | {key: key for key in self.references}
            columns, matrices, _ = read_cells(self.out / "cells.h5ad", list(names), labels)
            for key, matrix in matrices.items():
                finite = np.isfinite(matrix).all(axis=1)
                caption = f"Cells, colored by {labels[0]}; {int(finite.sum()):,} of {len(matrix):,} have a vector."
                colors = [str(x) for x in columns[labels[0]][finite]]
                wanted.append((f"Cells: {names[key]}", caption, matrix[finite], colors))
        name, genes = next(iter(embeddings.items()))
        classes = list(functional_classes(genes.ids))
        wanted.append((f"Genes: {name}", "Genes, colored by functional class.", genes.matrix, classes))
        for i, (title, caption, matrix, colors) in enumerate(wanted):
            file = self.out / f"umap-{i}.parquet"
            step, inputs = f"UMAP {i + 1}: {title}", [title, hashlib.sha256(matrix.tobytes()).hexdigest(), colors]
            if not self.is_done(step, inputs, file):
                with self.step(step, inputs=inputs) as (detail, _):
                    write_points(umap_coordinates(matrix), colors, file)
                    detail.append(f"{len(matrix):,} points")
            yield Umap(title=title, caption=caption, path=file.name)


def tuned_spec(generator: str, model: str) -> Spec:
    """Return the spec that generates with the folder or model `model`, with the options of the spec `generator`."""
    given = parse_spec(generator)
    if given.model:
        raise BftembedError(f"{generator!r}: 'tuned' is the model tuned in this run and takes no other (key 'tune').")
    spec = Spec("transformers", model, given.options)
    with suppress(BftembedError):
        if parse_spec(str(spec)) == spec:
            return spec
    raise BftembedError(f"A generator spec cannot hold the folder {model!r}. Choose an 'out' without comma.")


def fact_pairs(profiled: Sequence[str], rows: int, seed: int, prompt: Any) -> list[Any]:
    """Return instruction pairs of genes that are not profiled: the question of the profiles, and HGNC facts as answer.

    Left out are all genes that a name of `profiled` may mean. The `seed` orders all genes of HGNC, so that another list
    of profiled genes changes few of the `rows` that are drawn.
    """
    from bftembed.entities.genes import GeneIndex
    from bftembed.llm.base import Request
    from bftembed.profiles.facts import Facts
    from bftembed.tuning.data import Conversation, Turn

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


def slug(name: str) -> str:
    """Return `name` as a part of file names and keys: lower case letters, digits and underscores."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _digest(inputs: Any) -> str:
    return sha256_text(canonical_json(inputs))


def _call(task: str, options: dict[str, Any]) -> str:
    given = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items())
    return f"bftembed bench {task} … {given}".rstrip()


def _check_sets(config: RunConfig) -> None:
    """Raise for what would fail only after minutes of generation."""
    from bftembed.encoders.base import REGISTRY as ENCODERS
    from bftembed.llm import model_from_spec
    from bftembed.profiles.prompts import get_prompt
    from bftembed.profiles.screening import MARKS

    for encoder in config.encoders:
        if parse_spec(encoder).engine not in ENCODERS.names():
            raise unknown_name("encoder", parse_spec(encoder).engine, ENCODERS.names(), where="key 'encoders'")
    slugs = [slug(p.name) for p in config.profiles]
    for i, one in enumerate(config.profiles):
        if not slugs[i] or slugs.count(slugs[i]) > 1:
            raise BftembedError(f"profiles.{i}.name {one.name!r} is empty or like another: choose another name.")
        get_prompt(one.prompt, "gene")
        if parse_spec(one.generator).engine != TUNED:
            model_from_spec(one.generator)
        elif config.tune is None:
            raise BftembedError(f"profiles.{i}.generator is {one.generator!r}, but the key 'tune' is empty.")
        else:  # as it will be called: the folder has to fit into a spec, and the options have to be known
            tuned_spec(one.generator, f"{config.out}/tuned")
            model_from_spec(tuned_spec(one.generator, config.tune.model))
            require("trl", "train")
            if config.tune.train is not None and not Path(config.tune.train).is_file():
                raise BftembedError(f"No such file: {config.tune.train} (key 'tune.train').")
        for mark in one.allow_marks:
            if mark not in MARKS:
                raise unknown_name("quality flag", mark, MARKS, where=f"profiles.{i}.allow_marks")


def _check_labels(config: RunConfig, cells: Path) -> None:
    """Raise for labels, batches and a reference that the file does not have, and for extras that are missing."""
    from bftembed.tasks.baselines import parse_baselines
    from bftembed.tasks.data import check_groups, check_labels, read_cells

    for i, benchmark in enumerate(config.benchmarks):
        if benchmark.task == "genes":
            continue
        options, where = config.options_of(benchmark), f"{cells} (benchmarks.{i})"
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
    from bftembed.cells.reading import expression_in

    with expression_in(cells, use_raw=config.use_raw, layer=config.layer) as expression:
        names, n_cells = list(expression.genes), expression.n_cells
        if config.n_genes is None or config.n_genes >= len(names):
            return names, n_cells
        totals = np.zeros(len(names))
        for rows in expression.matrix.rows(4096):
            totals += np.asarray(rows.to_csr(len(names)).sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-totals, kind="stable")[: config.n_genes])
    return [names[i] for i in chosen], n_cells
