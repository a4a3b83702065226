"""The seam: requests with options, schemas and samples; what a model cannot do; failures that stop a run.

Faults that users of such tools reported, by kind, and the tests of several members of each:

====  =================================  ===========================================================================
row   kind                               tests
====  =================================  ===========================================================================
1     reasoning formats of any family    test_bad_texts (the table as it is, and after special tokens were skipped),
                                         test_transformers (special_tokens_that_mark_reasoning_survive)
2     state of the prompt                a_thought_that_a_template_opens_is_closed, test_llamacpp and
                                         test_transformers (an_answer_inside_of_a_thought), test_r1_template,
                                         test_vllm (a_thought_that_the_template_opens_is_closed)
3     templates with thoughts            test_r1_template, test_data (no_answer_is_learnt_inside_of_a_thought),
                                         test_openai (an_answer_that_a_reasoning_parser_took_for_a_thought)
4     endings not known to be whole      test_screening (only_known_endings_are_whole), test_openai (finish_reasons),
                                         test_runner (an_answer_that_ended_in_an_error_has_failed)
5     answers of another shape           test_openai (finish_reasons_and_reasoning_are_read,
                                         whose_answers_have_an_unknown_shape)
6     what a template drops              no_template_loses_a_message, a_template_that_leaves_out_a_message_is_an_error,
                                         a_template_may_drop_the_thoughts_of_earlier_answers, test_llamacpp and
                                         test_data (a_template_that_loses_the_system_message)
7     options that have no way through   options_of_template_and_server_reach_them, options_of_the_template_reach,
                                         what_decides_the_prompt_is_in_the_fingerprint, cli/test_profiles
                                         (a_run_without_a_profile_to_use_is_not_a_success)
8     summaries without reasons          equal_failures_are_one_line, failures_that_name_their_item_stop_no_run,
                                         a_run_that_only_fails_stops
9     limits that a smaller batch meets  test_openai_batch
10    screening knows English alone      test_bad_texts (language, refusal in another language)
11    what decides the prompt and is     the_date_that_a_template_writes, a_model_without_a_template_is_named_once,
      not recorded                       what_decides_the_prompt_is_in_the_fingerprint, test_llamacpp
                                         (a_file_without_a_chat_template)
12    own prompts                        a_prompt_from_a_file_is_named_by_its_content, test_pipeline
                                         (prompts_and_models_are_compared_in_one_report)
====  =================================  ===========================================================================
"""

from __future__ import annotations

import datetime
import json
import math

import pytest
from llm_tools import Sampled
from tests_paths import SHARED

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm import model_from_spec
from bftembed.llm.base import Capabilities, Request, Sampling, request_key
from bftembed.llm.chat import Template, close_thought, prompt_text
from bftembed.llm.reasoning import open_reasoning, read_answer
from bftembed.llm.runner import MAX_EQUAL_FAILURES, Run, run_requests
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles, get_prompt

MODEL = "builtin:smollm2-135m-instruct"
SHOTS = "The following are questions about anatomy.\n\n" + "".join(
    f"Question {i}: which bone?\nA. leg\nB. arm\nC. head\nD. back\nAnswer: {'ABCD'[i % 4]}\n\n" for i in range(5)
)
CHOICES = "A. leg\nB. arm\nC. head\nD. back"
LETTERS = (" A", " B", " C", " D")


def ask(text, name="q", **fields):
    return Request(name, ({"role": "user", "content": text},), **fields)


def questions():
    asked = [
        Request(f"q{i}", prompt=f"{SHOTS}Where is the {what}?\n{CHOICES}\nAnswer:", options=LETTERS)
        for i, what in enumerate(["femur", "canal of the ear, which hears,", "ulna", "ulna"])
    ]
    options = ("human arm", " leg", "head of a horse")
    asked.append(Request("longer", prompt=f"{SHOTS}The ulna is in the ", options=options))
    return [*asked, ask("Is the ulna a bone?", "chat", options=("Yes", "No", "Yes, of course"))]


