#!/usr/bin/env bash
# Export simulated perturbations, train the real STATE on them and let it predict, and check what comes out.
# Usage: state_check.sh PYTHON [FOLDER]
# PYTHON has bftembed. FOLDER keeps the environment (venv) and what was made (check), without one they are removed at the
# end. STATE_PYTHON=… is the python of an environment with arc-state; without it, PYTHON (3.11 or 3.12) makes one.
set -euo pipefail
python="$1"
repository="$(cd "$(dirname "$0")/../.." && pwd)"
place="${2:-}"
if [ -z "$place" ]; then
  place="$(mktemp -d)"
  trap 'rm -rf "$place"' EXIT
fi
mkdir -p "$place"
place="$(cd "$place" && pwd)"

state_python="${STATE_PYTHON:-$place/venv/bin/python}"
if [ -z "${STATE_PYTHON:-}" ] && [ ! -x "$place/venv/bin/state" ]; then
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
    || { echo "arc-state needs Python 3.11 or 3.12; name an environment that has it: STATE_PYTHON=…" >&2; exit 1; }
  echo "making an environment with arc-state (CC BY-NC-SA 4.0), 2.5 GB"
  "$python" -m venv "$place/venv"
  pip=("$place/venv/bin/python" -m pip --quiet --disable-pip-version-check)
  # torch comes first and pinned: otherwise pip may choose a build with gigabytes of CUDA libraries.
  "${pip[@]}" install torch==2.13.0
  "${pip[@]}" install torch==2.13.0 arc-state==0.11.1
fi
[ -x "$(dirname "$state_python")/state" ] || { echo "there is no program 'state' beside $state_python" >&2; exit 1; }
programs="$(cd "$(dirname "$state_python")" && pwd)"

place="$place/check"
rm -rf "$place"
mkdir -p "$place/logs"
cd "$place"
# One thread: on a model so small two of them wait for each other, three times as long.
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=""
bftembed="$(dirname "$python")/bftembed"
with_state() { PATH="$programs:$PATH" bash "$@"; }
fail() { echo "FAILED: $1" >&2; tail -n 30 "$2" >&2; exit 1; }

"$python" "$repository/tests/manual/state_screen.py" "$place"
"$bftembed" export state screen/*.h5ad --genes genes.safetensors --out export --hvg 150 \
  --holdout-cell-types jurkat --val-cell-types rpe1 >logs/export.log 2>&1 \
  || fail "bftembed export state" logs/export.log
"$bftembed" export check export || { echo "FAILED: bftembed export check" >&2; exit 1; }

# A model that trains in seconds; everything else is as train.sh says.
backbone=model.kwargs.transformer_backbone_kwargs
tiny=(
  model.kwargs.cell_set_len=16 model.kwargs.hidden_dim=64 $backbone.intermediate_size=128 $backbone.num_hidden_layers=2
  $backbone.num_attention_heads=4 $backbone.num_key_value_heads=4 $backbone.head_dim=16
  training.batch_size=4 training.lr=0.001
)
steps=200
printf '%s\n' "${tiny[@]}" >overrides.txt
for question in zeroshot_celltype unseen_gene; do
  for embed_key in X_bft X_hvg; do
    for features in text onehot; do
      run="$question-$embed_key-$features"
      log="logs/$run.train.log"
      start=$(date +%s.%N)
      with_state export/train.sh "$question" "$embed_key" "$features" "${tiny[@]}" training.val_freq=100 \
        training.max_steps=$steps >"$log" 2>&1 || fail "$run: train.sh" "$log"
      trained=$(date +%s.%N)
      log="logs/$run.predict.log"
      "$programs/state" tx predict --output-dir "export/runs/$run" --checkpoint final.ckpt --profile full >"$log" 2>&1 \
        || fail "$run: state tx predict" "$log"
      predicted=$(date +%s.%N)
      printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$run" "$question" "$embed_key" "$features" $steps \
        "$(echo "$trained $start" | awk '{print $1 - $2}')" "$(echo "$predicted $trained" | awk '{print $1 - $2}')" \
        >>times.tsv
      echo "$run: $steps steps and predictions, exit code 0"
    done
  done
done

# Our own bench, beside its baselines.
for question in zeroshot_celltype unseen_gene; do
  "$bftembed" bench perturbation export/cells/*.h5ad --genes text=genes.safetensors --seeds 1 --out "$question.parquet" \
    --state "export/runs/$question-X_bft-text/eval_final.ckpt/adata_pred.h5ad" >"logs/$question.bench.log" 2>&1 \
    || fail "bench perturbation --state" "logs/$question.bench.log"
done

# The same export with one vector missing: cell-load fills in zeros and does not say which, `export check` does.
missing="$("$python" "$repository/tests/manual/state_compare.py" break export broken)"
"$bftembed" export check broken >logs/broken.check.log 2>&1 && refused=0 || refused=$?
[ "$refused" = 3 ] || fail "export check of a missing vector: exit code $refused, not 3" logs/broken.check.log
log=logs/broken.train.log
with_state broken/train.sh unseen_gene X_bft text "${tiny[@]}" training.val_freq=1 training.max_steps=1 >"$log" 2>&1 \
  || fail "train.sh with a missing vector" "$log"
echo "without the vector of $missing: export check refuses, STATE trains"

"$programs/$(basename "$state_python")" "$repository/tests/manual/state_loaded.py" export/runs/* broken/runs/* \
  >loaded.json 2>logs/loaded.log || fail "state_loaded.py" logs/loaded.log
"$python" "$repository/tests/manual/state_compare.py" compare "$place" "$repository/benchmarks/results/state.json"
echo "check-state: done"
