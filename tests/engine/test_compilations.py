"""What was compiled once is found again: a second start compiles nothing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stentor.engine.compilations import Compilations, keep_in

# Compiles a kernel for a card that need not be here, as a start would, and says how many were not found.
START = """
import sys
from stentor.engine.compilations import Compilations, keep_in
keep_in(sys.argv[1])
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from stentor.layers.triton import pointwise
kernel = pointwise._silu_mul
types = {"gate_up": "*fp32", "out": "*fp32", "size": "i32", "BLOCK": "constexpr", "EARLY": "constexpr"}
source = ASTSource(kernel, types, {(3,): 128, (4,): False})
with Compilations() as compilations:
    triton.compile(source, target=GPUTarget("cuda", 90, 32))
print(compilations.count)
"""


def test_the_caches_lie_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    keep_in("")
    assert os.environ == {}
    keep_in(str(tmp_path / "cache"))
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "triton")
    assert all(value.startswith(str(tmp_path)) for value in os.environ.values())


def test_without_triton_nothing_is_compiled() -> None:
    if importlib.util.find_spec("triton") is not None:
        pytest.skip("Triton is here")
    with Compilations() as compilations:
        pass
    assert compilations.count == 0


@pytest.mark.timeout(300)
def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", START, str(tmp_path)]
    counts = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr[-2000:]
        counts.append(int(done.stdout.split()[-1]))
    assert counts == [1, 0]
