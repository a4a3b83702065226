"""Are cells of one type together, and batches mixed? The scIB metrics, each with its library or its reason."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed._version import __version__
from bftembed.errors import BftembedError, unknown_name
from bftembed.machine import available_memory
from bftembed.metrics import integration as scib
from bftembed.metrics.checks import Undefined
from bftembed.metrics.memory import integration_memory
from bftembed.progress import Progress, silent
from bftembed.results import ENDS, Result
from bftembed.tasks.halves import half_interval, half_samples
from bftembed.tasks.info import TaskInfo
from bftembed.tasks.scib_profiles import ARI, NMI, PROFILES, Cells, Profile
from bftembed.tasks.usable import as_matrix, has_vector, usable_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

INFO = TaskInfo(
    name="integration",
    kind="cells",
    source="the cells, labels and batches that are given",
    licence="that of the given data",
    split_rule="none: nothing is fitted to the labels",
    main_metric="total",
    direction="higher",
    version=1,
)
DEFAULT_SEEDS = (0, 1, 2, 3, 4)
BIO_WEIGHT, BATCH_WEIGHT = 0.6, 0.4
BIO, BATCH, TOTAL = "bio_conservation", "batch_correction", "total"


def run(
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    labels: Sequence[object] | NDArray[Any],
    batches: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: NDArray[np.floating[Any]] | None = None,
    before_note: str = "",
    profile: str = "current",
    seeds: Iterable[int] = DEFAULT_SEEDS,
    halves: int = 0,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by the metrics of scIB (Luecken et al. 2022).

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels, batches
        One cell type and one batch per cell, shape ``(n_cells,)``.
    run
        Name of the run, for the column of that name.
    before
        Embedding from before the integration, ``(n_cells, d)``, for the PCR comparison; without it that metric is a
        row with its reason.
    before_note
        What `before` is, for the note of that row, or why there is none.
    profile
        One of `PROFILES`; it is the protocol of the rows.
    seeds
        Seeds of k-means, which the profile ``scib`` has not. Every seed has a row; the aggregates are made of the
        means.
    halves
        Number of random halves of the cells on which every metric is computed again, for its 95 % interval (splits
        ``ci95-low`` and ``ci95-high``; see `bftembed.tasks.halves`): 0 for none, else at least 3; 10 take about three
        times the time. K-means takes another seed in each.
    progress
        Called once per embedding.

    Returns
    -------
    list of Result
        Every metric of the profile, all between 0 (bad) and 1 (good), then ``bio_conservation`` and
        ``batch_correction``, the means of the metrics that have a value, and ``total``, 0.6 of the first and 0.4 of the
        second. A metric that cannot be computed is a NaN row with the reason, and the notes of the aggregates
        name the metrics they hold and those they lack. With one batch there is nothing to correct, so
        ``batch_correction`` and ``total`` have no value, though the graph connectivity has one.

        Cells without label, batch or vector are left out of all embeddings and counted. An embedding that leaves no
        cell fails alone, and so does one whose cells are all identical: its rows are NaN with the reason.

    Raises
    ------
    BftembedError
        When there is no embedding or seed, the profile is not known, there are 1 or 2 halves, numbers of cells differ,
        no cell has both label and batch, or the memory does not suffice.
    MissingExtraError
        Without the extra ``scib``; for the profile ``scib``, without the extra ``scib-original``.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    seed_list = list(dict.fromkeys(int(s) for s in seeds))
    if not embeddings or not seed_list:
        raise BftembedError("The integration task needs at least one embedding and one seed.")
    if halves < 0 or halves in (1, 2):
        raise BftembedError(f"halves = {halves}: give 0 for no interval, or 3 and more; 10 is usual.")
    check_memory({name: np.shape(x) for name, x in embeddings.items()}, per_cell=PROFILES[profile].memory)
    PROFILES[profile].load()  # before an hour of work, not after it
    columns = {"label": labels, "batch": batches}
    named = usable_cells({}, columns).mask
    matrices = {name: as_matrix(name, x, len(labels)) for name, x in embeddings.items()}
    if before is not None:
        before = as_matrix("from before the integration", before, len(labels))
        if not (named & np.isfinite(before).all(axis=1)).any():
            before, before_note = None, "the embedding from before the integration has no cell without NaN"
    shared = {n: x for n, x in matrices.items() if (named & has_vector(x)).any()}
    compared = shared if before is None else {**shared, _BEFORE: _never_zero(before)}
    cells = usable_cells(compared if shared else {}, columns)
    results: list[Result] = []
    for i, (name, matrix) in enumerate(matrices.items()):
        mask = cells.mask if name in shared else np.zeros(len(named), dtype=bool)
        row = functools.partial(
            Result,
            run=run,
            embedding=name,
            task=INFO.name,
            protocol=profile,
            n_used=int(mask.sum()),
            n_missing=int((~mask).sum()),
        )
        part = slice(None) if mask.all() else mask
        one = Cells(
            matrix[part],
            cells.values["label"][part],
            cells.values["batch"][part],
            None if before is None else before[part],
            before_note,
        )
        scored = _scored(row, one, PROFILES[profile], seed_list, cells.note)
        results += scored + (_ends(row, one, PROFILES[profile], scored, halves, seed_list) if len(one.matrix) else [])
        progress(i + 1, len(embeddings), name)
    return results


def _ends(
    row: Callable[..., Result], cells: Cells, profile: Profile, scored: list[Result], halves: int, seeds: list[int]
) -> list[Result]:
    """Return the ends of the interval of every metric and aggregate that has a value on enough halves."""
    of_halves: dict[str, list[float]] = {}
    for i, part in enumerate(half_samples(cells.labels, cells.batches, halves, seeds[0])):
        half = Cells(
            cells.matrix[part],
            cells.labels[part],
            cells.batches[part],
            None if cells.before is None else cells.before[part],
            cells.before_note,
        )
        for result in _scored(row, half, profile, [seeds[i % len(seeds)]], ""):
            of_halves.setdefault(result.metric, []).append(result.value)
    found = []
    for metric, values in of_halves.items():
        value = float(np.mean([r.value for r in scored if r.metric == metric]))
        ends = half_interval(value, values)
        found += [
            row(metric=metric, split=split, value=end, note=f"{halves} halves of the cells")
            for split, end in zip(ENDS, ends, strict=True)
            if not np.isnan(end)
        ]
    return found


def check_memory(shapes: Mapping[str, tuple[int, ...]], to_read: int = 0, *, per_cell: int = 0) -> None:
    """Raise when scoring embeddings of these shapes takes more memory than there is; say how much, and for what.

    Parameters
    ----------
    shapes
        Name → (n_cells, d). One embedding is scored at a time, so the largest decides.
    to_read
        Bytes of embeddings that are not in memory yet.
    per_cell
        Bytes that the profile takes besides.

    Raises
    ------
    BftembedError
        With the numbers.
    """
    free = available_memory()
    sized = [shape for shape in shapes.values() if len(shape) == 2]
    if free is None or not sized:
        return
    n_cells, d = max(sized, key=lambda shape: sum(integration_memory(*shape).values()))
    parts = {"embeddings": to_read, **integration_memory(n_cells, d), "copies of the original scib": per_cell * n_cells}
    if sum(parts.values()) <= free:
        return
    listed = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items() if size)
    fits = int(n_cells * free / sum(parts.values()))
    raise BftembedError(
        f"The integration metrics of {n_cells:,} cells in {d} dimensions need about {_gigabytes(sum(parts.values()))} "
        f"of memory ({listed}), and {_gigabytes(free)} are free. Take a random sample of at most {fits:,} cells, "
        "drawn within each label and batch, or a machine with more memory."
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 50_000_000 else f"{size / 1e6:.0f} MB"


_BEFORE = "the embedding from before"


def _never_zero(before: NDArray[Any]) -> NDArray[Any]:
    """Return whether a cell is finite, as a matrix: a zero row is a point like others to the PCR comparison."""
    return np.where(np.isfinite(before).all(axis=1, keepdims=True), 1.0, np.nan)


def _scored(
    row: Callable[..., Result], cells: Cells, profile: Profile, seeds: list[int], left_out: str
) -> list[Result]:
    told = "; ".join(x for x in (_confounded(cells), left_out) if x)
    reason = _no_points(cells.matrix)
    found: list[Result] = []
    values: dict[str, float] = {}
    for metric in (*profile.bio, *profile.batch):
        if metric not in profile.compute:
            continue
        library = profile.made_by(metric, cells)
        value, note = _value(functools.partial(profile.compute[metric], cells), library, reason)
        values[metric] = value
        found.append(row(metric=metric, value=value, note="; ".join(x for x in (note, told) if x)))
    if NMI in profile.bio:
        for metric, rows in _of_kmeans(row, cells, seeds, reason, told).items():
            values[metric] = float(np.mean([r.value for r in rows]))
            found += rows
    return found + _aggregates(row, values, profile, told, one_batch=len(set(cells.batches.tolist())) == 1)


def _of_kmeans(
    row: Callable[..., Result], cells: Cells, seeds: list[int], reason: str, told: str
) -> dict[str, list[Result]]:
    """Return the rows of the metrics that k-means makes, one per seed."""
    starts = ", ".join(f"{package} {version}" for package, version in scib.library().items())
    library = f"bftembed {__version__}, starts of {starts}"
    clusters = [
        _value(functools.partial(scib.kmeans_nmi_ari, cells.matrix, cells.labels, seed), library, reason)
        for seed in seeds
    ]
    found = {}
    for i, metric in enumerate((NMI, ARI)):
        of_seeds = [(pair[i] if isinstance(pair, tuple) else pair, note) for pair, note in clusters]
        found[metric] = [
            row(metric=metric, seed=seed, value=value, note="; ".join(x for x in (note, told) if x))
            for seed, (value, note) in zip(seeds, of_seeds, strict=True)
        ]
    return found


def _no_points(matrix: NDArray[Any]) -> str:
    """Say why an embedding cannot be scored at all, or return an empty string."""
    if not len(matrix):
        return "no cell has a label, a batch, and a vector that is finite and not zero"
    # Identical cells have no neighbours and no clusters, but every formula gives some number for them.
    return "all cells are identical in this embedding" if (matrix == matrix[0]).all() else ""


def _value(compute: Callable[[], Any], library: str, reason: str) -> tuple[Any, str]:
    """Return a value and what made it, or NaN and why there is none; a `reason` that is known holds for all."""
    if reason:
        return float("nan"), f"undefined: {reason}"
    try:
        return compute(), library
    except Undefined as err:
        return float("nan"), f"undefined: {err}"
    except ValueError as err:
        return float("nan"), f"error: {err}"


def _aggregates(
    row: Callable[..., Result], values: Mapping[str, float], profile: Profile, told: str, *, one_batch: bool
) -> list[Result]:
    found, means = [], {}
    lacking: list[str] = []
    for name, metrics in ((BIO, profile.bio), (BATCH, profile.batch)):
        held = [m for m in metrics if not np.isnan(values[m])]
        absent = [m for m in metrics if m not in held]
        lacking += absent
        means[name] = float(np.mean([values[m] for m in held])) if held else float("nan")
        note = f"mean of {', '.join(held)}" if held else "none of its metrics has a value"
        note += f"; without {', '.join(absent)}" if held and absent else ""
        if name == BATCH and one_batch:
            means[name], note = float("nan"), "undefined: all cells have one batch, there is nothing to correct"
        found.append(row(metric=name, value=means[name], note="; ".join(x for x in (note, told) if x)))
    total = BIO_WEIGHT * means[BIO] + BATCH_WEIGHT * means[BATCH]
    note = f"{BIO_WEIGHT} {BIO} + {BATCH_WEIGHT} {BATCH}"
    if np.isnan(total):
        note += f": {' and '.join(name for name in (BIO, BATCH) if np.isnan(means[name]))} without a value"
    elif lacking:
        note += f"; without {', '.join(lacking)}"
    return [*found, row(metric=TOTAL, value=total, note="; ".join(x for x in (note, told) if x))]


def _confounded(cells: Cells) -> str:
    labels, batches = set(cells.labels.tolist()), set(cells.batches.tolist())
    pairs = len({*zip(cells.labels.tolist(), cells.batches.tolist(), strict=True)})
    if pairs > len(labels) or len(batches) < 2:
        return ""
    what = "every batch is one label" if pairs == len(batches) else "every label is in one batch only"
    return f"{what}: mixing batches would mix labels, no batch score can be read"
