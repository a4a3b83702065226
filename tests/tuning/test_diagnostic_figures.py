"""The diagnostic's pictures: whole PNG files, for every kind of array that the diagnostic gives."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.tuning import figures

HEAD = b"\x89PNG\r\n\x1a\n"


def picture(path):
    from matplotlib.image import imread

    assert path.read_bytes().startswith(HEAD)
    return imread(path)[..., :3]


def has(image, color, tolerance=0.02):
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(image - wanted).max(axis=-1) < tolerance).any())


def windows(n=400, seed=0):
    generator = np.random.default_rng(seed)
    run = generator.integers(1, 12, size=n)
    fraction = generator.integers(5, 28, size=n) / 32
    group = np.where((fraction < 0.4) & (run < 4), "A", np.where((fraction > 0.6) & (run > 6), "B", ""))
    return fraction, run, group


def test_windows_and_ratios_are_drawn(tmp_path):
    ratios = [
        figures.Ratio("entity", 1.4, 1.1, 1.9, "low tokens: 10 in A, 20 in B"),
        figures.Ratio("connective", 0.8, 0.5, 1.2),
        figures.Ratio("other", 0.99, 0.98, 1.0),
    ]
    figures.draw_windows(tmp_path / "a.png", *windows(), ratios, title="Answers")
    image = picture(tmp_path / "a.png")
    assert all(has(image, color) for color in figures.TAG_COLORS.values())
    assert image[0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "ratio",
    [
        figures.Ratio("entity", None, None, None),
        figures.Ratio("entity", 0.0, 0.0, 0.0),
        figures.Ratio("entity", 2.0, 0.0, None),
        figures.Ratio("entity", None, 3.0, None),
        figures.Ratio("entity", 1e-9, 1e-12, 1e9),
        figures.Ratio("a name $of$ its_own", 1.0, 1.0, 1.0),
    ],
)
def test_ratios_without_bounds_are_drawn(tmp_path, ratio):
    figures.draw_windows(tmp_path / "a.png", *windows(), [ratio])
    assert picture(tmp_path / "a.png").std() > 0


def test_one_window_and_no_rows_are_drawn(tmp_path):
    figures.draw_windows(tmp_path / "a.png", np.array([0.5]), np.array([3]), np.array(["A"]), [])
    assert picture(tmp_path / "a.png").std() > 0


def response(n, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.random(n)
    tags = [("entity", "connective", "other")[i] for i in generator.integers(3, size=n)]
    inside = np.arange(n) < n // 2
    return [f" w{i}" for i in range(n)], confidence, confidence < 0.5, tags, inside, ~inside


@pytest.mark.parametrize("n", [1, 5, 44, 45, 132])
def test_a_response_is_drawn_whole(tmp_path, n):
    figures.draw_response(tmp_path / "b.png", *response(n), tau=0.5, title="one answer")
    image = picture(tmp_path / "b.png")
    if n > 5:
        assert all(has(image, c) for c in figures.TAG_COLORS.values())
        assert has(image, figures.GROUPS["A"][0])
        assert has(image, figures.GROUPS["B"][0])


def test_rows_grow_with_the_response_up_to_a_bound(tmp_path):
    heights = []
    for n in (40, 80, 220, 900):
        figures.draw_response(tmp_path / "b.png", *response(n), tau=0.5)
        heights.append(picture(tmp_path / "b.png").shape[0])
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_odd_tokens_are_drawn(tmp_path):
    tokens = ["", " ", "\n", "$x$ $", "日本", "a" * 80]
    n = len(tokens)
    none = np.zeros(n, dtype=bool)
    figures.draw_response(tmp_path / "b.png", tokens, np.zeros(n), none, ["other"] * n, none, none, tau=0.0)
    assert picture(tmp_path / "b.png").shape[1] > 1000


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BftembedError, match="Cannot write"):
        figures.draw_windows(tmp_path / "file" / "a.png", *windows(), [])
