"""The figure and the page of a store's profiles: drawn for every kind of row, and nothing from outside is markup."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.profiles import report as figures
from bftembed.profiles.report import Drawn, draw_profiles, write_page


def picture(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def columns_with(image, color, tolerance=0.02):
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.flatnonzero((np.abs(image - wanted).max(axis=-1) < tolerance).any(axis=0))


def row(label="bft-gene@1 by facts", words=(20, 22, 25, 25, 31), marks=None, profiles=5):
    return Drawn(label, words, {"ok": 5} if marks is None else marks, profiles)


def test_lengths_and_marks_are_drawn(tmp_path):
    marks = {"ok": 3, "refusal": 1, "looping": 1}
    draw_profiles(tmp_path / "a.png", [row(), row(marks=marks)], title="Profiles")
    image = picture(tmp_path / "a.png")
    for mark in marks:
        assert len(columns_with(image, figures.MARK_COLORS[mark])) > 10
    assert len(columns_with(image, figures.MARK_COLORS["off-topic"])) == 0
    assert image[0, 0].tolist() == [1, 1, 1]


def test_a_bar_is_as_long_as_its_share(tmp_path):
    draw_profiles(tmp_path / "a.png", [row(marks={"ok": 4, "refusal": 1, "off-topic": 2}, profiles=8)])
    image = picture(tmp_path / "a.png")
    wide = {m: len(columns_with(image, figures.MARK_COLORS[m])) for m in ("ok", "refusal", "off-topic")}
    assert wide["ok"] == pytest.approx(4 * wide["refusal"], rel=0.1)
    assert wide["off-topic"] == pytest.approx(2 * wide["refusal"], rel=0.1)


@pytest.mark.parametrize(
    "drawn",
    [
        row(words=()),
        row(words=(0,), profiles=1),
        row(words=[7] * 100),
        row(words=[*range(100)] * 5 + [90_000]),
        row(marks={}, profiles=0),
        row(marks=dict.fromkeys(figures.MARK_COLORS, 1) | {"a later mark": 2}),
        row(label="a $spec$ with_ marks " * 9),
        row(label="日本 α"),
    ],
)
def test_odd_rows_are_drawn(tmp_path, drawn):
    draw_profiles(tmp_path / "a.png", [drawn])
    assert picture(tmp_path / "a.png").std() > 0


def test_every_mark_has_a_color_of_its_own():
    from bftembed.profiles.screening import MARKS

    assert set(figures.MARK_COLORS) == {"ok", *MARKS}
    assert len(set(figures.MARK_COLORS.values())) == len(MARKS) + 1


def test_the_bins_follow_most_texts_and_a_far_one_is_told():
    edges = figures._edges([row(words=[10] * 999 + [1_000_000])])
    assert edges[-1] < 50
    assert figures._edges([row(words=[10, 400])])[-1] > 400
    assert len(figures._edges([row(words=())])) > 1


def test_rows_beyond_the_bound_are_not_drawn(tmp_path):
    heights = []
    for n in (1, 12, 30):
        draw_profiles(tmp_path / "a.png", [row()] * n)
        heights.append(picture(tmp_path / "a.png").shape[0])
    assert heights[0] < heights[1] == heights[2]
    with pytest.raises(BftembedError, match="no profiles to draw"):
        draw_profiles(tmp_path / "a.png", [])


def test_equal_values_give_equal_bytes(tmp_path):
    for name in "ab":
        draw_profiles(tmp_path / f"{name}.png", [row()], title="x")
        write_page(tmp_path / f"{name}.html", [row()], [("x", [("a", "b")])], title="x")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_needs_nothing_else_and_escapes_every_text(tmp_path):
    evil = "<script>alert(1)</script>"
    blocks = [(evil, [(evil, evil), ("words", "median 5 \x07")])]
    write_page(tmp_path / "r.html", [row(label=f'"{evil}')], blocks, title=evil, about=[evil])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 7
    assert "\x07" not in page
    assert "http" not in page
    packed = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(packed.group(1)).startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BftembedError, match="Cannot write"):
        draw_profiles(tmp_path / "file" / "a.png", [row()])
