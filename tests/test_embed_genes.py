"""From profiles to gene embeddings: which are taken, what is counted, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.encoders.random import RandomEncoder
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.screening import MARKS
from bftembed.profiles.selection import select_profiles

if TYPE_CHECKING:
    from pathlib import Path


def profile(entity: str, text: str = "a kinase of the membrane", *marks: str, **changes: str) -> Answer:
    generator, prompt = changes.get("generator", "facts"), changes.get("prompt", "bft-gene@1")
    key = hashlib.sha256(f"{entity}{generator}{prompt}{changes.get('salt', '')}".encode()).hexdigest()
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


def test_marked_profiles_are_left_out_and_counted(tmp_path: Path) -> None:
    made = embed_genes(store(tmp_path / "s", *MIXED), "tfidf")
    assert made.ids == ["ACTB", "TP53"]
    assert made.provenance["counts"] == {"profiles": 6, "embedded": 2, "left_out": 4, "unique_texts": 2}
    assert made.provenance["left_out"] == {
        "empty": ["GAPDH"],
        "failed": ["MYC"],
        "looping": ["KRAS"],
        "truncated": ["EGFR", "KRAS"],
    }


@pytest.mark.parametrize(
    ("allowed", "ids"),
    [
        (["truncated"], ["ACTB", "EGFR", "TP53"]),
        ("truncated,looping", ["ACTB", "EGFR", "KRAS", "TP53"]),
        ("truncated, looping,", ["ACTB", "EGFR", "KRAS", "TP53"]),
        ("", ["ACTB", "TP53"]),
        (["looping"], ["ACTB", "TP53"]),
    ],
)
def test_a_profile_is_taken_when_all_its_marks_are_allowed(allowed, ids: list[str]) -> None:
    made = embed_genes(MIXED, "random:dim=4", allow_marks=allowed)
    assert made.ids == ids
    if isinstance(allowed, str):
        allowed = [mark.strip() for mark in allowed.split(",") if mark.strip()]
    assert made.provenance["allowed_marks"] == allowed


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
    listed = {name for names in made.provenance["left_out"].values() for name in names}
    assert listed == {f"G{i}" for i in range(len(rows))} - expected
    counts = made.provenance["counts"]
    assert counts["embedded"] + counts["left_out"] == counts["profiles"] == len(rows)


def test_nothing_left_says_why_and_what_to_do() -> None:
    with pytest.raises(BftembedError) as caught:
        embed_genes(MIXED[1:5], "tfidf")
    message = str(caught.value)
    assert "None of the 4 profiles" in message
    for count in ("2 truncated", "1 looping", "1 failed", "1 empty", "--allow-marks looping,truncated"):
        assert count in message
    with pytest.raises(BftembedError, match="--retry-failed"):
        embed_genes([MIXED[3]], "tfidf")


@pytest.mark.parametrize("mark", ["truncate", "failed", "empty", ""])
def test_marks_that_cannot_be_allowed_are_refused(mark: str) -> None:
    with pytest.raises(UnknownNameError, match="mark to allow"):
        embed_genes(MIXED, "tfidf", allow_marks=[mark])


def test_store_parquet_list_and_mapping_agree(tmp_path: Path) -> None:
    from bftembed.profiles.export import export_profiles

    folder = store(tmp_path / "s", *MIXED)
    export_profiles(folder, tmp_path / "p.parquet")
    texts = {p.entity: p.text for p in MIXED if not p.marks}
    made = [embed_genes(source, "tfidf") for source in (folder, str(tmp_path / "p.parquet"), MIXED, texts)]
    assert len({m.fingerprint() for m in made}) == 1
    assert len({m.provenance["texts_sha256"] for m in made}) == 1
    assert made[0].provenance == made[1].provenance == made[2].provenance
    assert made[0].provenance["generators"] == ["facts"]
    assert made[3].provenance["left_out"] == {"empty": ["GAPDH"]}


def test_order_of_profiles_does_not_matter() -> None:
    one, two = embed_genes(MIXED, "tfidf"), embed_genes(MIXED[::-1], "tfidf")
    assert one.fingerprint() == two.fingerprint()
    assert one.provenance == two.provenance


def test_texts_digest_follows_the_texts() -> None:
    base = embed_genes({"A": "x kinase", "B": "y kinase"}, "tfidf").provenance["texts_sha256"]
    assert embed_genes({"B": "y kinase", "A": "x kinase"}, "tfidf").provenance["texts_sha256"] == base
    assert embed_genes({"A": "y kinase", "B": "x kinase"}, "tfidf").provenance["texts_sha256"] != base


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
    texts = {f"G{i}": "receptor kinase" if i % 2 else "membrane kinase" for i in range(60)}
    texts = {name: f"{text} {'signal' if i % 3 else 'ligand'}" for i, (name, text) in enumerate(texts.items())}
    # Equal texts are encoded once, so make them differ by words that every text may have.
    texts = {name: f"{text} {'cell ' * i}" for i, (name, text) in enumerate(texts.items())}
    made = embed_genes({**texts, "ODD": "zzyzx"}, "tfidf")
    assert "ODD" not in made
    assert made.provenance["left_out"] == {"zero vector": ["ODD"]}
    assert made.provenance["counts"]["left_out"] == 1
    assert made.provenance["encoder"]["dim"] == made.dim


TWO_WRITERS = (
    profile("TP53", "from facts"),
    profile("EGFR", "from facts too"),
    profile("TP53", "from a model", generator="scripted:delay=0"),
    profile("TP53", "from another prompt", prompt="bft-long@2"),
)


SMOL = "transformers:builtin:smollm2-135m-instruct"


def test_several_profiles_of_a_gene_are_an_error_that_lists_them() -> None:
    with pytest.raises(BftembedError) as caught:
        embed_genes(TWO_WRITERS, "tfidf")
    message = str(caught.value)
    for part in ("1 entities", "'TP53'", "bft-long@2", "scripted:delay=0", "--prompt", "--generator"):
        assert part in message
    assert "EGFR" not in message


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        ({"prompt": "bft-gene", "generator": "facts"}, ["EGFR", "TP53"]),
        ({"prompt": "bft-gene@1", "generator": "scripted"}, ["TP53"]),
        ({"prompt": "bft-long"}, ["TP53"]),
    ],
)
def test_prompt_and_generator_choose(tmp_path: Path, choice: dict[str, str], ids: list[str]) -> None:
    made = embed_genes(store(tmp_path / "s", *TWO_WRITERS), "random:dim=3", **choice)
    assert made.ids == ids
    assert len(made.provenance["prompts"]) == len(made.provenance["generators"]) == 1


@pytest.mark.parametrize("choice", [{"prompt": "bft-gen"}, {"generator": "fact"}])
def test_unknown_prompt_or_generator_is_refused(choice: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        embed_genes(TWO_WRITERS, "tfidf", **choice)


UPGRADED = tuple(
    replace(profile("TP53", text, salt=salt, generator=SMOL), generator_id=identifier)
    for text, salt, identifier in [("before", "a", "aaaaaa0000000000"), ("after", "b", "aaaaaab000000000")]
)


def test_one_spec_with_two_fingerprints_is_chosen_by_id(tmp_path: Path) -> None:
    with pytest.raises(BftembedError) as caught:
        embed_genes(UPGRADED, "random", generator=SMOL)
    for part in ("aaaaaa0000000000", "aaaaaab000000000", "--generator"):
        assert part in str(caught.value)
    assert select_profiles(UPGRADED, generator="aaaaaab").texts == {"TP53": "after"}
    assert select_profiles(UPGRADED, generator="aaaaaa0000000000").texts == {"TP53": "before"}
    with pytest.raises(BftembedError, match="Unknown generator 'aaaaaa'"):
        select_profiles(UPGRADED, generator="aaaaaa")
    for unknown in ("aaaaa", "bbbbbb"):
        with pytest.raises(UnknownNameError, match="Known: .*aaaaaab000000000"):
            select_profiles(UPGRADED, generator=unknown)


def test_ids_of_a_store_choose(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with AnswerStore.writing(folder) as opened:
        for p in UPGRADED:
            identifier = opened.add_generator(SMOL, {"made": p.text})
            opened.add([replace(p, generator_id=identifier)], {p.key: []})
    assert select_profiles(folder, generator=identifier[:8]).texts == {"TP53": "after"}


@pytest.mark.parametrize("wanted", ["builtin:smollm2-135m-instruct", "builtin:smollm2-135m-instruct,dtype=fp32"])
def test_a_generator_is_known_by_the_word_given_to_generate(wanted: str) -> None:
    made = [profile("TP53", generator=f"{SMOL},dtype=fp32"), profile("EGFR")]
    assert list(select_profiles(made, generator=wanted).texts) == ["TP53"]


def test_keys_choose() -> None:
    keys = [p.key for p in TWO_WRITERS[1:3]]
    assert select_profiles(TWO_WRITERS, keys=keys).texts == {"EGFR": "from facts too", "TP53": "from a model"}
    assert embed_genes(TWO_WRITERS, "random:dim=2", keys=keys[:1]).provenance["counts"]["profiles"] == 1
    with pytest.raises(UnknownNameError, match="1 keys have no profile in the list: 'gone'"):
        select_profiles(TWO_WRITERS, keys=[keys[0], "gone"])
    with pytest.raises(BftembedError, match="no profiles in the list"):
        select_profiles(TWO_WRITERS, keys=[])


def test_what_generate_profiles_returned_is_embedded(tmp_path: Path) -> None:
    from bftembed.profiles.generate import generate_profiles

    generate_profiles(["MYC"], generator="facts", out=tmp_path / "s")
    report = generate_profiles(["TP53", "EGFR"], generator="facts", out=tmp_path / "s")
    assert embed_genes(report, "random:dim=2").ids == ["EGFR", "TP53"]
    assert embed_genes(report, "random:dim=2", keys=report.keys[:1]).ids == ["TP53"]
    assert embed_genes(report.out, "random:dim=2").ids == ["EGFR", "MYC", "TP53"]


def test_parquet_keeps_generator_ids_and_old_ones_are_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from bftembed.profiles.export import export_profiles, read_exported

    export_profiles(store(tmp_path / "s", profile("TP53")), tmp_path / "p.parquet")
    assert len(read_exported(tmp_path / "p.parquet")[0].generator_id) == 16
    pq.write_table(pq.read_table(tmp_path / "p.parquet").drop_columns(["generator_id"]), tmp_path / "old.parquet")
    assert read_exported(tmp_path / "old.parquet")[0].generator_id == ""


@pytest.mark.parametrize(("column", "value"), [("marks", None), ("marks", 3), ("text", None), ("attempts", None)])
def test_a_parquet_value_that_does_not_fit_is_named(tmp_path: Path, column: str, value: object) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bftembed.profiles.export import export_profiles

    file = tmp_path / "p.parquet"
    export_profiles(store(tmp_path / "s", profile("TP53")), file)
    rows = pq.read_table(file).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**rows[0], column: value}]), file)
    with pytest.raises(BftembedError, match=r"p\.parquet"):
        embed_genes(file, "random")


def test_same_prompt_and_generator_with_other_settings_is_refused() -> None:
    with pytest.raises(BftembedError, match="contexts differ"):
        embed_genes([profile("TP53"), profile("TP53", salt="x")], "tfidf")


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "folder").mkdir()
    for source, message in [
        (tmp_path / "gone", "No such folder or file"),
        (tmp_path / "notes.txt", "not a Parquet table of profiles"),
        (tmp_path / "folder", "No profile store"),
        ({}, "no profiles in the mapping"),
        ([], "no profiles in the list"),
        ({"A": None}, "'A' → None"),
        ({1: "x"}, "1 → 'x'"),
        (["text"], "something else than Answer"),
        ({" ": "x"}, "Row 0 has the id ' '"),
    ]:
        with pytest.raises(BftembedError, match=message):
            embed_genes(source, "random")
    with pytest.raises(BftembedError, match="no profiles in"):
        embed_genes(store(tmp_path / "empty"), "random")


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
