#!/usr/bin/env bash
# Check, time and profile everything on a GPU, in pieces: resumable, under nine minutes a call.
#
#   benchmarks/gpu_all.sh [FOLDER]     marks, logs and results; by default .cache/gpu. With OUT=... all goes there too.
#   LIMIT_S=520 PYTHON=python3.12 WHEELS=wheels OUT=... benchmarks/gpu_all.sh
#   DRY_RUN=1 benchmarks/gpu_all.sh    anywhere: sees that every piece's files and options are there
#
# Pieces go in the order of their worth: is it right, how fast, why, and what would be faster. Each has a limit of its
# own; one that fails or takes too long keeps its log, and the next one runs. A piece that is done is passed over by
# the next call (remove its .done file to run it again); status.tsv tells what became of each. WHEELS is a folder of
# wheels to install from, for a machine without a network; nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."

FOLDER=${1:-.cache/gpu}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
LIMIT_S=${LIMIT_S:-520}
DRY_RUN=${DRY_RUN:-}
OUT=${OUT:-$FOLDER/out}
# The least that is worth beginning a piece with.
LEAST_S=15
mkdir -p "$FOLDER" "$OUT"
FOLDER=$(cd "$FOLDER" && pwd) OUT=$(cd "$OUT" && pwd)
# What is compiled once is there for the next call.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$FOLDER/triton-cache}
[ -n "$DRY_RUN" ] || export TRITON_INTERPRET=0
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1
if [ -n "${WHEELS:-}" ]; then
  export PYTHONPATH=$PYTHONPATH:$FOLDER/site
  [ -d "$FOLDER/site" ] || "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$FOLDER/site" "$WHEELS"/*.whl
fi
[ -n "$DRY_RUN" ] || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
  echo "$PYTHON has no torch that sees a GPU: name one with PYTHON=..." >&2
  exit 1
}
: > "$OUT/status.tsv"
failed=0
trap 'kill -KILL -- -$! 2> /dev/null; exit 130' INT TERM

# piece NAME LIMIT_S COMMAND...: runs unless it is done, for so long at most, and notes what became of it.
piece() {
  local name=$1 limit_s=$2 left_s=$((LIMIT_S - SECONDS)) began_s=$SECONDS outcome
  shift 2
  if [ -e "$FOLDER/$name.done" ]; then
    outcome="done before"
  elif [ -z "$DRY_RUN" ] && [ "$left_s" -lt "$LEAST_S" ]; then
    outcome="not begun"
    failed=1
  else
    timeout -k 5 $((left_s < limit_s ? (left_s > 1 ? left_s : 1) : limit_s)) "$@" > "$FOLDER/$name.log" 2>&1 &
    if wait $!; then
      outcome=passed
      [ -n "$DRY_RUN" ] || touch "$FOLDER/$name.done"
    else
      outcome="failed with status $?"
      failed=1
      tail -n 15 "$FOLDER/$name.log"
    fi
    # A server that it left would hold the card's memory; `timeout` leads a process group of its own.
    kill -KILL -- -$! 2> /dev/null
  fi
  echo "-- $name: $outcome, $((SECONDS - began_s)) s"
  printf '%s\t%s\t%s\n' "$name" "$outcome" "$((SECONDS - began_s))" >> "$OUT/status.tsv"
  [ ! -e "$FOLDER/$name.log" ] || cp "$FOLDER/$name.log" "$OUT/"
  cp "$FOLDER"/*.json "$OUT/" 2> /dev/null
  return 0
}
# In a dry run a script loads all that it needs and reads its options, and no more.
READ_OPTIONS='
import argparse, runpy, sys
read = argparse.ArgumentParser.parse_args
def stop(*given):
    read(*given)
    sys.exit(0)
argparse.ArgumentParser.parse_args = stop
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'
# checks NAME LIMIT_S TESTS...: tests of ours, on the card this time and not in the interpreter.
checks() {
  local name=$1 limit_s=$2
  shift 2
  piece "$name" "$limit_s" "$PYTHON" -m pytest -q -p no:cacheprovider ${DRY_RUN:+--collect-only} "$@"
}
# script NAME LIMIT_S SCRIPT OPTIONS...: one of the scripts here, with its result in FOLDER.
script() {
  local name=$1 limit_s=$2 file=benchmarks/$3
  shift 3
  piece "$name" "$limit_s" "$PYTHON" ${DRY_RUN:+-c "$READ_OPTIONS"} "$file" "$@" --save "$FOLDER/$name.json"
}

piece doctor 60 "$PYTHON" -m stentor doctor ${DRY_RUN:+--help}
# Right? What is captured is what runs plainly; then what no interpreter shows: races of the split sums.
checks engine-tests 150 tests/engine/test_gpu.py tests/models/higgs_audio_codec/test_gpu.py
# Never run yet: a nested model, its decoder.
checks nested-tests 90 tests/layers/triton/test_fused.py tests/models/qwen3_codec/test_vocoder.py -k "nested or gpu"
checks order-tests 90 tests/layers/triton/test_products.py tests/layers/triton/test_sampling.py tests/layers/triton/test_arrivals.py
# How fast? The tiles that are found are used by what comes behind them; of float8 none are known for a lone row.
script tiles-fp8 90 tile_sweep.py --quantization fp8 --rows 1 --seconds 25 --jobs 12 --write
script roofline-fp8 60 roofline.py --real-shape --batch 1,8,64,256 --quantization fp8
script roofline 150 roofline.py --real-shape --batch 1,2,4,8,16,32,64,128,256
script latency 150 latency.py --real-shape --concurrency 1,16,64 --requests 3
script throughput-http 240 throughput.py --real-shape --only http --concurrency 1,16,64,256 --requests 2
script vocoder 240 vocoder.py --real-shape
# Why?
script profile 90 kernel_profile.py --real-shape --batch 1,64
checks kernel-tests 150 tests/layers/triton tests/layers/attention tests/layers/test_kernels.py --deselect tests/layers/triton/test_compiled.py
script kernels 200 gpu_kernels.py
# What would be faster?
script tiles 150 tile_sweep.py --seconds 80 --jobs 12 --write
script roofline-library 120 roofline.py --real-shape --batch 1,2,4,8,16 --own-product-rows 0
script latency-beside-off 150 latency.py --real-shape --concurrency 64 --requests 3 --beside-engine off
script throughput-engine 200 throughput.py --real-shape --only engine --concurrency 1,16,64,256 --requests 2
piece quantization 120 "$PYTHON" ${DRY_RUN:+-c "$READ_OPTIONS"} benchmarks/quantization.py --texts 4
cp stentor/layers/triton/tiles.json "$OUT/"
exit $failed
