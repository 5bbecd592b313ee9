"""Find the fastest tile of the product of few rows for each weight of the 4B model, on the card that is here.

    python -m benchmarks.tile_sweep [--rows 1,16] [--seconds 120] [--jobs 14] [--quantization none] [--write]

What decides is the time of a whole decode step, because a launch begins while the one before it ends: one
weight after another, the largest first, takes each tile while the others keep theirs. A lone row has tiles
of its own; others must serve every number of rows, so they are chosen at a usual one (`--rows 1,16`). A tile
must give the plain product's numbers to count. `--write` enters what was found into the table that the kernel
reads.
"""

import argparse
import contextlib
import gc
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline, subject
from benchmarks.kernel_cases import DTYPE, PRODUCTS, randn
from stentor.config import Config, override
from stentor.engine.engine import Engine
from stentor.layers.kernels import rms_norm, silu_mul
from stentor.layers.linear import Norm
from stentor.layers.quantization import Quantized, Scheme, quantize, restore
from stentor.layers.triton.products import SkinnyProduct
from stentor.layers.triton.tiles import TABLE, Tile, weight_name

BOUND = 2e-2
# Of bfloat16; of weights of 8 bits as many columns more. The last is programs of a multiprocessor.
SHAPES = (
    (64, 128, 4, 4, 2), (64, 128, 4, 4, 4), (16, 256, 2, 4, 4), (16, 256, 2, 6, 4), (16, 512, 4, 4, 2),
    (32, 128, 4, 6, 2), (32, 128, 4, 6, 4), (32, 256, 4, 4, 2), (32, 256, 4, 4, 4), (64, 64, 4, 6, 4),
    (32, 256, 2, 4, 4), (128, 64, 8, 4, 2), (128, 64, 8, 4, 4),
)  # fmt: skip
LONE_SHAPES = (
    (16, 256, 4, 10, 2), (16, 256, 8, 10, 2), (16, 512, 4, 4, 2), (16, 512, 8, 5, 2), (16, 256, 4, 6, 3),
    (32, 128, 4, 10, 2), (32, 256, 8, 5, 2), (16, 512, 8, 9, 1), (4, 1024, 4, 8, 2), (8, 512, 4, 10, 1),
    (16, 128, 4, 14, 3), (8, 1024, 4, 6, 1), (4, 512, 4, 12, 2), (8, 256, 2, 10, 4),
)  # fmt: skip
STEPS = 24


def tiles(weight_bytes: int, card: int, lone: bool) -> list[Tile]:
    """The shapes, for numbers of so many bytes, on a card of so many multiprocessors."""
    return [
        Tile(lines, inner * 2 // weight_bytes, programs * card, warps, stages)
        for lines, inner, warps, stages, programs in (LONE_SHAPES if lone else SHAPES)
    ]


def names(scheme: Scheme) -> list[str]:
    """What a step reads, the largest first; the head is kept whole."""
    return ["gate-up", "down", "qkv", "output", *(["head"] if scheme == "none" else [])]


def made(scheme: Scheme, name: str) -> SkinnyProduct:
    """A product with fresh weights, with all that goes into it."""
    outer, inner = PRODUCTS[name]
    weight, gated = randn("cuda", outer, inner, scale=inner**-0.5), name == "gate-up"
    norm = None if name in ("down", "output") else Norm(randn("cuda", inner), 1e-6)
    if scheme == "none":
        return SkinnyProduct(weight, gated=gated, norm=norm)
    kept = quantize(weight, scheme)
    return SkinnyProduct(kept.values, kept.scale[:, 0], gated=gated, norm=norm)


def compile_all(scheme: Scheme, all_rows: list[int], jobs: int, card: int) -> None:
    """Let so many processes compile what the sweep will run, so that it only reads Triton's cache."""
    itemsize = DTYPE.itemsize if scheme == "none" else 1
    work = [
        (scheme, rows, name, tile)
        for rows in all_rows
        for name in names(scheme)
        for tile in tiles(itemsize, card, rows == 1)
    ]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_compile, work, chunksize=2))


def _compile(work: tuple[Scheme, int, str, Tile]) -> None:
    scheme, rows, name, tile = work
    # One that the card cannot hold is told of when it is timed.
    with contextlib.suppress(Exception), torch.inference_mode():
        product = made(scheme, name)
        product.use(tile, tile)
        outer, inner = PRODUCTS[name]
        product(
            randn("cuda", rows, inner), randn("cuda", rows, outer) if name in ("down", "output") else None
        )


