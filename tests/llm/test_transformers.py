"""The transformers engine on the packaged SmolLM2, for real."""

from __future__ import annotations

import json

import pytest
from llm_tools import Sampled, answer_of, gene_requests

from bftembed.errors import BftembedError
from bftembed.llm.base import Request
from bftembed.llm.models import resolve_model
from bftembed.llm.reasoning import open_reasoning, with_reasoning_markers
from bftembed.machine import cpu_has_bf16

pytestmark = pytest.mark.model
MODEL = "builtin:smollm2-135m-instruct"
GENES = ["TP53", "HLA-DRB1", "CD3D", "A-very-long-name-of-a-gene-that-nobody-has-described-so-far", "LYZ"]


def requests(names=GENES):
    return gene_requests(names)


@pytest.fixture(scope="module")
def engine():
    return Sampled(f"{MODEL},dtype=fp32,max_new_tokens=12,batch_size=2")


@pytest.fixture(scope="module")
def completions(engine):
    return {c.id: c for c in engine.generate(requests())}


def test_a_batch_gives_what_one_prompt_alone_gives(completions):
    alone = Sampled(f"{MODEL},dtype=fp32,max_new_tokens=12,batch_size=1")
    assert {c.id: c.text for c in alone.generate(requests())} == {k: c.text for k, c in completions.items()}


def test_the_text_equals_a_plain_greedy_loop(engine, completions):
    import torch

    inner = engine._engine or engine._load()
    ids = torch.tensor([inner.prompt_tokens(requests()[0])])
    answer = []
    with torch.inference_mode():
        for _ in range(12):
            token = int(inner.model(ids).logits[0, -1].argmax())
            if token in inner.stop_ids:
                break
            answer.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert completions[requests()[0].id].text == inner.tokenizer.decode(answer, skip_special_tokens=True)


def test_an_answer_that_ends_by_itself_stops_there(engine):
    """A model made to prefer its end token must give finish reason "stop" and no token after it."""
    messages = ({"role": "user", "content": "Say OK and nothing else."},)
    long = Sampled(f"{MODEL},dtype=fp32,max_new_tokens=60")
    long.model._engine = engine._engine
    (c,) = long.generate([Request("f" * 64, messages)])
    assert c.finish_reason == "stop"
    assert 0 < c.completion_tokens < 60
    assert "<|im_end|>" not in c.text


def test_a_prompt_beyond_the_context_is_an_error_of_that_item_alone(engine):
    long = Request("e" * 64, ({"role": "user", "content": "gene " * 9000},))
    out = {c.id: c for c in engine.generate([long, *requests()[:1]])}
    assert "exceeds the model's context of 8192" in out["e" * 64].error
    assert out[requests()[0].id].error == ""


def test_the_fingerprint_is_cheap_and_names_what_decides_the_text():
    engine = Sampled(f"{MODEL},max_new_tokens=7")
    found = engine.fingerprint()
    assert engine._engine is None
    assert found["revision"] == resolve_model("language-model", MODEL).revision
    assert found["sampling"] == {"max_new_tokens": 7, "temperature": 0.0}
    assert found["dtype"] == ("bfloat16" if cpu_has_bf16() else "float32")
    json.dumps(found)
    sampled = Sampled(f"{MODEL},max_new_tokens=7,temperature=0.6,seed=3").fingerprint()
    assert sampled["sampling"] == {"max_new_tokens": 7, "temperature": 0.6, "top_p": 1.0, "seed": 3}


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator_alone(engine):
    import torch

    def sample(seed):
        sampler = Sampled(f"{MODEL},dtype=fp32,max_new_tokens=12,temperature=1,seed={seed}")
        sampler.model._engine = engine._engine
        return [c.text for c in sampler.generate(requests()[:2])]

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = sample(1)
    assert torch.equal(torch.rand(3), expected)
    assert sample(1) == first
    assert sample(2) != first


def test_torchs_threads_are_as_before_afterwards(engine):
    import torch

    one = Sampled(f"{MODEL},dtype=fp32,max_new_tokens=2,threads=1")
    one.model._engine = engine._engine
    before = torch.get_num_threads()
    seen = [torch.get_num_threads() for _ in one.generate(requests()[:1])]
    assert seen == [1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transformers:./no/such/folder", "./no/such/folder. is not a folder"),
        ("builtin:smollm3", "Did you mean 'smollm2-135m-instruct'"),
        (f"{MODEL},dtype=int3", "dtype='int3' must be one of"),
        (f"{MODEL},temperature=-1", "temperature=-1.0 in"),
        (f"{MODEL},max_new_tokens=abc", "max_new_tokens='abc' .* must be a whole number"),
        (f"{MODEL},device=cuda", "torch sees no CUDA device"),
    ],
)
def test_wrong_models_and_options_are_refused(spec, message):
    import torch

    if "cuda" in spec and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BftembedError, match=message):
        Sampled(spec)


def test_a_folder_that_is_no_language_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    engine = Sampled(f"transformers:{tmp_path}")
    with pytest.raises(BftembedError, match="cannot be loaded as a language model"):
        list(engine.generate(requests()[:1]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BftembedError, match="holds no model"):
        Sampled(f"transformers:{tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("prompt", "opener"),
    [
        ("<｜User｜>TP53<｜Assistant｜><think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>", "<think>"),
        ("<start_of_turn>model\n<|channel>thought\n", "<|channel>thought"),
        ("<|CHATBOT_TOKEN|><|START_THINKING|>", "<|START_THINKING|>"),
        ("[/INST][THINK]", "[THINK]"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Think within <think> and </think>.<|im_end|>\n<|im_start|>assistant\n", ""),
        ("", ""),
    ],
)
def test_a_thought_that_the_prompt_opens_is_known(prompt, opener):
    assert open_reasoning(prompt) == opener


def test_an_answer_inside_of_a_thought_that_the_prompt_opened_is_empty(engine, completions, monkeypatch):
    inner = engine._engine  # loaded by the completions
    opening = inner.tokenizer.chat_template + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    monkeypatch.setattr(inner.tokenizer, "chat_template", opening)
    assert open_reasoning(inner.tokenizer.decode(inner.prompt_tokens(requests()[0]))) == "<think>"
    (completion,) = engine.generate(requests()[:1])
    assert len(completion.text) > len("<think>")
    assert answer_of(completion.text) == ""
    assert answer_of(f"{completion.text}</think>TP53 is a gene.") == "TP53 is a gene."


@pytest.mark.parametrize(("opener", "closer"), [("[THINK]", "[/THINK]"), ("<|muse|>", "<|/muse_thought|>")])
def test_special_tokens_that_mark_reasoning_survive_decoding(engine, monkeypatch, opener, closer):
    import copy

    tokenizer = copy.deepcopy((engine._engine or engine._load()).tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": [opener, closer]})
    for text, kept in (
        (f"{opener}Okay, the user asks.{closer}TP53 is a gene.<|im_end|>", True),
        ("TP53 is a gene.<|im_end|>", False),
    ):
        tokens = tokenizer(text)["input_ids"]
        plain = tokenizer.decode(tokens, skip_special_tokens=True)
        assert closer not in plain
        assert with_reasoning_markers(plain, text, "") == (text if kept else plain)
