"""From profiles to gene embeddings: which are taken, what is counted, and what is an error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.encoders.random import RandomEncoder
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.io import sha256_text
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles
from bftembed.profiles.screening import MARKS
from bftembed.profiles.selection import export_profiles, select_profiles

if TYPE_CHECKING:
    from pathlib import Path


def profile(entity: str, text: str = "a kinase of the membrane", *marks: str, **changes: str) -> Answer:
    generator, prompt = changes.get("generator", "facts"), changes.get("prompt", "bft-gene@1")
    key = sha256_text(f"{entity}{generator}{prompt}{changes.get('salt', '')}")
    error = "timeout" if "failed" in marks else ""
    return Answer(key, entity, "gene", text, "stop", marks, prompt, generator, error=error)


def store(folder: Path, *profiles: Answer) -> Path:
    with AnswerStore.writing(folder) as opened:
        for spec in {p.generator for p in profiles}:
            identifier = opened.add_generator(spec, {"engine": spec})
            mine = [replace(p, generator_id=identifier) for p in profiles if p.generator == spec]
            opened.add(mine, {p.key: [] for p in mine})
    return folder


MIXED = (
    profile("TP53", "a tumour suppressor of the nucleus"),
    profile("EGFR", "a receptor kinase", "truncated"),
    profile("KRAS", "a kinase a kinase a kinase", "looping", "truncated"),
    profile("MYC", "", "failed"),
    profile("GAPDH", " "),
    profile("ACTB", "an actin of the nucleus"),
)


def test_store_parquet_list_and_mapping_agree_and_left_out_profiles_are_counted(tmp_path: Path) -> None:
    folder, parquet = store(tmp_path / "s", *MIXED), tmp_path / "p.parquet"
    export_profiles(folder, parquet)
    texts = {p.entity: p.text for p in MIXED if not p.marks}
    made = [embed_genes(source, "tfidf") for source in (folder, str(parquet), MIXED, MIXED[::-1], texts)]
    assert len({m.fingerprint() for m in made}) == len({m.provenance["texts_sha256"] for m in made}) == 1
    assert made[0].provenance == made[1].provenance == made[2].provenance == made[3].provenance
    assert made[0].ids == ["ACTB", "TP53"]
    assert made[0].provenance["generators"] == ["facts"]
    assert made[0].provenance["counts"] == {"profiles": 6, "embedded": 2, "left_out": 4, "unique_texts": 2}
    assert made[0].provenance["left_out"] == {
        "empty": ["GAPDH"],
        "failed": ["MYC"],
        "looping": ["KRAS"],
        "truncated": ["EGFR", "KRAS"],
    }
    swapped = {"ACTB": texts["TP53"], "TP53": texts["ACTB"]}
    assert embed_genes(swapped, "tfidf").provenance["texts_sha256"] != made[0].provenance["texts_sha256"]
    # tables of earlier versions
    pq.write_table(pq.read_table(parquet).drop_columns(["generator_id"]), parquet)
    assert embed_genes(parquet, "tfidf").fingerprint() == made[0].fingerprint()


marks = st.sets(st.sampled_from(MARKS))


@given(rows=st.lists(marks, min_size=1, max_size=12), allowed=st.sets(st.sampled_from(["truncated", "looping"])))
def test_every_profile_is_embedded_or_listed_as_left_out(rows: list[set[str]], allowed: set[str]) -> None:
    profiles = [profile(f"G{i}", "" if found & {"empty", "failed"} else "text", *found) for i, found in enumerate(rows)]
    expected = {f"G{i}" for i, found in enumerate(rows) if found <= allowed}
    if not expected:
        with pytest.raises(BftembedError, match=f"None of the {len(rows)} profiles"):
            embed_genes(profiles, "random:dim=2", allow_marks=sorted(allowed))
        return
    made = embed_genes(profiles, "random:dim=2", allow_marks=sorted(allowed))
    assert set(made.ids) == expected
    assert made.provenance["allowed_marks"] == sorted(allowed)
    listed = {name for names in made.provenance["left_out"].values() for name in names}
    assert listed == {f"G{i}" for i in range(len(rows))} - expected
    counts = made.provenance["counts"]
    assert counts["embedded"] + counts["left_out"] == counts["profiles"] == len(rows)


def test_nothing_left_gives_the_counts_and_the_remedy() -> None:
    with pytest.raises(BftembedError, match="1 empty, 1 failed, 1 looping, 2 truncated.*--allow-marks looping,trunc"):
        embed_genes(MIXED[1:5], "tfidf")
    with pytest.raises(BftembedError, match="--retry-failed"):
        embed_genes([MIXED[3]], "tfidf")
    for mark in ("truncate", "failed"):
        with pytest.raises(UnknownNameError, match="mark to allow"):
            embed_genes(MIXED, "tfidf", allow_marks=[mark])


class Counting(RandomEncoder):
    """Random vectors of the texts themselves, remembering what was asked."""

    def __init__(self) -> None:
        super().__init__(dim=3)
        self.spec = replace(self.spec, uses_ids=False)
        self.seen: list[str] = []

    def encode(self, texts, progress=None):
        self.seen += texts
        return super().encode(texts)


def test_equal_texts_are_encoded_once() -> None:
    encoder = Counting()
    made = embed_genes({"A": "same", "B": "other", "C": "same"}, encoder)
    assert sorted(encoder.seen) == ["other", "same"]
    np.testing.assert_array_equal(made.vector("A"), made.vector("C"))
    assert not np.array_equal(made.vector("A"), made.vector("B"))
    assert made.provenance["counts"]["unique_texts"] == 2


def test_random_vectors_belong_to_the_gene_not_to_its_text() -> None:
    one = embed_genes({"A": "x", "B": "y"}, "random:dim=5")
    two = embed_genes({"C": "x", "A": "quite another text"}, "random:dim=5")
    np.testing.assert_array_equal(one.vector("A"), two.vector("A"))
    assert not np.array_equal(one.vector("A"), two.vector("C"))


def test_text_that_the_encoder_cannot_place_is_counted_not_faked() -> None:
    words = ("receptor", "membrane", "signal", "ligand")
    texts = {f"G{i}": f"kinase {words[i % 2]} {words[2 + i % 3 // 2]} {'cell ' * i}" for i in range(60)}
    made = embed_genes({**texts, "ODD": "zzyzx"}, "tfidf")
    assert "ODD" not in made
    assert made.provenance["left_out"] == {"zero vector": ["ODD"]}
    assert made.provenance["counts"]["left_out"] == 1
    assert made.provenance["encoder"]["dim"] == made.dim


SMOL = "transformers:builtin:smollm2-135m-instruct"
TWO_WRITERS = (
    profile("TP53", "from facts"),
    profile("EGFR", "from facts too"),
    profile("TP53", "from a model", generator=f"{SMOL},dtype=fp32"),
    profile("TP53", "from another prompt", prompt="bft-long@2"),
)


def test_several_profiles_of_a_gene_are_an_error_that_lists_them() -> None:
    with pytest.raises(BftembedError) as caught:
        embed_genes(TWO_WRITERS, "tfidf")
    message = str(caught.value)
    for part in ("1 entities", "'TP53'", "bft-long@2", SMOL, "--prompt", "--generator"):
        assert part in message
    assert "EGFR" not in message
    with pytest.raises(BftembedError, match="contexts differ"):
        embed_genes([profile("TP53"), profile("TP53", salt="x")], "tfidf")


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        ({"prompt": "bft-gene", "generator": "facts"}, ["EGFR", "TP53"]),
        ({"prompt": "bft-gene@1", "generator": SMOL}, ["TP53"]),
        ({"generator": "builtin:smollm2-135m-instruct,dtype=fp32"}, ["TP53"]),
        ({"prompt": "bft-long"}, ["TP53"]),
    ],
)
def test_prompt_and_generator_choose(tmp_path: Path, choice: dict[str, str], ids: list[str]) -> None:
    made = embed_genes(store(tmp_path / "s", *TWO_WRITERS), "random:dim=3", **choice)
    assert made.ids == ids
    assert len(made.provenance["prompts"]) == len(made.provenance["generators"]) == 1


def test_one_spec_with_two_fingerprints_is_chosen_by_id() -> None:
    upgraded = [
        replace(profile("TP53", text, salt=identifier, generator=SMOL), generator_id=identifier)
        for text, identifier in (("before", "aaaaaa0000000000"), ("after", "aaaaaab000000000"))
    ]
    with pytest.raises(BftembedError, match=r"aaaaaa0000000000.*aaaaaab000000000.*--generator"):
        embed_genes(upgraded, "random", generator=SMOL)
    assert select_profiles(upgraded, generator="aaaaaab000000000").texts == {"TP53": "after"}
    for choice in ({"generator": "aaaaaa"}, {"generator": "transformer"}, {"prompt": "bft-gen"}):
        with pytest.raises(UnknownNameError, match="Known: "):
            select_profiles(upgraded, **choice)


def test_keys_and_reports_choose(tmp_path: Path) -> None:
    keys = [p.key for p in TWO_WRITERS[1:3]]
    assert select_profiles(TWO_WRITERS, keys=keys).texts == {"EGFR": "from facts too", "TP53": "from a model"}
    with pytest.raises(UnknownNameError, match="1 keys have no profile in the list: 'gone'"):
        select_profiles(TWO_WRITERS, keys=[keys[0], "gone"])
    generate_profiles(["MYC"], generator="facts", out=tmp_path / "s")
    report = generate_profiles(["TP53", "EGFR"], generator="facts", out=tmp_path / "s")
    assert embed_genes(report, "random:dim=2").ids == ["EGFR", "TP53"]
    assert embed_genes(report, "random:dim=2", keys=report.keys[:1]).ids == ["TP53"]
    assert embed_genes(report.out, "random:dim=2").ids == ["EGFR", "MYC", "TP53"]


def test_sources_that_are_none_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "folder").mkdir()
    export_profiles(store(tmp_path / "s", profile("TP53")), tmp_path / "p.parquet")
    (row,) = pq.read_table(tmp_path / "p.parquet").to_pylist()
    damaged = {"marks": None, "attempts": "x", "text": None}
    for name, value in damaged.items():
        pq.write_table(pa.Table.from_pylist([row | {name: value}]), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"entity": ["A"]}), tmp_path / "other.parquet")
    for source, message in [
        *((tmp_path / f"{name}.parquet", "not a whole Parquet table") for name in (*damaged, "other")),
        (tmp_path / "gone", "No such folder or file"),
        (tmp_path / "notes.txt", "not a whole Parquet table of profiles"),
        (tmp_path / "folder", "No profile store"),
        (store(tmp_path / "empty"), "no profiles in"),
        ({}, "no profiles in the mapping"),
        ({"A": None}, "'A' → None"),
        (["text"], "something else than Answer"),
        ({" ": "x"}, "Row 0 has the id ' '"),
    ]:
        with pytest.raises(BftembedError, match=message):
            embed_genes(source, "random")


@pytest.mark.model
def test_minilm_result_is_saved_with_its_provenance(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    out = tmp_path / "genes.safetensors"
    texts = {"TP53": "A tumour suppressor.", "EGFR": "A receptor. " * 120}
    made = embed_genes(texts, out=out)
    back = GeneEmbeddings.load(out)
    assert back.fingerprint() == made.fingerprint()
    assert back.provenance == made.provenance == json.loads(json.dumps(made.provenance))
    assert back.provenance["encoder"]["name"] == "builtin:all-minilm-l6-v2"
    assert back.provenance["encoding"]["n_chunked"] == 1
    first = out.read_bytes()
    embed_genes(texts, out=out)
    assert out.read_bytes() == first
