"""The table of scIB: on the terminal, as a picture, and beside the paper's."""

from __future__ import annotations

import math
import struct
import xml.etree.ElementTree as ET

import pytest

from bftembed.errors import BftembedError
from bftembed.reports.integration import (
    BATCH,
    BIO,
    NAMES,
    footnotes,
    integration_summary,
    text_lines,
)
from bftembed.reports.integration_figure import draw_integration, table_svgs
from bftembed.results import Result, to_frame
from bftembed.tasks.integration import PROFILES

NMI, ARI = "nmi_ari_cluster_labels_kmeans_nmi", "nmi_ari_cluster_labels_kmeans_ari"


def rows(embedding, level, *, profile="paper", without=(), run="cells/kind/lot", told=""):
    made = []
    for metric in (*PROFILES[profile].bio, *PROFILES[profile].batch, "bio_conservation", "batch_correction", "total"):
        for seed in (0, 1) if metric in (NMI, ARI) else (None,):
            value = math.nan if metric in without else level + (seed or 0) * 0.02
            note = "undefined: too few" if metric in without else "bftembed 0"
            note += f"; {told}" if told else ""
            made.append(
                Result(run, embedding, "integration", profile, metric, seed=seed, value=value, n_used=9, note=note)
            )
    return made


def frame(*parts):
    return to_frame([row for part in parts for row in part])


def test_every_metric_of_every_profile_has_a_short_name():
    for profile in PROFILES.values():
        assert set(profile.bio) <= set(BIO)
        assert set(profile.batch) <= set(BATCH)
    assert len(set(NAMES.values())) == len(NAMES)


def test_the_summary_has_a_row_per_embedding_the_best_total_first():
    found = frame(rows("low", 0.2), rows("high", 0.7), rows("none", 0.5, without=("total", "ilisi_knn")))
    summary = integration_summary(found)
    assert summary["embedding"].tolist() == ["high", "low", "none"]
    high = summary.iloc[0]
    assert high[NMI] == pytest.approx(0.71)
    assert high["sd"] == pytest.approx(0.02 / math.sqrt(2))
    assert (high["n_seeds"], high["lacking"], high["reasons"]) == (2, "", "")
    assert (summary.iloc[2]["lacking"], summary.iloc[2]["reasons"]) == ("iLISI", "iLISI: too few")
    assert [c for c in summary if c in NAMES][:5] == [m for m in BIO if m in PROFILES["paper"].bio]


def test_the_terminal_table_lines_up_and_says_what_is_missing():
    told = "3 cells left out: 3 without a batch"
    found = frame(
        rows("a", 0.4, profile="current", told=told), rows("b\x1b[2J", 0.6, profile="current", without=["bras"])
    )
    lines = text_lines(integration_summary(found))
    assert lines[0] == "cells/kind/lot · profile current · 9 cells"
    table = lines[1:5]
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in table}) == 1
    assert table[2].startswith("b\\x1b[2J*")
    assert "–" in table[2]
    assert lines[5:] == [
        "Total: 0.6 bio conservation + 0.4 batch correction, the means of the metrics that have a value.",
        "KMeans: mean of 2 seeds; standard deviation at most 0.014.",
        "* b\\x1b[2J without BRAS: too few.",
        "3 cells left out: 3 without a batch.",
    ]


def test_one_reason_of_all_is_told_once():
    found = frame(*(rows(name, 0.5, without=["kbet_per_label"]) for name in "ab"))
    assert "* all without KBET: too few." in footnotes(integration_summary(found))


def test_table_2_stands_below_under_its_profile_alone():
    lines = text_lines(integration_summary(frame(rows("a", 0.4), rows("b", 0.5, profile="current"))))
    at = next(i for i, line in enumerate(lines) if line.startswith("Table 2 of the BFT paper"))
    first = [line.split()[0] for line in lines[at + 3 : at + 7]]
    assert first == ["scMODAL", "BFT", "Harmony", "BBKNN"]
    assert lines[at + 3].split()[-3:] == ["0.62", "0.67", "0.65"]
    assert lines[at + 3].count("–") == 4
    assert sum(line.startswith("Table 2") for line in lines) == 1


@pytest.mark.parametrize("suffix", [".png", ".svg", ".SVG"])
def test_the_picture_is_drawn_the_same_each_time(tmp_path, suffix):
    summary = integration_summary(frame(rows("a $x$ & <b>", 0.4, without=["pcr_comparison"]), rows("b" * 80, -0.01)))
    written = []
    for name in ("one", "two"):
        draw_integration(tmp_path / f"{name}{suffix}", summary, "A title")
        written.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert written[0] == written[1]
    if suffix == ".png":
        width, height = struct.unpack(">II", written[0][16:24])
        assert width > height > 300
    else:
        ET.fromstring(written[0])


def test_the_page_s_picture_names_metrics_paper_and_totals():
    summary = integration_summary(frame(rows("a", 0.4), rows("b", 0.5, profile="current")))
    two = table_svgs(summary, "r0")
    assert len(two) == 2
    assert "scMODAL" not in two[0]
    assert "scMODAL" in two[1]
    assert "Total: a 0.400" in two[1]
    for svg in two:
        ET.fromstring(svg)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    summary = integration_summary(frame(rows("a", 0.4)))
    with pytest.raises(BftembedError, match=r"\.png or \.svg"):
        draw_integration(tmp_path / "t.pdf", summary)
    with pytest.raises(BftembedError, match="no row of the integration task"):
        draw_integration(tmp_path / "t.png", summary[:0])
    assert not list(tmp_path.iterdir())
