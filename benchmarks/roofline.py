"""A decode step against the memory's bandwidth: what share of it the engine reaches, by batch size.

    python -m benchmarks.roofline [MODEL] [--real-shape] [--batch 1,2,4,8,16] [--steps 60]

The floor of a step is the time to read every weight that it uses once, and every sequence's keys and values,
at the rate at which this machine copies memory. Only steps are timed in which no sequence comes or goes.
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import subject
from stentor.bench.machine import load_average
from stentor.config import Config, override
from stentor.engine.engine import Engine
from stentor.engine.model import LMShape
from stentor.engine.sequence import Sequence
from stentor.layers.quantization import Scheme, choose_scheme
from stentor.models import registry
from stentor.models.higgs_audio_v3.checkpoint import lm_shapes
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.request import SamplingParams

COLUMNS = {
    "batch": "batch",
    "step p50 ms": "step_ms",
    "host ms": "host_ms",
    "floor ms": "floor_ms",
    "share of floor": "share",
    "RTF": "rtf",
    "audio s/s": "audio_s_per_s",
    "load": "load",
}
PROMPT = 60
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, top_k=50, seed=1)


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes, the best of some."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**24, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best_s = math.inf
    for _ in range(8):
        wait(device)
        began_s = time.perf_counter()
        target.copy_(source)
        wait(device)
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * source.nbytes / best_s


def weight_bytes(config: V3Config, itemsize: int, scheme: Scheme = "none", on_cpu: bool = False) -> int:
    """What a step reads: all but the text's embedding; of the codes' table it reads all, as the head.

    The layers' matrices are kept as `scheme` says, the head too on a CPU; scales are not counted.
    """
    shapes, _ = lm_shapes(config)
    kept = {"none": float(itemsize), "int8": 1.0, "fp8": 1.0, "int4": 0.5}[scheme]
    total = 0.0
    for name, shape in shapes.items():
        if "text_embedding" not in name:
            rounded = len(shape) == 2 and ("layers" in name or on_cpu)
            total += math.prod(shape) * (kept if rounded else itemsize)
    return int(total)


class Batch:
    """An engine that is kept full."""

    def __init__(self, engine: Engine, size: int, max_rows: int) -> None:
        self._engine, self._size, self._max_rows = engine, size, max_rows
        self._count = 0
        # Of these the most are quiet, unless sequences end by themselves faster than a batch fills.
        self._steps_left = 20 * max_rows
        self._rng = np.random.default_rng(0)
        self.alive: dict[str, Sequence] = {}

    def fill(self) -> bool:
        """Let sequences in until it is full; is anyone missing, or not drawing yet."""
        missing = self._size - len(self.alive)
        for _ in range(missing):
            prompt = np.zeros((PROMPT, 9), np.int32)
            prompt[:, 0] = self._rng.integers(0, 256, PROMPT)
            self._count += 1
            sequence = Sequence(f"s{self._count}", prompt, SAMPLING, self._max_rows)
            self.alive[sequence.id] = sequence
            self._engine.add(sequence)
        return missing > 0 or self._engine.stats()["sequences_waiting"] > 0

    def step(self) -> None:
        """One step of all.

        Raises:
            SystemExit: there have been far more than it takes to find enough without a change.
        """
        if not self._steps_left:
            raise SystemExit(f"a batch of {self._size} is never full for long: take a smaller one (--batch)")
        self._steps_left -= 1
        for output in self._engine.step():
            if output.finish_reason is not None:
                del self.alive[output.sequence.id]

    def empty(self) -> None:
        """Send all home."""
        for name in list(self.alive):
            self._engine.abort(name)
        self.alive.clear()


def measure(engine: Engine, size: int, steps: int, device: torch.device) -> dict[str, Any]:
    """The median of so many steps of a full batch, and what the host did in each."""
    batch = Batch(engine, size, max_rows=4 * steps + 40)
    times_s: list[float] = []
    host_s: list[float] = []
    positions: list[float] = []
    quiet = 0
    while len(times_s) < steps:
        quiet = 0 if batch.fill() else quiet + 1
        began_s, busy_s = time.perf_counter(), time.thread_time()
        batch.step()
        if quiet > 3:
            times_s.append(time.perf_counter() - began_s)
            host_s.append(time.thread_time() - busy_s)
            positions.append(sum(sequence.num_positions for sequence in batch.alive.values()))
    batch.empty()
    wait(device)
    return {
        "step_ms": statistics.median(times_s) * 1e3,
        # On a CPU the host is the device.
        "host_ms": statistics.median(host_s) * 1e3 if device.type == "cuda" else None,
        "positions": statistics.median(positions),
    }


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--batch", default="1,2,4,8,16")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quantization", default="auto", help="auto, none, int8, fp8 or int4")
    parser.add_argument("--own-product-rows", type=int, default=-1, help="see the setting of that name")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.batch.split(",")]
    with subject.opened(arguments) as (model, load_format):
        settings = {
            "model": {"model": model, "load_format": load_format},
            "engine": {
                "max_running_requests": max(sizes),
                "quantization": arguments.quantization,
                "own_product_rows": arguments.own_product_rows,
            },
        }
        run(override(Config(), settings), sizes, arguments)


def run(config: Config, sizes: list[int], arguments: argparse.Namespace) -> None:
    """Load the model, measure every batch size."""
    folder, engine, shape, device = load(config)
    rate = copy_rate(device)
    scheme = choose_scheme(config.engine.quantization, device, shape.dtype)
    on_cpu, itemsize = device.type == "cpu", shape.dtype.itemsize
    weights = weight_bytes(V3Config.read(folder), itemsize, scheme, on_cpu=on_cpu)
    measured = ((size, measure(engine, size, arguments.steps, device)) for size in sizes)
    rows = list(subject.told(against_floor(*row, weights, shape.position_bytes, rate) for row in measured))
    settings = {"copy_gb_per_s": round(rate / 1e9, 1), "steps": arguments.steps, "dtype": str(shape.dtype)}
    settings |= {"quantization": scheme, "own_product_rows": config.engine.own_product_rows}
    rounded = [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    suffix = "" if arguments.quantization == "auto" else f"-{arguments.quantization}"
    suffix += f"-own-{arguments.own_product_rows}" if arguments.own_product_rows >= 0 else ""
    subject.publish("roofline" + suffix, folder.name, rounded, COLUMNS, settings, arguments.save)


def load(config: Config) -> tuple[Path, Engine, LMShape, torch.device]:
    """The checkpoint's folder, and the engine of its generate stage."""
    torch.set_num_threads(config.pipeline.threads_per_worker)
    folder = registry.resolve(config.model.model)
    (spec,) = (s for s in registry.model_for(folder).stages(folder, config) if s.name == "generate")
    stage: Any = spec.build(**spec.options)
    engine = stage._engine
    return folder, engine, stage._shape, engine._runner._model.device


def against_floor(
    size: int, measured: dict[str, Any], weights: int, position_bytes: int, rate: float
) -> dict[str, Any]:
    """One row: what was measured, and the time in which its weights, keys and values could be read."""
    floor_ms = (weights + measured["positions"] * position_bytes) / rate * 1e3
    audio_s_per_s = size / subject.FRAMES_PER_S / measured["step_ms"] * 1e3
    row = {"batch": size, **measured, "floor_ms": floor_ms, "share": floor_ms / measured["step_ms"]}
    return row | {"audio_s_per_s": audio_s_per_s, "rtf": size / audio_s_per_s, "load": load_average()}


if __name__ == "__main__":
    main()
