"""The vLLM engine as far as it goes without vLLM.

What generates here is a STAND-IN that has the few names of vLLM's interface which we use, and nothing of its
behaviour. The real vLLM is run by `make check-vllm`; what that gave is in tests/manual/vllm_cpu.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from llm_tools import Sampled
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError, MissingExtraError
from bftembed.llm.models import weights_revision

#: Writes noise where vLLM does, answers with the prompt's last word, and ends by the word which reason it is asked.
STAND_IN = '''
import logging, os, sys
from types import SimpleNamespace as Namespace

logger = logging.getLogger("vllm")
logger.setLevel("INFO")
logger.propagate = False
assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


class Tokenizer:
    chat_template = None

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [(text.split() or [""])[-1]] * len(text.split())}

    def apply_chat_template(self, messages, **options):
        return messages[-1]["content"] + "<think>\\n"

    def decode(self, ids, skip_special_tokens=False):
        return "[THINK]hm[/THINK]TP53" if ids == [7] else " ".join(map(str, ids))


class Engine:
    """Ends one request per step, the last one first."""

    def __init__(self):
        self.waiting, self.seen, self.aborted, self.renderer = [], [], [], self

    def render_cmpl(self, prompts):
        return [{"type": "token", **prompt} for prompt in prompts]

    def add_request(self, request_id, prompt, params):
        assert prompt["type"] == "token"
        self.waiting.append((request_id, prompt["prompt_token_ids"]))
        self.seen.append(params.options)

    def step(self):
        logger.info("a step")
        request_id, ids = self.waiting.pop()
        word = ids[-1]
        reason = word if word in ("length", "abort", "repetition") else "stop"
        tokens = [7, 8] if word == "special" else [1, 2, 3]
        answer = Namespace(text=f"<{word}>", token_ids=tokens, finish_reason=reason)
        unfinished = Namespace(finished=False, request_id="other", outputs=[answer], prompt_token_ids=ids)
        return [unfinished, Namespace(finished=True, request_id=request_id, outputs=[answer], prompt_token_ids=ids)]

    def abort_request(self, request_ids):
        self.aborted += request_ids


class LLM:
    made = []

    def __init__(self, **options):
        stream = os.environ["VLLM_LOGGING_STREAM"].removeprefix("ext://sys.")
        logger.handlers[:] = [logging.StreamHandler(getattr(sys, stream))]
        print("noise of the main process")
        if options.get("quantization") == "broken":
            raise ValueError("no such quantization\\nsecond line")
        self.options, self.llm_engine = options, Engine()
        self.model_config = Namespace(max_model_len=options.get("max_model_len", 100))
        LLM.made.append(self)

    def get_tokenizer(self):
        return Tokenizer()
'''
SAMPLING_STAND_IN = """
class RequestOutputKind:
    FINAL_ONLY = 2


class SamplingParams:
    def __init__(self, *, output_kind, **options):
        assert output_kind == 2
        self.options = options
