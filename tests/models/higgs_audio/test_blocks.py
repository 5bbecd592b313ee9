"""A block read by its checkpoint's names computes what transformers' own layer does."""

import torch

from stentor.layers.attention.sdpa import SdpaBackend
from stentor.layers.context import PrefillBatch, PrefillSpan
from stentor.layers.kernels import Kernels
from stentor.layers.rotary import RotaryTable
from stentor.layers.transformer import Attend
from stentor.models.higgs_audio.blocks import qwen3_block


def test_a_block_computes_what_transformers_layer_does() -> None:
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=1, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    model, x, rows = Qwen3Model(config).eval(), torch.randn(7, 24), torch.arange(7)
    model.norm = torch.nn.Identity()
    tensors = {f"body.{name}": values.detach() for name, values in model.named_parameters()}
    block = qwen3_block(Kernels(), tensors.__getitem__, "body.layers.0.", 4, 2, config.rms_norm_eps)
    bounds = torch.tensor([0, 7], dtype=torch.int32)
    batch = PrefillBatch(
        rows, rows, torch.zeros(1, 1).long(), bounds, bounds[1:], (PrefillSpan(0, 7, 7),), rows
    )
    rotary = RotaryTable(8, 16, 1e4, torch.float32, torch.device("cpu"))
    cache = torch.zeros(1, 1, 16, 4, 8)
    with torch.inference_mode():
        theirs = model(inputs_embeds=x[None]).last_hidden_state[0]
        ours = block(x.clone(), Attend(SdpaBackend(), Kernels(), cache, rotary, batch), 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
