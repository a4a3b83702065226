"""Gene-level results in short, as a figure and as a page: nothing is claimed that no interval says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from bftembed.reports.gene_map import draw_gene_map
from bftembed.results import Result, to_frame, write_results

from bftembed.errors import BftembedError
from bftembed.reports.genes import draw_gene_scores, gene_summary, is_gene_table, text_lines, write_gene_report
from bftembed.reports.genes_summary import kind_of

STRICT, GENEPT = "strict/logistic", "genept/logistic"
HOSTILE = "<script>alert('x')</script>"


def score(name, values, *, task="dosage", run="shared", protocol=STRICT, ends=(0.6, 0.9), metric="roc_auc", note=""):
    """Rows of one score; `values` is seed → values of the folds."""
    rows = [
        Result(run, name, task, protocol, metric, f"fold{i}", seed, value, 484, 6, note)
        for seed, folds in values.items()
        for i, value in enumerate(folds)
    ]
    splits = zip(("ci95-low", "ci95-high"), ends or (), strict=False)
    return rows + [Result(run, name, task, protocol, metric, s, None, v, 484, 6, note) for s, v in splits]


def above(name, values, *, task="dosage", run="shared", protocol=STRICT, floor="floor: text length"):
    splits = zip(("all", "ci95-low", "ci95-high"), values, strict=True)
    note = f"best floor: {floor}"
    return [Result(run, name, task, protocol, "roc_auc_above_floor", s, None, v, 484, 6, note) for s, v in splits]


def failure(name, task="dosage", note="Only 3 genes have a vector.", **more):
    return Result("shared", name, task, more.get("protocol", STRICT), "roc_auc", note=note, n_missing=490)


FOLDS = {0: [0.8, 0.9], 1: [0.7, 0.8]}
ROWS = [
    *score("good", FOLDS),
    *above("good", (0.1, 0.02, 0.2)),
    *score("good, label words masked", {0: [0.7, 0.8], 1: [0.7, 0.7]}, note="34 of 490 texts state the label"),
    *above("good, label words masked", (0.05, -0.02, 0.1)),
    *score("same", {0: [0.7, 0.8]}),
    *above("same", (0.0, -0.1, 0.1)),
    *score("bad", {0: [0.5, 0.6]}),
    *above("bad", (-0.2, -0.3, -0.1)),
    *score("alone", {0: [0.6, 0.65]}, ends=None),
    failure(HOSTILE),
    *score("floor: text length", {0: [0.75, 0.7]}),
    *score("floor: random vectors of good", {0: [0.5, 0.52]}),
    *score("ceiling: node propensity", {0: [0.97, 0.98]}),
]


def summary_of(rows):
    return gene_summary(to_frame(rows))


def by_name(rows):
    return summary_of(rows).set_index("embedding")


def test_means_and_deviations_are_those_of_folds_and_seeds():
    row = by_name(ROWS).loc["good"]
    assert row["mean"] == pytest.approx(0.8)
    assert row["sd"] == pytest.approx(np.std([0.85, 0.75], ddof=1))
    assert row["fold_sd"] == pytest.approx(np.std([0.8, 0.9, 0.7, 0.8]))
    assert (row["low"], row["high"], row["n_folds"], row["n_seeds"]) == (0.6, 0.9, 4, 2)
    assert (row["n_used"], row["n_missing"], row["n_failed"]) == (484, 6, 0)
    one = by_name(ROWS).loc["same"]
    assert math.isnan(one["sd"])
    assert one["fold_sd"] == pytest.approx(0.05)


def test_verdicts_hold_to_the_interval_of_the_difference():
    table = by_name(ROWS)
    assert table["verdict"].to_dict() == {
        "good": "above the floor",
        "good, label words masked": "not above the floor",
        "same": "not above the floor",
        "bad": "below the floor",
        "alone": "not compared",
        HOSTILE: "failed",
        "floor: text length": "floor",
        "floor: random vectors of good": "floor",
        "ceiling: node propensity": "ceiling",
    }
    assert table.loc["good", ["above_floor", "above_low", "above_high"]].tolist() == [0.1, 0.02, 0.2]
    # An end at 0 is not above it, and a difference without an interval says nothing.
    edge = by_name([*score("a", FOLDS), *above("a", (0.1, 0.0, 0.2))])
    assert edge.loc["a", "verdict"] == "not above the floor"
    point = by_name([*score("a", FOLDS), above("a", (0.1, 0.0, 0.2))[0]])
    assert point.loc["a", "verdict"] == "not compared"


def test_the_best_floor_is_the_one_that_the_note_names():
    rows = [
        *score("a", FOLDS),
        *above("a", (0.1, 0.0, 0.2), floor="floor: random vectors of a; 3 replicates left out"),
        *score("floor: random vectors", {0: [0.5]}),
        *score("floor: random vectors of a", {0: [0.6]}),
    ]
    assert by_name(rows).loc["a", "best_floor"] == "floor: random vectors of a"


def test_rows_come_in_the_order_of_reading():
    assert summary_of(ROWS)["embedding"].tolist() == [
        "good",
        "good, label words masked",
        "same",
        "alone",
        "bad",
        HOSTILE,
        "floor: text length",
        "floor: random vectors of good",
        "ceiling: node propensity",
    ]
    rows = [
        *score("floor: has a vector in a", FOLDS, run="all genes"),
        *score("a", FOLDS, run="own: a"),
        *score("a", FOLDS, task="zzz"),
        *score("a", FOLDS, task="ggi", protocol=GENEPT),
        *score("a", FOLDS, task="ggi", protocol="strict/mlp"),
        *score("a", FOLDS, task="ggi"),
        *score("a", FOLDS, task="tf-range"),
    ]
    keys = summary_of(rows)[["run", "task", "protocol"]].apply(tuple, axis=1).tolist()
    assert keys == [
        ("shared", "tf-range", STRICT),
        ("shared", "ggi", STRICT),
        ("shared", "ggi", "strict/mlp"),
        ("shared", "ggi", GENEPT),
        ("shared", "zzz", STRICT),
        ("own: a", "dosage", STRICT),
        ("all genes", "dosage", STRICT),
    ]


def test_one_failed_fold_is_counted_and_the_rest_is_scored():
    row = by_name(
        [*score("a", {0: [0.8, 0.6]}), Result("shared", "a", "dosage", STRICT, "roc_auc", "fold2", 0, note="x")]
    )
    assert (row.loc["a", "mean"], row.loc["a", "n_failed"]) == (pytest.approx(0.7), 1)
    assert "x" in row.loc["a", "note"]


def test_a_failure_before_any_probe_stands_under_every_probe():
    rows = [*score("a", FOLDS), *score("a", FOLDS, protocol="strict/mlp"), *score("a", FOLDS, protocol=GENEPT)]
    table = summary_of([*rows, failure("b", protocol="strict"), failure("b", task="ggi", protocol="genept")])
    failed = table[table["verdict"] == "failed"]
    assert failed[["task", "protocol"]].apply(tuple, axis=1).tolist() == [
        ("dosage", STRICT),
        ("dosage", "strict/mlp"),
        ("ggi", "genept"),
    ]
    assert set(failed["note"]) == {"Only 3 genes have a vector."}


STATED = [
    Result(
        "shared",
        "a",
        "dosage",
        STRICT,
        "label_stated_in_text",
        label,
        value=share,
        n_used=223,
        note="words found: dosage",
    )
    for label, share in (("negative", 0.01), ("positive", 0.25))
]


def test_the_share_of_texts_that_state_the_label_is_told_and_is_no_score(tmp_path):
    table = summary_of([*score("a", FOLDS), *STATED])
    assert table["metric"].tolist() == ["roc_auc"]
    told = "the text states the label: 25.0% of positive, 1.0% of negative, 223 checked; words found: dosage"
    assert table["stated"].tolist() == [told]
    assert text_lines(table)[-1] == f"a: {told}"
    assert f"a: {told}." in words(page(tmp_path, [*score("a", FOLDS), *STATED]))
    assert summary_of(score("a", FOLDS))["stated"].tolist() == [""]


def test_kinds_follow_the_names():
    assert kind_of("floor: symbol only") == "floor"
    assert kind_of("ceiling: x") == "ceiling"
    assert kind_of("a, without texts that state the label") == "leak"
    assert kind_of("my floor: not one") == "embedding"


def test_gene_tables_are_known_by_their_protocols():
    assert is_gene_table(to_frame(ROWS))
    assert not is_gene_table(to_frame([]))
    assert not is_gene_table(to_frame([*ROWS, Result("r", "e", "clustering", "kmeans", "ari", value=0.5)]))
    assert summary_of([Result("r", "e", "clustering", "kmeans", "ari", value=0.5)]).empty


def test_the_terminal_gets_aligned_tables():
    lines = text_lines(summary_of([*ROWS, *score("e\x1b[31m", {2023: [0.7, 0.8]}, task="ggi", protocol=GENEPT)]))
    assert lines[0] == "dosage · strict/logistic · shared (± over seeds)"
    header, *rows = lines[1 : lines.index("")]
    assert rows.pop() == f"{HOSTILE} failed: Only 3 genes have a vector."
    assert len(rows) == 9
    at = header.index("95 % interval")
    assert rows[0][at:].startswith("0.600 to 0.900  +0.100 (+0.020 to +0.200)  above the floor")
    assert "  good, label words masked 0.725 ± 0.035 0.600 to 0.900" in re.sub(r"(?<=\S) +", " ", rows[1])
    assert "not above the floor" in rows[1]
    assert "failed" in rows[5]
    assert lines[lines.index("") + 1] == "ggi · genept/logistic · shared (± over folds)"
    assert all(line.isprintable() for line in lines)
    assert text_lines(summary_of([])) == []


def picture(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


@pytest.mark.parametrize("n_tasks", [1, 2, 9])
def test_the_figure_has_a_panel_per_task(tmp_path, n_tasks):
    tasks = [f"task {i}" for i in range(n_tasks)]
    rows = [r for t in tasks for r in (*score("a", FOLDS, task=t), *above("a", (0.1, 0.02, 0.2), task=t))]
    rows += [r for t in tasks for i in range(13) for r in score(f"floor: {i} {'long ' * i}", {0: [0.5]}, task=t)]
    draw_gene_scores(tmp_path / "a.png", summary_of(rows), "Title $x$")
    image = picture(tmp_path / "a.png")
    columns = {1: 1, 2: 2, 9: 3}[n_tasks]
    assert image.shape[1] == pytest.approx(4.6 * 150 * columns, abs=2)
    assert image.shape[0] > 3.5 * 150 * (n_tasks / columns)
    violet = np.abs(image - np.array([0x90, 0x1A, 0xFD]) / 255).max(axis=-1) < 0.02
    assert violet.sum() > 60 * n_tasks
    # Nothing runs out of the picture: its edge is white.
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge > 0.98).all()


def test_failures_and_every_kind_of_row_are_drawn_as_svg_too(tmp_path):
    draw_gene_scores(tmp_path / "a.SVG", summary_of(ROWS))
    text = (tmp_path / "a.SVG").read_text(encoding="utf-8")
    ET.fromstring(text)
    draw_gene_scores(tmp_path / "b.svg", summary_of(ROWS))
    assert (tmp_path / "b.svg").read_text(encoding="utf-8") == text
    draw_gene_scores(tmp_path / "c.png", summary_of([failure("a"), failure("b", task="ggi")]))
    assert (picture(tmp_path / "c.png") < 0.5).any()


def test_figures_refuse_other_suffixes_and_nothing_to_draw(tmp_path):
    with pytest.raises(BftembedError, match=r"\.png or \.svg, not as '\.pdf'"):
        draw_gene_scores(tmp_path / "a.pdf", summary_of(ROWS))
    with pytest.raises(BftembedError, match="no scores to draw"):
        draw_gene_scores(tmp_path / "a.png", summary_of([]))
    assert not list(tmp_path.iterdir())


GENEPT_ROWS = [
    *score("good", {2023: [0.85, 0.87]}, protocol=GENEPT),
    *score("good", {2023: [0.7, 0.7]}, protocol=GENEPT, task="my task"),
    *score("floor: text length", {2023: [0.84, 0.84]}, protocol=GENEPT),
]


def page(tmp_path, rows, **options):
    write_results(to_frame(rows), tmp_path / "r.parquet")
    assert write_gene_report(tmp_path / "r.parquet", tmp_path / "r.html", **options) == tmp_path / "r.html"
    return (tmp_path / "r.html").read_text(encoding="utf-8")


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<(style|svg).*?</\1>", "", html, flags=re.S)))


def test_the_page_tells_scores_floors_leaks_and_failures(tmp_path):
    html = page(tmp_path, ROWS, title="Genes & co")
    told = words(html)
    assert "<title>Genes &amp; co</title>" in html
    assert (
        "Under strict/logistic, 1 of 4 scores of embeddings are above the best floor; 1 more without a value." in told
    )
    assert "0.800 ± 0.071 0.600 to 0.900 +0.100 +0.020 to +0.200 above the floor 484 6 missing" in told
    assert "best floor: text length" in told
    assert "good, label words masked 34 of 490 texts state the label 0.725 ± 0.035" in told
    assert "Does the text state the label?" in told
    assert "−0.075" in told  # what masking changed
    assert "strict/logistic (shared; 1 row): Only 3 genes have a vector." in told
    assert "ceiling: node propensity" in told
    assert html.count("<svg role") == 1
    assert "Overview of" not in html  # one task needs none


def test_names_from_outside_are_text_and_there_is_no_script(tmp_path):
    html = page(tmp_path, ROWS)
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert "javascript:" not in html
    assert "http://www.w3.org/2000/svg" in html
    assert not re.search(r"(src|href)=\"(?!#|data:)", html)


def test_published_numbers_stand_apart_and_only_beside_the_same_task(tmp_path):
    html = page(tmp_path, [*ROWS, *GENEPT_ROWS])
    section = words(html[html.index('<section id="published">') : html.index('<section id="failures">')])
    assert "other people's numbers, on other data and from other models" in section.replace("&#39;", "'")
    assert "source and embedding dosage scGPT" in section
    assert "0.889 ± 0.030" in section
    assert "random forest" not in section  # no forest was run here
    assert "good this run, genept/logistic 0.860 ± 0.010" in section
    assert "floor: text length this run, genept/logistic 0.840" in section
    assert "my task" not in section
    assert "Beside published numbers" not in words(
        html[html.index('<section id="run0">') : html.index('<section id="pub')]
    )


def test_without_genept_nothing_is_set_beside_the_paper(tmp_path):
    html = page(tmp_path, ROWS)
    section = words(html[html.index('<section id="published">') :])
    assert "so nothing is set beside them" in section
    assert "scGPT" not in section


def test_several_runs_and_tasks_have_an_overview_and_ids_of_their_own(tmp_path):
    rows = [*ROWS, *score("good", FOLDS, task="ggi"), *score("good", FOLDS, run="own: good"), failure("x", task="ppi")]
    html = page(tmp_path, rows)
    assert html.count("Overview of") == 1
    assert "good, on all genes that it has" in words(html)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_page_of_floors_or_failures_alone_is_written(tmp_path):
    assert "No embedding was scored" in words(page(tmp_path, score("floor: symbol only", FOLDS)))
    assert "no value" in words(page(tmp_path, [failure("a"), failure("b", task="ggi")]))


def test_a_run_record_beside_the_results_is_shown(tmp_path):
    from bftembed.runrecord import RunRecord, Umap

    umap = Umap(title="Genes", x=(0, 1, 2), y=(0, 1, 0), label=("kinase", "kinase", "other"))
    RunRecord(title="Recorded", description=("What was done.",), umaps=(umap,), notes=("A note.",)).save(tmp_path)
    html = page(tmp_path, ROWS)
    assert "<title>Recorded</title>" in html
    assert "What was done." in html
    assert "A note." in html
    assert html.count("<svg role") == 2


def test_other_results_are_refused_and_an_older_page_is_kept(tmp_path):
    page(tmp_path, ROWS)
    before = (tmp_path / "r.html").read_bytes()
    write_results([Result("r", "e", "clustering", "kmeans", "ari", value=0.5)], tmp_path / "c.parquet")
    with pytest.raises(BftembedError, match="not all rows are of gene-level tasks"):
        write_gene_report([tmp_path / "r.parquet", tmp_path / "c.parquet"], tmp_path / "r.html")
    with pytest.raises(BftembedError, match="itself and would be overwritten"):
        write_gene_report(tmp_path / "r.parquet", tmp_path / "r.parquet")
    assert (tmp_path / "r.html").read_bytes() == before


def test_the_report_command_picks_the_page_by_the_table(tmp_path):
    from bftembed.cli import run

    write_results(to_frame(ROWS), tmp_path / "r.parquet")
    assert run(["report", str(tmp_path / "r.parquet"), "--out", str(tmp_path / "r.html")]) == 0
    assert "Beside published numbers" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_map_has_a_colour_per_class_and_grey_for_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    labels = ["kinase"] * 50 + ["other"] * 30 + [""] * 10 + ["$a_b$ <b>"] * 10
    draw_gene_map(tmp_path / "a.png", rng.normal(size=(100, 2)), labels, "Map")
    image = picture(tmp_path / "a.png")
    assert image.shape == (870, 1260, 3)
    for colour in ((0x78, 0x7E, 0xE5), (0xEC, 0x93, 0x71), (0x8A, 0x8A, 0x8A)):
        assert (np.abs(image - np.array(colour) / 255).max(axis=-1) < 0.02).sum() > 20
    draw_gene_map(tmp_path / "a.svg", rng.normal(size=(100, 2)), labels)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "<image" not in text


def test_many_classes_share_the_grey_and_large_maps_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    draw_gene_map(tmp_path / "a.svg", rng.normal(size=(8000, 2)), [f"class {i % 40:02d}" for i in range(8000)])
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<image" in text
    assert len(text) < 1_000_000
    assert "other, and 27 more classes (5,400)" in text


@pytest.mark.parametrize(
    ("coordinates", "labels", "message"),
    [
        (np.zeros((0, 2)), [], "needs coordinates"),
        (np.zeros((3, 3)), ["a"] * 3, "needs coordinates"),
        (np.zeros((3, 2)), ["a"], "1 labels"),
        ([[0, 0], [np.nan, 1]], ["a", "b"], "1 of 2 coordinates are not finite"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, coordinates, labels, message):
    with pytest.raises(BftembedError, match=message):
        draw_gene_map(tmp_path / "a.png", coordinates, labels)
    assert not list(tmp_path.iterdir())
