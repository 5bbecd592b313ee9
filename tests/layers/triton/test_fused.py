"""A model with fused kernels says what the reference says, in a tenth of a GPU's launches."""

from functools import partial
from pathlib import Path
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
from stentor.layers.kernels import Kernels, rms_norm, silu_mul
from stentor.layers.linear import Norm
from stentor.layers.quantization import quantize, restore
from stentor.layers.triton.tiles import Tile
from stentor.models.qwen3_tts.checkpoint import open_weights
from stentor.models.qwen3_tts.config import QwenConfig
from stentor.models.qwen3_tts.lm import QwenLM
from stentor.request import SamplingParams
from tests.checkpoints import Recipe
from tests.engine.harness import make_lm
from tests.engine.oracle import greedy, random_prompt
from tests.layers.triton.interpreted import DEVICE, assert_close
from tests.models.qwen3_tts import test_lm as nested
from tests.qwen3_checkpoints import make_qwen3_checkpoint

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


def test_a_nested_model_says_the_same_frames_with_fused_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter knows no graphs; a GPU captures the fused one's steps."""
    monkeypatch.setattr("stentor.engine.prefill._PREFILL_STEP", 1)
    config = QwenConfig.read(make_qwen3_checkpoint(tmp_path, "base", seed=3))
    said = []
    for kernels, backend in ((Kernels(), SdpaBackend()), (fused.FusedKernels(), attention.TritonBackend())):
        weights = open_weights(tmp_path, config)
        made = runner(
            QwenLM(config, weights, torch.float32, torch.device(DEVICE), kernels), attention=backend
        )
        sequences = [nested.sequence(0, SamplingParams(0.9, 1.0, 20, seed, None, 1.05)) for seed in (3, 4)]
        for slot, each in enumerate(sequences):
            each.blocks, each.slot = list(range(1 + 5 * slot, 6 + 5 * slot)), slot
        made.set_sampling(sequences)
        made.prefill([Chunk(each, 0, len(each.prompt)) for each in sequences], 0)
        records = [made.land()()]
        made.decode(0, 2, 64)
        records.append(made.land()())
        said.append(np.stack(records))
    assert np.array_equal(*said)
    assert not np.array_equal(said[0][:, 0], said[0][:, 1])


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
    """Counts what would be a kernel on a GPU: Triton's launches, left out here, and PyTorch's operations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        from triton.runtime import interpreter

        def counted(*_: Any, **__: Any) -> None:
            self.count += 1

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        makes_nothing = func.is_view or "empty" in str(func) or "_unsafe_view" in str(func)
        self.count += not makes_nothing
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter counts")
def test_a_layer_of_a_lone_step_takes_six_launches_and_the_rest_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Idle rows take the same launches as others. Whole tiles are a matter of the CPU's library.
    monkeypatch.setattr("stentor.layers.linear._PLAIN_TILE", 1)
    monkeypatch.setattr("stentor.layers.linear.packs", lambda weight: False)
    known, counts = Tile(lines=16, inner=64, programs=2), {}
    makes = (
        ("eager", reference, None),
        ("fused", fused_runner, None),
        ("own", partial(fused_runner, own_product_rows=8), None),
        ("lone", partial(fused_runner, own_product_rows=8), known),
    )
    for name, make, tile in makes:
        monkeypatch.setattr("stentor.layers.triton.products.known_tile", lambda *_, tile=tile, **__: tile)
        for layers in (1, 3):
            made = make(layers)
            made._step._on_arrays = False
            with monkeypatch.context() as patch, torch.inference_mode(), Launches(patch) as launches:
                made._step(made._rows(0, 1), 8, 64)
                launches.count = 0  # Counters are made once.
                made._step(made._rows(0, 1), 8, 64)
            counts[name, layers] = launches.count
    per_layer = {name: (counts[name, 3] - counts[name, 1]) // 2 for name, *_ in makes}
    beside = {name: counts[name, 1] - per_layer[name] for name, *_ in makes}
    # On a card the two residuals go into the library's products before them, which makes nine.
    assert per_layer["fused"] == 9 + 2
    # SwiGLU and residuals go into our own products, and of a lone row the norms, too.
    assert per_layer["own"] == 8
    assert per_layer["lone"] == 6
    # An operation of PyTorch's is at least one launch: its attention with a mask, for one, is several.
    assert per_layer["eager"] >= 20
    assert beside["fused"] <= 20
    assert beside["eager"] >= 60


def test_the_reference_is_the_default() -> None:
    assert type(make_lm(recipe())._kernels) is Kernels
    assert reference()._step._advance is sampler.advance


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("own", [0, 8])
def test_few_rows_and_many_are_the_plain_product_with_all_around_it(own: int, quantization: str) -> None:
    weight, x = torch.randn(80, 80, device=DEVICE) / 9, torch.randn(70, 80, device=DEVICE)
    plus, norm = torch.randn(70, 80, device=DEVICE), Norm(torch.rand(80, device=DEVICE), 1e-3)
    whole = weight.double()
    if quantization == "int8":
        whole = restore(quantize(weight, "int8"), torch.float64)
    kernels = fused.FusedKernels(quantization, own_product_rows=own)
    residual, linear, gated = (
        kernels.residual(weight),
        kernels.linear(weight, norm),
        kernels.gated(weight, norm),
    )
    head = kernels.head(weight, norm)
    for rows in (1, 3, 9, 70):
        some = x[:rows].double()
        normed = rms_norm(some, norm.weight.double(), norm.eps)
        assert_close(residual(x[:rows], plus[:rows].clone()), plus[:rows].double() + some @ whole.T)
        assert_close(linear(x[:rows]), normed @ whole.T)
        assert_close(gated(x[:rows]), silu_mul(normed @ whole.T))
        assert_close(head(x[:rows]), normed @ weight.double().T)  # The head is whole in either case.


def test_a_row_of_the_head_has_its_bits_among_others_where_our_own_kernel_is_asked_for() -> None:
    weight, x = torch.randn(80, 256, device=DEVICE), torch.randn(8, 256, device=DEVICE)
    head = fused.FusedKernels(own_product_rows=8).head(weight)
    assert torch.equal(head(x[:3]), head(x)[:3])
