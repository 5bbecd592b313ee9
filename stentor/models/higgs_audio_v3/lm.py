"""The language model of Higgs Audio v3: a Qwen3 backbone over text ids and rows of eight codes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.engine.model import LMShape
from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Norm
from stentor.layers.rotary import RotaryTable
from stentor.layers.transformer import Attend
from stentor.models.higgs_audio.blocks import qwen3_block
from stentor.models.higgs_audio_v3.config import V3Config

Read = Callable[[str], Tensor]


class HiggsLM:
    """Implements `SpeechLM`; a table [num_codebooks * codebook_size, hidden_size] embeds the codes of a row
    (their sum) and, where the checkpoint ties them, scores the next (row index: codebook * codebook_size +
    code).
    """

    def __init__(
        self,
        config: V3Config,
        read: Read,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """Read the weights by their names in the checkpoint, one layer after the other."""

        def load(name: str) -> Tensor:
            return read(name).to(device, dtype)

        self.device = device
        self.shape = LMShape(
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            begin_code=config.begin_code,
            end_code=config.end_code,
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_positions=config.max_positions,
            dtype=dtype,
        )
        self._kernels = kernels or Kernels()
        self._text_embedding = load("tied.embedding.text_embedding.weight")
        self._code_embedding = load("tied.embedding.modality_embeddings.0.embedding.weight")
        head = self._code_embedding if config.tied_heads else load("tied.head.modality_heads.0.weight")
        self._head = self._kernels.head(head, Norm(load("body.norm.weight"), config.norm_eps))
        heads = config.num_heads, config.num_kv_heads
        self._blocks = [
            qwen3_block(self._kernels, load, f"body.layers.{layer}.", *heads, config.norm_eps)
            for layer in range(config.num_layers)
        ]
        self._rotary = RotaryTable(config.head_dim, config.max_positions, config.rope_theta, dtype, device)
        self._offsets = torch.arange(config.num_codebooks, device=device) * config.codebook_size

    def embed_prompt(self, prompt: Tensor) -> Tensor:
        """See `SpeechLM.embed_prompt`."""
        is_text = prompt[:, :1] >= 0
        text = F.embedding(prompt[:, 0].clamp(min=0), self._text_embedding)
        return torch.where(is_text, text, self.embed_rows(prompt[:, 1:]))

    def embed_rows(self, rows: Tensor) -> Tensor:
        """See `SpeechLM.embed_rows`."""
        return self._kernels.embed_codes(rows, self._offsets, self._code_embedding)

    def forward(self, hidden: Tensor, batch: Batch, cache: Tensor, attention: AttentionBackend) -> Tensor:
        """See `SpeechLM.forward`."""
        attend = Attend(attention, self._kernels, cache, self._rotary, batch)
        for layer, block in enumerate(self._blocks):
            hidden = block(hidden, attend, layer)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See `SpeechLM.logits`."""
        return self._head(hidden).view(len(hidden), self.shape.num_codebooks, self.shape.codebook_size)
