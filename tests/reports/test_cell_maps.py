"""Maps of cells: every cell is drawn once per column or counted as left out, and every label is named."""

from __future__ import annotations

import struct
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bftembed.errors import BftembedError
from bftembed.reports import cell_maps
from bftembed.reports.cell_maps import draw_cell_maps
from bftembed.reports.figures import COLOURS, OTHER

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and return the figure beside the file."""
    figures = []
    write = cell_maps.save_figure
    monkeypatch.setattr(cell_maps, "save_figure", lambda figure, path: (figures.append(figure), write(figure, path)))

    def call(coordinates, columns, title="", name="a.png"):
        draw_cell_maps(tmp_path / name, coordinates, columns, title)
        return figures[-1], tmp_path / name

    return call


def cells(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2))


def panels(figure):
    return [axes for axes in figure.axes if axes.collections]


def count(axes):
    return sum(len(c.get_offsets()) for c in axes.collections)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def overlaps(figure):
    """Pairs of texts that lie over one another, and texts that leave the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        FigureCanvasAgg(figure).draw()
    found = [*figure.texts, *(t for axes in figure.axes for t in [*axes.texts, axes.title])]
    boxes = [(t.get_text(), t.get_window_extent()) for t in found if t.get_text()]
    width, height = figure.bbox.size
    out = [text for text, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    crossed = [
        (one, two)
        for i, (one, a) in enumerate(boxes)
        for two, b in boxes[i + 1 :]
        if a.padded(-1).overlaps(b.padded(-1))
    ]
    return out + crossed


def test_a_panel_per_embedding_and_column_holds_every_cell_in_the_colour_of_its_label(drawn):
    xy = {"X_a": cells(), "X_b": cells(seed=1)}
    kinds = np.array(["T"] * 150 + ["B"] * 90 + ["NK"] * 60)
    lots = np.array(["1", "2"] * 150)
    figure, path = drawn(xy, {"kind": kinds, "lot": lots}, "Four maps")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [count(axes) for axes in panels(figure)] == [300] * 4
    first = panels(figure)[0]
    of_colour = {}
    for points in first.collections:
        colour = to_hex(points.get_facecolor()[0])
        of_colour.setdefault(colour, []).extend(map(tuple, points.get_offsets()))
    assert {c: len(p) for c, p in of_colour.items()} == {COLOURS[0]: 150, COLOURS[1]: 90, COLOURS[2]: 60}
    assert set(of_colour[COLOURS[1]]) == set(map(tuple, xy["X_a"][kinds == "B"]))
    assert {"X_a", "X_b", "Four maps", "T (150)", "B (90)", "NK (60)", "1 (150)", "2 (150)"} <= set(texts(figure))
    assert [axes.get_title() for axes in panels(figure)] == ["kind", "lot", "", ""]
    left = [axes.get_position().x0 for axes in panels(figure)]
    assert left[0] == left[2] < left[1] == left[3]
    assert overlaps(figure) == []


def test_cells_without_a_place_are_left_out_of_their_row_and_counted(drawn):
    broken = cells()
    broken[:7] = np.nan
    broken[7, 1] = np.inf
    figure, _ = drawn({"X_a": broken, "X_b": cells()}, {"kind": ["T", "B"] * 150})
    assert [count(axes) for axes in panels(figure)] == [292, 300]
    assert "8 cells left out" in texts(figure)


def test_missing_labels_are_grey_and_told(drawn):
    kinds = np.array(["T"] * 100 + [None, np.nan, "", "nan", " NaN "] * 40, dtype=object)
    figure, _ = drawn({"X_a": cells()}, {"kind": kinds})
    assert "without a label (200)" in texts(figure)
    grey = [c for c in panels(figure)[0].collections if to_hex(c.get_facecolor()[0]) == cell_maps._WITHOUT]
    assert sum(len(c.get_offsets()) for c in grey) == 200


@pytest.mark.parametrize(
    ("n_labels", "coloured", "words"), [(14, 14, None), (15, 13, "2 other labels"), (60, 13, "47 o")]
)
def test_of_many_labels_thirteen_have_a_look_of_their_own(drawn, n_labels, coloured, words):
    kinds = [f"kind {i % n_labels:02d}" for i in range(600)]
    figure, _ = drawn({"X_a": cells(600)}, {"kind": kinds})
    told = [t for t in texts(figure) if t.startswith("kind ")]
    assert len(told) == coloured
    assert any(t.startswith(words) for t in texts(figure)) if words else not any("other" in t for t in texts(figure))
    grey = [c for c in panels(figure)[0].collections if to_hex(c.get_facecolor()[0]) == OTHER]
    assert sum(len(c.get_offsets()) for c in grey) == 600 - sum(int(t.split("(")[1][:-1]) for t in told)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (3, 1), (3, 2), (8, 3)])
