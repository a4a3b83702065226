"""The report as a reader's browser gets it: whole, self-contained, harmless, and honest about failures."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.reports import html
from bftembed.reports.html import write_report
from bftembed.results import write_results
from bftembed.runrecord import Coverage, EmbeddingNote, ExampleProfile, RunRecord, Step, Umap, write_points
from bftembed.tasks import clustering

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NASTY = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}'


class Page(HTMLParser):
    """Collects tags, ids, references and text, and fails on tags that do not nest."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.texts = [], [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def scores(**options):
    rng = np.random.default_rng(0)
    labels = ["B", "T", "NK"] * 20
    X = rng.normal(size=(60, 4)) + np.array([0, 3, 6] * 20)[:, None] + 1
    embeddings = {"X_text": X, "X_random": rng.normal(size=(60, 4)), "X_broken": np.full((60, 2), np.nan)}
    return clustering.run(embeddings, labels, run="<i>pbmc</i>", seeds=[0, 1, 2], **options)


RECORD = RunRecord(
    title=f"A run {NASTY}",
    description=(NASTY,),
    steps=(Step(name="embed", call=f"bftembed {NASTY}", seconds=75.2, detail=NASTY), Step(name="score")),
    coverage=(Coverage(name=NASTY, counts={"used": 1740, NASTY: 2}),),
    profiles=(
        ExampleProfile(entity="CD3D", generator="facts", text="A T-cell receptor chain."),
        ExampleProfile(entity=NASTY, generator=NASTY, text=NASTY, marks=("off-topic", NASTY), finish_reason="length"),
        ExampleProfile(entity="EMPTY", text=" \n", marks=("empty",)),
        ExampleProfile(entity="LONG", text="A" * 5000 + "the end"),
        ExampleProfile(entity="BELL", text="ring \x07\x00 half \ud83e"),
    ),
    embeddings=(
        EmbeddingNote(name="X_text", kind="profile", description=NASTY),
        EmbeddingNote(name="X_random", kind="floor", description="random gene vectors"),
        EmbeddingNote(name="X_broken", kind="reference"),
    ),
    umaps=(
        Umap(title="Cells", caption=NASTY, path="cells.parquet"),
        Umap(title="Gone", path="gone.parquet"),
        Umap(title=NASTY, x=(1, 2, 3), y=(1, 2, 3), label=("a", NASTY, "")),
    ),
    settings={"prompt": NASTY, "nested": {"k": 1}},
    versions={"torch": "2.13.0"},
    notes=(NASTY,),
)


@pytest.fixture
def full(tmp_path):
    write_results(scores(), tmp_path / "results.parquet")
    rng = np.random.default_rng(0)
    write_points(rng.normal(size=(3000, 2)), ["a", NASTY] * 1500, tmp_path / "cells.parquet")
    RECORD.save(tmp_path)
    return tmp_path


@pytest.fixture
def page(full):
    return Page(write_report(full / "results.parquet", full / "report.html").read_text(encoding="utf-8"))


def test_the_page_nests_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    assert {"results", "maps", "profiles", "coverage", "steps", "settings"} <= set(page.ids)


def test_the_page_needs_nothing_from_outside(page, full):
    assert all(r.startswith(("#", "data:image/png;base64,")) for r in page.references)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    source = (full / "report.html").read_text(encoding="utf-8")
    assert "@import" not in source
    assert "url(http" not in source
    assert str(full) not in source


def test_text_from_outside_appears_as_text_wherever_it_comes_from(page):
    # title, paragraph, step, coverage, profile, embedding, caption, settings, note
    assert page.text.count("<script>alert(1)</script>") >= 15
    assert page.text.count("{{ 7 * 7 }}") == page.text.count("<script>alert(1)</script>")
    assert "<i>pbmc</i>" in page.text


def test_every_part_of_the_record_is_shown(page):
    for part in (
        "1 min 15 s",
        "1,740",
        "A T-cell receptor chain.",
        "no marks",
        "off-topic",
        "(no text)",
        "(5,007 characters in all)",
        "2.13.0",
        "gone.parquet is not in the folder",
        "Cells",
        "without a label (1)",
    ):
        assert part in page.text, part
    assert "the end" not in page.text
    assert "ring �� half ?" in page.text


def test_profiles_of_one_gene_stand_side_by_side(full):
    written = [
        ExampleProfile(entity=gene, generator=generator, text=f"{gene} by {generator}")
        for generator in ("base", "tuned")
        for gene in ("CD3D", NASTY)
    ]
    RECORD.model_copy(update={"profiles": tuple(written)}).save(full)
    source = write_report(full / "results.parquet", full / "report.html").read_text(encoding="utf-8")
    assert "CD3D base no marks CD3D by base tuned no marks CD3D by tuned <script>" in Page(source).text
    rows = source.split('<section id="profiles">')[1].split("</section>")[0].split('<div class="grid">')[1:]
    assert [row.count('<article class="profile">') for row in rows] == [2, 2]


