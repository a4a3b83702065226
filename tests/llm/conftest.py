"""A real OpenAI-compatible server for the tests of backends that ask one."""

from __future__ import annotations

import importlib.util

import pytest
from llm_tools import LlamaServer


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory):
    """Give a running server with `base_url`, `model`, `kill()` and `start()`; a test that kills it starts it again."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install --no-deps xllamacpp")
    server = LlamaServer(tmp_path_factory.mktemp("llama") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def no_openai_environment(monkeypatch):
    """Hide the keys and addresses of whoever runs the tests."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def short_waits(monkeypatch):
    """Let the official client wait a moment only between two tries."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
