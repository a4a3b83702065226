"""The demo's tuning: what it learns from, how its model is named, and one short run with the real model."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from bftembed.config import DemoConfig, DemoTune, ProfileSet, load_config
from bftembed.demo.pipeline import run_demo
from bftembed.demo.tuning import conversations, facts_of, generator_of, genes_to_learn_from, tune_config, tuned_spec
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.io import sha256_file
from bftembed.profiles.generators.transformers import TransformersGenerator
from bftembed.profiles.prompts import get_prompt
from bftembed.profiles.records import Completion
from bftembed.profiles.runner import generate_profiles
from bftembed.profiles.store import ProfileStore
from bftembed.results import read_results
from bftembed.runrecord import RunRecord
from bftembed.tuning.data import read_conversations

BASE, TUNED, FACTS = DemoConfig().profiles


class TestTheGenesToLearnFrom:
    def test_none_of_them_is_profiled_under_any_name(self):
        drawn = genes_to_learn_from([], 300, seed=0)
        index = GeneIndex.default()
        aliases = {alias: gene for gene in drawn[3:] for alias in index.get(gene).alias_symbols}
        found = {r.name: r for r in index.resolve(list(aliases))}
        by_alias = next(a for a, gene in aliases.items() if found[a].symbol == gene)
        ambiguous = next(a for a, gene in aliases.items() if gene in found[a].candidates and gene != aliases[by_alias])
        profiled = [drawn[0], drawn[1].lower(), index.get(drawn[2]).ensembl_gene_id, by_alias, ambiguous]
        meant = {s for r in index.resolve(profiled) for s in (r.entity, *r.candidates)}
        assert len(meant & set(drawn)) >= 5
        again = genes_to_learn_from(profiled, 300, seed=0)
        assert not meant & set(again)
        assert len(set(again)) == 300
        assert [g for g in drawn if g not in meant] == [g for g in again if g in drawn]

    def test_their_facts_say_something(self):
        index = GeneIndex.default()
        for gene, text in facts_of(genes_to_learn_from([], 50, seed=1), get_prompt(None, "gene")).items():
            assert text.startswith(f"{gene} is a human gene. Its full name is ")
            assert "It is also known as" in text
            assert index.get(gene).locus_type == "gene with protein product"

    def test_the_seed_draws_them(self):
        assert genes_to_learn_from([], 20, seed=1) == genes_to_learn_from([], 20, seed=1)
        assert genes_to_learn_from([], 20, seed=1) != genes_to_learn_from([], 20, seed=2)

    def test_too_many_are_refused_with_the_key(self):
        with pytest.raises(BftembedError, match=r"tune.rows=99999, but HGNC has only \d+ genes"):
            genes_to_learn_from([], 99_999, seed=0)


def test_the_question_learnt_is_the_question_asked(tmp_path, monkeypatch):
    asked = {}

    def note(self, requests):
        asked.update({r.entity: list(r.messages) for r in requests})
        yield from (Completion(r.key, "text") for r in requests)

    monkeypatch.setattr(TransformersGenerator, "generate", note)
    generate_profiles(["CD3D", "LYZ"], generator=BASE.generator, prompt=TUNED.prompt, out=tmp_path / "store")
    prompt = get_prompt(TUNED.prompt, "gene")
    for pair in conversations(facts_of(["CD3D", "LYZ"], prompt), prompt):
        *question, answer = [{"role": t.role, "content": t.content} for t in pair.turns]
        assert question == asked[pair.where]
        assert answer["role"] == "assistant"
        assert answer["content"].startswith(f"{pair.where} is a human gene.")


def test_the_answer_learnt_is_the_facts_profile(tmp_path):
    report = generate_profiles(["CD3D", "LYZ"], generator="facts", out=tmp_path / "store")
    with ProfileStore.open(report.out) as store:
        assert facts_of(["CD3D", "LYZ"], get_prompt(None, "gene")) == {p.entity: p.text for p in store.profiles()}


class TestTheGeneratorTuned:
    def test_it_is_the_tuned_folder_with_the_options_asked_for(self):
        spec = tuned_spec("tuned,max_new_tokens=64,dtype=fp32", "/runs/x/model")
        assert str(spec) == "transformers:/runs/x/model,max_new_tokens=64,dtype=fp32"

    def test_others_stay_as_they_are(self):
        assert generator_of("facts", None) == "facts"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"tune": None}, r"profiles.1.generator is 'tuned,max_new_tokens=64', but the key 'tune' is empty"),
            ({"profiles": [ProfileSet(name="a", generator="tuned:x")]}, "'tuned' is the model tuned in this run"),
            ({"profiles": [ProfileSet(name="a", generator="tuned,max_tokens=3")]}, "max_tokens"),
            ({"out": "a,b"}, "cannot hold the folder 'a,b/tuned'.*key 'out'"),
            ({"tune": DemoTune(model="builtin:smollm2")}, "Did you mean 'smollm2-135m-instruct'"),
        ],
    )
    def test_what_would_fail_after_the_tuning_is_refused_before_it(self, tmp_path, monkeypatch, change, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BftembedError, match=message):
            run_demo(DemoConfig(**{"genes": 5, "out": "out", **change}))
        assert not list(tmp_path.iterdir())

    def test_without_a_set_that_uses_it_nothing_is_tuned(self, tmp_path):
        run_demo(DemoConfig(genes=10, out=str(tmp_path), profiles=[FACTS], encoder="tfidf", seeds=2))
        assert not (tmp_path / "tune.yaml").exists()
        assert "tuning" not in [s.name for s in RunRecord.load(tmp_path).steps]


@pytest.mark.model
def test_a_folder_holds_the_tunings_of_several_runs_apart(tmp_path):
    config = DemoConfig(out=str(tmp_path), tune=DemoTune(rows=20))
    learnt = genes_to_learn_from([], 1, seed=0)
    one, two, again = (tune_config(config, genes) for genes in (["CD3D"], learnt, ["CD3D"]))
    assert one == again
    assert one.out != two.out
    assert {Path(c.out).parent for c in (one, two)} == {tmp_path}
    assert f"Tell me about the gene {learnt[0]}." in Path(one.data.train).read_text()
    assert f"Tell me about the gene {learnt[0]}." not in Path(two.data.train).read_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    sets = [p.model_copy(update={"generator": p.generator.replace("=64", "=16")}) for p in (BASE, TUNED, FACTS)]
    tune = DemoTune(rows=4, steps=2, batch_size=2)
    config = DemoConfig(
        genes=6, out=str(tmp_path_factory.mktemp("demo") / "run"), profiles=sets, tune=tune, encoder="tfidf", seeds=2
    )
    run_demo(config)
    return config


@pytest.mark.model
class TestATunedDemo:
    def test_the_tuned_model_wrote_its_set(self, small):
        out = Path(small.out)
        (model,) = out.glob("tuned-*/model")
        with ProfileStore.open(out / "profiles-smollm2_135m_tuned_with_bft") as store:
            assert {p.generator for p in store.profiles()} == {f"transformers:{model},max_new_tokens=16"}
        with ProfileStore.open(out / "profiles-smollm2_135m_profiles") as store:
            assert {p.generator for p in store.profiles()} == {
                "transformers:builtin:smollm2-135m-instruct,max_new_tokens=16"
            }

    def test_no_gene_of_the_pairs_is_profiled(self, small):
        config = load_config(Path(small.out) / "tune.yaml")
        profiled = {r.entity for r in GeneIndex.default().resolve((Path(small.out) / "genes.txt").read_text().split())}
        asked = {c.turns[1].content for c in read_conversations(config.data.train)}
        assert len(asked) == 4
        assert not asked & {f"Tell me about the gene {gene}." for gene in profiled}

    def test_the_record_tells_the_tuning(self, small):
        record = RunRecord.load(small.out)
        assert record.steps[0].name == "tuning"
        assert record.steps[0].call == f"bftembed tune {small.out}/tune.yaml"
        assert record.steps[0].detail.startswith("2 steps, nll ")
        note = next(n for n in record.notes if n.startswith("Tuning with bft (window 16)"))
        assert all(part in note for part in ("plain NLL", "share of SFT's loss kept", "mean token weight"))
        log = json.loads(next(Path(small.out).glob("tuned-*/log.json")).read_text())
        assert f"plain NLL {log[0]['nll']:.3f} → {log[1]['nll']:.3f}" in note

    def test_the_report_shows_base_tuned_and_facts_of_the_same_genes(self, small):
        record = RunRecord.load(small.out)
        names = [p.name for p in small.profiles]
        by_gene = {}
        for profile in record.profiles:
            by_gene.setdefault(profile.entity, []).append(profile.generator)
        assert len(by_gene) >= 3
        assert all(shown == names for shown in by_gene.values())
        text = html.unescape((Path(small.out) / "report.html").read_text())
        for wanted in (*names, "None of these genes is among those profiled", "135 million", "bftembed tune"):
            assert wanted in text, wanted
        assert set(names) <= set(read_results(Path(small.out) / "results.parquet")["embedding"])

    def test_a_second_run_tunes_nothing_and_gives_equal_results(self, small):
        out = Path(small.out)
        (weights,) = out.glob("tuned-*/model/*.safetensors")
        before, written = (out / "results.parquet").read_bytes(), (sha256_file(weights), weights.stat().st_mtime_ns)
        run_demo(small)
        assert (out / "results.parquet").read_bytes() == before
        assert (sha256_file(weights), weights.stat().st_mtime_ns) == written
        steps = RunRecord.load(out).steps
        assert steps[0].detail.endswith("found finished")
        assert [s.detail for s in steps].count("0 written, 6 from the store") == 3
