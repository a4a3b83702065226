"""Conversations: four forms, and every bad row named."""

from __future__ import annotations

import json

import pytest

from bftembed.errors import BftembedError
from bftembed.llm.chat import closing_of, prompt_text
from bftembed.tuning.data import Turn, read_conversations, write_conversations
from bftembed.tuning.encoding import encode, encode_all
from bftembed.tuning.tagging import responses


def rows_file(tmp_path, *rows, name="rows.jsonl"):
    file = tmp_path / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


ASKED, SAID = Turn("user", "q"), Turn("assistant", "a")
FORMS = [
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, (ASKED, SAID)),
    ({"prompt": "q", "completion": "a"}, (ASKED, SAID)),
    (
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        (ASKED, SAID),
    ),
    ({"instruction": "q", "output": "a"}, (ASKED, SAID)),
    ({"instruction": "q", "input": "more", "output": "a"}, (Turn("user", "q\nmore"), SAID)),
    (
        {"instruction": "q", "output": "a", "system": "s", "history": [["x", "y"]]},
        (Turn("system", "s"), Turn("user", "x"), Turn("assistant", "y"), ASKED, SAID),
    ),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, (ASKED, SAID)),
]


@pytest.mark.parametrize("row, turns", FORMS)
def test_every_form_is_read(row, turns, tmp_path):
    (found,) = read_conversations(rows_file(tmp_path, row))
    assert found.turns == turns
    assert found.where == "rows.jsonl:1"
    write_conversations([found], tmp_path / "again.jsonl")
    assert read_conversations(tmp_path / "again.jsonl")[0].turns == turns
    (from_list,) = read_conversations(rows_file(tmp_path, [row], name="list.json"))
    assert from_list.turns == turns


GOOD = {"prompt": "q", "completion": "a"}
BAD = [
    ({"prompt": "q"}, "completion"),
    ({"prompt": "q", "completion": ""}, "empty"),
    ({"instruction": "q"}, "output"),
    ({"question": "q", "answer": "a"}, "none of the forms"),
    ({"messages": [{"role": "user", "content": "q"}]}, "not the assistant's"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "no prompt"),
    ({"messages": [{"role": "tool", "content": "q"}, {"role": "assistant", "content": "a"}]}, "'tool'"),
    ({"messages": []}, "not a list of messages"),
    ({"prompt": 3, "completion": "a"}, "int, not text"),
    ("[1, 2]", "expected an object"),
    ("{not json", "not JSON"),
    ('{"prompt": "q", "completion": "\\ud800"}', "surrogate"),
]


@pytest.mark.parametrize("row, reason", BAD)
def test_a_bad_row_is_named_by_file_and_row(row, reason, tmp_path):
    with pytest.raises(BftembedError, match=r"1 of 2 rows") as caught:
        read_conversations(rows_file(tmp_path, GOOD, row))
    assert "rows.jsonl:2: " in str(caught.value)
    assert reason in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_by_row(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "q", "completion": "caf\xe9"}\n')
    with pytest.raises(BftembedError, match=r"latin\.jsonl:2: not UTF-8 \(byte \d+ is 0xe9"):
        read_conversations(file)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error_that_shows_a_row(content, tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text(content)
    with pytest.raises(BftembedError, match='is empty.*\n.*"prompt"'):
        read_conversations(file)
    with pytest.raises(BftembedError, match="No such data file"):
        read_conversations(tmp_path / "nothing.jsonl")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_the_answer_and_its_end_alone_are_learnt(tokenizer, tmp_path):
    (conversation,) = read_conversations(rows_file(tmp_path, {"prompt": "q", "completion": "the gene"}))
    found = encode(conversation, tokenizer)
    learnt = [i for i in found.labels if i != -100]
    assert tokenizer.decode(learnt) == "the gene<|im_end|>"
    assert found.labels[-len(learnt) :] == found.input_ids[-len(learnt) :] == learnt
    prompt = found.input_ids[: -len(learnt)]
    asked = [{"role": "user", "content": "q"}]
    assert prompt == tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_every_answer_of_a_long_conversation_is_learnt(tokenizer, tmp_path):
    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    (conversation,) = read_conversations(rows_file(tmp_path, {"messages": turns}))
    found = encode(conversation, tokenizer)
    assert tokenizer.decode([i for i in found.labels if i != -100]) == "b<|im_end|>d<|im_end|>"
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert tokenizer.decode(found.input_ids) + "\n" == whole


@pytest.mark.parametrize("how", ["drops", "rejects"])
def test_a_template_that_loses_the_system_message_gets_it_from_the_user(tokenizer, tmp_path, how):
    import copy

    losing = copy.deepcopy(tokenizer)
    change = {
        "drops": ("messages %}", "messages if m.role != 'system' %}"),
        "rejects": ("messages %}", "messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"),
    }
    losing.chat_template = tokenizer.chat_template.replace(*change[how])
    turns = [
        {"role": r, "content": c}
        for r, c in zip(["system", "user", "assistant"], ("Be short.", "Why?", "So."), strict=True)
    ]
    (conversation,) = read_conversations(rows_file(tmp_path, {"messages": turns}))
    found = encode(conversation, losing)
    assert (
        tokenizer.decode(found.input_ids)
        == "<|im_start|>user\nBe short.\n\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_by_row(tokenizer, tmp_path):
    import copy

    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = tokenizer.chat_template.replace("m.content", "m.content.split('</think>')[-1]")
    contents = ("a", "<think>hm</think>b", "c", "d")
    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, contents, strict=True)]
    (conversation,) = read_conversations(rows_file(tmp_path, {"messages": turns}))
    with pytest.raises(BftembedError, match=r"rows\.jsonl:1: .*rewrites earlier turns"):
        encode(conversation, rewriting)