def run(requests, out, spec, **options):
    model, _ = model_from_spec(spec)
    with AnswerStore.writing(out) as store:
        found = run_requests(
            requests, model, store, spec=spec, generator_id=store.add_generator(spec, model.fingerprint()), **options
        )
        return found, store.answers(keys=found.keys)


def keyed(requests, fingerprint):
    from dataclasses import replace

    return [replace(r, id=request_key(r, fingerprint)) for r in requests]


@pytest.mark.model
def test_option_scores_are_the_log_likelihoods_of_the_plain_program():
    """Whatever is shared or batched: prompt and option in one text, one forward pass each."""
    import torch

    engine = Sampled(f"{MODEL},dtype=fp32")
    found = {c.id: c for c in engine.generate(questions())}
    inner = engine._engine
    for request in questions():
        text = request.prompt or prompt_text(inner.tokenizer, request.messages)
        context = inner.tokenizer(text.rstrip() if request.prompt else text)["input_ids"]
        expected = []
        for option in request.options:
            whole = inner.tokenizer(text + option)["input_ids"]
            with torch.inference_mode():
                logs = inner.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected.append(sum(logs[i - 1, whole[i]].item() for i in range(len(context), len(whole))))
        assert found[request.id].scores == pytest.approx(expected, abs=1e-4)
        assert found[request.id].prompt_tokens == len(context)


@pytest.mark.model
def test_rows_that_end_early_leave_the_batch_and_others_join_it():
    engine = Sampled(f"{MODEL},dtype=fp32,batch_size=2")
    lengths = [3, 30, 5, 1, 12, 7, 2]
    prompts = [f"Say a {'very ' * i}short word." for i in range(7)]
    many = [
        ask(p, f"{i}", sampling=Sampling(max_new_tokens=n))
        for i, (p, n) in enumerate(zip(prompts, lengths, strict=True))
    ]
    alone = {}
    for request in many:
        (c,) = engine.model.generate([request])
        alone[c.id] = (c.text, c.finish_reason, c.completion_tokens)
    for size in (2, 3, 16):
        engine.model.batch_size = size
        together = {c.id: (c.text, c.finish_reason, c.completion_tokens) for c in engine.model.generate(many)}
        assert together == alone


@pytest.mark.model
def test_stop_texts_end_an_answer_and_samples_differ():
    engine = Sampled(f"{MODEL},dtype=fp32,max_new_tokens=40")
    engine.sampling = Sampling(max_new_tokens=40, stop=("3",))
    (c,) = engine.generate([ask("Count: 1 2 3 4 5 6. Repeat that.")])
    assert c.finish_reason in ("stop", "length")
    assert "3" not in c.text
    hot = Sampling(max_new_tokens=12, temperature=1.0)
    repeats = [ask("Tell me a story.", f"{i}", sampling=hot, sample=i) for i in range(3)]
    texts = {c.id: c.text for c in engine.model.generate(repeats)}
    assert len(set(texts.values())) == 3
    assert texts == {c.id: c.text for c in engine.model.generate(repeats[::-1])}


@pytest.mark.model
def test_llamacpp_scores_options_and_obeys_a_schema():
    pytest.importorskip("xllamacpp")
    engine = Sampled(f"llamacpp:{MODEL},threads=1,batch=2,max_new_tokens=40")
    exact = {c.id: c.scores for c in Sampled(f"{MODEL},dtype=fp32").generate(questions()[:3])}
    for c in engine.generate(questions()[:3]):
        assert c.scores == pytest.approx(exact[c.id], abs=0.6)  # 4-bit weights
    (missing,) = engine.generate([Request("m", prompt=SHOTS, options=(" A", " a word that is no token"))])
    assert missing.scores[1] is None
    schema = {"type": "object", "properties": {"bone": {"enum": ["ulna", "femur"]}}, "required": ["bone"]}
    (c,) = engine.generate([ask("Name a bone of the arm.", schema=schema)])
    assert json.loads(c.text)["bone"] in ("ulna", "femur")


