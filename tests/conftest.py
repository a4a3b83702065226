"""Fixtures that several rooms share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from tests_paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

settings.register_profile("ci", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Give the path of a file of the shared data, or skip where the data does not lie beside the repository."""

    def find(relative: str) -> Path:
        if not SHARED.is_dir():
            pytest.skip(f"the shared data is not beside the repository ({SHARED})")
        path = SHARED / relative
        assert path.exists(), f"{path} is missing from the shared data"
        return path

    return find


@pytest.fixture(scope="session")
def pbmc_path() -> Path:
    """Give the h5ad of scanpy's packaged pbmc68k_reduced (700 cells, 765 genes)."""
    import scanpy

    return Path(scanpy.__file__).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each folder of tests, fixtures included; with pytest-xdist summed over its processes."""
    seconds, tests = Counter(), Counter()
    for report in (one for of_kind in terminalreporter.stats.values() for one in of_kind):
        if isinstance(report, pytest.TestReport):
            parts = Path(report.nodeid.split("::")[0]).parts
            folder = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
    if len(seconds) > 1:
        terminalreporter.section("seconds per folder")
        for folder, spent in seconds.most_common():
            terminalreporter.write_line(f"{spent:8.1f}  {folder} ({tests[folder]} tests)")
        terminalreporter.write_line(f"{seconds.total():8.1f}  in all ({tests.total()} tests)")