"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def stand_in(tmp_path):
    place = tmp_path / "site"
    (place / "vllm").mkdir(parents=True)
    (place / "vllm" / "__init__.py").write_text(STAND_IN)
    (place / "vllm" / "sampling_params.py").write_text(SAMPLING_STAND_IN)
    (place / "vllm-0.32.0.dist-info").mkdir()
    (place / "vllm-0.32.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    return place


def run(stand_in, code):
    """Run code with the stand-in on the path; return stdout, of which we say that it is ours alone."""
    head = (
        "import json, sys\n"
        "from llm_tools import Sampled, gene_requests\n"
        "from bftembed.llm.base import Request\n"
        "def ask(word, key, n=3):\n"
        "    return Request(key * 64, ({'role': 'user', 'content': 'a ' * (n - 1) + word},))\n"
    )
    path = os.pathsep.join([str(stand_in), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_outputs_become_completions(stand_in, model):
    code = f"""
engine = Sampled("vllm:{model},max_new_tokens=10")
asked = [ask("stop", "a"), ask("length", "b"), ask("abort", "c"), ask("long", "d", 91), ask("fits", "e", 90)]
print(json.dumps([vars(c) for c in engine.generate(asked)]))
"""
    done = run(stand_in, code)
    found = {c["id"][0]: c for c in json.loads(done.stdout)}
    assert {k: c["finish_reason"] for k, c in found.items()} == {
        "a": "stop",
        "b": "length",
        "c": "abort",
        "d": "error",
        "e": "stop",
    }
    # The token that ends an answer does not count.
    assert {k: c["completion_tokens"] for k, c in found.items()} == {"a": 2, "b": 3, "c": 3, "d": 0, "e": 2}
    assert {k: c["prompt_tokens"] for k, c in found.items()} == {"a": 3, "b": 3, "c": 3, "d": 91, "e": 90}
    assert found["a"]["text"] == "<stop>"
    assert "with max_new_tokens=10 it exceeds the model's context of 100" in found["d"]["error"]


def test_marks_of_reasoning_in_the_prompt_and_in_special_tokens_are_kept(stand_in, model):
    code = f"""
engine = Sampled("vllm:{model},max_new_tokens=10")
(plain,) = engine.generate([ask("special", "a")])
sys.modules["vllm"].Tokenizer.chat_template = "opens a thought"
(opened,) = engine.generate([ask("stop", "b")])
print(json.dumps([plain.text, opened.text]))
"""
    assert json.loads(run(stand_in, code).stdout) == ["[THINK]hm[/THINK]TP53", "<think><stop<think>>"]


def test_a_thought_that_the_template_opens_is_closed_where_thinking_is_off(stand_in, model):
    code = f"""
import os
os.environ["VLLM_NO_USAGE_STATS"] = "1"
import vllm


def render(self, messages, **options):
    return messages[-1]["content"] + "<think>\\n" + ("closed" if "</think>" in self.chat_template else "")


vllm.Tokenizer.chat_template, vllm.Tokenizer.apply_chat_template = "opens a thought", render
for thinking in ("auto", "off"):
    engine = Sampled(f"vllm:{model},max_new_tokens=10,thinking={{thinking}}")
    print(list(engine.generate([ask("stop", "a")]))[0].text)
"""
    assert run(stand_in, code).stdout.split() == ["<think><stop<think>>", "<closed>"]


def test_options_reach_the_engine(stand_in, model):
    code = f"""
options = "max_new_tokens=5,dtype=bf16,batch=7,extra.tensor_parallel_size=2,extra.max_model_len=50"
options += ",temperature=0.5,top_p=0.9,seed=3,extra.quantization=fp8"
engine = Sampled(f"vllm:{model},{{options}}")
list(engine.generate([ask("x", "a"), ask("y", "b")]))
list(engine.generate([ask("z", "c")]))
(made,) = sys.modules["vllm"].LLM.made
print(json.dumps([made.options, made.llm_engine.seen]))
greedy = Sampled("vllm:{model},max_new_tokens=9")
list(greedy.generate([ask("x", "a")]))
made = sys.modules["vllm"].LLM.made[1]
print(json.dumps([made.options, made.llm_engine.seen]))
"""
    sampled, greedy = (json.loads(line) for line in run(stand_in, code).stdout.splitlines())
    assert sampled[0] == {
        "model": str(model),
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "max_num_seqs": 7,
        "max_model_len": 50,
        "quantization": "fp8",
    }
    seeds = [params["seed"] for params in sampled[1]]
    assert len(set(seeds)) == 3
    assert sampled[1][0] == {"temperature": 0.5, "top_p": 0.9, "seed": seeds[0], "max_tokens": 5}
    assert greedy[0] == {"model": str(model), "dtype": "auto", "max_num_seqs": 256}
    assert greedy[1] == [{"temperature": 0.0, "max_tokens": 9}]


def test_what_was_in_flight_is_dropped_when_the_run_is_abandoned(stand_in, model):
    code = f"""
engine = Sampled("vllm:{model},max_new_tokens=10")
running = engine.generate([ask("x", "a"), ask("y", "b"), ask("z", "c")])
print(next(running).id[0])
running.close()
print("".join(key[0] for key in sys.modules["vllm"].LLM.made[0].llm_engine.aborted))
"""
    assert run(stand_in, code).stdout.split() == ["c", "ab"]


def test_the_fingerprint_is_cheap_and_names_what_decides_the_text(stand_in, model, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(stand_in)
    engine = Sampled(f"vllm:{model},max_new_tokens=7,dtype=bf16")
    found = engine.fingerprint()
    assert "vllm" not in sys.modules
    assert found["revision"] == weights_revision(model)
    assert found["backend"].keys() == {"vllm", "torch"}
    assert found["backend"]["vllm"] == "0.32.0"
    assert found["dtype"] == "bfloat16"
    assert found["sampling"] == {"max_new_tokens": 7, "temperature": 0.0}
    json.dumps(found)
    how = "batch=3,extra.gpu_memory_utilization=0.5,extra.tensor_parallel_size=2"
    assert Sampled(f"vllm:{model},max_new_tokens=7,dtype=bf16,{how}").fingerprint() == found
    # The keys of stores of earlier versions hold these, too.
    assert (found["quantization"], found["max_model_len"], found["lora"]) == ("", 0, "")
    for option in (
        "extra.quantization=fp8",
        "extra.max_model_len=99",
        "dtype=fp32",
        "temperature=0.5",
        "max_new_tokens=8",
    ):
        assert Sampled(f"vllm:{model},{option}").fingerprint() != Sampled(f"vllm:{model}").fingerprint()
    sampled = Sampled(f"vllm:{model},temperature=0.5,seed=4").fingerprint()
    assert sampled["sampling"] == {"max_new_tokens": 512, "temperature": 0.5, "top_p": 1.0, "seed": 4}


def test_without_vllm_the_error_names_the_extra(model):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(MissingExtraError, match=r"bftembed\[vllm\]"):
        Sampled(f"vllm:{model}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("dtype=int3", "dtype='int3' must be one of auto, bf16"),
        ("batch=0", "=0"),
        ("max_new_token=9", "Did you mean 'max_new_tokens'"),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(BftembedError, match=message):
        Sampled(f"vllm:{model},{options}")
