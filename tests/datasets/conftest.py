"""The data folders are unset and the cache is empty, so that no test finds a file of the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    return tmp_path / "cache"
