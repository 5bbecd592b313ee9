"""One decoder block equals Qwen3's of transformers, layer of the cache by layer."""

import pytest
import torch
from torch import Tensor

from stentor.layers.attention import SdpaBackend
from stentor.layers.context import DecodeBatch, PrefillBatch, PrefillSpan
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Norm
from stentor.layers.rotary import RotaryTable
from stentor.layers.transformer import Attend, BlockWeights, DecoderBlock, fuse

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, LENGTH = 48, 6, 2, 12, 80, 37


def reference_layer() -> torch.nn.Module:
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    config = Qwen3Config(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=INNER,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    layer = Qwen3DecoderLayer(config, 0).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3
    return layer


def our_block(layer: torch.nn.Module) -> DecoderBlock:
    part = dict(layer.named_parameters())

    def weight(name: str) -> Tensor:
        return part[f"{name}.weight"].data

    kernels = Kernels()
    return DecoderBlock(
        BlockWeights(
            qkv=kernels.linear(
                fuse(*(weight(f"self_attn.{name}_proj") for name in "qkv")),
                Norm(weight("input_layernorm"), 1e-6),
            ),
            qk_norm=Norm(
                fuse(
                    weight("self_attn.q_norm").expand(HEADS, -1),
                    weight("self_attn.k_norm").expand(KV_HEADS, -1),
                ),
                1e-6,
            ),
            output=kernels.residual(weight("self_attn.o_proj")),
            gated=kernels.gated(
                fuse(weight("mlp.gate_proj"), weight("mlp.up_proj")),
                Norm(weight("post_attention_layernorm"), 1e-6),
            ),
            down=kernels.residual(weight("mlp.down_proj")),
        )
    )


@pytest.mark.parametrize("layer_number", [0, 1])
def test_a_block_equals_that_of_transformers(layer_number: int) -> None:
    layer = reference_layer()
    x = torch.randn(LENGTH, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angles = torch.outer(
        torch.arange(LENGTH).double(), 1e4 ** -(torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    )
    angles = torch.cat((angles, angles), dim=1)[None]
    mask = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.inference_mode():
        expected = layer(x[None], attention_mask=mask, position_embeddings=(angles.cos(), angles.sin()))
        actual = run_paged(our_block(layer), x, layer_number)
    # transformers normalises and takes softmax in float32 whatever the model's arithmetic.
    torch.testing.assert_close(actual, expected.view(LENGTH, HIDDEN), rtol=1e-5, atol=1e-5)


def run_paged(block: DecoderBlock, x: Tensor, layer: int) -> Tensor:
    """All positions but the last as a prefill, the last as a decode step."""
    cache = torch.zeros(2, 4, 16, 2 * KV_HEADS, HEAD_DIM, dtype=torch.float64)
    rotary = RotaryTable(HEAD_DIM, 64, 1e4, torch.float64, torch.device("cpu"))
    blocks, positions = torch.tensor([3, 1, 2]), torch.arange(LENGTH)
    slots = blocks[positions // 16] * 16 + positions % 16
    last = LENGTH - 1
    starts, contexts = torch.tensor([0, last]).int(), torch.tensor([last]).int()
    spans = (PrefillSpan(0, last, last),)
    prefill = PrefillBatch(positions[:last], slots[:last], blocks[None], starts, contexts, spans, positions)
    decode = DecodeBatch(positions[last:], slots[last:], blocks[None])
    begin = block(x[:last], Attend(SdpaBackend(), Kernels(), cache, rotary, prefill), layer)
    end = block(x[last:], Attend(SdpaBackend(), Kernels(), cache, rotary, decode), layer)
    assert not cache[1 - layer].any()
    return torch.cat((begin, end))
