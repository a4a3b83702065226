"""The openai engine against a scripted server with every fault, and against llama.cpp for real."""

from __future__ import annotations

import functools
import json
import logging
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter

import pytest
from llm_tools import Sampled, gene_requests, json_response, reset
from llm_tools import status_error as error
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from bftembed.errors import BftembedError
from bftembed.llm.base import Request
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles

pytestmark = pytest.mark.usefixtures("no_openai_environment", "short_waits")

GENES = ["TP53", "EGFR", "MYC", "KRAS", "BRCA1", "BRCA2", "CD3D", "LYZ"]
KEY = "sk-planted-0123456789abcdef"


def requests(names=GENES):
    return gene_requests(names)


def gene_of(body):
    return body["messages"][-1]["content"].removeprefix("Tell me about the gene ").rstrip(".")


def answer(text="TP53 is a gene.", reason="stop", usage=(30, 5), **message):
    value = {"choices": [{"index": 0, "finish_reason": reason, "message": {"content": text, **message}}]}
    if usage:
        value["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json_response(value)


class Scripted:
    """A server that answers the n-th request for a gene (from 0) by a function of the body and n."""

    def __init__(self, server):
        self.server = server
        self.bodies, self.asked = [], Counter()
        self.base_url = server.url_for("/v1")
        self._lock = threading.Lock()

    def answers(self, script):
        def handle(request):
            body = request.get_json()
            with self._lock:
                self.bodies.append(body)
                n = self.asked[gene_of(body)]
                self.asked[gene_of(body)] += 1
            result = script(body, n, request)
            return result if result is not None else answer(f"{gene_of(body)} is a gene.")

        self.server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(handle)

    def engine(self, **options):
        options = {"base_url": self.base_url, "timeout": 10, **options}
        return Sampled("openai:m," + ",".join(f"{k}={v}" for k, v in options.items()))

    def spec(self, more=""):
        return f"openai:m,base_url={self.base_url}{more}"


@pytest.fixture(scope="module")
def http_server():
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def scripted(http_server):
    http_server.clear()
    return Scripted(http_server)


def one(engine):
    (completion,) = engine.generate(requests(GENES[:1]))
    return completion


def stored(folder):
    with AnswerStore.open(folder) as store:
        return {p.entity: p for p in store.answers()}


def test_the_body_holds_what_the_options_say(scripted):
    scripted.answers(lambda body, n, _: None)
    one(scripted.engine(max_new_tokens=7, temperature=0.5, seed=3))
    one(scripted.engine(token_parameter="max_completion_tokens"))
    first, second = scripted.bodies
    assert (first["max_tokens"], first["temperature"], first["seed"], first["model"]) == (7, 0.5, 3, "m")
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert second["max_completion_tokens"] == 512
    assert not {"max_tokens", "seed"} & set(second)


#: As Mistral sends them.
THINKING, TEXT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    ("reply", "reason", "reasoning"),
    [
        (lambda: answer("x", "length"), "length", ""),
        (lambda: answer("x", "eos"), "stop", ""),
        (lambda: answer("x", "tool_calls"), "tool_calls", ""),
        (lambda: answer("x", None), "unknown", ""),
        (lambda: json_response({"choices": [{"text": "x", "finish_reason": "stop"}]}), "stop", ""),
        (lambda: answer("x", reasoning_content="hm"), "stop", "hm"),
        (lambda: answer("x", reasoning=[{"type": "text", "text": "hm"}]), "stop", "hm"),
        (lambda: answer([THINKING, {"type": "text", "text": ""}, THINKING, TEXT]), "stop", "hmhm"),
        (lambda: answer([{"type": "reasoning", "summary": [TEXT]}, TEXT]), "stop", "x"),
        (lambda: answer([{"type": "redacted_thinking", "data": "9f"}, TEXT]), "stop", ""),
        (lambda: answer(["x"], "length", usage=None), "length", ""),
    ],
)
def test_finish_reasons_and_reasoning_are_read(scripted, reply, reason, reasoning):
    scripted.answers(lambda *_: reply())
    completion = one(scripted.engine())
    assert (completion.text, completion.reasoning, completion.error) == ("x", reasoning, "")
    assert completion.finish_reason == reason


