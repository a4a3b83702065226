"""The uncertainty diagnostic on a tiny random model: files that agree with one another, errors before any work."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from bftembed.cli import run
from bftembed.errors import BftembedError
from bftembed.tasks.uncertainty import diagnose_responses

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    f"The gene TP53 leads to arrest number {i}, because CDK{i % 7 + 1} inhibits growth of cells and of EGFR in mice. "
    f"Thus the protein is responsible for {'repair and ' * (i % 4)}sleep, due to loss of BRCA{i % 2 + 1} in {i} cases."
    for i in range(14)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    core = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, special_tokens=["<end>"])
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": "Tell me.", "completion": t}) + "\n" for t in TEXTS))
    return file


def test_the_files_agree_with_one_another_and_a_run_is_repeated_to_the_letter(model, pairs, tmp_path, capsys):
    out = tmp_path / "new" / "a"
    words = ("--window", "8", "--max-responses", "9", "--json")
    assert run(["tune", "diagnose", str(pairs), "--out", str(out), "--model", model, *words]) == 0
    tags = [row["tag"] for row in json.loads(capsys.readouterr().out)["enrichment"]]
    assert tags == ["entity", "connective", "other"]
    assert {p.name for p in out.iterdir()} == {"diagnostic.json", "figure-1b.png", "weights.png", "windows.parquet"}
    record = json.loads((out / "diagnostic.json").read_text())
    windows = pd.read_parquet(out / "windows.parquet")
    assert record["options"]["window"] == 8
    assert record["model"]["revision"].startswith("sha256:")
    data = record["data"]
    assert (data["file"], data["rows"], data["drawn"], len(data["sha256"])) == ("pairs.jsonl", 14, 9, 64)
    assert (record["counts"]["windows"], record["counts"]["responses"]) == (len(windows), 9)
    groups = windows.groupby("group")[["low_entity", "low_connective", "low_other"]].sum()
    shares = groups.div(groups.sum(axis=1), axis=0)
    for row in record["enrichment"]:
        assert row["share_sparse"] == pytest.approx(shares.loc["A", f"low_{row['tag']}"])
        assert row["share_dense"] == pytest.approx(shares.loc["B", f"low_{row['tag']}"])
    assert record["example"] in set(windows["where"]) < {f"pairs.jsonl:{i}" for i in range(1, 15)}
    assert record["enrichment"][0]["tokens"] > 0
    assert record["weights"][0] == {"objective": "sft", "mean": 1.0, "sparse": 1.0, "dense": 1.0}
    options = {"model": model, "window": 8, "max_responses": 9}
    diagnose_responses(pairs, tmp_path / "b", **options)
    for file in ("diagnostic.json", "figure-1b.png", "weights.png"):
        assert (out / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    diagnose_responses(pairs, tmp_path / "c", seed=1, **options)
    assert set(pd.read_parquet(tmp_path / "c" / "windows.parquet")["where"]) != set(windows["where"])


def test_pubmedqa_and_tables_are_read(model, tmp_path):
    entries = {str(i): {"QUESTION": "Is it?", "CONTEXTS": ["So."], "LONG_ANSWER": t} for i, t in enumerate(TEXTS)}
    asked = tmp_path / "q.json.gz"
    asked.write_bytes(gzip.compress(json.dumps(entries).encode()))
    table = tmp_path / "g.tsv"
    table.write_text("gene\ttold\n" + "".join(f"G{i}\t{t}\n" for i, t in enumerate(TEXTS)))
    diagnose_responses(asked, tmp_path / "q", model=model, window=8)
    diagnose_responses(table, tmp_path / "g", model=model, window=8, entity="gene", text="told")
    for name, first in (("q", "q.json.gz:0"), ("g", "g.tsv:2")):
        assert pd.read_parquet(tmp_path / name / "windows.parquet")["where"][0] == first


def test_rows_beyond_the_context_are_left_out_and_counted(model, tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [*TEXTS, "word " * 3000]
    file.write_text("".join(json.dumps({"prompt": "Tell me.", "completion": t}) + "\n" for t in rows))
    diagnose_responses(file, tmp_path / "out", model=model, window=8)
    record = json.loads((tmp_path / "out" / "diagnostic.json").read_text())
    assert (record["model"]["rows_too_long"], record["counts"]["responses"]) == (1, 14)
    file.write_text(json.dumps({"prompt": "Tell me.", "completion": rows[-1]}) + "\n")
    with pytest.raises(BftembedError, match="context"):
        diagnose_responses(file, tmp_path / "out", model=model)


def test_what_cannot_be_done_raises_before_the_model_is_loaded(pairs, tmp_path):
    absent = "./no/such/model"
    (tmp_path / "file").write_text("x")
    other = tmp_path / "x.parquet"
    other.write_text("x")
    in_the_way = tmp_path / "diagnostic.json"
    in_the_way.write_text("{}")
    for what, data, options in (
        ("dtype", pairs, {"dtype": "fp8"}),
        ("tagger", pairs, {"tagger": "proteins"}),
        ("window", pairs, {"window": 0}),
        ("file", pairs, {"out": tmp_path / "file"}),
        ("x.parquet", other, {}),
        ("none.tsv", tmp_path / "none.tsv", {}),
        ("diagnostic.json", in_the_way, {}),
        ("no/such/model", pairs, {}),
    ):
        with pytest.raises(BftembedError, match=what):
            diagnose_responses(**{"data": data, "out": tmp_path, "model": absent} | options)


def test_nothing_is_written_when_the_windows_cannot_be_told_apart(model, tmp_path):
    file = tmp_path / "same.jsonl"
    file.write_text((json.dumps({"prompt": "Tell me.", "completion": TEXTS[0]}) + "\n") * 3)
    with pytest.raises(BftembedError, match="window"):
        diagnose_responses(file, tmp_path / "out", model=model, window=100_000)
    assert not (tmp_path / "out").exists()
