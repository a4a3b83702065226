"""Conversations: every form, PubMedQA, tables of genes; bad rows are named; tokens and labels."""

from __future__ import annotations

import copy
import gzip
import json

import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.chat import closing_of, prompt_text
from bftembed.tuning.data import Turn, gene_texts, read_conversations, write_conversations
from bftembed.tuning.encoding import encode, encode_all


def rows_file(tmp_path, *rows, name="rows.jsonl"):
    file = tmp_path / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and not isinstance(text, bytes) else data)
    return path


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
ENTRY = {"QUESTION": "Is it?", "CONTEXTS": ["First.", "Second."], "LONG_ANSWER": "It is.", "YEAR": "2011"}
BAD = [
    {"prompt": "q"},
    {"prompt": "q", "completion": ""},
    {"question": "q", "answer": "a"},
    {"messages": [{"role": "user", "content": "q"}]},
    {"messages": [{"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "tool", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"messages": []},
    {"prompt": 3, "completion": "a"},
    ENTRY | {"CONTEXTS": [1]},
    "[1, 2]",
    "{not json",
    '{"prompt": "q", "completion": "\\ud800"}',
]


@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_named_by_file_and_row(row, tmp_path):
    with pytest.raises(BftembedError, match=r"1 of 2 rows(.|\n)*rows\.jsonl:2: "):
        read_conversations(rows_file(tmp_path, GOOD, row))


def test_damaged_files_are_named(tmp_path, monkeypatch):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "q", "completion": "caf\xe9"}\n')
    files = [latin, write(tmp_path / "empty.jsonl", "\n\n"), tmp_path / "none.jsonl", tmp_path]
    files += [write(tmp_path / "q.json", "{"), write(tmp_path / "deep.json", "[" * 100_000)]
    files += [write(tmp_path / "text.json", '"x"'), write(tmp_path / "no.json.gz", b"not gzip")]
    for file in files:
        with pytest.raises(BftembedError) as caught:
            read_conversations(file)
        assert file.name in str(caught.value)
    monkeypatch.setattr("bftembed.tuning.data._MAX_BYTES", 50)
    with pytest.raises(BftembedError, match="50 bytes"):
        read_conversations(write(tmp_path / "bomb.jsonl.gz", " " * 100))


@pytest.mark.parametrize("name", ["q.json", "q.json.gz"])
def test_pubmedqa_asks_with_the_abstract_and_answers_with_its_end(tmp_path, name):
    entries = {"12": ENTRY, "7": ENTRY | {"LONG_ANSWER": " "}, "8": ENTRY | {"QUESTION": "Why?"}}
    found = read_conversations(write(tmp_path / name, json.dumps(entries)))
    assert [c.where for c in found] == [f"{name}:12", f"{name}:8"]
    assert found[0].turns == (Turn("user", "Is it?\n\nFirst.\n\nSecond."), Turn("assistant", "It is."))


def test_published_data(shared_data):
    found = read_conversations(shared_data("pubmedqa/ori_pqal.json.gz"))
    assert len(found) == 1000
    assert found[0].where == "ori_pqal.json.gz:21645374"
    assert found[0].turns[1].content.startswith("Results depicted mitochondrial dynamics")
    found = gene_texts(shared_data("gene_text/refseq_gene_summary_human.tsv.gz"))
    assert len(found) == 15085
    assert found[0].turns[0].content == "Tell me about the gene A1BG."


TABLE = 'id\tsymbol\tsummary\n1\tTP53\tA "guardian".\n2\tEGFR\t\n3\t\tNo name.\n\n4\tKIT\tA kinase, here.\n'


@pytest.mark.parametrize("name", ["g.tsv", "g.tsv.gz"])
def test_rows_of_genes_become_pairs(tmp_path, name):
    file = write(tmp_path / name, TABLE)
    found = gene_texts(file)
    assert [c.where for c in found] == [f"{name}:2", f"{name}:6"]
    assert found[0].turns == (Turn("user", "Tell me about the gene TP53."), Turn("assistant", 'A "guardian".'))
    assert [c.turns[1].content for c in gene_texts(file, leave_out={"TP53"})] == ["A kinase, here."]
    assert gene_texts(file, prompt="{name}? {name}!")[0].turns[0].content == "TP53? TP53!"
    assert gene_texts(file, entity="id", text="symbol", prompt="{name}")[1].turns[0].content == "2"


def test_damaged_tables_are_named(tmp_path):
    for name, content in (
        ("long.tsv", "symbol\tsummary\nA\tb\tc\n"),
        ("no_row.tsv", "symbol\tsummary\n"),
        ("quote.csv", 'symbol,summary\nA,"b\n'),
        ("latin.tsv", b"symbol\tsummary\nA\t\xff\n"),
        ("cut.tsv.gz", gzip.compress(b"symbol\tsummary\nA\tb\n", mtime=0)[:-9]),
    ):
        with pytest.raises(BftembedError, match=name):
            gene_texts(write(tmp_path / name, content))


def test_unknown_columns_and_prompts_without_the_gene_are_errors(tmp_path):
    file = write(tmp_path / "g.tsv", TABLE)
    with pytest.raises(UnknownNameError, match="'summary'"):
        gene_texts(file, text="sumary")
    with pytest.raises(BftembedError, match=r"\{name\}"):
        gene_texts(file, prompt="Tell me.")


# ---- tokens and labels


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def encoded(tokenizer, *turns):
    """Encode turns that begin with the user's (or the system's) and alternate."""
    from bftembed.tuning.data import Conversation

    roles = ["system", "user", "assistant"] if len(turns) == 3 else ["user", "assistant"] * 2
    return encode(Conversation("rows.jsonl:1", tuple(map(Turn, roles, turns))), tokenizer)


def learnt(row):
    return [label for label in row.labels if label != -100]


def test_the_answer_and_its_end_alone_are_learnt(tokenizer):
    row = encoded(tokenizer, "q", "the gene")
    assert tokenizer.decode(learnt(row)) == "the gene<|im_end|>"
    n = len(learnt(row))
    assert row.labels[-n:] == row.input_ids[-n:] == learnt(row)
    asked = [{"role": "user", "content": "q"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert row.input_ids[:-n] == prompt


def test_every_answer_of_a_long_conversation_is_learnt(tokenizer):
    row = encoded(tokenizer, *"abcd")
    assert tokenizer.decode(learnt(row)) == "b<|im_end|>d<|im_end|>"
    assert row.answers == ("b", "d")
    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    assert tokenizer.decode(row.input_ids) + "\n" == tokenizer.apply_chat_template(turns, tokenize=False)


def test_a_template_that_rejects_the_system_message_gets_it_from_the_user(tokenizer):
    rejecting = copy.deepcopy(tokenizer)
    reject = "messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    rejecting.chat_template = tokenizer.chat_template.replace("messages %}", reject)
    row = encoded(rejecting, "Be short.", "Why?", "So.")
    expected = "<|im_start|>user\nBe short.\n\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    assert tokenizer.decode(row.input_ids) == expected


def test_a_template_that_rewrites_earlier_turns_is_an_error(tokenizer):
    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = tokenizer.chat_template.replace("m.content", "m.content.split('</think>')[-1]")
    with pytest.raises(BftembedError, match=r"rows\.jsonl:1: .*rewrites earlier turns"):
        encoded(rewriting, "a", "<think>hm</think>b", "c", "d")


@pytest.mark.parametrize(("opener", "closer"), [("<think>\n", "</think>"), ("[THINK]", "[/THINK]")])
@pytest.mark.parametrize(
    ("answer", "closes", "expected"),
    [
        ("the gene", True, "the gene"),
        ("hm{closer}\n\nthe gene", False, "hm{closer}\n\nthe gene"),
        ("{opener}hm{closer}\n\nthe gene", False, "hm{closer}\n\nthe gene"),
    ],
)
def test_no_answer_is_learnt_inside_of_a_thought_that_the_template_opens(
    tokenizer, opener, closer, answer, closes, expected
):
    opening = copy.deepcopy(tokenizer)
    opening.chat_template += f"{{% if add_generation_prompt %}}{{{{ {json.dumps(opener)} }}}}{{% endif %}}"
    answer, expected = (text.format(opener=opener, closer=closer) for text in (answer, expected))
    row = encoded(opening, "q", answer)
    assert opening.decode(learnt(row)) == f"{expected}<|im_end|>"
    assert row.answers == (expected,)
    prompt = prompt_text(opening, [{"role": "user", "content": "q"}])
    told = opening.decode(row.input_ids[: -len(learnt(row))])
    assert told == (prompt + closing_of(prompt) if closes else prompt)


def test_long_rows_are_named_cut_or_dropped(tokenizer, tmp_path):
    long_prompt, long_answer = {"prompt": "q" * 300, "completion": "a"}, {"prompt": "q", "completion": "a" * 300}
    conversations = read_conversations(rows_file(tmp_path, GOOD, long_prompt, long_answer))
    with pytest.raises(BftembedError, match=r"2 of 3 rows.*rows\.jsonl:[23] \(\d+ tokens\)"):
        encode_all(conversations, tokenizer, max_length=128)
    dropped = encode_all(conversations, tokenizer, max_length=128, over_long="drop")
    assert [r.where for r in dropped.rows] == ["rows.jsonl:1"]
    assert dropped.dropped == ["rows.jsonl:2", "rows.jsonl:3"]
    cut = encode_all(conversations, tokenizer, max_length=128, over_long="truncate")
    assert [r.where for r in cut.rows] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert cut.empty == ["rows.jsonl:2"], "its prompt fills the row: nothing is left to learn"
    assert len(cut.lines()) == 2
    with pytest.raises(BftembedError, match="No row is left"):
        encode_all(conversations[1:2], tokenizer, max_length=128, over_long="truncate")


def test_without_a_template_texts_are_paragraphs(tokenizer, tmp_path):
    (conversation,) = read_conversations(rows_file(tmp_path, GOOD))
    assert tokenizer.decode(encode(conversation, tokenizer, template="none").input_ids) == "q\n\na<|im_end|>"
