"""Renderers of tables: text, page, figure, files for papers."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from bftembed.errors import BftembedError
from bftembed.report import figure
from bftembed.report.figure import MAX_LABELS, draw_maps, draw_tables, inline_svg, new_figure, scatter, table_svg
from bftembed.report.html import write_page
from bftembed.report.manifest import Coverage, ExampleProfile, Manifest, Step, Umap, read_points, write_points
from bftembed.report.published import clustering_table, integration_table
from bftembed.report.table import Cell, Column, Row, Table, number, text, write_tables

NASTY = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}'
TABLE = Table(
    f"Scores {NASTY}",
    (
        Column("ari", "ARI", "k-means", limits=(0, 1)),
        Column("mae", "MAE", better="lower"),
        Column("gap", "− best baseline", signed=True),
    ),
    (
        Row("text", {"ari": Cell(0.5125, 0.4, 0.6), "mae": Cell(0.2), "gap": Cell(0.1, 0.05, 0.15, "tfidf")}),
        Row(NASTY, {"ari": Cell(0.4), "mae": Cell(0.1)}, "random", note=NASTY),
        Row("bell \x07", {"ari": Cell(text="too-few")}, "baseline"),
        Row("chance", {"ari": Cell(0.01, -0.02, 0.03)}, "chance"),
    ),
    conclusions=(f"Above {NASTY}",),
    footnotes=("Intervals: 95 %.",),
)


class Page(HTMLParser):
    """Collects tags, ids and references, and fails on tags that do not nest."""

    VOID = ("meta", "input", "link", "br", "img")

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.rows = [], [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has {name}"
            self.ids += [value] if name == "id" else []
            self.references += [value] if name in ("src", "href", "xlink:href") else []
            if tag == "tr" and name == "class":
                self.rows.append(value.split()[0])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    write_points(rng.normal(size=(3000, 2)), ["a", NASTY] * 1500, tmp_path / "cells.parquet")
    manifest = Manifest(
        title=NASTY,
        description=(NASTY,),
        steps=(Step(name="embed", call=NASTY, seconds=75.2),),
        coverage=(Coverage(name=NASTY, counts={"used": 1740}),),
        profiles=(ExampleProfile(entity="BELL", text="ring \x07\x00 half \ud83e", marks=(NASTY,)),),
        umaps=(Umap(title="Cells", path="cells.parquet"), Umap(title="Gone", path="gone.parquet")),
        settings={"prompt": NASTY},
    )
    write_page(
        tmp_path / "r.html",
        {"Clustering": [TABLE, clustering_table()], "Integration": [integration_table()]},
        manifests={tmp_path: manifest},
        sources=["results.parquet"],
    )
    return (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_page_nests_needs_nothing_from_outside_and_escapes_everything(source):
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    assert all(r.startswith(("#", "data:image/png;base64,")) for r in page.references)
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "img", "object", "form"} & set(page.tags)
    assert "49" not in re.sub(r"<svg.*?</svg>", "", source, flags=re.DOTALL).replace("0.49", "")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", source)


def test_the_page_shows_each_row_with_its_kind_and_the_best_of_a_column(source):
    assert Page(source).rows[:4] == ["subject", "random", "baseline", "chance"]
    best = re.findall(r'class="best" title="best value">([^<]*)<', source)
    assert best[:3] == ["0.512", "+0.100", "0.100"]
    assert "gone.parquet is not in the folder" in source


def test_text_shows_values_intervals_kinds_and_fits_the_width():
    shown = text([TABLE], width=60)
    assert max(map(len, shown.splitlines())) <= 60 or NASTY[:20] in shown
    for wanted in ("0.512*", ".40, .60", "0.100*", "+0.100", "tfidf", "too-few", "Intervals: 95 %.", "(baseline)"):
        assert wanted in shown, wanted
    assert "\x07" not in shown
    many = Table("x", tuple(Column(str(i), f"metric {i}") for i in range(9)), (Row("a", {"8": Cell(0.25)}),))
    narrow = text([many], width=50)  # the columns in parts
    assert all(f"metric {i}" in narrow for i in range(9))
    assert max(map(len, narrow.splitlines())) <= 50


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_is_written_and_equal_tables_give_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        draw_tables(tmp_path / f"{name}.{suffix}", [TABLE, clustering_table()], "title $x$ $")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with pytest.raises(BftembedError):
        draw_tables(tmp_path / "c.pdf", [TABLE])
    with pytest.raises(BftembedError):
        draw_tables(tmp_path / f"c.{suffix}", [clustering_table()])


def test_files_for_papers(tmp_path):
    for suffix in ("csv", "tex", "md"):
        write_tables([TABLE], tmp_path / f"t.{suffix}")
    csv = pd.read_csv(tmp_path / "t.csv").set_index(["row", "column"])
    assert csv.loc[("text", "ari"), ["value", "low", "high"]].tolist() == [0.5125, 0.4, 0.6]
    assert csv.loc[("text", "gap"), "note"] == "tfidf"
    latex = (tmp_path / "t.tex").read_text()
    assert r"\toprule" in latex
    assert not re.search(r"(?<!\\)[%_#]", latex.partition("\n")[2])
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert "| text | 0.512 [0.400, 0.600] | 0.200 | +0.100 [+0.050, +0.150] tfidf |" in lines


def test_numbers_are_never_minus_zero():
    assert [number(-0.0001), number(-0.0001, signed=True), number(0.5, signed=True), number(math.nan)] == [
        *("0.000", "0.000", "+0.500", "–"),
    ]
    assert TABLE.columns[0].line(None) == ""


# -- colors, scatter plots and maps -----------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    v = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colors_stay_apart_for_every_kind_of_vision(vision):
    seen = [lab(np.array(VISION[vision]) @ linear(c)) for c in figure.COLORS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def points(n, labels):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=n), "y": rng.normal(size=n), "label": (labels * n)[:n]})


def test_a_scatter_plot_has_a_legend_with_counts_and_loses_no_point():
    few = scatter(points(100, [f"type {i}" for i in range(10)]), "ten types", "u1")
    assert re.findall(r">(type \d \(\d+\))<", few) == [f"type {i} (10)" for i in range(10)]
    many = scatter(points(3000, [f"type {i:02d}" for i in range(30)]), "", "u2")
    counts = [int(n.replace(",", "")) for n in re.findall(r"\(([\d,]+)\)</text>", many)]
    assert (len(counts), sum(counts)) == (MAX_LABELS, 3000)
    assert ("<image" in few, "<image" in many) == (False, True)


def test_inline_svg_has_ids_of_its_own_and_the_color_of_the_page():
    for svg in (table_svg(TABLE, "t1"), inline_svg(new_figure(2, 2, "x"), NASTY, "t1")):
        root = ET.fromstring(svg)
        assert all(e.get("id").startswith("t1-") for e in root.iter() if e.get("id"))
        assert "width=" not in svg[: svg.index(">")]
        assert figure.PAGE_INK not in svg


def test_maps_are_drawn_and_what_does_not_fit_is_an_error(tmp_path):
    xy = np.random.default_rng(0).normal(size=(50, 2))
    xy[0] = np.nan
    labels = {"type": ["a", "b"] * 25, "batch": [None, NASTY] * 25}
    draw_maps(tmp_path / "m.png", {"X": xy, "Y": xy}, labels, "title")
    draw_maps(tmp_path / "n.svg", {"X": xy}, {"type": labels["type"]})
    assert (tmp_path / "m.png").stat().st_size > 10_000
    for coordinates, columns in (({"X": xy}, {"type": ["a"]}), ({"X": np.full((50, 2), np.nan)}, labels)):
        with pytest.raises(BftembedError):
            draw_maps(tmp_path / "o.png", coordinates, columns)
    assert not (tmp_path / "o.png").exists()


# -- manifest ---------------------------------------------------------------------------------------------------------


def test_a_manifest_survives_the_file_and_that_of_schema_1_is_read(tmp_path):
    manifest = Manifest(title="A run", steps=(Step(name="embed", seconds=1.5),), settings={"nested": {"a": [1]}})
    assert Manifest.load(manifest.save(tmp_path).parent) == manifest
    text = '{"title": "old", "embeddings": [{"name": "x"}], "umaps": [{"title": "x", "path": "p", "x": []}]}'
    (tmp_path / "run.json").write_text(text)
    assert Manifest.load(tmp_path).title == "old"


@pytest.mark.parametrize("text", ["{", '{"schema_version": 99}', '{"umaps": [{"title": "x", "path": "../a.parquet"}]}'])
def test_a_manifest_that_cannot_be_read_names_the_file(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BftembedError, match=r"run\.json"):
        Manifest.load(tmp_path)


def test_points_survive_the_file_and_damaged_ones_are_an_error(tmp_path):
    write_points(np.array([[0, 1], [2, 3], [np.nan, 0]]), ["a", "b", "c"], tmp_path / "p.parquet")
    found = read_points(Umap(title="t", path="p.parquet"), tmp_path)
    assert found.to_dict("list") == {"x": [0.0, 2.0], "y": [1.0, 3.0], "label": ["a", "b"]}
    (tmp_path / "bad.parquet").write_text("no")
    pd.DataFrame({"x": ["a"], "y": [1.0], "label": [""]}).to_parquet(tmp_path / "text.parquet")
    for umap in (Umap(title="t", path=f"{n}.parquet") for n in ("gone", "bad", "text")):
        with pytest.raises(BftembedError):
            read_points(umap, tmp_path)
