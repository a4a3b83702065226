"""Fixtures that several rooms share."""

from __future__ import annotations

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
