"""Kill -9 a run of the real language model, and go on: the longer check behind the scripted kill test."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles

GENES = ["TP53", "EGFR", "MYC", "KRAS", "BRCA1", "BRCA2", "CD3D", "CD3E", "CD4", "CD8A", "MS4A1", "LYZ"]
SPEC = "builtin:smollm2-135m-instruct,dtype=fp32,threads=1,max_new_tokens=24,batch_size=2"


def stored(folder):
    """How many profiles there are, 0 while the run begins."""
    try:
        return len(contents(folder)[1])
    except BftembedError:
        return 0


def contents(folder):
    with AnswerStore.open(folder) as store:
        return store.digest(), {p.entity for p in store.answers()}


@pytest.mark.slow
@pytest.mark.model
def test_a_killed_run_of_the_real_model_ends_like_an_uninterrupted_one(tmp_path):
    generate_profiles(GENES, generator=SPEC, out=tmp_path / "whole")
    expected, _ = contents(tmp_path / "whole")
    choose = random.Random(7)
    for trial in range(4):
        out = tmp_path / f"s{trial}"
        command = [sys.executable, "-c", "from bftembed.cli import main; main()", "profiles", "generate"]
        command += [",".join(GENES), "--generator", SPEC, "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = choose.randrange(1, len(GENES) - 1)
        while process.poll() is None:
            if stored(out) >= wanted:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = contents(out)[1]
        assert kept
        report = generate_profiles(GENES, generator=SPEC, out=out)
        assert report.written == len(GENES) - len(kept)
        assert contents(out)[0] == expected
