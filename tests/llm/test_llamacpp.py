"""The llama.cpp engine on the packaged SmolLM2 GGUF, for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from llm_tools import Sampled, answer_of
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError
from bftembed.llm.backends.llamacpp import _gguf_parts, _read_gguf_settings
from bftembed.llm.base import Request
from bftembed.llm.chat import _prompt_tokens
from bftembed.llm.models import model_files, model_identity, resolve_model
from bftembed.profiles.generate import get_prompt

pytest.importorskip("xllamacpp", reason="needs the extra [llamacpp]")
pytestmark = pytest.mark.model
MODEL = "builtin:smollm2-135m-instruct"
GENES = ["TP53", "HLA-DRB1", "CD3D", "EGFR"]
#: Thirty layers on a busy machine: one thread is the fastest.
FAST = "threads=1,max_new_tokens=10"
#: For processes that import what these tests do.
PATHS = os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
WITH_TOOLS = {**os.environ, "PYTHONPATH": PATHS}


def requests(names=GENES):
    prompt = get_prompt(None, "gene")
    return [Request(f"{i + 1:08x}" * 8, prompt.messages(name)) for i, name in enumerate(names)]


def ask(text, key="f" * 64):
    return Request(key, ({"role": "user", "content": text},))


@pytest.fixture(scope="module")
def gguf():
    return model_files("language-model", MODEL)


@pytest.fixture(scope="module")
def engine():
    return Sampled(f"llamacpp:{MODEL},{FAST},batch=3,context=256")


@pytest.fixture(scope="module")
def completions(engine):
    return {c.id: c for c in engine.generate(requests())}


def test_every_request_is_answered_and_counted(completions):
    assert completions.keys() == {r.id for r in requests()}
    for c in completions.values():
        assert "<think>" not in c.text
        assert (c.error, c.finish_reason, c.completion_tokens) == ("", "length", 10)
        assert 40 < c.prompt_tokens < 100
        assert c.text.strip()


def test_the_prompt_is_that_of_the_transformers_engine(completions):
    """The file's own chat template, token for token as many as transformers makes of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("language-model", MODEL).path)
    for request in requests():
        assert completions[request.id].prompt_tokens == len(_prompt_tokens(tokenizer, request.messages))


def test_a_prompt_beyond_the_context_is_an_error_of_that_item_alone(engine):
    too_long = ask("gene " * 500, "e" * 64)
    # Fits by itself, but not with its answer.
    tight = ask("gene " * 204 + ". Tell me a long story about a girl who lived in a forest.", "d" * 64)
    out = {c.id: c for c in engine.generate([too_long, tight, *requests()[:1]])}
    assert "exceeds the available context size" in out["e" * 64].error
    assert "exceeds the context of 256" in out["d" * 64].error
    assert out["e" * 64].finish_reason == out["d" * 64].finish_reason == "error"
    assert out[requests()[0].id].error == ""


def test_sampling_repeats_with_its_seed_whatever_the_order(engine, monkeypatch):
    def sample(seed, asked):
        monkeypatch.setattr(engine, "sampling", replace(engine.sampling, temperature=1.0, seed=seed))
        return {c.id: c.text for c in engine.generate(asked)}

    monkeypatch.setattr(engine.model, "batch_size", 1)
    first = sample(1, requests()[:2])
    assert sample(1, requests()[1::-1]) == first
    assert sample(2, requests()[:2]) != first


def test_the_fingerprint_is_cheap_and_names_what_decides_the_text():
    engine = Sampled(f"llamacpp:{MODEL},max_new_tokens=100,threads=2,batch=5")
    found = engine.fingerprint()
    assert engine._server is None
    assert found["revision"] == model_identity("language-model", MODEL)
    assert found["quantization"] == "Q4_1"
    assert found["context"] == 1280
    assert found["sampling"] == {"max_new_tokens": 100, "temperature": 0.0}
    assert found == Sampled(f"llamacpp:{MODEL},max_new_tokens=100,threads=1,batch=2").fingerprint()
    assert "xllamacpp" in found["backend"]
    json.dumps(found)
    sampled = Sampled(f"llamacpp:{MODEL},max_new_tokens=7,temperature=0.6,seed=3").fingerprint()
    assert sampled["sampling"] == {"max_new_tokens": 7, "temperature": 0.6, "top_p": 1.0, "seed": 3}


def test_a_file_without_a_chat_template_gets_the_texts_as_paragraphs(gguf, tmp_path):
    data = gguf.read_bytes()
    name = b"tokenizer.chat_template"
    assert data.count(name) == 1
    plain = tmp_path / "plain.gguf"
    plain.write_bytes(data.replace(name, b"tokenizer.chat_templatX"))
    engine = Sampled(f"llamacpp:{plain},{FAST},batch=1,context=512")
    with pytest.warns(UserWarning, match="has no chat template"):
        (c,) = engine.generate(requests()[:1])
    assert c.error == ""
    assert c.text.strip()
    assert 30 < c.prompt_tokens < 60


def with_template(gguf, file, template):
    """Write the packaged file with another chat template, which a comment makes as long as its own."""
    own = _read_gguf_settings(gguf)["tokenizer.chat_template"]
    file.write_bytes(
        gguf.read_bytes().replace(own.encode(), f"{template}{{#{' ' * 999}"[: len(own) - 2].encode() + b"#}")
    )
    return file


TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
USERS = f"{{% for m in messages if m.role == 'user' %}}{TURN}{{% endfor %}}"
NO_SYSTEM = "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
RAISES = f"{{% for m in messages %}}{NO_SYSTEM}{TURN}{{% endfor %}}"


@pytest.mark.parametrize("template", [USERS, RAISES])
def test_a_template_that_loses_the_system_message_gets_it_from_the_user(gguf, tmp_path, template):
    file = with_template(gguf, tmp_path / "m.gguf", template + "<|im_start|>assistant\n{{ style }}")
    found = {}
    for options in ("", ",template_style=terse"):
        engine = Sampled(f"llamacpp:{file},threads=1,batch=1,context=512,max_new_tokens=2{options}")
        (completion,) = engine.generate(requests()[:1])
        assert completion.error == ""
        found[options] = completion.prompt_tokens
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("language-model", MODEL).path)
    tokenizer.chat_template = template + "<|im_start|>assistant\n{{ style }}"
    for options, given in (("", {}), (",template_style=terse", {"style": "terse"})):
        # The two tokenizers read an empty line as one token or two.
        assert found[options] == pytest.approx(len(_prompt_tokens(tokenizer, requests()[0].messages, **given)), abs=1)
    assert found[",template_style=terse"] > found[""]


def test_a_template_that_loses_the_question_is_an_error(gguf, tmp_path):
    file = with_template(gguf, tmp_path / "m.gguf", "<|im_start|>assistant\n")
    with pytest.raises(BftembedError, match="leaves out the content of messages"):
        list(Sampled(f"llamacpp:{file},{FAST},batch=1,context=512").generate(requests()[:1]))


def test_an_answer_inside_of_a_thought_that_the_prompt_opened_is_empty(gguf, tmp_path):
    data, name = gguf.read_bytes(), b"You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    start, opened = b"'<|im_start|>assistant\n'", b"'<|im_start|>assistant\n<think>\n'"
    assert data.count(name) == data.count(start) == 1
    shorter = name[: len(name) - (len(opened) - len(start))]  # so that the file stays as long
    thinking = tmp_path / "thinking.gguf"
    thinking.write_bytes(data.replace(name, shorter).replace(start, opened))
    engine = Sampled(f"llamacpp:{thinking},{FAST},batch=1,context=512")
    (c,) = engine.generate(requests()[:1])
    assert c.text.startswith("<think>")
    assert len(c.text) > len("<think>")
    assert answer_of(c.text) == ""


DAMAGES = {
    "header cut": (lambda data: data[:1_000_000], "damaged or cut"),
    "huge counts": (lambda data: data[:8] + b"\xff" * 5000, "damaged or cut"),
    "old version": (lambda data: data[:4] + b"\x01" + data[5:3000], "GGUF version 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_before_anything_is_loaded(gguf, tmp_path, damage):
    change, message = DAMAGES[damage]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(change(gguf.read_bytes()))
    with pytest.raises(BftembedError, match=re.escape(message)):
        Sampled(f"llamacpp:{bad}")


def test_what_only_the_library_can_see_is_an_error_and_no_abort(gguf, tmp_path):
    """An architecture that llama.cpp does not know, and a cut file behind our check: in a process of their own."""
    unknown = tmp_path / "unknown.gguf"
    data = gguf.read_bytes()
    key = b"general.architecture"
    at = data.index(key) + len(key) + 4 + 8
    assert data[at : at + 5] == b"llama"
    unknown.write_bytes(data[:at] + b"xlama" + data[at + 5 :])
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data)
    code = (
        "import sys\n"
        "from bftembed.errors import BftembedError\n"
        "from llm_tools import Sampled, gene_requests\n"
        "from bftembed.llm.base import Request\n"
        "for path in sys.argv[1:]:\n"
        "    engine = Sampled(f'llamacpp:{path},threads=1,batch=1,context=256,max_new_tokens=2')\n"
        "    if 'cut' in path:\n"
        "        open(path, 'r+b').truncate(50_000_000)\n"
        "    try:\n"
        "        list(engine.generate([Request('a' * 64, ({'role': 'user', 'content': 'Hi'},))]))\n"
        "    except BftembedError as err:\n"
        "        print('refused:', err)\n"
    )
    command = [sys.executable, "-c", code, str(unknown), str(cut)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=WITH_TOOLS)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("refused: llama.cpp cannot load") for line in lines)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("llamacpp:./no/such.gguf", "No such GGUF file: no/such.gguf"),
        ("llamacpp:builtin:smollm3", "Did you mean 'smollm2-135m-instruct'"),
        (f"llamacpp:{MODEL},threads=-1", "threads=-1"),
        (f"llamacpp:{MODEL},context=9000", "was trained for 8192 tokens"),
    ],
)
def test_wrong_files_and_options_are_refused(spec, message):
    with pytest.raises(BftembedError, match=message):
        Sampled(spec)


def test_a_split_model_needs_all_its_parts(tmp_path):
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.write_bytes(b"GGUF")
    with pytest.raises(BftembedError, match=r"m-00002-of-00002.gguf"):
        _gguf_parts(first)
    second.write_bytes(b"GGUF")
    assert _gguf_parts(first) == _gguf_parts(second) == [first, second]
    with pytest.raises(BftembedError, match="Give the file itself"):
        _gguf_parts(tmp_path)
