"""Which tile the product of few rows takes: by card and weight, as `benchmarks/tile_sweep.py` found them.

`tiles.json` beside this file is {card: {weight: tile}}; what is not in it takes the plain `Tile`. A tile may
hang on the weight and the card, never on the number of rows: it fixes the order of every sum.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TABLE = Path(__file__).with_name("tiles.json")


@dataclass(frozen=True)
class Tile:
    """Lines (rows of the weight) and inner columns of one step of a program; about how many `programs` are
    wanted, by splitting the inner columns; warps of a program, and steps that it loads ahead. For a lone row
    the programs share the lines instead.

    The plain one is for cards that were not measured: twice the multiprocessors of an H100, and shared memory
    of which it holds twice as much.
    """

    lines: int = 64
    inner: int = 128
    programs: int = 264
    warps: int = 4
    stages: int = 4


# Where its tiles are known, our product is faster than the library's up to so many rows (H200: 2.46 against
# 2.98 ms for a step of one sequence, 2.87 against 3.16 of sixteen), and slower from 32 on.
_MOST_ROWS = 16


def most_rows(device: torch.device) -> int:
    """Up to how many rows our product of few rows is the faster one on this card, as far as is known."""
    return _MOST_ROWS if torch.cuda.get_device_name(device) in _table() else 0


def weight_name(weight: Tensor, gated: bool, lone: bool) -> str:
    """How the table calls a weight as it is kept: '19456x2560 bfloat16 gated', with 'lone' for a lone row."""
    rows, columns = weight.shape
    dtype = str(weight.dtype).removeprefix("torch.")
    return f"{rows}x{columns} {dtype}{' gated' * gated}{' lone' * lone}"


def tile_for(weight: Tensor, gated: bool) -> Tile:
    """The tile of this weight on its card."""
    return known_tile(weight, gated, lone=False) or Tile()


def known_tile(weight: Tensor, gated: bool, lone: bool) -> Tile | None:
    """The tile of this weight, or of a lone row's product with it, if it was measured on its card."""
    card = torch.cuda.get_device_name(weight.device) if weight.is_cuda else ""
    known = _table().get(card, {}).get(weight_name(weight, gated, lone))
    return Tile(**known) if known else None


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
    return table
