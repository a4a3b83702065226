"""A damaged or hostile file is an error that names the cause, or has the right vectors; never a crash, never a trace.

The files of the zoo are embedded in another process, which may die or hang without taking the tests along.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from cell_toys import EMBEDDINGS, FORMS, cells_of, counts_of, embedded, files_in, reference, write
from zoo import CASES, SAME, WELL, write_good

from bftembed import BftembedError, embed_cells
from bftembed.io import sha256_file

#: Run by the other process: one line of JSON before and after each case, so that a death has a name.
DRIVER = """
import json, signal, sys, warnings
from pathlib import Path
from bftembed import BftembedError, embed_cells
warnings.simplefilter("ignore")
genes, jobs, warm = sys.argv[1:]
def peak(again=False):
    if again:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
for place in ("out", "sidecar"):
    embed_cells(warm, genes, **{place: warm + ".out.h5ad"})  # what is loaded once is not laid to a case
signal.signal(signal.SIGALRM, signal.SIG_DFL)
for name, path, options in json.loads(Path(jobs).read_text()):
    print(json.dumps({"started": name}), flush=True)
    signal.alarm(60)
    before, place = peak(again=True), options.pop("place", "sidecar")
    try:
        embed_cells(path, genes, **{place: Path(path).parent / "out" / "out.h5ad"}, **options)
        said = None
    except BftembedError as err:
        said = str(err)
    except Exception as err:
        said = f"UNEXPECTED {type(err).__name__}: {err}"
    signal.alarm(0)
    print(json.dumps({"name": name, "said": said, "grown": peak() - before}), flush=True)
"""


def digest(folder):
    """Return what is in a folder but for its `out`: links and pipes by their kind."""
    files = sorted(path for path in folder.rglob("*") if "out" not in path.relative_to(folder).parts)
    return [
        (str(path), sha256_file(path) if path.is_file() and not path.is_symlink() else str(path.lstat().st_mode))
        for path in files
    ]


def run_all(names, folder, genes_file):
    """Return what became of the cases of these names; a new process is started after each that died."""
    jobs, before, results = [], {}, {}
    for i, name in enumerate(names):
        make, _, options = CASES[name]
        home = folder / str(i)
        (home / "out").mkdir(parents=True)
        path = home / f"in.{options.get('container', 'h5ad')}"
        make(path)
        jobs.append((name, str(path), {key: value for key, value in options.items() if key != "container"}))
        before[name] = digest(home)
    write_good(folder / "warm.h5ad")
    left = jobs
    while left:
        (folder / "jobs.json").write_text(json.dumps(left))
        command = [sys.executable, "-c", DRIVER, str(genes_file), str(folder / "jobs.json"), str(folder / "warm.h5ad")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        results.update({line["name"]: line for line in lines if "name" in line})
        blamed = lines[-1].get("started") if lines else None
        if blamed is None:
            assert done.returncode == 0, done.stderr
            break
        results[blamed] = {"died": f"the process died with {done.returncode}: {done.stderr[-500:]}"}
        left = left[[name for name, *_ in left].index(blamed) + 1 :]
    for name, path, _ in jobs:
        home = Path(path).parent
        results[name].update(unchanged=digest(home) == before[name], out=home / "out", path=path)
    assert not (folder / "unpickled").exists()
    return results


def fault(found, expected):
    """Return what is wrong about the outcome of a case, or None."""
    if "died" in found:
        return found["died"]
    left, said = files_in(found["out"]), found["said"]
    if not found["unchanged"] or left != (["out.h5ad"] if said is None else []):
        return "the input was changed, or something was left beside it or the output"
    if found["grown"] > 200:
        return f"{found['grown']:.0f} MB more memory"
    if expected not in (SAME, WELL):
        right = said is not None and re.search(expected, said) and Path(found["path"]).name in said
        return None if right and not said.startswith("UNEXPECTED") else f"expected {expected!r}, got {said!r}"
    if said is not None:
        return said
    with h5py.File(found["out"] / "out.h5ad") as handle:
        written = handle["obsm/X_bft"][:]
    same = np.allclose(written, reference(counts_of()), atol=2e-3)
    return None if same or (expected == WELL and np.isfinite(written).all()) else "wrong vectors"


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_every_file_is_an_error_with_its_cause_or_embedded_rightly(container, genes_file, tmp_path):
    names = [name for name, (_, _, options) in CASES.items() if options.get("container", "h5ad") == container]
    results = run_all(names, tmp_path, genes_file)
    wrong = {name: reason for name in names if (reason := fault(results[name], CASES[name][1]))}
    assert not wrong, "\n".join(f"{name}: {reason}" for name, reason in wrong.items())


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (-3, "negative")]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("container", ["memory", "h5ad"])
def test_bad_values_are_counted_and_the_first_is_named(container, form, value, word, tmp_path):
    values = counts_of() + 1
    values[[4, 8], [5, 0]] = value  # the gene in column 5 has no embedding: bad all the same
    cells = cells_of()
    cells.layers["bad"] = FORMS[form](values)
    cells.raw = cells
    data = cells if container == "memory" else write(cells, tmp_path)[0]
    with pytest.raises(BftembedError) as caught:
        embedded(data, layer="bad", block_rows=5, normalize="none")
    for part in ("2 values", word, "cell4", "CD8A", "--use-raw"):
        assert part in str(caught.value)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_bad_indices_and_values_in_memory_are_errors(form):
    cells = cells_of(form=form)
    cells.X.indices[3] = 10**6
    with pytest.raises(BftembedError, match="out of range"):
        embed_cells(cells, EMBEDDINGS)
    for values in (counts_of().astype(object), counts_of().astype(complex)):
        cells.layers["o"] = values
        with pytest.raises(BftembedError, match="type"):
            embed_cells(cells, EMBEDDINGS, layer="o")
    for shape in ((0, 6), (3, 0)):
        with pytest.raises(BftembedError, match=f"{shape[0]} cells"):
            embed_cells(anndata.AnnData(np.zeros(shape, dtype=np.float32)), EMBEDDINGS)
