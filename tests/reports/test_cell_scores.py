"""Dots of cell scores: every score has its dot, its interval and its floor, or a dash and its reason."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from clustering_toys import scored
from matplotlib.colors import to_hex
from test_cell_maps import overlaps
from test_integration_reports import rows as integration_rows

from bftembed.errors import BftembedError
from bftembed.reports import cell_scores
from bftembed.reports.cell_scores import draw_cell_scores
from bftembed.reports.figures import COLOURS, OTHER
from bftembed.reports.tables import summarise
from bftembed.results import Result, to_frame

HOSTILE = "<script>alert('x')</script>"
STRICT = [
    *scored("X_bft", 0.48),
    *scored("X_sft", 0.41, intervals=False),
    *scored("baseline: pca", 0.55),
    *scored("broken", 0.0, without=["knn_accuracy", "silhouette"], reason="error: all cells are identical"),
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []
    write = cell_scores.save_figure
    monkeypatch.setattr(cell_scores, "save_figure", lambda figure, path: (figures.append(figure), write(figure, path)))

    def call(rows, title="", name="a.png"):
        draw_cell_scores(tmp_path / name, to_frame(rows) if isinstance(rows, list) else rows, title)
        return figures[-1], tmp_path / name

    return call


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def marks(axes, shape):
    return {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == shape}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def test_twelve_panels_hold_mean_interval_and_floor_in_one_order(drawn):
    figure, path = drawn(STRICT, "Strict")
    assert path.read_bytes().startswith(b"\x89PNG")
    found = panels(figure)
    assert len(found) == 12
    summary = summarise(to_frame(STRICT)).set_index(["protocol", "embedding", "metric"])
    axes = found["ARI"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["baseline: pca", "X_bft", "X_sft", "broken"]
    dots, floors = marks(axes, "o"), marks(axes, "|")
    assert dots[1].get_xdata()[0] == pytest.approx(summary.loc[("strict", "X_bft", "ari"), "mean"])
    assert marks(axes, "D")[0].get_xdata()[0] == pytest.approx(summary.loc[("strict", "baseline: pca", "ari"), "mean"])
    assert to_hex(marks(axes, "D")[0].get_color()) == COLOURS[1]
    assert set(floors) == {0, 1, 2, 3}
    floor = summary.loc[("strict/permuted-labels", "X_bft", "ari"), "mean"]
    assert floors[1].get_xdata()[0] == pytest.approx(floor)
    assert to_hex(floors[1].get_color()) == OTHER
    bars = {line.get_ydata()[0]: line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2}
    assert list(bars[1]) == pytest.approx(summary.loc[("strict", "X_bft", "ari"), ["low", "high"]].tolist())
    for axes in found.values():
        assert list(axes.get_yticks()) == [0, 1, 2, 3]
        assert axes.get_ylim() == (3.5, -0.5)
    assert overlaps(figure) == []


def test_axes_show_the_whole_scale_and_go_below_zero_only_where_values_do(drawn):
    rows = [*scored("a", 0.4, floors=False), *scored("b", 0.5, floors=False)]
    found = panels(drawn(rows)[0])
    assert found["ARI"].get_xlim() == pytest.approx((-0.025, 1.025))
    low = [
        Result("r", "a", "clustering", "standard", "silhouette", value=-0.31),
        Result("r", "a", "clustering", "standard", "ari", seed=0, value=0.99),
    ]
    found = panels(drawn(low)[0])
    assert found["silhouette"].get_xlim()[0] == pytest.approx(-0.425)
    assert found["ARI"].get_xlim() == pytest.approx((-0.025, 1.025))


def test_a_score_without_a_value_is_a_dash_and_the_foot_says_why(drawn):
    figure, _ = drawn(STRICT)
    axes = panels(figure)["kNN accuracy"]
    assert [t.get_text() for t in axes.texts].count("–") == 1
    assert set(marks(axes, "o")) == {1, 2}
    assert "* broken without silhouette, kNN accuracy: all cells are identical." in texts(figure)
    nothing = [Result("r", "a", "clustering", "strict", "ari", note="error: no cell")]
    figure, _ = drawn(nothing)
    assert not marks(panels(figure)["ARI"], "o")
    assert "* a without ARI: no cell." in texts(figure)


def test_integration_is_ordered_by_the_total_which_comes_first(drawn):
    rows = [*integration_rows("low", 0.2), *integration_rows("baseline: pca", 0.7), *integration_rows("mid", 0.4)]
    figure, _ = drawn(rows)
    found = panels(figure)
    assert list(found)[:3] == ["Total", "Bio conservation", "Batch correction"]
    assert [t.get_text() for t in found["Total"].get_yticklabels()] == ["baseline: pca", "mid", "low"]
    assert len(found) == len({row.metric for row in rows})
    assert overlaps(figure) == []


def test_runs_tasks_and_protocols_have_panels_of_their_own_with_their_own_floor(drawn):
    rows = [*scored("a", 0.4), *scored("a", 0.6, protocol="standard"), *integration_rows("a", 0.5)]
    figure, _ = drawn(summarise(to_frame(rows)), "Three")
    headings = [t for t in texts(figure) if t.endswith(" cells")]
    assert headings == [
        "cells/kind/lot · integration, paper · 9 cells",
        "pbmc/cell_type · clustering, standard · 1,200 cells",
        "pbmc/cell_type · clustering, strict · 1,200 cells",
    ]
    aris = [axes for axes in figure.axes if axes.get_title(loc="left") == "ARI"]
    assert [len(marks(axes, "|")) for axes in aris] == [1, 1]
    assert overlaps(figure) == []


@pytest.mark.parametrize("n", [1, 9, 24])
def test_any_number_of_embeddings_with_hostile_names_stays_on_the_page(drawn, n):
    names = [HOSTILE, "$x_1$", "y" * 3000, "_hidden", "a\x1b[31m", *(f"baseline: method {i}" for i in range(30))][:n]
    rows = [r for i, name in enumerate(names) for r in scored(name, 0.1 + 0.03 * i, without=["ari"], reason=HOSTILE)]
    figure, path = drawn(rows, HOSTILE * 6, name="a.svg")
    text = path.read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "<script" not in text
    assert overlaps(figure) == []
    assert np.prod(figure.get_size_inches()) < 250


def test_equal_scores_give_equal_files(tmp_path):
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        draw_cell_scores(tmp_path / name, to_frame(STRICT))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(BftembedError, match=r"\.png or \.svg"):
        draw_cell_scores(tmp_path / "a.pdf", to_frame(STRICT))
    other = [Result("r", "a", "dosage", "strict/logistic", "roc_auc", value=0.5)]
    only_floors = [r for r in STRICT if r.protocol != "strict"]
    for rows in ([], other, only_floors):
        with pytest.raises(BftembedError, match="no scores to draw"):
            draw_cell_scores(tmp_path / "a.png", to_frame(rows))
    assert not list(tmp_path.iterdir())
    assert math.isnan(summarise(to_frame([Result("r", "a", "clustering", "s", "ari", note="x")]))["mean"].item())
