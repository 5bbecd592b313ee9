"""The language model of Higgs Audio v2: a Llama backbone with norms and networks for codes of their own."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.engine.model import LMShape, Redraw
from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch, DecodeBatch
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Added, Norm, Product
from stentor.layers.rotary import RotaryTable
from stentor.layers.transformer import Attend, fuse
from stentor.models.higgs_audio_v2.checkpoint import Names
from stentor.models.higgs_audio_v2.config import RopeScaling, V2Config
from stentor.models.weights import Weights


class Half(NamedTuple):
    """What a layer does with one kind of position, text or codes: each product of its own norm's input."""

    qkv: Product
    gated: Product
    down: Added


class DualBlock:
    """A pre-norm layer with one attention for all positions, and a SwiGLU network for each kind."""

    def __init__(self, text: Half, codes: Half, output: Added) -> None:
        self._text, self._codes, self._output = text, codes, output

    def __call__(self, x: Tensor, attend: Attend, layer: int, is_text: Tensor | None) -> Tensor:
        """One layer over `x` [num_tokens, hidden_size]; `is_text` [num_tokens, 1], None if none is.

        A prompt is computed both ways and chosen from: shapes stay fixed, and a token feels no other.
        """
        text, codes = self._text, self._codes
        if is_text is None:
            x = self._output(attend(codes.qkv(x), None, layer), x)
            return codes.down(codes.gated(x), x)
        qkv = torch.where(is_text, text.qkv(x), codes.qkv(x))
        x = self._output(attend(qkv, None, layer), x)
        as_text = text.down(text.gated(x), x.clone())
        return torch.where(is_text, as_text, codes.down(codes.gated(x), x))


class V2LM:
    """Implements `SpeechLM`; a table [num_codebooks * codebook_size, hidden_size] embeds the codes of a row
    (their sum), another scores the next (row index: codebook * codebook_size + code).
    """

    def __init__(
        self,
        config: V2Config,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """Read the weights by their names in the checkpoint, one layer after the other."""

        def load(name: str) -> Tensor:
            return weights.tensor(name).to(device, dtype)

        self.device = device
        self.shape = LMShape(
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            begin_code=config.num_codes,
            end_code=config.num_codes + 1,
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_positions=config.max_positions,
            dtype=dtype,
            redraw=Redraw(config.redraw_window, config.redraw_limit) if config.redraw_window else None,
        )
        names, self._kernels = Names(frozenset(weights.shapes)), kernels or Kernels()
        self._text_embedding, self._code_embedding = load(names.text_embedding), load(names.code_embedding)
        self._head = self._kernels.head(load(names.head), Norm(load(names.norm), config.norm_eps))
        self._blocks = [
            _block(self._kernels, config.norm_eps, load, f"{names.body}layers.{layer}.")
            for layer in range(config.num_layers)
        ]
        stretch = partial(stretched, scaling=config.rope_scaling)
        self._rotary = RotaryTable(
            config.head_dim, config.max_positions, config.rope_theta, dtype, device, stretch
        )
        self._offsets = torch.arange(config.num_codebooks, device=device) * config.codebook_size

    def embed_prompt(self, prompt: Tensor) -> Tensor:
        """See `SpeechLM.embed_prompt`."""
        text = F.embedding(prompt[:, 0].clamp(min=0), self._text_embedding)
        return torch.where(prompt[:, :1] >= 0, text, self.embed_rows(prompt[:, 1:]))

    def embed_rows(self, rows: Tensor) -> Tensor:
        """See `SpeechLM.embed_rows`."""
        return self._kernels.embed_codes(rows, self._offsets, self._code_embedding)

    def forward(self, hidden: Tensor, batch: Batch, cache: Tensor, attention: AttentionBackend) -> Tensor:
        """See `SpeechLM.forward`."""
        attend = Attend(attention, self._kernels, cache, self._rotary, batch)
        is_text = None if isinstance(batch, DecodeBatch) else batch.token_ids[:, None] >= 0
        for layer, block in enumerate(self._blocks):
            hidden = block(hidden, attend, layer, is_text)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See `SpeechLM.logits`."""
        return self._head(hidden).view(len(hidden), self.shape.num_codebooks, self.shape.codebook_size)


def stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's frequencies: slow ones turn `factor` times slower, fast ones as ever, and between them a
    part of each (https://github.com/meta-llama/llama-models, `apply_scaling`).
    """
    turns = scaling.original * frequencies / (2 * math.pi)
    share = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return frequencies * (share + (1 - share) / scaling.factor)


def _block(kernels: Kernels, eps: float, load: Callable[[str], Tensor], place: str) -> DualBlock:
    def part(name: str) -> Tensor:
        return load(f"{place}{name}.weight")

    qkv = fuse(*(part(f"self_attn.{name}_proj") for name in "qkv"))

    def half(prefix: str) -> Half:
        def norm(name: str) -> Norm:
            return Norm(part(prefix + name), eps)

        gated = fuse(part(f"{prefix}mlp.gate_proj"), part(f"{prefix}mlp.up_proj"))
        return Half(
            # Both halves read the same weight, and on a GPU, in its own arithmetic, the same memory.
            qkv=kernels.linear(qkv, norm("input_layernorm")),
            gated=kernels.gated(gated, norm("post_attention_layernorm")),
            down=kernels.residual(part(f"{prefix}mlp.down_proj")),
        )

    return DualBlock(half(""), half("audio_"), kernels.residual(part("self_attn.o_proj")))
