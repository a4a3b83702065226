"""`bftembed genes resolve` as a user runs it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from bftembed.cli import app
from bftembed.errors import BftembedError

COLUMNS = ["name", "status", "entity", "symbol", "genes", "via", "candidates", "note"]


def shell(*arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "genes", "resolve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["genes", "resolve", *arguments])


def test_exit_codes_from_the_shell(tmp_path):
    done = shell("TP53,p53")
    assert (done.returncode, done.stderr) == (0, "")
    assert "p53   mapped  TP53  alias" in done.stdout
    unresolved = shell("TP53,ZZZ9Q", cwd=tmp_path)
    assert unresolved.returncode == 3
    assert "ZZZ9Q  missing" in unresolved.stdout
    missing = shell("genes.txt", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: No such file: genes.txt.")
    assert "Traceback" not in missing.stderr
    assert shell("TP53", "--kind", "lipid").returncode == 2
    assert shell().returncode == 2


def test_byte_that_is_no_text_does_not_break_the_output():
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "genes", "resolve"]
    for extra in ([], ["--json"]):
        done = subprocess.run([*command, b"TP53,A\xff", *extra], capture_output=True, check=False)
        assert done.returncode == 3, done.stderr
        assert b"udcff" in done.stdout


def test_used_names_are_counted_but_not_listed():
    result = invoke("TP53,EGFR,EGFR,,p53,QARS")
    assert result.exit_code == 3
    listed = [line.split()[0] for line in result.output.splitlines() if line][:3]
    assert listed == ["NAME", "QARS", "p53"]
    assert "EPRS1 or QARS1" in result.output
    assert "4 names: 2 used, 1 mapped, 1 ambiguous, 0 missing; 2 distinct" in result.output
    assert "dropped: 1 repeats of 1 names, 1 blank" in result.output
    assert "several names for one: TP53 (TP53, p53)" in result.output


def test_long_list_is_cut_with_a_hint(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"ZZQ{i}\n" for i in range(100)) + "1-Mar\nTBCE-1\n")
    result = invoke(str(path))
    lines = result.output.splitlines()
    assert "… and 62 more: --out FILE.tsv writes them all" in lines
    assert lines[1].startswith("1-Mar")
    assert lines[2].startswith("TBCE-1")


def test_control_characters_and_long_names_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\x1b[2J\x07evil\n" + "A" * 100_000 + "\n")
    result = invoke(str(path))
    assert result.exit_code == 3
    assert "\x1b" not in result.output
    assert r"\x1b[2J\x07evil" in result.output
    assert max(map(len, result.output.splitlines())) < 200


def test_json_is_one_object_with_counts_and_rows():
    result = invoke("TP53,p53,ZZZ9Q", "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["counts"]["total"] == 3
    assert (answer["counts"]["used"], answer["counts"]["mapped"], answer["counts"]["missing"]) == (1, 1, 1)
    assert [row["entity"] for row in answer["rows"]] == ["TP53", "TP53", "ZZZ9Q"]
    assert answer["hgnc"] == "33e392767eae"


def test_proteins_show_their_genes():
    result = invoke("CD3,CD45RA,IgG1", "--kind", "protein")
    assert result.exit_code == 3
    assert "CD3D,CD3E,CD3G  antibody" in result.output
    assert "isotype control" in result.output


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_every_row_is_written(tmp_path, suffix):
    source, out = tmp_path / "genes.txt", tmp_path / "new" / f"table.{suffix}"
    source.write_text('TP53\np53\nQARS\n"a, ""b\tc"\n')
    result = invoke(str(source), "--out", str(out))
    assert result.exit_code == 3
    assert f"written: {out}" in result.output
    if suffix == "parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    else:
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
    assert list(rows[0]) == COLUMNS
    assert [row["status"] for row in rows] == ["used", "mapped", "ambiguous", "missing"]
    assert rows[2]["candidates"] == "EPRS1,QARS1"
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_other_suffix_is_refused_and_nothing_is_written(tmp_path):
    result = invoke("TP53", "--out", str(tmp_path / "table.xlsx"))
    assert isinstance(result.exception, BftembedError)
    assert "not as '.xlsx'" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_list_itself_is_never_overwritten(tmp_path):
    path = tmp_path / "genes.tsv"
    path.write_text("gene\tscore\nTP53\t1\n")
    result = invoke(str(path), "--out", str(path))
    assert "would be overwritten" in str(result.exception)
    assert path.read_text() == "gene\tscore\nTP53\t1\n"


def test_column_of_a_table_and_of_cells(tmp_path, pbmc_path):
    path = tmp_path / "genes.csv"
    path.write_text("symbol,ensembl_id\nTP53,ENSG00000146648\n")
    result = invoke(str(path), "--column", "ensembl_id", "--json")
    assert (result.exit_code, json.loads(result.stdout)["rows"][0]["symbol"]) == (0, "EGFR")
    assert f"names from the column 'symbol' of {path}" in invoke(str(path), "--column", "symbol").output
    cells = json.loads(invoke(str(pbmc_path), "--json").stdout)["counts"]
    assert (cells["used"], cells["mapped"], cells["missing"]) == (700, 54, 11)
