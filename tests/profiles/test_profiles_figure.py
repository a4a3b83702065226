"""The figure and the page of a store's profiles: drawn for every kind of origin, and no text is markup."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore
from bftembed.profiles.report import MARK_COLORS, profiles_figure, report_profiles
from bftembed.profiles.screening import MARKS
from bftembed.report.figure import save_figure


def profiles(words=(20, 22, 25, 25, 31), marks=()):
    """One profile for each number of words; the first ones have a mark each."""
    flags = [(mark,) for mark in marks] + [()] * (len(words) - len(marks))
    texts = ["word " * n for n in words]
    return [Answer(t, t, "gene", t, "stop", m, "p@1", "g") for t, m in zip(texts, flags, strict=True)]


def draw(path, rows):
    from matplotlib.image import imread

    save_figure(profiles_figure(rows, "Profiles"), path, dpi=130)
    return imread(path)[..., :3]


def columns_with(image, color, tolerance=0.02):
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return len(np.flatnonzero((np.abs(image - wanted).max(axis=-1) < tolerance).any(axis=0)))


def test_a_bar_is_as_long_as_its_share(tmp_path):
    marks = ["refusal", "off-topic", "off-topic"]
    image = draw(tmp_path / "a.png", {"a": profiles([9] * 8, marks), "b": profiles([9])})
    wide = {mark: columns_with(image, color) for mark, color in MARK_COLORS.items()}
    assert wide["off-topic"] == pytest.approx(2 * wide["refusal"], rel=0.1)
    assert wide["ok"] == pytest.approx(8 * wide["refusal"], rel=0.1)
    assert wide["looping"] == 0


@pytest.mark.parametrize(
    "rows",
    [
        {"a": profiles([0])},
        {"a": profiles([7] * 100)},
        {"a": profiles([10] * 2, ["a later mark"])},
        {"a $spec$ with_ marks " * 9: profiles(), "日本 α": profiles()},
    ],
)
def test_odd_rows_are_drawn(tmp_path, rows):
    assert draw(tmp_path / "a.png", rows).std() > 0


def test_every_mark_has_a_color_of_its_own():
    assert set(MARK_COLORS) == {"ok", *MARKS}
    assert len(set(MARK_COLORS.values())) == len(MARKS) + 1


def test_the_bins_follow_most_texts():
    (axes, _), (other, _) = np.reshape(profiles_figure({"a": profiles([10] * 999 + [10_000]), "b": []}).axes, (2, 2))
    assert axes.get_xlim()[1] < 60
    assert sum(bar.get_height() for bar in axes.patches) == 1000
    assert sum(bar.get_height() for bar in other.patches) == 0


def test_rows_beyond_the_bound_are_not_drawn():
    assert [len(profiles_figure({str(i): profiles() for i in range(n)}).axes) for n in (1, 12, 30)] == [2, 24, 24]


EVIL = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path):
    with AnswerStore.writing(tmp_path / "s") as opened:
        identity = opened.add_generator(EVIL, {})
        answer = Answer("1", EVIL, "gene", f"{EVIL} \x07", "stop", (), EVIL, EVIL, generator_id=identity)
        opened.add([answer], {"1": []})
    return tmp_path / "s"


def test_the_page_needs_nothing_else_and_escapes_every_text(tmp_path, store):
    for name in ("r.html", "again.html"):
        report_profiles(store, out=tmp_path / name)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<svg" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_file_that_cannot_be_written_is_an_error(tmp_path, store):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "a.png", tmp_path / "a.pdf"):
        with pytest.raises(BftembedError, match=out.name):
            report_profiles(store, out=out)
