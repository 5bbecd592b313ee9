#!/usr/bin/env bash
# Build, check and time everything on a GPU, in pieces: resumable, under nine minutes a call.
#
#   benchmarks/gpu_all.sh [FOLDER]     results, logs and marks; by default benchmarks/results/gpu
#   PYTHON=python3.12 LIMIT_S=300 benchmarks/gpu_all.sh
#
# A piece that is done is passed over by the next call; remove its .done file to run it again. A piece that fails
# keeps its log and does not stop the others. Needs a Python that imports torch with CUDA, and what `pyproject.toml`
# lists; nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."

FOLDER=${1:-benchmarks/results/gpu}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
LIMIT_S=${LIMIT_S:-520}
# What is compiled once is there for the next call.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/$FOLDER/triton-cache}
export PYTHONPATH=$PWD OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
mkdir -p "$FOLDER"

# piece NAME SECONDS COMMAND...: runs once, if so much time is left.
failed=0
piece() {
  local name=$1 wanted_s=$2
  shift 2
  [ -e "$FOLDER/$name.done" ] && { echo "-- $name: done before"; return; }
  local left_s=$((LIMIT_S - SECONDS))
  [ "$left_s" -lt "$wanted_s" ] && { echo "-- $name: needs $wanted_s s, $left_s s are left; call again"; return; }
  echo "-- $name"
  if timeout "$left_s" "$@" 2>&1 | tee "$FOLDER/$name.log"; then
    touch "$FOLDER/$name.done"
  else
    echo "-- $name: FAILED, see $FOLDER/$name.log"
    failed=1
  fi
}

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
  echo "$PYTHON has no torch that sees a GPU: name one with PYTHON=..." >&2
  exit 1
}
piece doctor 20 "$PYTHON" -m stentor doctor
# The tests of the kernels, on the card this time and not in the interpreter.
piece kernel-tests 150 "$PYTHON" -m pytest -q -p no:cacheprovider tests/layers/triton tests/layers/attention tests/layers/kernels \
  tests/engine/test_fused_sampler.py --deselect tests/layers/triton/test_compiled.py
piece kernels 200 "$PYTHON" benchmarks/gpu_kernels.py --save "$FOLDER/kernels.json"
# The engine on the card: what is captured must be what runs, and the aims of the 4B model.
piece engine-tests 60 "$PYTHON" -m pytest -q -p no:cacheprovider tests/engine/test_cuda_graph.py tests/engine/test_gpu.py
piece roofline 120 "$PYTHON" benchmarks/roofline.py --real-shape --batch 1,2,4,8,16,32,64,128,256 --save benchmarks/results
piece roofline-fp8 90 "$PYTHON" benchmarks/roofline.py --real-shape --batch 1,8,64,256 --quantization fp8 --save benchmarks/results
piece latency 150 "$PYTHON" benchmarks/latency.py --real-shape --concurrency 1,16,64 --requests 3 --save benchmarks/results
piece throughput-engine 200 "$PYTHON" benchmarks/throughput.py --real-shape --only engine \
  --concurrency 1,2,4,8,16,32,64,128,256 --requests 2 --save benchmarks/results
piece throughput-http 400 "$PYTHON" benchmarks/throughput.py --real-shape --only http \
  --concurrency 1,4,16,64,256 --requests 2 --save benchmarks/results
exit $failed
