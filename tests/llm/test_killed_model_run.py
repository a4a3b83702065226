"""Kill -9 a run of a real language model, and go on: the longer check behind the scripted kill test."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
from llm_tools import stored

from bftembed.profiles.generate import generate_profiles

GENES = ["TP53", "EGFR", "MYC", "KRAS", "BRCA1", "BRCA2", "CD3D", "CD3E", "CD4", "CD8A", "MS4A1", "LYZ"]
MODEL = "builtin:smollm2-135m-instruct"
SPECS = {
    "transformers": f"{MODEL},dtype=fp32,threads=1,max_new_tokens=4,batch_size=2",
    "llamacpp": f"llamacpp:{MODEL},threads=1,max_new_tokens=4,batch=1,context=512",
}
KILLS = 20


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("backend", SPECS)
def test_a_killed_run_of_a_real_model_ends_like_an_uninterrupted_one(tmp_path, backend):
    """Runs are killed and go on in the same store until it is full, then in another one."""
    if backend == "llamacpp":
        pytest.importorskip("xllamacpp")
    spec = SPECS[backend]
    generate_profiles(GENES, generator=spec, out=tmp_path / "whole")
    expected = stored(tmp_path / "whole")
    choose, out, kept, n_stores = random.Random(7), tmp_path / "s0", {}, 1
    for _ in range(KILLS):
        command = [sys.executable, "-c", "from bftembed.cli import main; main()", "profiles", "generate"]
        command += [",".join(GENES), "--generator", spec, "--out", str(out)]
        wanted = len(kept) + choose.randrange(4)  # 0: while it starts
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wanted == len(kept):
            time.sleep(choose.uniform(0.1, 4))
        while process.poll() is None and len(stored(out)) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = stored(out)
        assert kept.items() <= after.items(), "an answer that was stored is lost, or was written again"
        assert after.items() <= expected.items()
        kept = after
        if len(kept) > len(GENES) - 3:
            report = generate_profiles(GENES, generator=spec, out=out)
            assert (report.written, report.already_stored) == (len(GENES) - len(kept), len(kept))
            assert stored(out) == expected
            out, kept, n_stores = tmp_path / f"s{n_stores}", {}, n_stores + 1
    assert generate_profiles(GENES, generator=spec, out=out).written == len(GENES) - len(kept)
    assert stored(out) == expected
    assert n_stores > 1
