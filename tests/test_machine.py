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
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert machine.free_cores(0) == machine.usable_cores() == 3


def test_available_memory_is_that_of_the_machine_or_of_its_container(monkeypatch):
    assert 0 < machine.available_memory() < 2**50
    for of_machine, of_group, least in ((8, 3, 3), (8, None, 8), (None, 3, 3), (None, None, None), (8, 0, 0)):
        monkeypatch.setattr(machine, "_machine_memory", lambda value=of_machine: value)
        monkeypatch.setattr(machine, "_group_memory", lambda value=of_group: value)
        assert machine.available_memory() == least


def test_the_limit_of_a_container_is_read_from_its_control_group(tmp_path):
    assert machine._group_memory(tmp_path) is None
    for name, text in {"max": "2000", "current": "500", "stat": "cache 5\ninactive_file 100\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine._group_memory(tmp_path) == 1600
    (tmp_path / "memory.current").write_text("9000")
    assert machine._group_memory(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max")
    assert machine._group_memory(tmp_path) is None
