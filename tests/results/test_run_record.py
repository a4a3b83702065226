from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bftembed.errors import BftembedError
from bftembed.runrecord import EmbeddingNote, ExampleProfile, RunRecord, Step, Umap, read_points, write_points

RECORD = RunRecord(
    title="A run",
    steps=(Step(name="embed", call="bftembed genes embed", seconds=1.5),),
    profiles=(ExampleProfile(entity="CD3D", text="half a pair \ud83e, 中文 🧬"),),
    embeddings=(EmbeddingNote(name="X_random", kind="floor"),),
    settings={"genes": 40, "nested": {"a": [1, 2]}},
)


def test_a_record_survives_the_file(tmp_path):
    path = RECORD.save(tmp_path)
    assert path == tmp_path / "run.json"
    loaded = RunRecord.load(tmp_path)
    assert loaded.profiles[0].text == "half a pair ?, 中文 🧬"
    assert loaded.model_copy(update={"profiles": ()}) == RECORD.model_copy(update={"profiles": ()})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "the file"),
        ('{"schema_version": 99}', "newer bftembed"),
        ('{"titel": "x"}', "titel"),
        ('{"steps": [{"seconds": 1}]}', r"steps\.0\.name"),
        ('{"embeddings": [{"name": "x", "kind": "best"}]}', r"embeddings\.0\.kind"),
        ('{"umaps": [{"title": "x", "path": "../secret.parquet"}]}', r"umaps\.0\.path.*in the folder"),
        ('{"umaps": [{"title": "x", "path": "/etc/passwd"}]}', r"umaps\.0\.path"),
    ],
)
def test_a_record_that_cannot_be_read_names_file_and_field(tmp_path, text, reason):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BftembedError, match=f"run.json.*{reason}"):
        RunRecord.load(tmp_path)


def test_a_missing_record_is_said_so(tmp_path):
    with pytest.raises(BftembedError, match=r"run\.json.*No such file"):
        RunRecord.load(tmp_path / "run.json")


def test_points_survive_the_file_and_points_without_a_place_are_dropped(tmp_path):
    write_points(np.array([[0, 1], [2, 3], [np.nan, 0]]), ["a", "b", "c"], tmp_path / "p.parquet")
    points = read_points(Umap(title="t", path="p.parquet"), tmp_path)
    assert points.to_dict("list") == {"x": [0.0, 2.0], "y": [1.0, 3.0], "label": ["a", "b"]}
    inline = read_points(Umap(title="t", x=(1,), y=(2,)), tmp_path)
    assert inline.to_dict("list") == {"x": [1.0], "y": [2.0], "label": [""]}


def test_points_that_cannot_be_read_are_said_so(tmp_path):
    (tmp_path / "bad.parquet").write_text("no")
    pd.DataFrame({"x": ["1", "a"], "y": [1.0, 2.0], "label": ["", ""]}).to_parquet(tmp_path / "text.parquet")
    pd.DataFrame({"x": [[1.0]], "y": [1.0], "label": [""]}).to_parquet(tmp_path / "lists.parquet")
    for umap, reason in [
        (Umap(title="t", path="gone.parquet"), "gone.parquet is not in the folder"),
        (Umap(title="t", path="bad.parquet"), "bad.parquet is damaged"),
        (Umap(title="t", path="text.parquet"), r"text.parquet is damaged.*x and y \(numbers\)"),
        (Umap(title="t", path="lists.parquet"), "lists.parquet is damaged"),
        (Umap(title="t", x=(1,), y=()), "1 x, 0 y"),
    ]:
        with pytest.raises(BftembedError, match=reason):
            read_points(umap, tmp_path)
    with pytest.raises(BftembedError, match="labels"):
        write_points(np.zeros((2, 2)), ["a"], tmp_path / "q.parquet")


def test_the_file_is_plain_json(tmp_path):
    raw = json.loads(RECORD.save(tmp_path / "elsewhere.json").read_text(encoding="utf-8"))
    assert raw["schema_version"] == 1
    assert raw["settings"] == {"genes": 40, "nested": {"a": [1, 2]}}
