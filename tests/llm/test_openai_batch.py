"""The openai-batch engine against a fake of the Batch endpoints.

The fake follows OpenAI's documented shapes (files, batches, output and error files). The real service cannot be
reached from tests, so nothing here shows that it behaves so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from llm_tools import Sampled, gene_requests, json_response, status_error
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from bftembed.errors import BftembedError
from bftembed.llm.backends import openai_batch
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles

pytestmark = pytest.mark.usefixtures("no_openai_environment", "short_waits")

GENES = ["TP53", "EGFR", "MYC", "KRAS", "BRCA1", "BRCA2", "CD3D", "LYZ"]
KEY = "sk-planted-0123456789abcdef"
ENDED = ("completed", "failed", "expired", "cancelled")


def requests(names=GENES, attempt=1):
    return [replace(request, attempt=attempt) for request in gene_requests(names)]


def gene_of(call):
    return call["body"]["messages"][-1]["content"].removeprefix("Tell me about the gene ").rstrip(".")


class FakeBatches:
    """Files and batches in memory; a batch takes one step of `steps` at every look at it."""

    def __init__(self, server):
        self.base_url = server.url_for("/v1")
        self.steps = ["validating", "in_progress", "finalizing", "completed"]
        self.files, self.batches, self.calls, self.looks = {}, {}, [], []
        self.held = threading.Event()
        self.held.set()
        #: What may go wrong: path → list of responses given first.
        self.faults = {}
        #: Gene → line of the output file in place of a good one; None leaves it out.
        self.lines = {}
        self.lose_the_answer_to_a_submission = False
        #: Calls that may be enqueued at once, in all batches together.
        self.limit = 10**6
        self._lock = threading.Lock()
        for path, method, handler in (
            ("/v1/files", "POST", self._upload),
            ("/v1/batches", "POST", self._submit),
            ("/v1/batches", "GET", self._list),
        ):
            server.expect_request(path, method=method).respond_with_handler(self._with_faults(path, handler))
        self._many(server, "/v1/batches/", self._look)
        self._many(server, "/v1/files/", self._content)

    def _many(self, server, prefix, handler):
        server.expect_request(re.compile(f"^{prefix}.+")).respond_with_handler(self._with_faults(prefix, handler))

    def _with_faults(self, path, handler):
        def handle(request):
            with self._lock:
                if self.faults.get(path):
                    return self.faults[path].pop(0)
                return handler(request)

        return handle

    def _upload(self, request):
        assert request.form["purpose"] == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = request.files["file"].read().decode()
        return json_response({"id": name, "object": "file"})

    def _submit(self, request):
        asked = request.get_json()
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        calls = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert all((c["method"], c["url"]) == ("POST", "/v1/chat/completions") for c in calls)
        assert len({c["custom_id"] for c in calls}) == len(calls)
        self.calls.append(calls)
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "metadata": asked["metadata"],
            "created_at": int(time.time()),
            "input_file_id": asked["input_file_id"],
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "step": 0,
            "calls": calls,
        }
        if self.lose_the_answer_to_a_submission:
            self.lose_the_answer_to_a_submission = False
            return json_response({"error": {"message": "the gateway lost it"}}, 502)
        return json_response(self._shown(self.batches[name]))

    def _shown(self, batch):
        return {name: value for name, value in batch.items() if name not in ("step", "calls")}

    def _list(self, request):
        newest = list(reversed(self.batches.values()))
        names = [b["id"] for b in newest]
        start = names.index(request.args["after"]) + 1 if "after" in request.args else 0
        page = newest[start : start + 1]  # pages of one, so that paging is tried
        more = start + 1 < len(newest)
        return json_response({"object": "list", "data": [self._shown(b) for b in page], "has_more": more})

    def _look(self, request):
        batch = self.batches.get(request.path.rsplit("/", 1)[1])
        if batch is None:
            return json_response({"error": {"message": "No batch found"}}, 404)
        self.looks.append(batch["id"])
        if self.held.is_set() and batch["status"] not in ENDED:
            batch["status"] = self.steps[batch["step"]]
            batch["step"] += 1
            if batch["status"] in ("completed", "expired", "cancelled"):
                self._finish(batch)
            error = {"code": "invalid_json_line", "message": "no line of JSON"}
            if sum(len(b["calls"]) for b in self.batches.values() if b["status"] not in ENDED) > self.limit:
                batch["status"] = "failed"
                error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m"}
            if batch["status"] == "failed":
                batch["errors"] = {"object": "list", "data": [error]}
        return json_response(self._shown(batch))

    def _finish(self, batch):
        good, bad = [], []
        for call in reversed(batch["calls"]):  # in another order than asked
            line = self.lines.get(gene_of(call), self.good_line(call))
            if line is not None:
                (bad if line["error"] or line["response"]["status_code"] != 200 else good).append(
                    {**line, "custom_id": call["custom_id"]}
                )
        for field, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                name = f"file-{len(self.files)}"
                self.files[name] = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
                batch[field] = name

    def good_line(self, call):
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": f"{gene_of(call)} is\u2028a gene."}}
        body = {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 5}}
        return {"id": "x", "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}

    def _content(self, request):
        name = request.path.split("/")[-2]
        if name not in self.files:
            return json_response({"error": {"message": "No such File object"}}, 404)
        return Response(self.files[name], 200, mimetype="application/octet-stream")


@pytest.fixture(scope="module")
def http_server():
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def fake(http_server):
    http_server.clear()
    return FakeBatches(http_server)


@pytest.fixture
def spec(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    return f"openai-batch:m,base_url={fake.base_url},poll=0.02,max_retries=2"


def stored(folder):
    with AnswerStore.open(folder) as store:
        return {p.entity: p for p in store.answers()}


def test_a_batch_is_submitted_waited_for_and_stored(fake, spec, tmp_path):
    report = generate_profiles(GENES, generator=f"{spec},max_new_tokens=7,seed=2", out=tmp_path / "s")
    assert (report.written, report.failed, report.tokens) == (8, (), 40)
    profile = stored(tmp_path / "s")["MYC"]
    assert (profile.text, profile.finish_reason, profile.prompt_tokens) == ("MYC is\u2028a gene.", "stop", 30)
    (calls,) = fake.calls
    assert {gene_of(c) for c in calls} == set(GENES)
    assert all((c["body"]["max_tokens"], c["body"]["seed"], c["body"]["model"]) == (7, 2, "m") for c in calls)
    assert fake.looks == ["batch-0"] * 4
    assert generate_profiles(GENES, generator=f"{spec},max_new_tokens=7,seed=2", out=tmp_path / "s").written == 0
    assert len(fake.batches) == 1


def test_items_that_fail_or_are_missing_are_errors_and_retried_alone(fake, spec, tmp_path):
    bad = {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
    fake.lines = {
        "TP53": {"id": "x", "response": {"status_code": 400, "body": bad}, "error": None},
        "EGFR": None,
        "MYC": {"id": "x", "response": None, "error": {"code": "batch_expired", "message": "not in time"}},
        "KRAS": {"id": "x", "response": {"status_code": 200, "body": {"choices": []}}, "error": None},
    }
    report = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    assert report.failed == ("EGFR", "KRAS", "MYC", "TP53")
    said = {gene: stored(tmp_path / "s")[gene].error for gene in report.failed}
    assert said["TP53"] == "the batch answered 400: maximum context length"
    assert said["EGFR"] == "the batch batch-0 gave no answer for it (completed)"
    assert said["MYC"] == "the batch answered an error: not in time"
    assert "no choices" in said["KRAS"]
    fake.lines = {}
    again = generate_profiles(GENES, generator=spec, out=tmp_path / "s", retry_failed=True)
    assert (again.written, again.failed) == (4, ())
    assert {gene_of(c) for c in fake.calls[1]} == set(report.failed)


@pytest.mark.parametrize(("limit", "sizes"), [(5, [8, 4, 4]), (1, [8, 4, 2, 1, 1, 2, 1, 1, 4, 2, 1, 1, 2, 1, 1])])
def test_a_batch_that_is_too_large_for_the_account_is_split_until_it_fits(fake, spec, tmp_path, limit, sizes):
    fake.limit = limit
    report = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    assert (report.written, report.failed) == (8, ())
    assert [len(calls) for calls in fake.calls] == sizes
    paid = [gene_of(c) for b in fake.batches.values() if b["status"] == "completed" for c in b["calls"]]
    assert sorted(paid) == sorted(GENES)
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s").written == 0
    assert len(fake.calls) == len(sizes)


def test_a_batch_that_failed_is_an_error_of_its_requests_and_submitted_anew_on_retry(fake, spec, tmp_path):
    fake.steps = ["validating", "failed"]
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s").failed == tuple(sorted(GENES))
    assert stored(tmp_path / "s")["LYZ"].error == "the batch batch-0 gave no answer for it (failed): no line of JSON"
    fake.steps = ["completed"]
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s", retry_failed=True).failed == ()
    assert [len(calls) for calls in fake.calls] == [8, 8]


def test_what_an_expired_batch_did_not_answer_is_submitted_again(fake, spec):
    fake.steps = ["validating", "expired"]
    fake.lines = dict.fromkeys(GENES[2:])
    out = []
    for completion in Sampled(spec).generate(requests()):
        out.append(completion)
        fake.steps, fake.lines = ["completed"], {}
    assert {c.id: c.error for c in out} == {r.id: "" for r in requests()}
    assert [len(calls) for calls in fake.calls] == [8, 6]
    fake.steps = ["expired"]
    fake.lines = dict.fromkeys(GENES)
    assert all("(expired)" in c.error for c in Sampled(spec).generate(requests(attempt=2)))


def kill_when(condition, spec, out):
    """Kill -9 a run of the command line when `condition` holds."""
    arguments = ["profiles", "generate", ",".join(GENES), "--generator", spec, "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", "from bftembed.cli import main; main()", *arguments])
    while not condition():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_a_run_that_was_killed_while_its_batch_was_at_work_collects_it(fake, spec, tmp_path):
    """Found among the service's batches, on any page, behind those of others."""
    fake.held.clear()
    kill_when(lambda: len(fake.looks) >= 1, spec, tmp_path / "s")
    for i in range(2):
        other = {**fake.batches["batch-0"], "id": f"other-{i}", "metadata": None}
        fake.batches[f"other-{i}"] = other
    fake.held.set()
    assert generate_profiles(GENES, generator=spec, out=tmp_path / "s").written == 8
    assert len(fake.calls) == 1


