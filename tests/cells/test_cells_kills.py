"""Killed or out of disk at any moment of the write: the old output stays, or the new one is there, and whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest

from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.io import sha256_file

MOMENTS, SIZES, N_CELLS = 20, 20, 6000

#: Embeds once to be warm, says so, waits for a word, and embeds again.
DRIVER = """
import os, sys
from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
data, genes, out, warm = sys.argv[1:]
genes = GeneEmbeddings.load(genes)
embed_cells(data, genes, out=warm)
print("ready", flush=True)
sys.stdin.readline()
embed_cells(data, genes, out=out)
print("done", flush=True)
"""
#: Embeds once per limit of the size of a file, and tells what was said.
LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
data, genes, out, warm, *limits = sys.argv[1:]
genes = GeneEmbeddings.load(genes)
embed_cells(data, genes, out=warm)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
old = Path(out).read_bytes()
for limit in map(int, limits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        embed_cells(data, genes, out=out)
        said = None
    except BftembedError as err:
        said = str(err)
    except Exception as err:
        said = f"UNEXPECTED {type(err).__name__}: {err}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    left = sorted(p.name for p in Path(out).parent.iterdir())
    print(json.dumps({"limit": limit, "said": said, "kept": Path(out).read_bytes() == old, "left": left}), flush=True)
"""


@pytest.fixture(scope="module")
def large(make_cells, tmp_path_factory):
    """Cells and embeddings whose output of 12 MB takes a while to write, an older and a whole new output."""
    folder = tmp_path_factory.mktemp("large")
    cells = make_cells(n_cells=N_CELLS)
    cells.write_h5ad(folder / "cells.h5ad")
    genes = list(cells.var_names)
    embeddings = GeneEmbeddings(genes, np.random.default_rng(0).normal(size=(6, 512)))
    embeddings.save(folder / "genes.safetensors")
    embed_cells(folder / "cells.h5ad", embeddings, out=folder / "whole.h5ad")
    embed_cells(folder / "cells.h5ad", GeneEmbeddings(genes, np.eye(6)), out=folder / "old.h5ad")
    started = time.monotonic()
    embed_cells(folder / "cells.h5ad", embeddings, out=folder / "whole.h5ad", overwrite=True)
    return folder, time.monotonic() - started


def killed(folder, out, when):
    """Start, wait until ready, start the clock, kill when told; give the exit code."""
    command = [sys.executable, "-c", DRIVER, *map(str, (folder / "cells.h5ad", folder / "genes.safetensors", out))]
    command.append(str(out.parent / "warm" / "warm.h5ad"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        started = time.monotonic()
        while process.poll() is None and not when(time.monotonic() - started):
            pass
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
        return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["size", "time"])
def test_killed_at_any_moment_leaves_the_old_output_or_the_new_one_whole(large, tmp_path, by):
    folder, seconds = large
    out = tmp_path / "out.h5ad"
    before = sha256_file(folder / "cells.h5ad")
    old, new = (sha256_file(folder / name) for name in ("old.h5ad", "whole.h5ad"))
    final = (folder / "whole.h5ad").stat().st_size
    codes, kept = [], []
    for moment in np.linspace(0, 1, MOMENTS):
        out.write_bytes((folder / "old.h5ad").read_bytes())

        def reached(passed, moment=moment):
            if by == "time":
                return passed >= moment * seconds * 1.1
            return any(path.stat().st_size >= moment * final for path in tmp_path.glob(".out.h5ad.*"))

        codes.append(killed(folder, out, _without_races(reached)))
        kept.append(sha256_file(out) == old)
        assert kept[-1] or sha256_file(out) == new, moment
        assert codes[-1] != 0 or not kept[-1], moment
        assert anndata.read_h5ad(out, backed="r").n_obs == N_CELLS
        for path in tmp_path.glob(".out.h5ad.*"):
            path.unlink()
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes.count(-signal.SIGKILL) >= MOMENTS // 4
    assert sum(kept) >= MOMENTS // 4
    assert sha256_file(folder / "cells.h5ad") == before


def _without_races(reached):
    """Read a file that goes away while it is looked at as: not reached."""

    def safely(passed):
        try:
            return reached(passed)
        except FileNotFoundError:
            return False

    return safely


def test_any_limit_of_the_size_leaves_the_old_output_and_nothing_else(large, tmp_path):
    folder, _ = large
    out = tmp_path / "out" / "out.h5ad"
    out.parent.mkdir()
    out.write_bytes((folder / "old.h5ad").read_bytes())
    before = sha256_file(folder / "cells.h5ad")
    final = (folder / "whole.h5ad").stat().st_size
    limits = [0, 1, 500, *(int(final * share) for share in np.linspace(0.02, 0.995, SIZES - 5)), final - 100, final - 1]
    command = [sys.executable, "-c", LIMITED, *map(str, (folder / "cells.h5ad", folder / "genes.safetensors", out))]
    command += [str(tmp_path / "warm" / "warm.h5ad"), *map(str, [*limits, final])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [one["limit"] for one in found] == [*limits, final]
    for one in found[:-1]:
        assert f"Cannot write {out}: the disk is full" in (one["said"] or ""), one
        assert one["kept"], one
        assert one["left"] == ["out.h5ad"], one
    assert (found[-1]["said"], found[-1]["left"]) == (None, ["out.h5ad"])
    assert sha256_file(out) == sha256_file(folder / "whole.h5ad")
    assert sha256_file(folder / "cells.h5ad") == before
