"""Find the fastest tile of the product of few rows for each weight of the 4B model, on the card that is here.

    python benchmarks/tile_sweep.py [--rows 1,8] [--seconds 120] [--jobs 14] [--save FILE] [--write]

A tile must serve every number of rows (it fixes the order of the sums), so the sum of its times at `--rows`
decides; it must give the reference's numbers to count. Weights go in the order of what they weigh in a step.
`--write` enters what is faster than the plain tile into the table that the kernel reads.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_kernels import time_us
from benchmarks.kernel_cases import DTYPE, PRODUCTS, in_turn, randn
from stentor.layers.kernels.eager import silu_mul
from stentor.layers.quantization import Scheme, quantize, restore
from stentor.layers.triton.products import SkinnyProduct
from stentor.layers.triton.tiles import TABLE, Tile, weight_name

BOUND = 2e-2
# More bytes than any second-level cache holds: each call reads its weight from memory, as a step does.
COLD_BYTES = 200_000_000


def tiles() -> list[Tile]:
    """The plain tile, then others: thin ones, which need no splits, to wide ones."""
    shapes = (
        (64, 128, 4, 4), (16, 256, 2, 4), (16, 256, 2, 6), (16, 512, 4, 4), (32, 128, 4, 6), (32, 256, 4, 4),
        (64, 64, 4, 6), (64, 256, 8, 3), (128, 64, 8, 4),
    )  # fmt: skip
    return [
        Tile(lines, inner, programs, warps, stages)
        for lines, inner, warps, stages in shapes
        for programs in (264, 528)
    ]


def weights(schemes: list[Scheme]) -> Iterator[tuple[Scheme, str, bool]]:
    """What a step reads, the largest first, by how it is kept."""
    for scheme in schemes:
        for name in ("gate-up", "down", "qkv", "output"):
            yield scheme, name, name == "gate-up"
    if "none" in schemes:
        yield "none", "head", False


def compile_all(wanted: list[tuple[Scheme, str, bool]], jobs: int) -> None:
    """Let so many processes compile what the sweep will run, so that it only reads Triton's cache."""
    work = [(*weight, tile) for tile in tiles() for weight in wanted]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_compile, work, chunksize=1))


def _compile(work: tuple[Scheme, str, bool, Tile]) -> None:
    scheme, name, gated, tile = work
    # One that the card cannot hold is told of when it is timed.
    with contextlib.suppress(Exception), torch.inference_mode():
        weight, scale, _ = made(scheme, name, "cuda")
        x = randn("cuda", 1, PRODUCTS[name][1])
        SkinnyProduct(weight, scale, gated=gated, tile=tile)(x)
        torch.cuda.synchronize()


def made(scheme: Scheme, name: str, device: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """A weight as it is kept, its scales, and what it stands for."""
    outer, inner = PRODUCTS[name]
    weight = randn(device, outer, inner, scale=inner**-0.5)
    if scheme == "none":
        return weight, None, weight
    kept = quantize(weight, scheme)
    return kept.values, kept.scale[:, 0], restore(kept, DTYPE)


def measure(
    kept: tuple[Tensor, Tensor | None, Tensor], gated: bool, tile: Tile, rows: list[int]
) -> dict[int, float]:
    """Microseconds at each number of rows. Raises ValueError if the numbers are wrong."""
    weight, scale, restored = kept
    copies = max(1, COLD_BYTES // (weight.numel() * weight.itemsize))
    ours = [SkinnyProduct(weight.clone(), scale, gated=gated, tile=tile) for _ in range(copies)]
    times = {}
    for count in rows:
        x = randn(str(weight.device), count, restored.shape[1])
        plain = torch.nn.functional.linear(x, restored)
        expected = (silu_mul(plain) if gated else plain).double()
        error = float((ours[0](x).double() - expected).norm() / expected.norm())
        if not error <= BOUND:
            raise ValueError(f"relative error {error:.1e}")
        runs = in_turn([lambda product=product, x=x: product(x) for product in ours])
        times[count] = time_us(runs, captured=True)
    return times


def sweep(kept: tuple[Tensor, Tensor | None, Tensor], gated: bool, rows: list[int], until_s: float) -> Any:
    """The tiles tried until the time was up, with their times, fastest first; the plain one in any case."""
    found: list[tuple[float, Tile, dict[int, float]]] = []
    for number, tile in enumerate(tiles()):
        if number and time.monotonic() > until_s:
            break
        try:
            times = measure(kept, gated, tile, rows)
        except Exception as error:
            # A tile that the card cannot hold is no result; one that gives wrong numbers must be seen.
            print(f"    {tile}: {type(error).__name__}: {str(error)[:80]}")
            continue
        found.append((sum(times.values()), tile, times))
    return sorted(found, key=lambda entry: entry[0])


def enter(card: str, best: dict[str, dict[str, int]], table: Path = TABLE) -> None:
    """Put the card's tiles into the table, beside what is there."""
    known = json.loads(table.read_text())
    known[card] = known.get(card, {}) | best
    table.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Sweep, print, save; exit status 1 if a weight has no tile that is right."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rows", default="1,8", help="numbers of rows, with commas")
    arguments.add_argument("--seconds", type=float, default=120.0, help="for all weights together")
    arguments.add_argument("--schemes", default="none,fp8,int8", help="how the weights are kept, with commas")
    arguments.add_argument("--jobs", type=int, default=1, help="processes that compile beforehand")
    arguments.add_argument("--save", type=Path, help="file for all times as JSON")
    arguments.add_argument("--write", action="store_true", help=f"enter the best into {TABLE.name}")
    chosen = arguments.parse_args()
    rows = [int(count) for count in chosen.rows.split(",")]
    card = torch.cuda.get_device_name()
    wanted = list(weights([*chosen.schemes.split(",")]))
    if chosen.jobs > 1:
        compile_all(wanted, chosen.jobs)
    started_s, best, everything, missing = time.monotonic(), {}, {}, []
    for number, (scheme, name, gated) in enumerate(wanted):
        left_s = chosen.seconds - (time.monotonic() - started_s)
        kept = made(scheme, name, "cuda")
        found = sweep(kept, gated, rows, time.monotonic() + left_s / (len(wanted) - number))
        key = weight_name(kept[0], gated)
        if not found:
            missing.append(key)
            continue
        everything[key] = [(asdict(tile), times) for _, tile, times in found]
        plain_us = next((total for total, tile, _ in found if tile == Tile()), None)
        total, tile, _ = found[0]
        print(f"{key:28} {total:8.1f} us of {plain_us or 0:8.1f} with the plain tile: {tile}", flush=True)
        best[key] = asdict(tile)
    if chosen.save:
        chosen.save.write_text(json.dumps({"card": card, "rows": rows, "weights": everything}, indent=1))
    if chosen.write:
        enter(card, best)
    if missing:
        raise SystemExit(f"no tile is right for: {', '.join(missing)}")


if __name__ == "__main__":
    main()