@pytest.mark.model
def test_a_server_says_what_it_can_do_and_scores_options(llama_server, no_openai_environment):
    engine = Sampled(f"openai:{llama_server.model},base_url={llama_server.base_url},max_new_tokens=30")
    assert engine.capabilities() == Capabilities(options=True, schema=True)
    found = {c.id: c for c in engine.generate([ask("Answer with A or B.", "chat", options=("A", "B")), questions()[0]])}
    assert all(score is None or score <= 0 for c in found.values() for score in c.scores)
    assert any(score is not None for score in found["chat"].scores)
    assert all(score is not None for score in found["q0"].scores)
    (c,) = engine.generate([ask("Yes or no?", schema={"type": "string", "enum": ["yes", "no"]})])
    assert json.loads(c.text) in ("yes", "no")


def test_what_a_model_cannot_do_is_said_before_anything_runs(tmp_path):
    fingerprint = {"engine": "facts"}
    for fields, word in (({"options": ("a", "b")}, "options"), ({"schema": {"type": "string"}}, "schema")):
        requests = keyed([ask("a question", metadata={"entity": "TP53", "kind": "gene"}, **fields)], fingerprint)
        with pytest.raises(BftembedError, match=f"facts cannot do what the run asks for: {word}"):
            run(requests, tmp_path / word, "facts")
        with AnswerStore.open(tmp_path / word) as store:
            assert store.answers() == []


def test_answers_come_back_with_scores_and_samples_and_are_asked_once(tmp_path):
    spec = "scripted"
    fingerprint = model_from_spec(spec)[0].fingerprint()
    about = {"entity": "anatomy/1", "kind": "mmlu", "prompt": "5-shot@1"}
    requests = keyed(
        [
            ask("which?", options=LETTERS, metadata=about),
            *(ask("why?", sample=i, metadata=about) for i in range(2)),
            ask("how?", schema={"type": "object"}, metadata=about),
        ],
        fingerprint,
    )
    assert len({r.id for r in requests}) == 4
    first, answers = run(requests, tmp_path, spec)
    assert (first.written, first.stored) == (4, 0)
    assert answers[0].scores == (-1.0, -2.0, -3.0, -4.0)
    assert [a.sample for a in answers] == [0, 0, 1, 0]
    assert answers[1].text != answers[2].text
    assert json.loads(answers[3].text)
    assert {(a.entity, a.kind, a.prompt) for a in answers} == {("anatomy/1", "mmlu", "5-shot@1")}
    second, again = run(requests, tmp_path, spec)
    assert (second.written, second.stored, again) == (0, 4, answers)


def test_a_key_depends_on_all_that_decides_the_answer_and_on_nothing_else():
    base = ask("why?", metadata={"entity": "x"})
    key = request_key(base, {"engine": "a"})
    others = [
        ask("why not?", metadata={"entity": "x"}),
        ask("why?", metadata={"entity": "y"}),
        ask("why?", metadata={"entity": "x"}, sample=1),
        ask("why?", metadata={"entity": "x"}, options=("a",)),
        ask("why?", metadata={"entity": "x"}, schema={"type": "string"}),
    ]
    assert len({key, request_key(base, {"engine": "b"}), *(request_key(r, {"engine": "a"}) for r in others)}) == 7
    assert request_key(ask("why?", "another id", attempt=3, metadata={"entity": "x"}), {"engine": "a"}) == key


def test_a_run_that_only_fails_stops_and_says_why_and_goes_on_later(tmp_path):
    names = [f"gene {i}" for i in range(2 * MAX_EQUAL_FAILURES)]
    options = {"generator": "scripted:fail=1,fail_attempts=1,batch=5", "out": tmp_path / "s", "unknown": "keep"}
    with pytest.raises(BftembedError, match=rf"{MAX_EQUAL_FAILURES} requests failed in the same .*scripted failure"):
        generate_profiles(names, **options)
    with AnswerStore.open(tmp_path / "s") as store:
        assert len(store.answers()) == MAX_EQUAL_FAILURES
    healed = generate_profiles(names, retry_failed=True, limit=MAX_EQUAL_FAILURES, **options)
    assert healed.failed == ()