def test_a_lost_answer_to_a_submission_makes_no_second_batch(fake, spec):
    fake.lose_the_answer_to_a_submission = True
    with pytest.raises(BftembedError, match="the same command collects it"):
        list(Sampled(spec).generate(requests()))
    assert all(c.text for c in Sampled(spec).generate(requests()))
    assert len(fake.batches) == 1


def test_what_was_partly_stored_is_collected_from_the_same_batch(fake, spec):
    """The runner may be killed after storing some of a batch's answers: the rest must not be paid for again."""
    generator = Sampled(spec)
    assert len(list(generator.generate(requests()))) == 8
    rest = list(generator.generate(requests()[3:]))
    assert {c.id for c in rest} == {r.id for r in requests()[3:]}
    assert len(fake.batches) == 1
    assert len(list(generator.generate(requests(attempt=2)))) == 8
    assert len(fake.batches) == 2
    fake.files.clear()  # as a user may delete them
    assert len(list(generator.generate(requests()))) == 8
    assert len(fake.batches) == 3


@pytest.mark.parametrize(("limit", "value", "n"), [("MAX_REQUESTS", 3, 3), ("MAX_BYTES", 3000, None)])
def test_many_requests_are_split(fake, spec, monkeypatch, limit, value, n):
    monkeypatch.setattr(openai_batch, limit, value)
    out = list(Sampled(spec).generate(requests()))
    assert {c.id for c in out} == {r.id for r in requests()}
    assert len(fake.batches) == n or n is None
    assert len(fake.batches) > 1
    assert limit != "MAX_BYTES" or all(len(fake.files[f"file-{i}"]) <= value for i in range(len(fake.batches)))


