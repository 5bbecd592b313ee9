"""Check each kernel against its reference on a GPU, and time both: microseconds, GB/s, share of a copy's.

    python -m benchmarks.gpu_kernels [--save FILE] [--only WORD]

Each case is captured as a CUDA graph of many calls and replayed: what is timed is the card alone, and that
the kernel can be captured is shown by the way. A reference that cannot be captured is timed as it is called.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import kernel_cases
from benchmarks.kernel_cases import Case, Run
from stentor.bench import machine
from stentor.layers import attention

CALLS = 20
REPLAYS = 10


@dataclass(frozen=True)
class Row:
    """One case: its relative error, microseconds of a call, what that moves, and the reference's time."""

    name: str
    error: float
    bound: float
    us: float
    gb_per_s: float
    share_of_copy: float
    reference_us: float
    captured: bool


def time_us(run: Run, captured: bool) -> float:
    """Microseconds of one call."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                run()
        many = graph.replay
    else:

        def many() -> None:
            for _ in range(CALLS):
                run()

    many()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPLAYS):
        many()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1000 / (CALLS * REPLAYS)


def copy_gb_per_s() -> float:
    """Bytes read and written per second by a copy of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * 2**30 / time_us(lambda: target.copy_(source), captured=True) / 1000


def measure(case: Case, copy: float) -> Row:
    """Check and time one case."""
    out, expected = case.run().double(), case.reference().double()
    error = float((out - expected).norm() / expected.norm())
    us = time_us(case.run, captured=True)
    try:
        captured, reference_us = True, time_us(case.reference, captured=True)
    except RuntimeError:
        torch.cuda.synchronize()
        captured, reference_us = False, time_us(case.reference, captured=False)
    gb_per_s = case.size_bytes / us / 1000
    return Row(case.name, error, case.bound, us, gb_per_s, gb_per_s / copy, reference_us, captured)


def cases() -> Iterator[Case]:
    """Every kernel, then every other attention backend that is here."""
    yield from kernel_cases.all_cases("cuda")
    device = torch.device("cuda", 0)
    for name, offer in attention.BACKENDS.items():
        obstacle = attention.why_not(name, device)
        if obstacle:
            print(f"{name}: {obstacle}")
        elif name not in ("triton", "sdpa"):
            yield from kernel_cases.attention_cases("cuda", offer.make(), name)


def main() -> None:
    """Measure, print, save; exit status 1 if a kernel is off its reference."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--save", type=Path, help="file for the results as JSON")
    arguments.add_argument("--only", default="", help="only cases with this word in their name")
    chosen = arguments.parse_args()
    copy = copy_gb_per_s()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy:.0f} GB/s (read + written)")
    print(f"{'case':26}{'error':>9}{'us':>9}{'GB/s':>8}{'of copy':>9}{'reference us':>14}{'ratio':>7}")
    rows: list[Row] = []
    wrong: list[str] = []
    with torch.inference_mode():
        for case in cases():
            if chosen.only in case.name:
                try:
                    rows.append(row := measure(case, copy))
                except Exception as error:  # One that does not run must not hide the others.
                    print(f"{case.name:26}  FAILED: {str(error).splitlines()[:1]}", flush=True)
                    wrong.append(case.name)
                    continue
                print(
                    f"{row.name:26}{row.error:9.1e}{row.us:9.1f}{row.gb_per_s:8.0f}{row.share_of_copy:9.0%}"
                    f"{row.reference_us:14.1f}{row.reference_us / row.us:7.2f}"
                    f"{'' if row.captured else '  (reference not captured)'}",
                    flush=True,
                )
    if chosen.save:
        found = machine.this_machine()
        result = {
            "gpus": found.gpus,
            "versions": machine.versions(),
            "commit": machine.commit(),
            "load": machine.load_average(),
            "copy_gb_per_s": copy,
            "rows": [asdict(row) for row in rows],
        }
        chosen.save.write_text(json.dumps(result, indent=1) + "\n")
    wrong += [row.name for row in rows if not row.error <= row.bound]
    if wrong:
        raise SystemExit(f"failed, or too far off their reference: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
