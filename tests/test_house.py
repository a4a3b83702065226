"""The house: imports only downwards, no circles, no pickle, nothing heavy at import time."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from tests_paths import REPOSITORY

PACKAGE = REPOSITORY / "bftembed"
FLOORS = {
    0: ["errors", "progress", "io", "registry", "machine", "hdf5", "shards", "_version"],
    1: ["config", "entities", "llm", "metrics", "objectives", "report"],
    2: ["datasets", "encoders", "expression"],
    3: ["profiles"],
    4: ["embeddings", "tuning"],
    5: ["cells"],
    6: ["tasks", "testing"],
    7: ["bench", "export", "maps"],
    8: ["pipeline"],
    9: ["cli"],
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def module_of(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Every import of ours in a file, those inside functions and for typing included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("bftembed"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bftembed"):
            for alias in node.names:
                child = f"{node.module}.{alias.name}"
                path_of_child = REPOSITORY / child.replace(".", "/")
                is_module = path_of_child.with_suffix(".py").exists() or path_of_child.is_dir()
                yield child if is_module else node.module


def test_every_room_has_a_floor():
    rooms = {
        p.stem if p.is_file() else p.name
        for p in PACKAGE.iterdir()
        if not p.name.startswith(("_", "py.typed", "configs"))
    }
    assert rooms == set(FLOOR_OF) - {"_version"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    room = room_of(module_of(path))
    if room is None:  # bftembed/__init__.py, the door
        return
    for imported in imports_of(path):
        other = room_of(imported)
        if other in (None, room):
            continue
        below = FLOOR_OF[other] < FLOOR_OF[room] or FLOOR_OF[room] == 0
        assert below, f"{module_of(path)} (floor {FLOOR_OF[room]}) imports {imported} (floor {FLOOR_OF[other]})"


def test_no_module_imports_in_a_circle():
    graph = {module_of(p): set(imports_of(p)) - {module_of(p)} for p in FILES if p != PACKAGE / "__init__.py"}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module in done or module not in graph:
            return
        path.append(module)
        for other in graph[module]:
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_metrics_know_nothing_of_files_or_anndata():
    for path in (PACKAGE / "metrics").glob("*.py"):
        assert not re.search(r"import (anndata|h5py)|from (anndata|h5py|pathlib)", path.read_text()), path


def test_nothing_reads_or_writes_pickle():
    for path in FILES:
        text = path.read_text()
        # GenePT's vectors come as a pickle, read by an unpickler that knows arrays alone.
        if path != PACKAGE / "embeddings" / "pickled.py":
            assert not re.search(r"^\s*(import|from) (pickle|dill|shelve|joblib|diskcache)", text, re.MULTILINE), path
        assert "allow_pickle=True" not in text, path
        # torch makes tensors and plain values alone under weights_only: STATE's own format is checked in this way.
        plain = text.replace("torch.load(path, weights_only=True)", "")
        assert not re.search(r"torch\.(serialization\.)?load\(|read_pickle\(|to_pickle\(", plain), path


def test_the_command_line_imports_nothing_heavy():
    heavy = ["numpy", "pandas", "torch", "anndata"]
    code = f"import sys, bftembed, bftembed.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_can_be_imported():
    import bftembed

    for name in bftembed.__all__:
        assert getattr(bftembed, name) is not None
    with pytest.raises(AttributeError):
        _ = bftembed.nothing


def test_the_environment_holds_no_option():
    """Keys and folders aside, no behaviour hangs on an environment variable."""
    # RANK is how a launcher (torchrun) tells a process which it is. Those of vLLM are set, never read.
    allowed = {"BFTEMBED_CACHE", "BFTEMBED_DATA", "OPENAI_API_KEY", "OPENAI_BASE_URL", "RANK"}
    allowed |= {"VLLM_NO_USAGE_STATS", "VLLM_LOGGING_STREAM"}
    for path in FILES:
        found = set(re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)", path.read_text()))
        assert found <= allowed, (path, found)


def test_no_path_of_a_machine_is_in_a_tracked_file():
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert files
    # Spelt in pieces, so that this file does not hold what it forbids.
    forbidden = re.compile("|".join(["/ro" + "ot/", "/wo" + "rk/", "py" + "pi\\.org", "python" + "hosted"]))
    for name in files.splitlines():
        path = REPOSITORY / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".j2", ".sh") and path.exists():
            assert not forbidden.search(path.read_text(errors="replace")), name