def test_scores_stand_beside_their_floors_and_the_verdict_follows_from_them(page):
    assert "An embedding made from profiles is above every floor on 3 of 3 metrics: ARI, AMI, silhouette." in page.text
    assert "X_random floor" in page.text
    assert "permuted labels chance" in page.text
    assert "t interval over 3 seeds" in page.text
    assert "bootstrap over the cells" in page.text
    assert page.texts.count("best") == 3


def test_a_failure_is_shown_with_its_reason(page):
    assert page.texts.count("no value") >= 3
    assert "X_broken , ami, ari, silhouette (16 rows): error: no cell has both a label and a vector" in page.text
    assert "nan" not in page.text.lower().replace("60 nan or infinite", "").split()


def test_the_report_works_without_a_run_record(tmp_path):
    write_results(scores(floors=False), tmp_path / "a.parquet")
    page = Page(write_report([tmp_path / "a.parquet"], tmp_path / "r.html", title="Mine & yours").read_text())
    assert "Mine & yours" in page.text
    assert "No run record (run.json)" in page.text
    assert "every floor" not in page.text
    assert "bftembed 0" in page.text


def test_only_failures_make_a_report_too(tmp_path):
    results = clustering.run({"X": np.full((4, 2), np.nan)}, ["a", "b", "a", "b"], run="r")
    write_results(results, tmp_path / "a.parquet")
    page = Page(write_report(tmp_path / "a.parquet", tmp_path / "r.html").read_text())
    assert "no cell has both" in page.text
    assert math.isnan(results[0].value)


def test_only_permuted_labels_make_a_report_too(tmp_path):
    rows = [r for r in scores() if r.protocol == "permuted-labels"]
    assert rows
    write_results(rows, tmp_path / "a.parquet")
    page = Page(write_report(tmp_path / "a.parquet", tmp_path / "r.html").read_text())
    assert "hold permuted labels only" in page.text
    assert "permuted labels chance" in page.text
    assert "ARI AMI" in page.text
    assert "Scored: 60 items" in page.text
    assert "No run record" not in page.text
    assert "figure" not in page.tags


def test_every_results_file_is_read_once_and_contradictions_are_refused(full, tmp_path, monkeypatch):
    told = []
    read = html.read_results
    monkeypatch.setattr(html, "read_results", lambda paths: told.extend(paths) or read(paths))
    paths = [full / "results.parquet", tmp_path / "other" / "results.parquet"]
    write_results(scores(), paths[1])
    write_report(paths, full / "report.html")
    assert told == paths
    write_results([replace(r, value=0.5) for r in scores()], paths[1])
    with pytest.raises(BftembedError, match="occurs with different content"):
        write_report(paths, full / "report.html")
    with pytest.raises(BftembedError, match="No results file"):
        write_report([], full / "report.html")


def test_two_runs_in_two_folders_keep_their_own_records(full, tmp_path):
    other = tmp_path / "other"
    rows = clustering.run({"X_text": np.random.default_rng(1).normal(size=(30, 2))}, ["a", "b"] * 15, run="second")
    write_results(rows, other / "results.parquet")
    RunRecord(embeddings=(EmbeddingNote(name="X_text", kind="floor", description="another thing"),)).save(other)
    out = write_report([full / "results.parquet", other / "results.parquet"], tmp_path / "both.html")
    page = Page(out.read_text(encoding="utf-8"))
    assert "clustering · second" in page.text
    assert page.text.count("X_text floor") == 1
    assert len(page.ids) == len(set(page.ids))


def test_equal_input_gives_an_equal_page(full):
    first = write_report(full / "results.parquet", full / "a.html").read_bytes()
    assert write_report([str(full / "results.parquet")], full / "b.html").read_bytes() == first


def test_a_report_that_cannot_be_written_leaves_the_old_one(full, monkeypatch):
    old = full / "report.html"
    old.write_text("old")

    def full_disk(handle):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BftembedError, match=r"report\.html: the disk is full"):
        write_report(full / "results.parquet", old)
    assert old.read_text() == "old"
    assert not [p for p in full.iterdir() if p.name.startswith(".report")]


def test_a_place_that_takes_no_file_is_said_so(full):
    (full / "file").write_text("")
    with pytest.raises(BftembedError, match=r"Cannot write .*report\.html"):
        write_report(full / "results.parquet", full / "file" / "report.html")


def test_a_broken_record_is_not_passed_over(full):
    (full / "run.json").write_text("{")
    with pytest.raises(BftembedError, match=r"run\.json is not JSON"):
        write_report(full / "results.parquet", full / "report.html")
    assert not (full / "report.html").exists()
