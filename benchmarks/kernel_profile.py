"""Where the time of a decode step goes: a table of kernels by batch size, and how long the device was busy.

    python -m benchmarks.kernel_profile [MODEL] [--real-shape] [--batch 1,64] [--steps 20]

On a GPU the kernels are those of the card, within graphs too; what of a step no kernel fills is what launches
and the host cost. On a CPU they are PyTorch's operations. Profiling itself takes time: `roofline.py` times.
"""

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import roofline, subject
from stentor.bench.machine import load_average
from stentor.config import Config, override
from stentor.engine.engine import Engine

COLUMNS = {
    "batch": "batch",
    "kernel": "kernel",
    "launches": "launches",
    "us a step": "us",
    "share of step": "share",
    "load": "load",
}
Row = dict[str, Any]
Kernel = tuple[str, int, float]
MOST_KERNELS = 16
NAME_LENGTH = 60


def measure(engine: Engine, size: int, steps: int, device: torch.device) -> list[Row]:
    """The kernels of so many steps of a full batch, the largest first, behind one row of all together."""
    batch = roofline.Batch(engine, size, max_rows=4 * steps + 40)
    quiet = 0
    while quiet < 4:
        quiet = 0 if batch.fill() else quiet + 1
        batch.step()
    on_gpu = device.type == "cuda"
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        roofline.wait(device)
        began_s = time.perf_counter()
        for _ in range(steps):
            batch.step()
        roofline.wait(device)
        step_us = (time.perf_counter() - began_s) / steps * 1e6
    batch.empty()
    found = [
        (event.key, event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
    ]
    return rows(size, [entry for entry in found if entry[2] > 0], steps, step_us)


def rows(size: int, kernels: list[Kernel], steps: int, step_us: float) -> list[Row]:
    """The table of one batch size, from each kernel's name, launches and microseconds in all steps."""

    def row(name: str, launches: float, us: float) -> Row:
        told = {"batch": size, "kernel": name, "launches": round(launches / steps, 1)}
        return told | {"us": round(us / steps, 1), "share": round(us / steps / step_us, 3)}

    kernels = sorted(kernels, key=lambda kernel: -kernel[2])
    everything = row("all (busy)", sum(k[1] for k in kernels), sum(k[2] for k in kernels))
    largest = [row(name[:NAME_LENGTH], count, us) for name, count, us in kernels[:MOST_KERNELS]]
    return [everything | {"load": load_average()}, *largest]


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--steps", type=int, default=20)
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
        folder, engine, _, device = roofline.load(override(Config(), settings))
        table = [
            row for size in sizes for row in subject.told(measure(engine, size, arguments.steps, device))
        ]
    about = {"steps": arguments.steps, "quantization": arguments.quantization}
    about |= {"own_product_rows": arguments.own_product_rows}
    subject.publish("profile", folder.name, table, COLUMNS, about, arguments.save)


if __name__ == "__main__":
    main()
