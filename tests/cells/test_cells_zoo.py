"""A zoo of damaged, hostile and merely odd h5ad files: an error that helps, or the right vectors; never a crash.

Each file is embedded and checked in another process, which may die or hang without taking the tests along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zoo_content
import zoo_storage
from zoo import CASES, COUNTS, GENES, SAME, WELL, write_good

from bftembed.embeddings import GeneEmbeddings
from bftembed.io import sha256_file

#: The modules that fill the zoo.
ROOMS = (zoo_storage, zoo_content)
#: Megabytes that a case may take: half of what is declared passes for real, and lies in one row.
ROOMY = {"fifteen million values that were never written": 900}

#: Run by the other process: one line of JSON before and after each case, so that a death has a name.
DRIVER = """
import json, os, signal, sys, warnings
from pathlib import Path
from bftembed.cells.check import check_cells
from bftembed.cells.embed import embed_cells
from bftembed.errors import BftembedError
warnings.simplefilter("ignore")
genes = sys.argv[1]
def peak(again=False):
    if again:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
embed_cells(sys.argv[3], genes, out=sys.argv[3] + ".out.h5ad")  # what is loaded once is not laid to a case
signal.signal(signal.SIGALRM, signal.SIG_DFL)
for name, path, options in json.loads(Path(sys.argv[2]).read_text()):
    print(json.dumps({"started": name}), flush=True)
    signal.alarm(60)
    before = peak(again=True)
    try:
        embed_cells(path, genes, out=Path(path).parent / "out" / "out.h5ad", **options)
        said = None
    except BftembedError as err:
        said = str(err)
    except Exception as err:
        said = f"UNEXPECTED {type(err).__name__}: {err}"
    grown = peak() - before
    known = ("layer", "use_raw", "gene_column", "normalize", "key", "overwrite")
    choice = {k: v for k, v in options.items() if k in known}
    try:
        problems = list(check_cells(path, genes, **choice).problems)
    except BftembedError as err:
        problems = [str(err)]
    except Exception as err:
        problems = [f"UNEXPECTED {type(err).__name__}: {err}"]
    signal.alarm(0)
    print(json.dumps({"name": name, "said": said, "problems": problems, "grown": grown}), flush=True)
"""


def digest(path):
    return sha256_file(path) if path.is_file() else str(path.lstat().st_mode) if os.path.lexists(path) else "absent"


def run_all(folder, genes):
    """Make every file, and embed and check each in another process, a new one after each that died."""
    jobs, digests, results = [], {}, {}
    for i, (name, (make, _, options)) in enumerate(CASES.items()):
        home = folder / str(i)
        (home / "out").mkdir(parents=True)
        make(home / "in.h5ad")
        jobs.append((name, str(home / "in.h5ad"), options))
        digests[name] = (digest(home / "in.h5ad"), sorted(p.name for p in home.iterdir()))
    write_good(folder / "good.h5ad")
    left = jobs
    while left:
        (folder / "jobs.json").write_text(json.dumps(left))
        command = [sys.executable, "-c", DRIVER, str(genes), str(folder / "jobs.json"), str(folder / "good.h5ad")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        results.update({line["name"]: line for line in lines if "name" in line})
        blamed = lines[-1].get("started") if lines else None
        if blamed is None:
            assert done.returncode == 0, done.stderr
            break
        results[blamed] = {"died": done.returncode, "stderr": done.stderr[-2000:]}
        left = left[[name for name, *_ in left].index(blamed) + 1 :]
    for name, path, _ in jobs:
        home = Path(path).parent
        after = (digest(Path(path)), sorted(p.name for p in home.iterdir()))
        results[name].update(
            unchanged=after == digests[name], left=sorted(p.name for p in (home / "out").iterdir()), out=home / "out"
        )
    return results


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Give what became of every case, and the vectors of the unharmed file."""
    folder = tmp_path_factory.mktemp("zoo")
    embeddings = GeneEmbeddings(GENES[:5], np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32))
    embeddings.save(folder / "genes.safetensors")
    logged = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4)[:, :5] @ embeddings.matrix
    expected = logged / np.linalg.norm(logged, axis=1, keepdims=True)
    return run_all(folder, folder / "genes.safetensors"), expected


@pytest.mark.parametrize("name", list(CASES))
def test_every_file_is_refused_with_reason_or_embedded_rightly(zoo, name):
    results, vectors = zoo
    found, (_, expected, _) = results[name], CASES[name]
    if "died" in found:
        code = -found["died"]
        word = signal.Signals(code).name if code > 0 else f"exit {found['died']}"
        pytest.fail(f"the process died ({word}): {found['stderr']}")
    assert found["unchanged"], "the input was changed, or something was left beside it"
    assert found["grown"] < ROOMY.get(name, 200), f"{found['grown']:.0f} MB more memory"
    said = found["said"]
    if said is None:
        assert {SAME, WELL} & set(expected), f"expected an error with {expected}"
        assert found["left"] == ["out.h5ad"]
        with h5py.File(found["out"] / "out.h5ad") as handle:
            written = handle["obsm/X_bft"][:]
        assert np.isfinite(written).all()
        if SAME in expected:
            np.testing.assert_allclose(written, vectors, atol=2e-3)
        assert found["problems"] == []
        return
    assert not said.startswith("UNEXPECTED"), said
    assert found["left"] == []
    if set(CASES[name][2]) <= {"layer", "use_raw", "gene_column", "normalize", "key"}:
        assert found["problems"], "the check found nothing wrong"
    words = [word for word in expected if word not in (SAME, WELL)]
    assert words, f"expected vectors, got: {said}"
    for word in words:
        assert word in said
    assert not [problem for problem in found["problems"] if problem.startswith("UNEXPECTED")], found["problems"]


def test_what_is_embedded_can_be_read_by_anndata(zoo):
    results, _ = zoo
    for name in ("with a user block", "newest HDF5 format", "stored with {'compression': 'lzf'}", "references"):
        if results[name].get("said", "") is None:
            assert anndata.read_h5ad(results[name]["out"] / "out.h5ad", backed="r").obsm["X_bft"].shape == (30, 4)
