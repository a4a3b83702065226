"""What the machine offers is read, not assumed."""

from __future__ import annotations

import pytest

from bftembed import machine


@pytest.mark.parametrize(
    ("idle_share", "cores", "expected"),
    [(1.0, 4, 4), (0.5, 4, 2), (0.3, 4, 1), (0.0, 4, 1), (1.0, 1, 1)],
)
def test_free_cores_follow_the_idle_share(monkeypatch, idle_share, cores, expected):
    samples = iter([(1000, 2000), (1000 + round(400 * idle_share), 2400)])
    monkeypatch.setattr(machine, "_idle_and_total", lambda: next(samples))
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert machine.free_cores(0) == expected


def test_without_proc_stat_every_usable_core_counts(monkeypatch):
    monkeypatch.setattr(machine, "_idle_and_total", lambda: None)
    assert machine.free_cores(0) == machine.usable_cores()


def test_a_process_bound_to_one_core_gets_one(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert machine.usable_cores() == 1
    assert machine.free_cores(0.01) == 1