def test_no_words_overlap_or_leave_the_page_at_any_size(drawn, rows, columns):
    rng = np.random.default_rng(0)
    nan = cells(120)
    nan[:5] = np.nan
    xy = {f"X_embedding_with_a_long_name_number_{i}_whitened_64": nan for i in range(rows)}
    made = [
        [f"CD{i % 20}+ effector memory T cell of the kind {i % 20}" for i in range(120)],
        rng.choice(["donor 1", "donor 2", ""], 120),
        [f"{i % 5}" for i in range(120)],
    ]
    labels = {f"obs column {j} {'x' * 40 * (j == 1)}": made[j] for j in range(columns)}
    figure, path = drawn(xy, labels, "A long title of the figure " * 8)
    assert len(panels(figure)) == rows * columns
    assert overlaps(figure) == []
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert max(width, height) < 4500


def test_hostile_names_are_text_and_large_maps_hold_one_picture(drawn):
    kinds = [HOSTILE, "$x_1$", "_hidden", "a\x1b[31m", "y" * 5000, "日本"] * 1000
    figure, path = drawn({HOSTILE: cells(6000), "$y^2$": cells(6000)}, {"$z$": kinds}, HOSTILE, name="a.svg")
    text = path.read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "<script" not in text
    assert "<image" in text
    assert len(text) < 2_500_000
    assert {"$x_1$ (1,000)", "_hidden (1,000)", "a\\x1b[31m (1,000)"} <= set(texts(figure))
    assert overlaps(figure) == []


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_maps_give_equal_files(tmp_path, suffix):
    for name in "ab":
        draw_cell_maps(tmp_path / f"{name}{suffix}", {"X": cells()}, {"kind": ["T", "B", ""] * 100})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("coordinates", "columns", "message"),
    [
        ({}, {"k": ["a"]}, "at least one embedding"),
        ({"X": np.zeros((1, 2))}, {}, "at least one embedding and one column"),
        ({"X": np.zeros((0, 2))}, {"k": []}, "needs coordinates"),
        ({"X": np.zeros((3, 3))}, {"k": ["a"] * 3}, r"\(3, 3\) for 'X'"),
        ({"X": [["a", "b"]]}, {"k": ["a"]}, "'X' are not numbers"),
        ({"X": np.zeros((3, 2)), "Y": np.zeros((4, 2))}, {"k": ["a"] * 3}, "'Y' has coordinates of 4 cells, 'X' of 3"),
        ({"X": np.zeros((3, 2))}, {"k": ["a"]}, "1 labels of 'k' for 3 cells"),
        ({"X": np.full((3, 2), np.nan)}, {"k": ["a"] * 3}, "None of the 3 cells has finite coordinates in 'X'"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, coordinates, columns, message):
    with pytest.raises(BftembedError, match=message):
        draw_cell_maps(tmp_path / "a.png", coordinates, columns)
    with pytest.raises(BftembedError, match=r"\.png or \.svg"):
        draw_cell_maps(tmp_path / "a.pdf", {"X": np.zeros((1, 2))}, {"k": ["a"]})
    assert not list(tmp_path.iterdir())
