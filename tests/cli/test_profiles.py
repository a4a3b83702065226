"""`bftembed profiles …`: what is written, JSON, exit codes."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bftembed.errors import BftembedError
from bftembed.llm import generator_fingerprint, model_from_spec
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.profiles.estimate import expected_seconds, record_seconds
from bftembed.profiles.export import read_exported
from bftembed.profiles.generate import generate_profiles
from bftembed.tasks.base import read_results

GENES = "TP53,EGFR,MYC,KRAS,CD3D,LYZ,GNLY,ALB"
SCRIPTED = "scripted:refuse=0.3"


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    generate_profiles([*GENES.split(","), "P53", "nonsense1"], generator="facts", out=folder)
    generate_profiles(GENES.split(",")[:6], generator=SCRIPTED, out=folder)
    return folder


def asked(run, *words):
    code, printed, told = run("profiles", *words, "--json")
    return code, json.loads(printed) if printed else told


def test_generate_counts_every_name_and_goes_on(run, tmp_path):
    words = ("generate", "TP53", "P53", "EGFR", "nonsense1", "--generator", "facts", "--out", tmp_path / "s")
    code, told = asked(run, *words, "--dry-run")
    assert (code, told["entities"], told["to_write"], told["most_cost"]) == (0, 2, 2, None)
    assert not (tmp_path / "s").exists()
    code, told = asked(run, *words)
    assert code == 3
    assert told["resolution"] == {"used": 2, "mapped": 1, "missing": 1}
    assert (told["written"], told["skipped"], told["failed"], told["marks"]) == (2, ["nonsense1"], [], {"ok": 2})
    assert asked(run, *words)[1]["already_stored"] == 2


def test_context_is_passed_on_and_cost_is_estimated_from_list_prices(run, tmp_path):
    table = tmp_path / "context.tsv"
    table.write_text("TP53\tin the liver of mice, at length and in detail\n")
    words = ("generate", "TP53", "--out", tmp_path / "s", "--dry-run")
    spec = "openai:gpt-4o-mini,max_new_tokens=100"
    cheap = asked(run, *words, "--generator", spec)[1]
    assert cheap["most_cost"] == pytest.approx((cheap["prompt_tokens"] * 0.15 + 100 * 0.6) / 1e6)
    priced = generate_profiles(["TP53"], generator=spec, out=tmp_path / "s", dry_run=True, price=(1.0, 0.0))
    assert priced.estimate.most_cost == pytest.approx(cheap["prompt_tokens"] / 1e6)
    prompt = ("--kind", "cell-type", "--unknown", "keep")
    told = [asked(run, *words, *prompt, "--generator", spec, *more)[1] for more in ((), ("--context", table))]
    assert told[1]["prompt_tokens"] > told[0]["prompt_tokens"]


def test_time_is_estimated_from_the_largest_recorded_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    spec = "openai:gpt-4o-mini,max_new_tokens=100"
    words = ("generate", "TP53,EGFR", "--out", tmp_path / "s", "--dry-run", "--generator", spec)
    assert asked(run, *words)[1]["seconds"] is None  # nothing is known of a server
    kind = generator_fingerprint(*model_from_spec(spec))
    for n, seconds in ((1, 2.0), (8, 40.0), (3, 90.0)):
        record_seconds(kind, n, seconds)
    assert asked(run, *words)[1]["seconds"] == 10.0
    assert [expected_seconds(kind, n) for n in (0, 4, 80)] == [0.0, 20.0, 400.0]
    record_seconds("short", 8, 4.0)  # start-up is most of it
    assert [expected_seconds("short", n) for n in (4, 8, 9)] == [2.0, 4.0, None]


@pytest.mark.model
def test_time_of_a_local_model_is_that_of_its_products(tmp_path, monkeypatch):
    generator = "builtin:smollm2-135m-instruct,max_new_tokens=64"
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))  # nothing is recorded in it
    found = generate_profiles(GENES.split(","), generator=generator, out=tmp_path / "s", dry_run=True).estimate
    operations = 2 * 134_515_008 * 8 * 64
    assert 1e8 < operations / found.seconds < 1e15
    assert not (tmp_path / "cache" / "models").exists(), "a dry run converted the model"


def test_a_name_like_a_path_or_markup_does_no_harm(run, tmp_path):
    names = tmp_path / "genes.txt"
    names.write_text("../x\n<script>alert(1)</script>\nTP53\n")
    words = ("profiles", "generate", names, "--unknown", "keep", "--generator", "scripted", "--out", tmp_path / "s")
    assert run(*words)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["genes.txt", "s"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".lock", "profiles.sqlite"]


def test_show_gives_texts_by_any_name_or_a_summary(run, store):
    code, told = asked(run, "show", store)
    assert (code, told["listed"], told["profiles"]) == (0, 10, 14)
    code, told = asked(run, "show", store, "P53", "BRCA1")
    assert (code, told["missing"]) == (3, ["BRCA1"])
    assert [p["entity"] for p in told["profiles"]] == ["TP53", "TP53"]
    code, told = asked(run, "show", store, "TP53", "--generator", "facts")
    assert (code, [p["generator"] for p in told["profiles"]]) == (0, ["facts"])
    code, told = asked(run, "show", store, "TP53", "--generator", "fact")
    assert code == 1
    assert "Did you mean 'facts'" in told


def test_status_counts_and_leaves_with_3_where_profiles_are_missing(run, store):
    code, told = asked(run, "status", store)
    assert (code, told["profiles"], told["without_profile"], len(told["origins"])) == (0, 14, 0, 2)
    with AnswerStore.writing(store) as opened:
        opened.add_entities([opened.entities()[0].__class__("gene", "INS", "INS", "used")])
    assert asked(run, "status", store)[0] == 3


def test_export_gives_a_table_with_a_card_and_equal_bytes(run, store, tmp_path):
    assert run("profiles", "export", store, "--out", tmp_path / "p.parquet")[0] == 0
    first = (tmp_path / "p.parquet").read_bytes()
    run("profiles", "export", store, "--out", tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").read_bytes() == first
    assert "scripted" in (tmp_path / "p.card.md").read_text()
    with AnswerStore.open(store) as opened:
        assert read_exported(tmp_path / "p.parquet") == opened.answers()


def test_an_exported_table_that_is_damaged_or_not_ours_is_an_error(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"entity": ["A"]}), tmp_path / "other.parquet")
    for name in ("none.parquet", "cut.parquet", "other.parquet"):
        with pytest.raises(BftembedError, match=name):
            read_exported(tmp_path / name)


def test_merge_joins_the_stores_of_shards(run, tmp_path):
    parts = [tmp_path / "1", tmp_path / "2"]
    for i, part in enumerate(parts, 1):
        words = ("generate", GENES, "--generator", "facts", "--out", part, "--shard", f"{i}/2")
        assert run("profiles", *words)[0] == 0
    code, told = asked(run, "merge", *parts, "--out", tmp_path / "all")
    assert (code, told["added"], told["same"]) == (0, 8, 0)


def test_report_writes_what_it_prints(run, store, tmp_path):
    html, record, figure = (tmp_path / name for name in ("r.html", "r.json", "f.png"))
    for out in (html, figure):
        assert run("profiles", "report", store, "--out", out)[0] == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "Profiles of store" in html.read_text(encoding="utf-8")
    code, told = asked(run, "report", store, "--out", record)
    assert code == 0
    assert told["origins"] == json.loads(record.read_text())["origins"]
    facts, scripted = told["origins"]
    assert (facts["generator"], facts["covered"], facts["resolvable"]) == ("facts", 9, 9)
    assert (scripted["profiles"], scripted["text_coverage"]) == (6, pytest.approx(7 / 9))
    assert scripted["near_duplicates"]["compared"] == 6


@pytest.mark.parametrize(
    "words",
    [
        ("report", "--out", "r.txt"),
        ("quality", "--out", "q.csv"),
        ("quality", "--texts", "none.tsv"),
        ("quality", "--generator", "none"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_writes_nothing(run, store, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("profiles", words[0], store, *words[1:])
    assert (code, out) == (1, "")
    assert run("profiles", words[0], tmp_path)[0] == 1
    assert not (tmp_path / STORE_FILE).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_quality_scores_the_genes_that_all_cover(run, store):
    code, told = asked(run, "quality", store)
    assert (code, told["genes"], told["left_out"], told["candidates"]) == (0, 6, 2, 0)
    own = [s for s in told["scores"] if s["metric"] == "mentions-own-gene" and "facts" in s["generator"]]
    assert {s["texts"]: s["value"] for s in own} == {"profiles": 1.0, "shuffled": 0.0}
    assert asked(run, "quality", store, "--generator", "facts")[1]["genes"] == 8
    generate_profiles(["INS"], generator="scripted:seed=3", out=store)
    assert asked(run, "quality", store)[0] == 1


def test_quality_with_texts_adds_retrieval_and_a_results_table(run, store, tmp_path):
    from bftembed.entities.genes import GeneIndex
    from bftembed.tasks.profile_quality import score_profiles

    table, results = tmp_path / "texts.tsv.gz", tmp_path / "q.parquet"
    genes = [*GENES.split(",")[:5], "INS", "ACTB"]
    rows = [f"{g}\tThe {GeneIndex.default().get(g).name} of a cell, number {i}." for i, g in enumerate(genes)]
    table.write_bytes(gzip.compress("\n".join(["symbol\tsummary", *rows]).encode()))
    code, told = asked(run, "quality", store, "--texts", table, "--out", results)
    assert (code, told["genes"], told["candidates"]) == (0, 5, 7)
    frame = read_results(results)
    assert set(frame["protocol"]) == {"names", "names kept", "names removed"}
    rank = frame[(frame["metric"] == "recall@1") & (frame["protocol"] == "names kept") & (frame["split"] == "all")]
    assert rank.set_index("subject").loc["bft-gene@1 by facts", "value"].max() == 1
    assert score_profiles(store, texts=table, candidates="covered").candidates == 5


def test_a_run_without_a_profile_to_use_is_not_a_success(run, tmp_path):
    words = ("profiles", "generate", "TP53,EGFR", "--out", tmp_path / "s", "--generator", "scripted:empty=1")
    code, _, said = run(*words)
    assert code == 3
    assert "2 empty" in said
    words = ("profiles", "generate", "nonsense-x,nonsense-y,TP53", "--unknown", "keep", "--generator", "facts")
    code, _, said = run(*words, "--out", tmp_path / "t")
    assert code == 3
    assert "2 failed, such as nonsense-x: no HGNC record for 'nonsense-x'" in said
