"""Processes that fit side by side: what becomes of them when the one that asked is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ASK = """
import os, time
from pathlib import Path
from bftembed.tasks.genes.workers import Workers

def pid(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(.2)
    return os.getpid()

if __name__ == "__main__":
    import sys
    with Workers(2) as workers:
        waiting = [workers.submit(pid, sys.argv[1]) for _ in range(6)]
        print(len({wait() for wait in waiting}), flush=True)
        time.sleep(600)
"""


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_with_the_process_that_asked(how, tmp_path):
    script, folder = tmp_path / "ask.py", tmp_path / "pids"
    script.write_text(ASK)
    folder.mkdir()
    asking = subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    assert int(asking.stdout.readline()) in (1, 2)
    pids = [int(file.name) for file in folder.iterdir()]
    try:
        assert pids
        assert all(alive(pid) for pid in pids)
        asking.send_signal(how)
        asking.wait()
        until = time.monotonic() + 120
        while any(alive(pid) for pid in pids) and time.monotonic() < until:
            time.sleep(0.1)
        assert not [pid for pid in pids if alive(pid)]
    finally:
        for pid in (asking.pid, *pids):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
