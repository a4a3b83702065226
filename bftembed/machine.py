"""What this machine offers: free cores, bf16 units, memory."""

from __future__ import annotations

import os
import time
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores(sample_seconds: float = 0.2) -> int:
    """Return how many usable cores are idle now (at least 1), from a short sample of ``/proc/stat``.

    More threads than idle cores make a transformer several times slower, not faster. Where ``/proc/stat``
    does not exist, every usable core counts as free.
    """
    cores = usable_cores()
    if (before := _idle_and_total()) is None:
        return cores
    time.sleep(sample_seconds)
    after = _idle_and_total()
    if after is None or after[1] <= before[1]:
        return cores
    idle_share = (after[0] - before[0]) / (after[1] - before[1])
    return max(1, min(cores, round(idle_share * (os.cpu_count() or cores))))


def _idle_and_total() -> tuple[int, int] | None:
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return fields[3] + fields[4], sum(fields)


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bf16 in hardware (AMX or AVX-512 BF16, Arm BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16", " bf16 "))


def available_memory() -> int | None:
    """Return how many bytes this process may still take without swapping: the machine's, or a container's if fewer.

    None where neither ``/proc/meminfo`` nor a control group says.
    """
    known = [x for x in (_machine_memory(), _group_memory()) if x is not None]
    return min(known, default=None)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _group_memory(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what a container's limit (control group, version 2) leaves; page cache counts as free."""
    try:
        most, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))  # "max": no limit
        lines = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    files = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, most - taken + files)