class Sweep:
    """An engine whose products change their tiles, for a lone row or for several."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._all = [found for found in gc.get_objects() if type(found) is SkinnyProduct]
        self.times: list[dict[str, Any]] = []

    def step_ms(self, rows: int) -> float:
        """A step of so many sequences with the tiles as they are."""
        runner: Any = self._engine._runner
        runner._graphs._captured.clear()
        measured: float = roofline.measure(self._engine, rows, STEPS, torch.device("cuda"))["step_ms"]
        return measured

    def best(self, name: str, rows: int, until_s: float) -> tuple[str, Tile | None]:
        """The weight's name in the table, and the fastest tile of all products with it, which they keep; of a
        lone row None, if it is faster as several are.
        """
        mine, lone = [p for p in self._all if p._weight.shape == PRODUCTS[name]], rows == 1
        weight = mine[0]._weight
        card = torch.cuda.get_device_properties(0).multi_processor_count
        found: list[tuple[float, Tile | None]] = []
        for tile in [mine[0]._lone if lone else mine[0]._tile, *tiles(weight.itemsize, card, lone)]:
            if found and time.monotonic() > until_s:
                break
            try:
                _use(mine, tile, lone)
                check(mine[0], rows)
                found.append((self.step_ms(rows), tile))
            except Exception as error:
                # A tile that the card cannot hold is no result; one that gives wrong numbers must be seen.
                print(f"    {tile}: {type(error).__name__}: {str(error)[:80]}")
                continue
            self.times.append({"weight": name, "rows": rows, "step_ms": found[-1][0]} | _fields(tile))
            print(f"    {name:8} {found[-1][0]:.3f} ms {tile}", flush=True)
        if not found:
            raise SystemExit(f"no tile is right for: {name}")
        best = min(found, key=lambda entry: entry[0])[1]
        _use(mine, best, lone)
        return weight_name(weight, name == "gate-up", lone), best


def _use(mine: list[SkinnyProduct], tile: Tile | None, lone: bool) -> None:
    for product in mine:
        product.use(*((product._tile, tile) if lone else (tile or product._tile, product._lone)))


def _fields(tile: Tile | None) -> dict[str, int]:
    return asdict(tile) if tile else {}


@torch.inference_mode()
def check(product: SkinnyProduct, rows: int) -> None:
    """Raises ValueError if the product is not the plain one."""
    weight, scale = product._weight, product._scale
    whole = weight if scale is None else restore(Quantized(weight, scale[:, None]), DTYPE)
    x = randn("cuda", rows, weight.shape[1])
    normed = x if product._norm is None else rms_norm(x, *product._norm)
    plain = torch.nn.functional.linear(normed, whole).double()
    expected = silu_mul(plain) if product._gated else plain
    error = float((product(x).double() - expected).norm() / expected.norm())
    if not error <= BOUND:
        raise ValueError(f"relative error {error:.1e}")


@contextlib.contextmanager
def engine_of(scheme: Scheme) -> Iterator[Engine]:
    """One of the real shape, with every product of few rows by our own kernel."""
    arguments = subject.make_parser(__doc__).parse_args(["--real-shape"])
    with subject.opened(arguments) as (model, load_format):
        engine = {"max_running_requests": 16, "quantization": scheme, "own_product_rows": 16}
        settings = {"model": {"model": model, "load_format": load_format}, "engine": engine}
        yield roofline.load(override(Config(), settings))[1]


def enter(card: str, best: dict[str, dict[str, int]], table: Path = TABLE) -> None:
    """Put the card's tiles into the table, beside what is there."""
    known = json.loads(table.read_text())
    known[card] = known.get(card, {}) | best
    table.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Sweep, print, save."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rows", default="1,16", help="sequences of the steps that are timed")
    arguments.add_argument("--seconds", type=float, default=120.0, help="for all weights together")
    arguments.add_argument("--quantization", default="none", help="how the weights are kept")
    arguments.add_argument("--jobs", type=int, default=1, help="processes that compile beforehand")
    arguments.add_argument("--save", type=Path, help="file for all times as JSON")
    arguments.add_argument("--write", action="store_true", help=f"enter the best into {TABLE.name}")
    chosen = arguments.parse_args()
    properties, scheme = torch.cuda.get_device_properties(0), chosen.quantization
    all_rows = [int(rows) for rows in chosen.rows.split(",")]
    if chosen.jobs > 1:
        compile_all(scheme, all_rows, chosen.jobs, properties.multi_processor_count)
    wanted = [(rows, name) for rows in all_rows for name in names(scheme)]
    with engine_of(scheme) as engine:
        sweep, started_s = Sweep(engine), time.monotonic()
        print(*(f"before, {rows}: {sweep.step_ms(rows):.3f} ms" for rows in all_rows), flush=True)
        for number, (rows, name) in enumerate(wanted):
            left_s = chosen.seconds - (time.monotonic() - started_s)
            key, tile = sweep.best(name, rows, time.monotonic() + left_s / (len(wanted) - number))
            print(f"{key:32} {tile}", flush=True)
            if tile and chosen.write:
                # At once, so that a sweep that is stopped has found something.
                enter(properties.name, {key: _fields(tile)})
        print(*(f"after, {rows}: {sweep.step_ms(rows):.3f} ms" for rows in all_rows), flush=True)
    if chosen.save:
        found = {"card": properties.name, "times": sweep.times}
        chosen.save.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
