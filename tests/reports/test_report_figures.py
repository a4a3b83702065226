from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from bftembed.reports import figures

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    v = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a, b):
    low, high = sorted(TO_XYZ[1] @ linear(c) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_kind_of_vision(vision):
    seen = [lab(np.array(VISION[vision]) @ linear(c)) for c in figures.COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_colours_show_on_light_and_dark():
    for colour in (*figures.COLOURS, figures.OTHER):
        assert contrast(colour, "#ffffff") > 2.2
        assert contrast(colour, "#14171a") > 2.2


def points(n, labels):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=n), "y": rng.normal(size=n), "label": (labels * n)[:n]})


def check_svg(plot, name):
    root = ET.fromstring(plot.svg)
    assert root.get("role") == "img"
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids
    assert all(i.startswith(f"{name}-") for i in ids)
    for reference in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', plot.svg):
        assert (reference[0] or reference[1]) in ids
    assert "width=" not in plot.svg[: plot.svg.index(">")]
    assert "currentColor" in plot.svg
    assert "#010203" not in plot.svg
    return root


def test_labels_have_an_entry_each_with_its_count_and_a_look_of_its_own():
    plot = figures.scatter(points(100, [f"type {i}" for i in range(10)]), "ten types", "u1")
    assert check_svg(plot, "u1").get("aria-label") == "ten types"
    assert [s.text for s in plot.legend] == [f"type {i} (10)" for i in range(10)]
    assert len({(s.colour, s.shape) for s in plot.legend}) == 10
    assert "<image" not in plot.svg


def test_many_labels_share_one_entry_and_lose_no_point():
    plot = figures.scatter(points(300, [f"type {i:02d}" for i in range(30)]), "", "u1")
    assert len(plot.legend) == figures.MOST_LABELS
    assert plot.legend[-1].text == "17 other labels (170)"
    assert sum(int(re.search(r"\((\d+)\)$", s.text)[1]) for s in plot.legend) == 300


def test_points_without_a_label_are_named_so():
    assert [s.text for s in figures.scatter(points(9, ["a", "", ""]), "", "u").legend] == [
        "a (3)",
        "without a label (6)",
    ]
    assert [s.text for s in figures.scatter(points(1200, [""]), "", "u").legend] == ["points (1,200)"]
    assert figures.scatter(points(0, []), "", "u").legend == ()


def test_many_points_become_one_picture_and_stay_small():
    plot = figures.scatter(points(20_000, ["a", "b"]), "", "u1")
    assert "data:image/png;base64" in plot.svg
    assert len(plot.svg) < 400_000


def test_names_from_outside_are_text_in_the_figure_and_its_description():
    summary = pd.DataFrame(
        {"embedding": ['<b>"&$x_1$🧬', "b"], "mean": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan]}
    )
    plot = figures.intervals(summary, {"b": "floor"}, "ARI", "i")
    root = check_svg(plot, "i")
    assert '<b>"&$x_1$🧬 0.500' in root.get("aria-label")
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert '<b>"&$x_1$🧬' in texts
    assert "no value" in texts


def test_a_figure_repeats_itself_byte_for_byte():
    assert figures.scatter(points(50, ["a"]), "", "u") == figures.scatter(points(50, ["a"]), "", "u")
