"""On a card: what is captured and read late is what runs plainly. Nothing here runs without one."""

import numpy as np
import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.layers.kernels import choose_kernels
from tests.engine.harness import make_lm
from tests.engine.test_engine import RECIPES, sampled

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def rows_of(**settings: object) -> dict[str, np.ndarray]:
    recipe = RECIPES["grouped"]
    # The library's products choose the order of their sums by the batch, ours do not (docs/decisions/0011).
    kernels = choose_kernels("auto", torch.device("cuda"), own_product_rows=64)
    model = make_lm(recipe, torch.bfloat16, device="cuda", kernels=kernels)
    engine = Engine(
        model, EngineConfig(max_context=512, max_running_requests=6, max_prefill_tokens=64, **settings)
    )  # type: ignore[arg-type]
    sequences = {sequence.id: sequence for sequence in sampled(recipe, 40)}
    for sequence in sequences.values():
        engine.add(sequence)
    while engine.has_work():
        engine.step()
    assert engine.stats()["kv_blocks_used"] == 0
    return {name: sequence.rows[: sequence.num_rows] for name, sequence in sequences.items()}


def test_graphs_and_late_reading_change_no_row() -> None:
    plain = rows_of(cuda_graphs=False, overlap="off")
    for settings in ({"overlap": "off"}, {}):
        rows = rows_of(**settings)
        assert {name for name in rows if not np.array_equal(rows[name], plain[name])} == set()
