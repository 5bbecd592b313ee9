"""The language model: the talker draws a frame's first code, the code predictor the others one by one."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.engine.model import DrawCodes, LMShape
from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch, DecodeBatch
from stentor.layers.kernels import Kernels, rms_norm
from stentor.layers.linear import Linear, Norm
from stentor.layers.rotary import RotaryTable
from stentor.layers.transformer import Attend
from stentor.models.higgs_audio.blocks import qwen3_block
from stentor.models.qwen3_tts.config import BASE, QwenConfig, Transformer
from stentor.models.weights import Weights
from stentor.request import VOICE_ROW

# No speech is shorter, in the model's own package.
_FEWEST_FRAMES = 2
# Positions of a block of the predictor's cache, as attention backends like them.
_BLOCK = 16


class _Backbone:
    """The blocks of a Qwen3 transformer, and their rotation, over `max_positions`."""

    def __init__(
        self, read: "_Reader", place: str, shape: Transformer, max_positions: int, kernels: Kernels
    ) -> None:
        self._kernels = kernels
        heads = shape.num_heads, shape.num_kv_heads
        self._blocks = [
            qwen3_block(kernels, read, f"{place}layers.{layer}.", *heads, shape.norm_eps)
            for layer in range(shape.num_layers)
        ]
        self._rotary = RotaryTable(shape.head_dim, max_positions, shape.rope_theta, read.dtype, read.device)

    def __call__(self, hidden: Tensor, batch: Batch, cache: Tensor, attention: AttentionBackend) -> Tensor:
        attend = Attend(attention, self._kernels, cache, self._rotary, batch)
        for layer, block in enumerate(self._blocks):
            hidden = block(hidden, attend, layer)
        return hidden


class _Reader:
    """Weights by name, in the model's arithmetic and where it runs."""

    def __init__(self, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
        self._weights, self.dtype, self.device = weights, dtype, device

    def __call__(self, name: str) -> Tensor:
        return self._weights.tensor(name).to(self.device, self.dtype)

    def linear(self, place: str) -> Linear:
        """A layer with a bias."""
        return Linear(self(f"{place}.weight"), self(f"{place}.bias"))


class QwenLM:
    """Implements `NestedLM`; a table [vocab_size + (num_codebooks - 1) * num_codes, hidden_size] embeds all
    of the talker's vocabulary, then the codes of each further codebook.
    """

    def __init__(
        self,
        config: QwenConfig,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """Read the weights by their names in the checkpoint."""
        read, kernels, talker = _Reader(weights, dtype, device), kernels or Kernels(), config.talker
        self.device, codes = device, config.num_codes
        self.shape = LMShape(
            num_codebooks=config.num_codebooks,
            codebook_size=codes + 2,
            begin_code=codes,
            end_code=codes + 1,
            num_layers=talker.num_layers,
            num_kv_heads=talker.num_kv_heads,
            head_dim=talker.head_dim,
            max_positions=config.max_positions,
            dtype=dtype,
            nested=True,
            fewest_rows=_FEWEST_FRAMES,
            voice_size=talker.hidden_size if config.kind == BASE else 0,
        )
        self._kernels, self._text_size, self._pad = kernels, config.text_vocab_size, config.marks.pad
        self._backbone = _Backbone(read, "talker.model.", talker, config.max_positions, kernels)
        self._norm = Norm(read("talker.model.norm.weight"), talker.norm_eps)
        head = read("talker.codec_head.weight")
        # The code that begins nothing is never drawn.
        head = torch.cat((head[:codes], torch.zeros_like(head[:1]), head[config.marks.eos, None]))
        self._head = kernels.head(head, self._norm)
        name = "talker.code_predictor.model.codec_embedding.{}.weight"
        tables = range(config.num_codebooks - 1)
        codec = read("talker.model.codec_embedding.weight")
        self._table = torch.cat((codec, *(read(name.format(number)) for number in tables)))
        further = config.vocab_size + codes * torch.arange(config.num_codebooks - 1, device=device)
        self._offsets = torch.cat((torch.zeros(1, dtype=torch.int64, device=device), further))
        self._text = read("talker.model.text_embedding.weight")
        self._text_in = read.linear("talker.text_projection.linear_fc1")
        self._text_out = read.linear("talker.text_projection.linear_fc2")
        self._text_pad = config.marks.tts_pad
        self._padding = self._embed_text(torch.tensor([self._text_pad], device=device))
        self._predictor = _Predictor(config, read, kernels)

    def embed_prompt(self, prompt: Tensor, voices: Tensor | None = None) -> Tensor:
        """See `SpeechLM.embed_prompt`; what ids mean says `preprocessor`."""
        ids = prompt[:, 0]
        kind, id = ids.div(self._text_size, rounding_mode="floor"), ids.remainder(self._text_size)
        text = self._embed_text(torch.where((kind == 0) | (kind == 1), id, self._text_pad))
        code = torch.where(kind >= 2, ids - 2 * self._text_size, self._pad)
        codes = F.embedding(code, self._table).masked_fill((kind == 0)[:, None], 0)
        is_row = (ids == -1)[:, None]
        # What else stands in a voice's row only tells it from others.
        rows = self._kernels.embed_codes(prompt[:, 1:] * is_row, self._offsets, self._table)
        codes = torch.where(is_row, rows, codes)
        if voices is not None:
            codes = torch.where((ids == VOICE_ROW)[:, None], voices.to(codes.dtype), codes)
        return text + codes

    def embed_rows(self, rows: Tensor) -> Tensor:
        """See `SpeechLM.embed_rows`."""
        return self._kernels.embed_codes(rows, self._offsets, self._table) + self._padding

    def forward(self, hidden: Tensor, batch: Batch, cache: Tensor, attention: AttentionBackend) -> Tensor:
        """See `SpeechLM.forward`."""
        return self._backbone(hidden, batch, cache, attention)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `SpeechLM.logits`."""
        scores = self._head(hidden)
        scores[:, self.shape.begin_code] = -math.inf
        return scores[:, None]

    def frame(self, hidden: Tensor, first: Tensor, draw: DrawCodes, attention: AttentionBackend) -> Tensor:
        """See `NestedLM.frame`."""
        codes, cache = [first], self._predictor.cache(len(hidden))
        self._predictor(rms_norm(hidden, *self._norm), 0, cache, attention)
        for codebook in range(1, self.shape.num_codebooks):
            # A frame that ends the speech is drawn as any other, and never heard.
            entries = self._offsets[codebook - 1] + codes[-1].clamp(max=self.shape.begin_code - 1)
            scores = self._predictor(F.embedding(entries, self._table), codebook, cache, attention)
            codes.append(draw(scores, codebook))
        return torch.stack(codes, 1)

    def _embed_text(self, ids: Tensor) -> Tensor:
        return self._text_out(F.silu(self._text_in(F.embedding(ids, self._text))))


class _Predictor:
    """A small transformer over the talker's state and the codes of one frame so far."""

    def __init__(self, config: QwenConfig, read: _Reader, kernels: Kernels) -> None:
        place, shape = "talker.code_predictor.", config.predictor
        self._dtype, self._device = read.dtype, read.device
        self._shape, self._positions = shape, -(-config.num_codebooks // _BLOCK) * _BLOCK
        self._backbone = _Backbone(read, f"{place}model.", shape, self._positions, kernels)
        norm = Norm(read(f"{place}model.norm.weight"), shape.norm_eps)
        self._heads = [
            kernels.head(read(f"{place}lm_head.{number}.weight"), norm)
            for number in range(config.num_codebooks - 1)
        ]
        narrows = shape.hidden_size != config.talker.hidden_size
        self._narrow = read.linear(f"{place}small_to_mtp_projection") if narrows else None

    def cache(self, rows: int) -> Tensor:
        """Room for the keys and values of a frame for each row."""
        shape, blocks = self._shape, rows * self._positions // _BLOCK
        size = (shape.num_layers, blocks, _BLOCK, 2 * shape.num_kv_heads, shape.head_dim)
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    def __call__(self, x: Tensor, place: int, cache: Tensor, attention: AttentionBackend) -> Tensor:
        """Scores [num_rows, 1, codebook_size] of the codebook `place`, after what is known of each frame:
        that much is in the cache, and `x` [num_rows, size of the talker] is the next; nothing of use at 0.
        """
        rows = torch.arange(len(x), device=x.device)
        blocks = torch.arange(cache.shape[1], device=x.device).view(len(x), -1)
        batch = DecodeBatch(torch.full_like(rows, place), rows * self._positions + place, blocks)
        hidden = self._backbone(self._narrow(x) if self._narrow else x, batch, cache, attention)
        if not place:
            return hidden
        # The codes that begin and end are the talker's to draw.
        return F.pad(self._heads[place - 1](hidden), (0, 2), value=-math.inf)[:, None]
