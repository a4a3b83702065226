#!/usr/bin/env bash
# Install the wheel beside the newest anndata, pandas and scanpy; none of their versions may change, and the main job runs.
# Usage: wheel_newest.sh BUILD_PYTHON PYTHON…
set -euo pipefail
build="$1"
shift
repository="$(cd "$(dirname "$0")/../.." && pwd)"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT

"$build" -m build --wheel --no-isolation --outdir "$place/dist" "$repository" >"$place/build.log" 2>&1 \
  || { cat "$place/build.log"; exit 1; }
for python in "$@"; do
  venv="$place/venv-$("$python" -c 'import sys; print(*sys.version_info[:2], sep=".")')"
  "$python" -m venv "$venv"
  pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" -c "$repository/constraints-newest.txt" anndata pandas scanpy
  "$venv/bin/python" -m pip freeze >"$venv/before"
  "${pip[@]}" "$place"/dist/*.whl
  "$venv/bin/python" -m pip freeze >"$venv/after"
  test -z "$(comm -23 <(sort "$venv/before") <(sort "$venv/after"))" || { diff "$venv/before" "$venv/after"; exit 1; }

  mkdir "$venv/job"
  cd "$venv/job"
  run="$venv/bin/bftembed"
  "$run" profiles generate builtin:pbmc68k_reduced --generator facts --out profiles || test $? -eq 3
  "$run" genes embed profiles --encoder tfidf --out genes.safetensors
  "$run" cells embed builtin:pbmc68k_reduced --use-raw --genes genes.safetensors --out cells.h5ad
  "$run" bench clustering cells.h5ad --keys X_bft,X_pca --label bulk_labels --protocol standard --baselines random:2 \
    --use-raw --out results.parquet
  "$run" report results.parquet --out report.html
  "$venv/bin/python" - <<'PY'
import importlib.metadata
import sys

import bftembed
from bftembed.tasks.base import read_results

assert "site-packages" in bftembed.__file__, bftembed.__file__
results = read_results("results.parquet")
assert results.loc[results["subject"] == "X_bft", "value"].notna().any()
versions = [f"{name} {importlib.metadata.version(name)}" for name in ("anndata", "pandas", "scanpy", "numpy", "zarr")]
print("wheel on Python", sys.version.split()[0], *versions, sep=", ")
PY
done
