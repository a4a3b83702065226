"""The report of results of any mix of tasks."""

from __future__ import annotations

import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.report.manifest import Manifest
from bftembed.tasks.base import Result, report, write_results

MIX = [
    Result("pbmc/type", "X", "clustering", "standard", "ari", value=0.5, low=0.4, high=0.6, n=9),
    Result("pbmc/type/batch", "X", "integration", "current", "total", value=0.6, n=9),
    Result("shared", "X", "dosage", "strict/logistic", "roc_auc", value=0.7, low=0.6, high=0.8, n=9),
    Result("screen", "X", "perturbation", "unseen-gene", "pds_l1", value=0.8, n=9),
    Result("cite", "X", "matching", "euclidean", "foscttm", value=0.3, n=9),
    Result("other", "X", "of another program", "", "score", value=3.0, n=9),
]


@pytest.mark.parametrize("suffix", ["html", "png", "svg", "csv", "tex", "md"])
def test_results_of_all_tasks_stand_in_one_file(tmp_path, suffix):
    write_results(MIX[:3], tmp_path / "a.parquet")
    write_results(MIX[3:], tmp_path / "b.parquet")
    Manifest(title="All of it").save(tmp_path)
    out = report([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / f"r.{suffix}")
    assert out.stat().st_size > 300
    if suffix in ("html", "md"):
        text = out.read_text()
        assert all(value in text for value in ("0.500", "0.600", "0.700", "0.800", "0.300", "3.000"))


def test_an_input_is_never_the_output_and_a_suffix_is_known(tmp_path):
    write_results(MIX, tmp_path / "a.parquet")
    with pytest.raises(UnknownNameError):
        report(tmp_path / "a.parquet", tmp_path / "r.docx")
    Manifest(title="x").save(tmp_path / "run.json")
    with pytest.raises(BftembedError):
        report(tmp_path / "a.parquet", tmp_path / "a.parquet")
    with pytest.raises(BftembedError):
        report(tmp_path / "none.parquet", tmp_path / "r.html")