@pytest.mark.parametrize(
    ("opener", "closer"), [("<think>\n", "</think>"), ("<think>", "</think>"), ("[THINK]", "[/THINK]")]
)
@pytest.mark.parametrize(
    ("answer", "closes", "learnt"),
    [
        ("the gene", True, "the gene"),
        ("hm{closer}\n\nthe gene", False, "hm{closer}\n\nthe gene"),
        ("{opener}hm{closer}\n\nthe gene", False, "hm{closer}\n\nthe gene"),
    ],
)
def test_no_answer_is_learnt_inside_of_a_thought_that_the_template_opens(
    tokenizer, tmp_path, opener, closer, answer, closes, learnt
):
    import copy

    opening = copy.deepcopy(tokenizer)
    opening.chat_template = (
        f"{tokenizer.chat_template}{{% if add_generation_prompt %}}{{{{ {json.dumps(opener)} }}}}{{% endif %}}"
    )
    answer, learnt = (text.format(opener=opener, closer=closer) for text in (answer, learnt))
    (conversation,) = read_conversations(rows_file(tmp_path, {"prompt": "q", "completion": answer}))
    found = encode(conversation, opening)
    assert opening.decode([i for i in found.labels if i != -100]) == f"{learnt}<|im_end|>"
    prompt = prompt_text(opening, [{"role": "user", "content": "q"}])
    assert opening.decode([i for i, label in zip(found.input_ids, found.labels, strict=True) if label == -100]) == (
        prompt + closing_of(prompt) if closes else prompt
    )
    assert [r.text for r in responses(conversation, found, opening)] == [learnt]


def test_long_rows_are_named_cut_or_dropped(tokenizer, tmp_path):
    long_prompt = {"prompt": "q" * 300, "completion": "a"}
    long_answer = {"prompt": "q", "completion": "a" * 300}
    conversations = read_conversations(rows_file(tmp_path, GOOD, long_prompt, long_answer))
    with pytest.raises(BftembedError, match=r"2 of 3 rows.*rows\.jsonl:[23] \(\d+ tokens\)"):
        encode_all(conversations, tokenizer, max_length=128)
    dropped = encode_all(conversations, tokenizer, max_length=128, over_long="drop")
    assert [r.where for r in dropped.rows] == ["rows.jsonl:1"]
    assert dropped.dropped == ["rows.jsonl:2", "rows.jsonl:3"]
    cut = encode_all(conversations, tokenizer, max_length=128, over_long="truncate")
    assert [r.where for r in cut.rows] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert cut.empty == ["rows.jsonl:2"], "its prompt fills the row: nothing is left to learn"
    assert "1 rows without a token to learn" in " ".join(cut.lines())
    with pytest.raises(BftembedError, match="No row is left"):
        encode_all(conversations[1:2], tokenizer, max_length=128, over_long="truncate")


def test_without_a_template_texts_are_paragraphs(tokenizer, tmp_path):
    (conversation,) = read_conversations(rows_file(tmp_path, GOOD))
    assert tokenizer.decode(encode(conversation, tokenizer, template="none").input_ids) == "q\n\na<|im_end|>"
