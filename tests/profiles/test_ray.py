"""Ray runs shards as tasks: the result is that of one process, also when a worker dies."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles
from bftembed.profiles.shards import generate_with_ray
from bftembed.shards import ray_session

NAMES = [f"made-up {i}" for i in range(40)]


def digest(folder):
    with AnswerStore.open(folder) as store:
        return store.digest()


def test_missing_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BftembedError, match=r"bftembed\[ray\]"):
        generate_with_ray(NAMES, out=tmp_path / "s", shard_count=2, generator="scripted", unknown="keep")


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    own_print = builtins.print  # Ray puts its own in its place, which numba cannot compile
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    builtins.print = own_print


@pytest.mark.slow
@pytest.mark.ray
class TestOnRay:
    def test_the_result_is_that_of_one_process_and_a_second_run_writes_nothing(self, ray, tmp_path):
        log = tmp_path / "log"
        options = {"generator": f"scripted:fail=0.1,loop=0.1,log={log}", "unknown": "keep"}
        told = []
        report = generate_with_ray(
            NAMES, out=tmp_path / "s", shard_count=3, progress=lambda *args: told.append(args[:2]), **options
        )
        assert told[-1] == (3, 3)
        assert (report.entities, report.written, report.already_stored) == (40, 0, 40)
        written = log.read_text().count("\n")
        generate_with_ray(NAMES, out=tmp_path / "s", shard_count=3, **options)
        assert log.read_text().count("\n") == written == 40
        generate_profiles(NAMES, out=tmp_path / "whole", **options)
        assert digest(tmp_path / "s") == digest(tmp_path / "whole")

    def test_a_worker_that_dies_is_replaced_and_goes_on(self, ray, tmp_path):
        log = tmp_path / "log"
        options = {"generator": f"scripted:delay=0.05,batch=4,log={log}", "unknown": "keep"}
        killed = []

        def kill_one():
            while not killed:
                for process in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        works = b"ray::_generate_shard" in (process / "cmdline").read_bytes()
                        if works and log.exists() and log.read_text().count("\n") > 8:
                            os.kill(int(process.name), signal.SIGKILL)
                            killed.append(process)
                            return
                time.sleep(0.02)

        thread = threading.Thread(target=kill_one, daemon=True)
        thread.start()
        report = generate_with_ray(NAMES, out=tmp_path / "s", shard_count=2, **options)
        thread.join(5)
        assert killed
        assert report.entities == 40
        generate_profiles(NAMES, out=tmp_path / "whole", **options)
        assert digest(tmp_path / "s") == digest(tmp_path / "whole")

    def test_an_error_of_a_shard_is_ours(self, ray, tmp_path):
        with pytest.raises(BftembedError, match="Did you mean 'scripted'"):
            generate_with_ray(NAMES, out=tmp_path / "s", shard_count=2, generator="scriptd", unknown="keep")


@pytest.mark.slow
def test_ray_leaves_print_as_it_was():
    pytest.importorskip("ray")
    own_print = builtins.print
    with ray_session() as ray:
        assert ray.get(ray.remote(lambda: 2).remote()) == 2
    assert builtins.print is own_print