@pytest.mark.parametrize(
    ("path", "status", "fields", "message"),
    [
        ("/v1/files", 401, {}, "Set OPENAI_API_KEY"),
        ("/v1/batches", 429, {"code": "insufficient_quota"}, "no credit left"),
        ("/v1/batches", 400, {}, "answered 400: no. The run stops; what was submitted goes on"),
    ],
)
def test_what_cannot_go_on_ends_the_run_with_a_remedy(fake, spec, path, status, fields, message):
    fake.faults[path] = [status_error(status, **fields)]
    with pytest.raises(BftembedError, match=message):
        list(Sampled(spec).generate(requests()))
    assert [c.error for c in Sampled(spec).generate(requests())] == [""] * 8
    assert len(fake.batches) == 1


def test_the_key_appears_nowhere(fake, spec, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level("DEBUG")
    fake.lines = {
        "TP53": {"id": "x", "response": None, "error": {"message": f"key {KEY}"}},
        "MYC": {"id": "x", "response": {"status_code": 500, "body": {"error": {"message": KEY}}}, "error": None},
    }
    report = generate_profiles(GENES, generator=spec, out=tmp_path / "s")
    fake.faults["/v1/files"] = [status_error(400, KEY)]
    with pytest.raises(BftembedError) as raised:
        list(Sampled(spec).generate(requests(attempt=2)))
    said = repr(report) + caplog.text + str(raised.value) + json.dumps(Sampled(spec).fingerprint())
    assert report.failed == ("MYC", "TP53")
    assert KEY not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
