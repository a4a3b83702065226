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


def test_available_memory_is_that_of_the_machine_or_of_its_container(monkeypatch):
    assert 0 < machine.available_memory() < 2**50
    for of_machine, of_group, least in ((8, 3, 3), (8, None, 8), (None, 3, 3), (None, None, None), (8, 0, 0)):
        monkeypatch.setattr(machine, "_machine_memory", lambda value=of_machine: value)
        monkeypatch.setattr(machine, "_group_memory", lambda value=of_group: value)
        assert machine.available_memory() == least


def test_the_limit_of_a_container_is_read_from_its_control_group(tmp_path):
    def written(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return machine._group_memory(tmp_path)

    assert machine._group_memory(tmp_path / "nothing") is None
    old = {"memory__memory_DOT_limit_in_bytes": "1000", "memory__memory_DOT_usage_in_bytes": "900"}
    assert written(**old, memory__memory_DOT_stat="cache 5\ntotal_inactive_file 300\n") == 400
    new = {"memory_DOT_max": "2000", "memory_DOT_current": "500", "memory_DOT_stat": "inactive_file 100\n"}
    assert written(**new) == 1600
    assert written(memory_DOT_current="9000") == 0
    (tmp_path / "memory" / "memory.stat").unlink()
    assert written(memory_DOT_max="max") is None