def test_no_answer_that_may_be_cut_or_hold_reasoning_is_ok(scripted, tmp_path):
    text = "TP53, EGFR, MYC, KRAS, BRCA1, BRCA2, CD3D and LYZ are genes."
    replies = {
        "TP53": answer(text, None),
        "EGFR": answer(text, "tool_calls"),
        "MYC": answer(text, "MAX_TOKENS"),
        "KRAS": answer(f"We need to describe KRAS. {text}"),
        "BRCA1": answer(f"analysisWe need to describe BRCA1.assistantfinal{text}"),
        "BRCA2": answer(f"<|channel|>analysis<|message|>{text}"),
        "CD3D": answer(""),
        "LYZ": answer("", reasoning_content=text),
    }
    scripted.answers(lambda body, n, _: replies[gene_of(body)])
    generate_profiles(GENES, generator=scripted.spec(), out=tmp_path / "s")
    assert {gene: profile.marks for gene, profile in stored(tmp_path / "s").items()} == {
        "TP53": ("unknown-finish",),
        "EGFR": ("unknown-finish",),
        "MYC": ("truncated",),
        "KRAS": ("reasoning",),
        "BRCA1": (),
        "BRCA2": ("empty",),
        "CD3D": ("empty",),
        "LYZ": ("empty",),
    }
    assert stored(tmp_path / "s")["BRCA1"].text == text


@pytest.mark.parametrize(
    ("thinking", "reason", "text", "said"),
    [
        ("off", "stop", "TP53 is a gene.", ""),
        ("off", "length", "", "raise max_new_tokens"),
        ("auto", "stop", "", "thinking=off"),
        ("on", "stop", "", "thinking=off"),
    ],
)
def test_an_answer_that_a_reasoning_parser_took_for_a_thought_is_text_where_thinking_is_off(
    scripted, thinking, reason, text, said
):
    """As vLLM's parsers do where the prompt has closed the thought and the answer holds no end of one."""
    scripted.answers(lambda *_: answer(None, reason, reasoning="TP53 is a gene."))
    completion = one(scripted.engine(thinking=thinking))
    assert completion.text == text
    assert said in completion.error
    assert bool(completion.error) == bool(said)


TRANSIENT = {
    "503": lambda _: error(503),
    "429 rate limit": lambda _: error(429, code="rate_limit_exceeded", Retry_After="0"),
    "html": lambda _: Response("<html><body>Bad gateway</body></html>", 200, mimetype="text/html"),
    "truncated": lambda _: Response('{"choices": [{"message": {"con', 200, mimetype="application/json"),
    "error in 200": lambda _: json_response({"error": {"message": "upstream is busy", "code": 502}}),
    "reset": reset,
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_fault_that_passes_is_retried(scripted, name):
    scripted.answers(lambda body, n, request: TRANSIENT[name](request) if n < 2 else None)
    completion = one(scripted.engine())
    assert (completion.text, completion.error) == ("TP53 is a gene.", "")
    assert scripted.asked["TP53"] == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("503", "answered 503: no"),
        ("html", "Bad gateway"),
        ("error in 200", "upstream is busy"),
        ("reset", "the connection to"),
    ],
)
def test_an_item_without_an_answer_is_an_error_of_that_item_alone(scripted, name, said):
    bad = lambda body, n, request: TRANSIENT[name](request) if gene_of(body) == "MYC" else None  # noqa: E731
    scripted.answers(bad)
    out = {c.id: c for c in scripted.engine(max_retries=2).generate(requests())}
    failed = out.pop(requests()[2].id)
    assert said in failed.error
    assert failed.finish_reason == "error"
    assert scripted.asked["MYC"] == 3
    assert all(not c.error for c in out.values())


@pytest.mark.parametrize(
    ("reply", "reason", "said"),
    [
        (
            lambda: error(400, "maximum context length is 8 tokens", code="context_length_exceeded"),
            "error",
            "maximum context length is 8 tokens",
        ),
        (lambda: json_response({"object": "error", "message": "old vLLM"}, 400), "error", "old vLLM"),
        (lambda: answer(None, "length"), "error", "raise max_new_tokens"),
        (lambda: answer(None, refusal="I will not"), "error", "I will not"),
        (lambda: answer("half", "abort"), "error", "finish reason abort"),
        (lambda: json_response({"choices": []}), "error", "no choices[0]"),
        (lambda: answer([{"type": "image_url", "image_url": {}}, TEXT]), "error", "no choices[0]"),
        (lambda: answer(None, "content_filter"), "content_filter", "finish reason content_filter"),
    ],
)
def test_a_fault_of_one_item_is_stored_and_not_retried(scripted, tmp_path, reply, reason, said):
    scripted.answers(lambda body, n, _: reply() if gene_of(body) == "MYC" else None)
    report = generate_profiles(GENES, generator=scripted.spec(), out=tmp_path / "s")
    assert report.failed == ("MYC",)
    profile = stored(tmp_path / "s")["MYC"]
    assert said in profile.error
    assert (profile.finish_reason, profile.marks, profile.text) == (reason, ("failed",), "")
    assert generate_profiles(GENES, generator=scripted.spec(), out=tmp_path / "s").written == 0
    assert set(scripted.asked.values()) == {1}


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (lambda: error(401, "bad key"), "401: bad key. Set OPENAI_API_KEY"),
        (lambda: error(402, "pay"), "no credit left"),
        (lambda: error(429, "quota", code="insufficient_quota"), "no credit left"),
        (lambda: error(429, "quota", type="insufficient_quota", code=None), "no credit left"),
        (lambda: Response("<html>nothing here</html>", 404), "Check the model, and base_url: most end in /v1"),
    ],
)
def test_what_would_fail_every_item_ends_the_run_and_keeps_what_came(scripted, tmp_path, reply, remedy):
    scripted.answers(lambda body, n, _: reply() if gene_of(body) == "BRCA1" else None)
    with pytest.raises(BftembedError, match=remedy):
        generate_profiles(GENES, generator=scripted.spec(",concurrency=1"), out=tmp_path / "s")
    assert sorted(stored(tmp_path / "s")) == sorted(GENES[:4])
    assert set(scripted.asked.values()) == {1}
    assert scripted.asked["BRCA2"] == 0


