"""`embed_genes(…, cache=…)` and ``--cache``: what was paid for is not asked for twice, also after a kill."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from bftembed.embeddings import embed_genes
from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError
from bftembed.io import sha256_file
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore

DIM, N = 8, 40


@pytest.fixture(autouse=True)
def no_openai_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


class Counting:
    """A server of embeddings that counts how often each text was answered, and can be slow."""

    def __init__(self, server):
        self.answered, self.delay = Counter(), 0.0
        self._lock = threading.Lock()
        self.url = server.url_for("/v1")
        server.expect_request("/v1/embeddings", method="POST").respond_with_handler(self._handle)

    def _handle(self, request):
        texts = request.get_json()["input"]
        time.sleep(self.delay)
        vectors = encoder_from_spec(f"random:dim={DIM}").encode(texts)
        items = [
            {"index": i, "embedding": base64.b64encode(v.astype("<f4").tobytes()).decode()}
            for i, v in enumerate(vectors)
        ]
        with self._lock:
            self.answered.update(texts)
        return Response(json.dumps({"data": items, "usage": {"prompt_tokens": len(texts)}}))

    def spec(self):
        return f"openai:m,base_url={self.url},dimensions={DIM},batch=2,concurrency=2"


@pytest.fixture
def server():
    with HTTPServer(threaded=True) as http:
        yield Counting(http)


@pytest.fixture
def store(tmp_path):
    made = [
        Answer(f"{i:064d}", f"G{i:02}", "gene", f"gene {i} is a kinase", "stop", (), "bft-gene@1", "facts")
        for i in range(N)
    ]
    with AnswerStore.writing(tmp_path / "store") as opened:
        identifier = opened.add_generator("facts", {"engine": "facts"})
        opened.add([replace(one, generator_id=identifier) for one in made], {p.key: [] for p in made})
    return tmp_path / "store"


def count(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM vectors").fetchone()[0]


def test_a_killed_run_asks_for_no_stored_vector_again(server, store, tmp_path):
    out, cache = tmp_path / "genes.safetensors", store / "vectors.sqlite"
    server.delay = 0.15
    command = ["genes", "embed", str(store), "--encoder", server.spec(), "--out", str(out)]
    started = subprocess.Popen([sys.executable, "-c", "from bftembed.cli import main; main()", *command])
    until = time.monotonic() + 120
    while sum(server.answered.values()) < 16 and time.monotonic() < until:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    server.delay = 0.0
    time.sleep(0.5)  # what the server had in hand
    n_stored = count(cache)
    assert 8 <= n_stored < N
    assert not out.exists()
    paid_before = Counter(server.answered)
    made = embed_genes(store, server.spec())
    assert made.provenance["cache"] == {"encoded": N - n_stored, "reused": n_stored}
    twice = [text for text, n in server.answered.items() if n > 1]
    # Only the group that was in flight: two requests of two texts each.
    assert len(twice) <= 4
    assert sum((server.answered - paid_before).values()) == N - n_stored
    np.testing.assert_array_equal(
        made.matrix, encoder_from_spec(f"random:dim={DIM}").encode([f"gene {i} is a kinase" for i in range(N)])
    )
    assert embed_genes(store, server.spec()).provenance["cache"] == {"encoded": 0, "reused": N}
    assert sum(server.answered.values()) == sum(paid_before.values()) + N - n_stored


def test_the_default_is_beside_the_profiles_for_paid_encoders_alone(server, store, tmp_path):
    cache = tmp_path / "elsewhere" / "v.sqlite"
    plain = embed_genes(store, "random:dim=8")
    embed_genes(store, server.spec(), cache=cache)
    assert not (store / "vectors.sqlite").exists()
    first, second = (embed_genes(store, "random:dim=8", cache=cache) for _ in range(2))
    assert plain.fingerprint() == first.fingerprint() == second.fingerprint()
    assert (first.provenance["cache"]["encoded"], second.provenance["cache"]["reused"]) == (N, N)
    assert first.provenance["encoding"] == second.provenance["encoding"] == plain.provenance["encoding"]
    with pytest.raises(BftembedError, match="tfidf is fitted on the texts"):
        embed_genes(store, "tfidf", cache=cache)


def test_the_store_and_the_output_are_no_caches(store, tmp_path):
    file = store / "profiles.sqlite"
    before = sha256_file(file)
    with pytest.raises(BftembedError, match="cannot be used as a cache of vectors"):
        embed_genes(store, "random:dim=8", cache=file)
    assert sha256_file(file) == before
    cache = tmp_path / "v.sqlite"
    embed_genes(store, "random:dim=8", cache=cache)
    with pytest.raises(BftembedError, match="is the input .* itself"):
        embed_genes(store, "random:dim=8", cache=cache, out=cache)
