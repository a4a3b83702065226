"""Tools for tests of backends: a model with the sampling of its spec, answers of scripted servers, a real server."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

from bftembed.errors import BftembedError
from bftembed.llm import generator_fingerprint, model_from_spec
from bftembed.llm.base import Request
from bftembed.llm.models import _packaged_file
from bftembed.llm.reasoning import read_answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import get_prompt


class Sampled:
    """`generate` answers with the sampling of the spec; the rest is the model's."""

    def __init__(self, spec):
        self.model, self.sampling = model_from_spec(spec)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests):
        return self.model.generate([replace(request, sampling=self.sampling) for request in requests])

    def fingerprint(self):
        return generator_fingerprint(self.model, self.sampling)


def gene_requests(names):
    """Requests for profiles, with made-up keys of 64 hexadecimal digits."""
    prompt = get_prompt(None, "gene")
    return [
        Request(f"{i:064x}", prompt.messages(name), metadata={"entity": name, "kind": "gene"})
        for i, name in enumerate(names)
    ]


def answer_of(text):
    """The answer in a generated text."""
    return read_answer(text)[0]


def json_response(value, status=200, **headers):
    """An answer of a scripted server."""
    from werkzeug.wrappers import Response

    return Response(json.dumps(value), status, headers, mimetype="application/json")


def status_error(status, message="no", **fields):
    """An error of a scripted server; fields with a capital are headers."""
    headers = {name.replace("_", "-"): fields.pop(name) for name in list(fields) if name[0].isupper()}
    return json_response({"error": {"message": message, **fields}}, status, **headers)


def reset(request):
    """Cut the connection of a scripted server with a RST packet."""
    connection = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    raise ConnectionResetError


_SERVE = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames, params.model_alias = ["127.0.0.1"], {"smollm2"}
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 8192, 1
params.chat_template = sys.argv[4]
if sys.argv[5:]:
    params.n_parallel, params.n_ctx, params.embedding = 2, 1024, True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.reasoning_format = getattr(xllamacpp.common_reasoning_format, f"COMMON_REASONING_FORMAT_{sys.argv[3]}")
server = xllamacpp.Server(params)
time.sleep(86400)
"""


class LlamaServer:
    """llama.cpp's server in a process of its own, so that it can be killed and started again.

    `reasoning` is DEEPSEEK (thoughts are given apart) or NONE; a `template` takes the place of the file's own. With
    `embedding` it gives vectors.
    """

    def __init__(self, log, gguf=None, reasoning="DEEPSEEK", template="", embedding=False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.model = "smollm2"
        self._log = log
        gguf = gguf or _packaged_file("language-model", "smollm2-135m-instruct")[0]
        self._arguments = [str(gguf), str(self.port), reasoning, template, *["embedding"] * embedding]

    def start(self, seconds=180):
        command = [sys.executable, "-c", _SERVE, *self._arguments]
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


def stored(folder):
    """Entity → (text, how often it was tried); nothing while a run begins."""
    try:
        with AnswerStore.open(folder) as store:
            return {p.entity: (p.text, p.attempts) for p in store.answers()}
    except BftembedError:
        return {}