def test_a_run_in_which_all_items_fail_alike_stops_and_says_why(scripted, tmp_path):
    names = [f"GENE{i}" for i in range(60)]
    scripted.answers(lambda *_: error(400, f"maximum context length is {time.monotonic_ns()} tokens"))
    options = {"out": tmp_path / "s", "unknown": "keep"}
    with pytest.raises(BftembedError, match="25 requests failed .* maximum context length is"):
        generate_profiles(names, generator=scripted.spec(",concurrency=4"), **options)
    failed = stored(tmp_path / "s")
    assert len(failed) == 25
    assert all("answered 400: maximum context length" in profile.error for profile in failed.values())
    # Those in flight are answered, but no further one is asked for.
    assert 25 <= len(scripted.asked) <= 33
    assert set(scripted.asked.values()) == {1}
    scripted.server.clear()
    scripted.answers(lambda *_: None)
    report = generate_profiles(names, generator=scripted.spec(), retry_failed=True, **options)
    assert (report.written, report.failed) == (60, ())


def test_a_server_that_went_away_ends_the_run(scripted, tmp_path):
    scripted.answers(lambda body, n, _: None if gene_of(body) == "CD3D" else error(503))
    names = ["CD3D", *GENES[:6], "CD3E", "CD4", "CD8A", "MS4A1"]
    with pytest.raises(BftembedError, match="8 requests in a row got no readable answer .* --retry-failed"):
        generate_profiles(names, generator=scripted.spec(",max_retries=1,concurrency=1"), out=tmp_path / "s")
    assert len(stored(tmp_path / "s")) == 9
    scripted.server.clear()
    scripted.answers(lambda *_: None)
    report = generate_profiles(
        names, generator=scripted.spec(",max_retries=1,concurrency=1"), out=tmp_path / "s", retry_failed=True
    )
    assert (report.written, report.failed) == (10, ())


