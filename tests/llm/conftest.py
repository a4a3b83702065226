"""A real OpenAI-compatible server for the tests of engines that ask one: llama.cpp with the packaged SmolLM2."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from bftembed.llm.models import packaged_file

_SERVE = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames, params.model_alias = ["127.0.0.1"], {"smollm2"}
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 8192, 1
server = xllamacpp.Server(params)
time.sleep(86400)
"""


class LlamaServer:
    """llama.cpp's server in a process of its own, so that it can be killed and started again."""

    def __init__(self, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.model = "smollm2"
        self._log = log

    def start(self, seconds=180):
        gguf, _ = packaged_file("language-model", "smollm2-135m-instruct")
        command = [sys.executable, "-c", _SERVE, str(gguf), str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.kill()
        raise AssertionError(f"the server did not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def kill(self):
        self._process.kill()
        self._process.wait()


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