@pytest.mark.parametrize(
    ("message", "other"),
    [
        ("context length is 8192 tokens, you asked for 9001", "context length is 8192 tokens, you asked for 12000"),
        ("500: server error, request ID req_7f3a9c", "500: server error, request ID req_b41e22"),
        ("blocked (id 3f1c2d4e-aa01-4b5c-9d8e-0123456789ab)", "blocked (id 9e107d9d-372b-4b2a-8c11-abcdef012345)"),
        ("no HGNC record for 'ABC1'", "no HGNC record for 'XYZ'"),
    ],
)
def test_equal_failures_are_one_line_whatever_they_count_or_name(message, other):
    run = Run()
    for entity, error in (("ABC1", message), ("XYZ", other), ("XYZ", "another failure")):
        run.count(entity, ("failed",), error)
    assert list(run.failures.values()) == [(2, message, "ABC1"), (1, "another failure", "XYZ")]
    assert run.failed == {"ABC1", "XYZ"}


def test_failures_that_name_their_item_stop_no_run(tmp_path):
    clones = [f"AC{i:06d}.1" for i in range(2 * MAX_EQUAL_FAILURES)]
    report = generate_profiles([*clones, "TP53"], generator="facts", out=tmp_path, unknown="keep")
    assert (len(report.failed), report.written) == (len(clones), len(clones) + 1)


# -- chat templates ------------------------------------------------------------------------------------------


