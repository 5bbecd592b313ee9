"""A model with fused kernels says what the reference says, in a tenth of a GPU's launches."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stentor.engine import sampler
from stentor.engine.kv_cache import KVCache
from stentor.engine.model_runner import ModelRunner
from stentor.engine.scheduler import Chunk
from stentor.layers.attention import SdpaBackend
from stentor.layers.kernels import EagerKernels
from stentor.layers.linear import Linear
from stentor.layers.quantization import ByRows
from tests.checkpoints import Recipe
from tests.engine.harness import make_lm
from tests.engine.oracle import greedy, random_prompt
from tests.layers.triton.interpreted import DEVICE, assert_close

fused = pytest.importorskip("stentor.layers.triton.fused")
attention = pytest.importorskip("stentor.layers.triton.attention")


def recipe(layers: int = 2) -> Recipe:
    return Recipe(seed=5, hidden=48, layers=layers, heads=4, kv_heads=2, head_dim=12, with_codec=False)


def runner(model: Any, **parts: Any) -> ModelRunner:
    cache = KVCache(model.shape, 33, 16, model.device)
    return ModelRunner(model, max_running=4, max_context=128, cache=cache, **parts)


def reference(layers: int = 2) -> ModelRunner:
    return runner(make_lm(recipe(layers), device=DEVICE), attention=SdpaBackend())


def fused_runner(layers: int = 2, own_product_rows: int = 0) -> ModelRunner:
    kernels = fused.FusedKernels(own_product_rows=own_product_rows)
    model = make_lm(recipe(layers), device=DEVICE, kernels=kernels)
    return runner(model, attention=attention.TritonBackend(), advance=sampler.fused_advance)


def prefill(made: ModelRunner) -> np.ndarray:
    """Two greedy sequences."""
    sequences = [
        greedy(f"s{i}", random_prompt(recipe(), i, text=3 + 4 * i, reference=2), 20) for i in range(2)
    ]
    for i, sequence in enumerate(sequences):
        sequence.blocks = list(range(1 + 5 * i, 6 + 5 * i))
        sequence.slot = i
    made.prefill([Chunk(sequence, 0, len(sequence.prompt)) for sequence in sequences], 0)
    return made.land()()


def decode(made: ModelRunner) -> np.ndarray:
    made.decode(0, 2, 20)
    return made.land()()


def test_prefill_and_steps_say_what_the_reference_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter takes its time over every row.
    monkeypatch.setattr("stentor.engine.prefill._PREFILL_STEP", 1)
    eager, ours = reference(), fused_runner()
    assert np.array_equal(prefill(ours), prefill(eager))
    assert np.array_equal(decode(ours), decode(eager))
    behind_the_block_of_nobody = slice(1, None)
    assert_close(
        ours._cache.data[:, behind_the_block_of_nobody], eager._cache.data[:, behind_the_block_of_nobody]
    )


class Launches(TorchDispatchMode):
    """Counts what would be a kernel on a GPU: Triton's launches, and PyTorch's operations outside of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count, self._inside = 0, False
        from triton.runtime import interpreter

        launch = interpreter.GridExecutor.__call__

        def counted(executor: Any, *args: Any, **options: Any) -> None:
            self.count += 1
            self._inside = True
            launch(executor, *args, **options)
            self._inside = False

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        makes_nothing = func.is_view or "empty" in str(func) or "_unsafe_view" in str(func)
        self.count += not (self._inside or makes_nothing)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter counts")
def test_a_layer_of_a_step_takes_nine_launches_and_the_rest_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Idle rows take the same launches as others. Whole tiles are a matter of the CPU's library.
    monkeypatch.setattr("stentor.layers.linear._PLAIN_TILE", 1)
    monkeypatch.setattr("stentor.layers.linear.packs", lambda weight: False)
    counts = {}
    makes = (
        ("eager", reference),
        ("fused", fused_runner),
        ("own", partial(fused_runner, own_product_rows=8)),
    )
    for name, make in makes:
        for layers in (1, 3):
            made = make(layers)
            made._step._on_arrays = False
            made._step(made._rows(0, 1), 8, 64)  # Counters are made once.
            with monkeypatch.context() as patch, torch.inference_mode(), Launches(patch) as launches:
                made._step(made._rows(0, 1), 8, 64)
            counts[name, layers] = launches.count
    per_layer = {name: (counts[name, 3] - counts[name, 1]) // 2 for name, _ in makes}
    beside = {name: counts[name, 1] - per_layer[name] for name, _ in makes}
    assert per_layer["fused"] == 9
    # SwiGLU goes into the product before it.
    assert per_layer["own"] == 8
    # An operation of PyTorch's is at least one launch: its attention with a mask, for one, is several.
    assert per_layer["eager"] >= 20
    assert beside["fused"] <= 20
    assert beside["eager"] >= 60


def test_the_reference_is_the_default() -> None:
    assert isinstance(make_lm(recipe())._kernels, EagerKernels)
    assert reference()._step._advance is sampler.advance


def test_few_rows_are_multiplied_by_our_own_kernel_where_that_is_asked_for() -> None:
    weight, x = torch.randn(80, 256, device=DEVICE), torch.randn(9, 256, device=DEVICE)
    product = fused.FusedKernels(own_product_rows=8).linear(weight)
    assert isinstance(product, ByRows)
    assert isinstance(fused.FusedKernels().linear(weight), Linear)
    for rows in (8, 9):
        assert_close(product(x[:rows]), x[:rows].double() @ weight.double().T)


def test_the_head_keeps_a_rows_bits_too_where_our_own_kernel_is_asked_for() -> None:
    weight, x = torch.randn(80, 256, device=DEVICE), torch.randn(8, 256, device=DEVICE)
    for quantization in ("none", "int8"):  # The head is whole in either case.
        head = fused.FusedKernels(quantization, own_product_rows=8).head(weight)
        assert_close(head(x), x.double() @ weight.double().T)
        assert torch.equal(head(x[:3]), head(x)[:3])
        assert isinstance(head, ByRows)
