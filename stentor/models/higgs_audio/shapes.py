"""The tensors of a Qwen3 backbone's blocks, by the names that checkpoints give them; needs no torch."""

from typing import Protocol

from stentor.models.weights import Shape


class Geometry(Protocol):
    """What a configuration says of a backbone."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


def backbone_shapes(config: Geometry, place: str) -> dict[str, Shape]:
    """Every tensor of the blocks, and of the norm behind them, by its name behind `place`."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_heads * head, config.num_kv_heads * head
    block: dict[str, Shape] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes = {
        f"{place}layers.{layer}.{name}.weight": shape
        for layer in range(config.num_layers)
        for name, shape in block.items()
    }
    return shapes | {f"{place}norm.weight": (hidden,)}