class Tokenizer:
    """A tokenizer with nothing but a chat template, rendered as transformers does."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, **options):
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            conversations=[messages], chat_template=self.chat_template, add_generation_prompt=True, **options
        )
        return texts[0]


CHAT = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "What is TP53?"})
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
USERS = "{% for m in messages if m.role == 'user' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
LAST = "[{{ messages[-1].role }}] {{ messages[-1].content }}"
RAISES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
OPENERS = {
    "DeepSeek-R1": ("<｜Assistant｜><think>\n", "</think>\n\n"),
    "QwQ": ("<|im_start|>assistant\n<think>", "\n</think>\n\n"),
    "Command A": ("<|CHATBOT_TOKEN|><|START_THINKING|>", "\n<|END_THINKING|>\n\n"),
    "Magistral": ("[/INST][THINK]", "\n[/THINK]\n\n"),
    "MedGemma": ("<start_of_turn>model\n<unused94>", "\n<unused95>\n\n"),
    "Kimi-VL": ("<|im_middle|>◁think▷", "\n◁/think▷\n\n"),
    "LongCat": ("/think_on ASSISTANT:<longcat_think>\n", "</longcat_think>\n\n"),
    "Gemma 4": ("<|turn>model\n<|channel>thought\n", "<channel|>\n\n"),
    "Apertus": ("<|assistant_start|><|inner_prefix|>", "\n<|inner_suffix|>\n\n"),
}


@pytest.mark.parametrize("template", [PLAIN, USERS, RAISES, LAST])
def test_no_template_loses_a_message(template):
    pytest.importorskip("transformers")
    for chat in (CHAT, CHAT[1:]):
        text = prompt_text(Tokenizer(template), chat)
        assert all(m["content"] in text for m in chat)
        assert ("[system]" in text) == (template == PLAIN and chat is CHAT)


SHORTENS = "{% for m in messages %}[{{ m.role }}] {{ m.content[:10] }}\n{% endfor %}"
FEW_SHOT = (
    *CHAT,
    {"role": "assistant", "content": "<think>hm</think>A gene."},
    {"role": "user", "content": "And MYC?"},
)


@pytest.mark.parametrize(("template", "chat"), [("Hello", CHAT), (SHORTENS, CHAT), (USERS, FEW_SHOT), (LAST, FEW_SHOT)])
def test_a_template_that_leaves_out_a_message_is_an_error(template, chat):
    pytest.importorskip("transformers")
    with pytest.raises(BftembedError, match="leaves out the content of a message"):
        prompt_text(Tokenizer(template), chat)


def test_a_template_may_drop_the_thoughts_of_earlier_answers():
    pytest.importorskip("transformers")
    drops = PLAIN.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    text = prompt_text(Tokenizer(drops), FEW_SHOT)
    assert "[assistant] A gene." in text
    assert "hm" not in text


@pytest.mark.parametrize("family", OPENERS)
def test_a_thought_that_a_template_opens_is_closed(family):
    pytest.importorskip("transformers")
    opening, closing = OPENERS[family]
    tokenizer = Tokenizer(PLAIN + "{% if add_generation_prompt %}{{ " + json.dumps(opening) + " }}{% endif %}")
    before = prompt_text(tokenizer, CHAT)
    assert open_reasoning(before)
    assert close_thought(tokenizer)
    assert prompt_text(tokenizer, CHAT) == before + closing
    assert open_reasoning(prompt_text(tokenizer, CHAT)) == ""
    assert not close_thought(tokenizer)
    # The reading of an answer that such a prompt leaves open, and of one that it does not.
    assert read_answer(open_reasoning(before) + "I wonder")[0] == ""
    answer = open_reasoning(before) + "I wonder" + closing + "TP53 is a gene."
    assert read_answer(answer)[0] == "TP53 is a gene."


def test_options_of_template_and_server_reach_them_and_the_fingerprint():
    pytest.importorskip("transformers")
    thinks = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
    assert prompt_text(Tokenizer(thinks), CHAT, enable_thinking=False).endswith("<think>\n\n</think>")
    model, sampling = model_from_spec(
        "openai:m,base_url=http://127.0.0.1:1/v1,template_enable_thinking=false,extra.reasoning_effort=low,top_p=0.5"
    )
    body = model._body(ask("hi", sampling=sampling))
    assert (body["chat_template_kwargs"], body["reasoning_effort"]) == ({"enable_thinking": False}, "low")
    assert body["top_p"] == 0.5
    found = model.fingerprint()
    assert found["template"] == {"enable_thinking": False}
    assert found["extra"] == {"reasoning_effort": "low"}
    with pytest.raises(UnknownNameError, match="Did you mean 'temperature'"):
        model_from_spec("openai:m,temperatur=1")


@pytest.mark.model
@pytest.mark.parametrize("backend", ["transformers", "llamacpp", "openai", "openai-batch"])
def test_what_decides_the_prompt_is_in_the_fingerprint_of_every_backend(backend):
    pytest.importorskip("xllamacpp" if backend == "llamacpp" else "openai" if "openai" in backend else "transformers")
    spec = f"{backend}:{'m,base_url=http://127.0.0.1:1/v1' if 'openai' in backend else MODEL}"

    def template(option):
        return model_from_spec(f"{spec},{option}" if option else spec)[0].fingerprint().get("template")

    assert template("") is None
    assert template("thinking=auto") is None
    assert template("thinking=on") == {"enable_thinking": True}
    assert template("thinking=off") == {"enable_thinking": False, "thinking": "off"}
    assert template("template_reasoning_effort=low") == {"reasoning_effort": "low"}
    assert template("template_date_string=1 Jan 2026") == {"date_string": "1 Jan 2026"}
    assert template("template.enable_thinking=false,template_budget=0") == {"enable_thinking": False, "budget": 0}


@pytest.mark.model
def test_options_of_the_template_reach_the_prompt():
    engine = Sampled(f"{MODEL},dtype=fp32,template_style=terse")._load()
    engine.tokenizer.chat_template = PLAIN + "{{ style }}{{ enable_thinking }}"
    assert engine.tokenizer.decode(engine.prompt_tokens(ask("hi"))) == "[user] hi\nterse"


def test_a_model_without_a_template_is_named_once():
    with pytest.warns(UserWarning, match="some-base-model has no chat template"):
        Template("auto", {}).apply(Tokenizer(None), "some-base-model")


def test_the_date_that_a_template_writes_is_part_of_what_decides_the_text():
    dated = "Today is {{ strftime_now('%d %b %Y') }}." + PLAIN
    assert Template("auto", {}).fingerprint(dated) == {"template": {"date": datetime.date.today().isoformat()}}
    assert Template("auto", {"date_string": "1 Jan 2026"}).fingerprint(dated) == {
        "template": {"date_string": "1 Jan 2026"}
    }
    effort = {"reasoning_effort": "low"}
    assert Template("auto", effort).fingerprint(dated)["template"] == {**effort, "date": str(datetime.date.today())}
    assert Template("auto", {}).fingerprint(PLAIN) == {}
    assert Template("off", {}).fingerprint(PLAIN) == {"template": {"enable_thinking": False, "thinking": "off"}}


# -- prompts of users ----------------------------------------------------------------------------------------


def test_a_prompt_from_a_file_is_named_by_its_content(tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text("system: Answer in one sentence.\nuser: '{name} ({aliases}) {unfinished'\n")
    first = get_prompt(str(file), "gene")
    system, user = first.messages("TP53", aliases=("TP53", "p53", "LFS1"))
    assert (system["content"], user["content"]) == ("Answer in one sentence.", "TP53 (p53, LFS1) {unfinished")
    report = generate_profiles(["TP53"], generator="scripted", prompt=str(file), out=tmp_path / "s")
    assert (report.prompt, report.written) == (first.id, 1)
    assert first.id.startswith("short@")
    file.write_text("user: What does {name} do?")
    assert get_prompt(str(file), "gene").id != first.id
    assert generate_profiles(["TP53"], generator="scripted", prompt=str(file), out=tmp_path / "s").written == 1
    assert [m["role"] for m in get_prompt(str(file), "gene").messages("{context}")] == ["user"]


@pytest.mark.parametrize(
    "text",
    ["user: Tell me about it.", "user: '{name} {symbol}'", "users: '{name}'", "user: '{name"],
)
def test_a_file_that_is_no_prompt_is_named(tmp_path, text):
    for name in ("bad.yaml", "none.yaml"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(BftembedError, match=name):
            get_prompt(str(tmp_path / name), "gene")


def test_a_prompt_with_summaries_gets_them_or_says_what_is_missing_before_a_store_is_made(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text("user: '{name}: {summary}'")
    options = {"generator": "scripted", "prompt": str(tmp_path / "p.yaml"), "out": tmp_path / "s"}
    monkeypatch.setenv("BFTEMBED_DATA", "")
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path))
    with pytest.raises(BftembedError, match="refseq-summaries is not on this machine"):
        generate_profiles(["CTSL"], **options)
    assert not (tmp_path / "s").exists()
    if not SHARED.is_dir():
        pytest.skip("no shared data here")
    monkeypatch.setenv("BFTEMBED_DATA", str(SHARED))
    generate_profiles(["CTSL"], **options)
    with AnswerStore.open(tmp_path / "s") as store:
        ((messages,),) = store._select("SELECT messages FROM answers")
    assert "lysosomal cysteine proteinase" in json.loads(messages)[0]["content"]


def test_log_likelihoods_of_a_server_are_read_in_both_shapes():
    from bftembed.llm.backends.openai import option_scores

    top = [{"token": "A", "logprob": -1.0}, {"token": " A", "logprob": -2.0}]
    chat = {"logprobs": {"content": [{"top_logprobs": top}]}}
    raw = {"logprobs": {"top_logprobs": [{" A": -2.0, " B": -3.0}]}}
    assert option_scores(chat, ("A", " A", "B")) == (-1.0, -2.0, None)
    assert option_scores(raw, (" A", "B", "C")) == (-2.0, pytest.approx(-3.0), None)
    assert option_scores({"logprobs": None}, ("A",)) == (None,)
    assert math.isclose(option_scores(raw, ("A",))[0], -2.0)
