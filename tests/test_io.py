"""Files are whole or absent; locks hold; hashes are stable."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.io import (
    atomic_folder,
    atomic_path,
    canonical_json,
    exclusive_lock,
    sha256_file,
    sha256_text,
    write_json,
    write_text,
)


def test_output_replaces_the_old_file_only_when_complete(tmp_path):
    target = tmp_path / "deep" / "out.txt"
    write_text(target, "old")
    with pytest.raises(ValueError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        raise ValueError("stop")
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["out.txt"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.txt"
    write_text(target, "old")
    code = textwrap.dedent(
        f"""
        import time
        from bftembed.io import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert target.read_text() == "old"


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.txt"
    write_text(target, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(BftembedError, match=r"out.txt: the disk is full"):
            write_text(target, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_written_files_have_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {"b": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_a_second_process_is_refused_and_told_the_first_ones_pid(tmp_path):
    lock = tmp_path / ".lock"
    code = (
        "import time\nfrom bftembed.io import exclusive_lock\n"
        f"with exclusive_lock({str(lock)!r}, holder='x'):\n print('held', flush=True)\n time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(BftembedError, match=rf"pid {process.pid}\) is working on the store"),
            exclusive_lock(lock, holder="the store"),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    while True:  # the kernel lets go of the lock when the process is gone
        try:
            with exclusive_lock(lock, holder="the store"):
                break
        except BftembedError:
            time.sleep(0.01)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    reordered = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(reordered)


def test_hashes_agree_between_text_and_file(tmp_path):
    (tmp_path / "a").write_bytes("häm".encode())
    assert sha256_file(tmp_path / "a") == sha256_text("häm")
    assert len({sha256_text("\ud800"), sha256_text("?"), sha256_text("�")}) == 3


def test_a_folder_appears_whole_and_replaces_none(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as made:
        (made / "file").write_text("half")
        raise ZeroDivisionError
    for content in ("first", "second"):
        with atomic_folder(target) as made:
            (made / "file").write_text(content)
        assert (target / "file").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
