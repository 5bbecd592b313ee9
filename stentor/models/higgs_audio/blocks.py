"""The blocks of a Qwen3 backbone, read by the names that checkpoints give their weights."""

from collections.abc import Callable

from torch import Tensor

from stentor.layers.kernels import Kernels
from stentor.layers.linear import Norm
from stentor.layers.transformer import BlockWeights, DecoderBlock, fuse


def qwen3_block(
    kernels: Kernels, read: Callable[[str], Tensor], place: str, num_heads: int, num_kv_heads: int, eps: float
) -> DecoderBlock:
    """The block whose weights `read` gives by the usual names behind `place`."""

    def load(name: str) -> Tensor:
        return read(f"{place}{name}.weight")

    def norm(name: str) -> Norm:
        return Norm(load(name), eps)

    heads = load("self_attn.q_norm").expand(num_heads, -1), load("self_attn.k_norm").expand(num_kv_heads, -1)
    qkv = fuse(*(load(f"self_attn.{name}_proj") for name in "qkv"))
    gated = fuse(load("mlp.gate_proj"), load("mlp.up_proj"))
    weights = BlockWeights(
        qkv=kernels.linear(qkv, norm("input_layernorm")),
        qk_norm=Norm(fuse(*heads), eps),
        output=kernels.residual(load("self_attn.o_proj")),
        gated=kernels.gated(gated, norm("post_attention_layernorm")),
        down=kernels.residual(load("mlp.down_proj")),
    )
    return DecoderBlock(weights)
