"""The steps of the demo in order: tuning, profiles, gene embeddings, floors, cell embeddings, clustering, report.

Each step calls the public verb that a user would call, and writes the file that the next one reads.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.cells.writing import check_whole_file
from bftembed.config import DemoConfig, check_config, load_config, save_config
from bftembed.datasets import data_path
from bftembed.demo import floors, record, tuning
from bftembed.demo.run import Run, slug
from bftembed.embeddings import embed_genes
from bftembed.encoders.base import REGISTRY as ENCODERS
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.hdf5 import open_h5ad
from bftembed.io import atomic_path, write_text
from bftembed.profiles.generators import generator_from_spec
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import MARKS
from bftembed.profiles.runner import generate_profiles
from bftembed.profiles.store import ProfileStore
from bftembed.progress import silent
from bftembed.registry import parse_spec
from bftembed.results import to_frame, write_results
from bftembed.runrecord import EmbeddingNote

if TYPE_CHECKING:
    import os

    import pandas as pd

    from bftembed.demo.run import Bar


def run_demo(
    config: DemoConfig | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    genes: int | None = None,
    bar: Bar | None = None,
) -> Path:
    """Run the main job on packaged models and cells: profiles, embeddings, clustering, report.

    Parameters
    ----------
    config
        A YAML file; see bftembed config show demo. By default the packaged models and cells.
    out
        Folder for everything that is written, instead of that of the config.
    genes
        Number of genes, those of the highest mean expression, instead of that of the config.

    Other Parameters
    ----------------
    bar
        Called with the name of a step that takes long; gives the progress callable for it.

    Returns
    -------
    Path
        ``report.html``. Beside it: ``results.parquet``, ``run.json``, ``cells.h5ad``, a profile store and a
        ``.safetensors`` per set of profiles, ``config.yaml``, and with a tuning its ``tune.yaml`` and model.

    Raises
    ------
    BftembedError
        When a step fails; what earlier steps wrote stays, and the next run goes on from it.
    """
    base = DemoConfig() if config is None else config
    base = base if isinstance(base, DemoConfig) else load_config(base, DemoConfig)
    given = {"out": None if out is None else str(out), "genes": genes}
    given = {name: value for name, value in given.items() if value is not None}
    chosen: DemoConfig = check_config(DemoConfig, {**base.model_dump(), **given}, where="the demo")
    show = bar or (lambda name: nullcontext(silent))
    run = start(chosen)
    save_config(chosen, run.out / "config.yaml")
    write_text(run.out / "genes.txt", "\n".join(run.genes) + "\n")
    if tuning.tuned_sets(chosen):
        _tune(run, show)
    for profile_set in chosen.profiles:
        _profiles(run, profile_set.name, show)
    _share_genes(run)
    _embed_cells(run)
    frame = _score(run, show)
    write_results(frame, run.out / "results.parquet")
    _save_cells(run)
    record.write(run, show)
    return record.report(run)


def start(config: DemoConfig) -> Run:
    """Read the cells and choose the genes.

    Raises
    ------
    BftembedError
        When the file cannot be read or lacks ``.raw``, the label or the reference embedding, or a set of profiles has
        a name that is taken, or an unknown generator, prompt, mark or encoder.
    """
    import anndata

    _check_sets(config)
    path = Path(data_path(config.cells))
    if not path.exists():
        raise BftembedError(f"No such file: {path} (key 'cells').")
    with open_h5ad(path) as handle:
        check_whole_file(handle, path)
    with warnings.catch_warnings():
        # Files of older versions are brought up to date on reading; nothing that a user of the demo can act on.
        warnings.simplefilter("ignore", FutureWarning)
        cells = anndata.read_h5ad(path)
    if config.use_raw and cells.raw is None:
        raise BftembedError(f"{path} has no .raw. Set use_raw to false.")
    if config.label not in cells.obs:
        raise unknown_name("obs column", config.label, cells.obs.columns, where=str(path))
    if config.reference is not None and config.reference not in cells.obsm:
        raise unknown_name("obsm key", config.reference, cells.obsm.keys(), where=str(path))
    return Run(config, cells, floors.genes_of(cells, use_raw=config.use_raw, most_expressed=config.genes))


def _check_sets(config: DemoConfig) -> None:
    """Refuse what would fail only after minutes of generation."""
    if parse_spec(config.encoder).engine not in ENCODERS.names():
        raise unknown_name("encoder", parse_spec(config.encoder).engine, ENCODERS.names(), where="key 'encoder'")
    taken = {slug(name) for name in floors.names(config)}
    for i, wanted in enumerate(config.profiles):
        if not slug(wanted.name) or slug(wanted.name) in taken:
            raise BftembedError(
                f"profiles.{i}.name {wanted.name!r} is empty or stands for another row: choose another."
            )
        taken.add(slug(wanted.name))
        get_prompt(wanted.prompt, "gene")
        if parse_spec(wanted.generator).engine == tuning.TUNED:
            _check_tuned(config, i)
        else:
            generator_from_spec(wanted.generator)
        for mark in wanted.allow_marks:
            if mark not in MARKS:
                raise unknown_name("mark", mark, MARKS, where=f"profiles.{i}.allow_marks")


def _check_tuned(config: DemoConfig, i: int) -> None:
    wanted = config.profiles[i]
    if config.tune is None:
        raise BftembedError(
            f"profiles.{i}.generator is {wanted.generator!r}, but the key 'tune' is empty, so there is no tuned model. "
            "Fill 'tune', or leave this set out."
        )
    # As it will be called: the folder has to fit into a spec, and the options have to be known.
    tuning.tuned_spec(wanted.generator, f"{config.out}/tuned")
    generator_from_spec(tuning.tuned_spec(wanted.generator, config.tune.model))
    require("trl", "train")


def _tune(run: Run, show: Bar) -> None:
    with run.step("tuning", f"bftembed tune {run.out / 'tune.yaml'}"), show("tuning") as progress:
        run.tuned = tuning.tune_model(run.config, run.genes, progress)
    done = run.tuned
    detail = f"{done.report.steps} steps, nll {done.log[0]['nll']:.2f} → {done.log[-1]['nll']:.2f}"
    if not done.report.seconds:
        detail += ", found finished"
    run.steps[-1] = run.steps[-1].model_copy(update={"detail": detail})


def _profiles(run: Run, name: str, show: Bar) -> None:
    wanted = next(p for p in run.config.profiles if p.name == name)
    store, vectors = run.store(name), run.vectors(name)
    source = run.out / "genes.txt"
    generator = tuning.generator_of(wanted.generator, run.tuned)
    call = f'bftembed profiles generate {source} --generator "{generator}" --out {store} --unknown keep'
    if wanted.prompt:
        call += f" --prompt {wanted.prompt}"
    with run.step(f"profiles by {wanted.generator}", call), show(f"profiles ({name})") as progress:
        run.reports[name] = generate_profiles(
            run.genes,
            generator=generator,
            prompt=wanted.prompt,
            out=store,
            unknown="keep",
            progress=progress,
        )
    report = run.reports[name]
    if report.seconds and report.tokens:
        detail = f"{report.written} written, {report.tokens / report.seconds:.0f} tokens/s"
    else:
        detail = f"{report.written} written, {report.already_stored} from the store"
    run.steps[-1] = run.steps[-1].model_copy(update={"detail": detail})
    marks = f" --allow-marks {','.join(wanted.allow_marks)}" if wanted.allow_marks else ""
    call = f"bftembed genes embed {store} --encoder {run.config.encoder} --out {vectors}{marks}"
    with run.step(f"gene embeddings of {name}", call), show(f"gene embeddings ({name})") as progress:
        run.embeddings[name] = embed_genes(
            store,
            encoder=run.config.encoder,
            allow_marks=wanted.allow_marks,
            keys=run.reports[name].keys,
            out=vectors,
            progress=progress,
        )


def _share_genes(run: Run) -> None:
    """Keep the genes that every set of profiles covers, so that rows differ by their vectors alone."""
    shared = floors.shared_ids(list(run.embeddings.values()))
    if len(shared) < 2:
        counts = ", ".join(f"{name}: {len(e)}" for name, e in run.embeddings.items())
        raise BftembedError(f"The sets of profiles have {len(shared)} genes in common ({counts}); two are needed.")
    run.embeddings = {name: e.subset(shared) for name, e in run.embeddings.items()}


def _embed_cells(run: Run) -> None:
    from bftembed.cells.embed import embed_cells

    config = run.config
    last = config.profiles[-1].name
    rows = floors.rows(run.embeddings, config, texts=_texts(run, last))
    first = next(iter(run.embeddings))
    call = (
        f"bftembed cells embed {config.cells} --genes {run.vectors(first)} "
        f"--out {run.out}/cells.h5ad{' --use-raw' if config.use_raw else ''} --empty-cells nan"
    )
    with run.step("cell embeddings", call, f"{len(rows)} kinds of gene vectors, floors included"):
        for row in rows:
            run.keys[row.note.name] = []
            run.notes.append(row.note)
            for i, vectors in enumerate(row.draws):
                key = f"X_{slug(row.note.name)}" + (f"_{i}" if len(row.draws) > 1 else "")
                embed_cells(run.cells, vectors, key=key, use_raw=config.use_raw, empty_cells="nan", overwrite=True)
                run.keys[row.note.name].append(key)
    if config.reference is not None:
        name = floors.reference_name(config.reference)
        run.keys[name] = [config.reference]
        about = "the embedding that the file brings"
        if config.cells == "builtin:pbmc68k_reduced" and config.reference == "X_pca":
            about += ": 50 principal components of scaled expression"
        run.notes.append(EmbeddingNote(name=name, kind="reference", description=about))


def _texts(run: Run, name: str) -> dict[str, str]:
    embeddings, keys = run.embeddings[name], set(run.reports[name].keys)
    with ProfileStore.open(run.store(name)) as store:
        texts = {p.entity: p.text for p in store.profiles() if p.key in keys}
    return {entity: texts[entity] for entity in embeddings.ids}


def _score(run: Run, show: Bar) -> pd.DataFrame:
    from bftembed.tasks import clustering

    config = run.config
    names = {key: name for name, keys in run.keys.items() for key in keys}
    call = (
        f"bftembed bench clustering {run.out}/cells.h5ad --keys {','.join(names)} --label {config.label} "
        f"--protocol standard --out {run.out}/results.parquet"
    )
    with run.step("clustering", call, f"{config.seeds} seeds"), show("clustering") as progress:
        results = clustering.run(
            {key: run.cells.obsm[key] for key in names},
            run.cells.obs[config.label].to_numpy(),
            run="demo",
            seeds=range(config.seeds),
            progress=progress,
        )
    return to_frame(floors.merge_draws(results, run.keys))


def _save_cells(run: Run) -> None:
    """Write the cells with every embedding; what the file held before stays."""
    with atomic_path(run.out / "cells.h5ad") as temporary:
        run.cells.write_h5ad(temporary)