def test_a_server_whose_answers_have_an_unknown_shape_ends_the_run_and_each_is_paid_once(scripted, tmp_path):
    names = [*GENES, "CD3E", "CD4", "CD8A", "MS4A1"]
    scripted.answers(lambda *_: json_response({"output": []}))
    with pytest.raises(BftembedError, match="8 requests in a row"):
        generate_profiles(names, generator=scripted.spec(",concurrency=1"), out=tmp_path / "s")
    assert set(scripted.asked.values()) == {1}
    assert len(scripted.asked) == 8


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "TLS"])
def test_a_server_that_cannot_be_reached_ends_the_run(scripted, url):
    url = scripted.base_url.replace("http:", "https:") if url == "TLS" else url
    with pytest.raises(BftembedError, match="cannot be reached"):
        list(Sampled(f"openai:m,base_url={url},max_retries=1").generate(requests()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("concurrency=0", "concurrency=0"),
        ("timeout=0", "timeout=0.0"),
        ("max_retries=-1", "max_retries=-1"),
        ("base_url=localhost:8000", "base_url is not an address"),
        ("api_key=abc", "Unknown option 'api_key'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BftembedError, match=message):
        Sampled(f"openai:m,{options}")


def test_the_address_and_the_parameter_follow_the_environment_and_the_host(monkeypatch):
    engine = Sampled("openai:gpt")
    assert engine.fingerprint()["server"] == "api.openai.com/v1"
    assert engine._body(requests()[0])["max_completion_tokens"] == 512
    monkeypatch.setenv("OPENAI_BASE_URL", "http://node7:8000/v1/")
    fingerprint = Sampled("openai:gpt,seed=4,concurrency=2,timeout=3").fingerprint()
    assert fingerprint["server"] == "node7/v1"
    assert fingerprint["sampling"] == {"max_new_tokens": 512, "temperature": 0.0, "seed": 4}
    assert set(fingerprint) == {"engine", "model", "server", "sampling"}
    assert "max_tokens" in Sampled("openai:gpt")._body(requests()[0])


def test_a_key_in_the_wrong_place_is_refused_and_not_shown(monkeypatch):
    for url in (f"http://user:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}"):
        with pytest.raises(BftembedError, match="belongs in OPENAI_API_KEY") as raised:
            Sampled(f"openai:m,base_url={url}")
        assert KEY not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY} and\tmore")
    with pytest.raises(BftembedError, match="holds a space or a character that no key has") as raised:
        list(Sampled("openai:m").generate(requests()))
    assert KEY not in str(raised.value)


ECHOES = {
    "content": lambda key: answer(f"your key is {key}"),
    "error 400": lambda key: error(400, f"your key is {key}"),
    "error 401": lambda key: error(401, f"your key is {key}"),
    "cut off at the key": lambda key: Response("x" * 50 + key, 200),
}


@pytest.mark.parametrize("name", ECHOES)
def test_the_key_appears_nowhere_even_when_the_server_echoes_it(scripted, tmp_path, monkeypatch, caplog, name):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    seen = []

    def script(body, n, request):
        key = request.headers["Authorization"].removeprefix("Bearer ")
        seen.append(key)
        return ECHOES[name](key)

    scripted.answers(script)
    said = ""
    try:
        report = generate_profiles(GENES[:2], generator=scripted.spec(",max_retries=1"), out=tmp_path / "s")
        said = repr(report)
    except BftembedError as err:
        said = "".join(traceback.format_exception(err))
    engine = scripted.engine()
    said += repr(engine) + json.dumps(engine.fingerprint()) + caplog.text
    assert set(seen) == {KEY}, "the server did get the key"
    assert KEY not in said
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    assert not [p for p in files if KEY.encode() in p.read_bytes()]


def test_an_interrupt_in_flight_keeps_what_came(scripted, tmp_path):
    def script(body, n, _):
        if gene_of(body) in GENES[4:]:
            time.sleep(20)

    scripted.answers(script)
    arguments = ["profiles", "generate", ",".join(GENES), "--generator", scripted.spec(), "--out", str(tmp_path / "s")]
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", *arguments]
    # A shell's background job, and all it starts, ignores SIGINT.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while len(scripted.bodies) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert sorted(stored(tmp_path / "s")) == sorted(GENES[:4])
    scripted.server.clear()
    scripted.answers(lambda *_: None)
    assert generate_profiles(GENES, generator=scripted.spec(), out=tmp_path / "s").written == 4
    assert [scripted.asked[gene] for gene in GENES] == [1] * 4 + [2] * 4


def test_a_consumer_that_stops_leaves_no_thread(scripted):
    scripted.answers(lambda body, n, _: None if gene_of(body) == "TP53" else time.sleep(0.3))
    completions = scripted.engine().generate(requests())
    next(completions)
    completions.close()
    assert not [t for t in threading.enumerate() if t.name == "bftembed-api"]


def test_a_killed_client_never_asks_again_for_what_is_stored(scripted, tmp_path):
    scripted.answers(lambda body, n, _: time.sleep(0.1))
    spec = scripted.spec(",concurrency=2")
    arguments = ["profiles", "generate", ",".join(GENES), "--generator", spec, "--out", str(tmp_path / "s")]
    process = subprocess.Popen([sys.executable, "-c", "from bftembed.cli import main; main()", *arguments])
    while len(scripted.bodies) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = stored(tmp_path / "s")
    assert 2 <= len(kept) < 8
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s").written == 8 - len(kept)
    assert all(scripted.asked[gene] == 1 for gene in kept)
    assert len(stored(tmp_path / "s")) == 8


# llama.cpp, for real


def real_spec(server, more=""):
    return f"openai:{server.model},base_url={server.base_url},max_new_tokens=8,concurrency=2{more}"


@pytest.mark.model
def test_a_real_servers_complaint_is_an_error_of_that_item(llama_server):
    long = Request("e" * 64, ({"role": "user", "content": "gene " * 9000},))
    out = {c.id: c for c in Sampled(real_spec(llama_server)).generate([long, *requests(["TP53"])])}
    assert "context" in out["e" * 64].error
    assert out[requests()[0].id].error == ""


@pytest.mark.model
def test_a_real_server_killed_and_restarted_loses_nothing(llama_server, tmp_path):
    restarts = []

    def progress(done, total, _):
        if done >= 2 and not restarts:
            llama_server.kill()
            restarts.append(threading.Thread(target=llama_server.start))
            restarts[0].start()

    spec = real_spec(llama_server, ",max_retries=40")
    try:
        report = generate_profiles(GENES, generator=spec, out=tmp_path / "s", progress=progress)
    finally:
        for thread in restarts:
            thread.join()
    assert restarts
    assert (report.written, report.failed) == (8, ())
    assert all(p.text for p in stored(tmp_path / "s").values())
