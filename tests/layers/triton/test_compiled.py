"""Every kernel compiles for a Hopper card, from the launchers as they stand, and spills nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.layers.triton.interpreted  # noqa: F401 (skips where Triton is not installed)

ROOT = Path(__file__).parents[3]
LAUNCHED = {
    "_convolve",
    "_decode_split",
    "_embed_codes",
    "_norm",
    "_place_heads",
    "_prefill_tile",
    "_round_rows",
    "_sample",
    "_silu_mul",
    "_skinny_product",
}
# Each arithmetic, one launch and two, the most registers and an upsampling; the other layers are the soak's.
SOME_LAYERS = r"^(?!conv |up |unit )|^unit 128|^(unit 512|up 64 by 3) float32"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "cases", [SOME_LAYERS, pytest.param("", marks=pytest.mark.soak)], ids=["some", "all"]
)
def test_every_kernel_compiles_for_a_card_that_is_not_here(cases: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "compile_kernels.py"),
        "--rows",
        "8",
        "--only",
        cases,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()[2:]]
    assert {line[0] for line in lines} == LAUNCHED
    stack = {line[0]: int(line[-3]) for line in lines}
    assert not any(stack.values()), stack
