"""The codec's decoder: a transformer over frames, then convolutions up to samples, causal throughout."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.kernels import Kernels, rms_norm
from stentor.layers.linear import Linear, Norm
from stentor.layers.rotary import RotaryTable, Turn, rotate
from stentor.layers.transformer import BlockWeights, DecoderBlock, fuse
from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.qwen3_codec.config import DecoderConfig, QwenCodecConfig
from stentor.models.qwen3_codec.convolution import (
    Block,
    CausalConvolution,
    SnakeBeta,
    Upsampling,
    convolution,
    pair,
)

# An entry of a codebook is a sum over what fell to it in training; of one that was not used, it is as it is.
_LEAST_USAGE = 1e-5


class Decoder:
    """Codes to samples in two parts: `states` look back far and cost little, `samples` a few frames.

    What stands behind a frame changes nothing of it, so signals may be padded at their ends. The first part
    is in float32, the second in the `target`'s arithmetic. `read` gives tensors by their names in the
    codec's file; windows are of `longest` frames at most.
    """

    def __init__(self, read: ReadWeight, config: QwenCodecConfig, target: Target, longest: int) -> None:
        self._target = target
        whole = Target(target.device, torch.float32)
        self._table = fold_quantizers(read, config).flatten(0, 1).to(target.device)
        self._first_rows = config.codebook_size * torch.arange(config.num_codebooks, device=target.device)
        self._transformer = _Transformer(read, config.decoder, whole, longest)
        decoder = config.decoder
        self._upsampling = [
            Upsampling(read, f"decoder.upsample.{number}", target)
            for number in range(len(decoder.upsampling_ratios))
        ]
        self._first = convolution(read, "decoder.decoder.0", target)
        self._blocks = [
            Block(read, f"decoder.decoder.{number}.block", rate, target)
            for number, rate in enumerate(decoder.rates, start=1)
        ]
        last = len(decoder.rates) + 1
        self._snake = SnakeBeta(read, f"decoder.decoder.{last}", target)
        self._last = convolution(read, f"decoder.decoder.{last + 1}", target)

    @torch.inference_mode()
    def states(self, codes: Tensor) -> Tensor:
        """Integers [batch, frames, codebooks] to the transformer's states, float32 [batch, frames, size].

        A frame depends on `context_frames` - `near_frames` of those before it.
        """
        rows = (codes.to(self._target.device) + self._first_rows).flatten(0, 1)
        latents = F.embedding_bag(rows, self._table, mode="sum")
        return self._transformer(latents.view(*codes.shape[:2], -1))

    @torch.inference_mode()
    def samples(self, states: Tensor) -> Tensor:
        """States to float32 [batch, samples], which may exceed 1 in magnitude.

        A frame depends on `near_frames` before it.
        """
        x = self._transformer.latents(states).to(self._target.dtype)
        for upsampling in self._upsampling:
            x = upsampling(x)
        x = self._first(x)
        for block in self._blocks:
            x = block(x)
        return self._last(self._snake(x)).flatten(1).float()


class _Transformer:
    """Pre-norm blocks, as in Qwen3 but without a norm of the heads, that see the last `window` frames."""

    def __init__(self, read: ReadWeight, config: DecoderConfig, target: Target, longest: int) -> None:
        self._config = config
        place = "decoder.pre_transformer"
        # What comes before is linear too: both are one convolution.
        enter, constant = (values.double() for values in pair(read, f"{place}.input_proj"))
        before, bias = (values.double() for values in pair(read, "decoder.pre_conv.conv"))
        weight, bias = torch.einsum("ol,lik->oik", enter, before), enter @ bias + constant
        self._enter = CausalConvolution(weight.float(), bias.float(), target)
        self._blocks = [
            _block(read, f"{place}.layers.{layer}", config.norm_eps, target)
            for layer in range(config.num_layers)
        ]
        self._norm = Norm(target.place(read(f"{place}.norm.weight")), config.norm_eps)
        self._leave = Linear(*(target.place(values) for values in pair(read, f"{place}.output_proj")))
        self._rotary = RotaryTable(config.head_dim, longest, config.rope_theta, torch.float32, target.device)

    def __call__(self, latents: Tensor) -> Tensor:
        """[batch, frames, codebook dim] to [batch, frames, hidden size], before the last norm."""
        batch, frames = latents.shape[:2]
        places = torch.arange(frames, device=latents.device)
        attend = _Attend(self._config, batch, self._rotary.at(places.repeat(batch)), places)
        x = self._enter(latents).flatten(0, 1)
        for layer, block in enumerate(self._blocks):
            x = block(x, attend, layer)
        return x.view(batch, frames, -1)

    def latents(self, states: Tensor) -> Tensor:
        """[batch, frames, hidden size] to [batch, frames, latent size]."""
        return self._leave(rms_norm(states.flatten(0, 1), *self._norm)).view(*states.shape[:2], -1)


class _Attend:
    """Attention of each frame of `batch` equally long signals to the `window` up to it."""

    def __init__(self, config: DecoderConfig, batch: int, turn: Turn, places: Tensor) -> None:
        self._config, self._batch, self._turn = config, batch, turn
        back = places[:, None] - places
        self._seen = (back >= 0) & (back < config.window)

    def __call__(self, qkv: Tensor, norm: Norm | None, layer: int) -> Tensor:
        config, batch = self._config, self._batch
        turned = config.num_heads + config.num_kv_heads
        heads = qkv.view(len(qkv), -1, config.head_dim)
        both = torch.cat((rotate(heads[:, :turned], *self._turn), heads[:, turned:]), dim=1)
        split = both.view(batch, -1, *both.shape[1:]).transpose(1, 2)
        sizes = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        queries, keys, values = torch.split(split, sizes, dim=1)
        grouped = config.num_heads != config.num_kv_heads
        heard = F.scaled_dot_product_attention(queries, keys, values, self._seen, enable_gqa=grouped)
        return heard.transpose(1, 2).reshape(len(qkv), -1)


def _block(read: ReadWeight, place: str, eps: float, target: Target) -> DecoderBlock:
    """One layer; what scales its two changes is in their last matrices."""

    def matrix(name: str) -> Tensor:
        return read(f"{place}.{name}_proj.weight")

    def norm(name: str) -> Norm:
        return Norm(target.place(read(f"{place}.{name}_layernorm.weight")), eps)

    def scaled(part: str, name: str) -> Tensor:
        return read(f"{place}.{part}_layer_scale.scale")[:, None] * matrix(f"{part}.{name}")

    kernels, near = Kernels(), target.place
    qkv = fuse(*(matrix(f"self_attn.{name}") for name in "qkv"))
    return DecoderBlock(
        BlockWeights(
            qkv=kernels.linear(near(qkv), norm("input")),
            qk_norm=None,
            output=kernels.residual(near(scaled("self_attn", "o"))),
            gated=kernels.gated(near(fuse(matrix("mlp.gate"), matrix("mlp.up"))), norm("post_attention")),
            down=kernels.residual(near(scaled("mlp", "down"))),
        )
    )


def fold_quantizers(read: ReadWeight, config: QwenCodecConfig) -> Tensor:
    """What each code adds to the decoder's input, float32 [codebooks, codebook size, codebook dim]."""
    tables = []
    for kind, levels in (("first", 1), ("rest", config.num_codebooks - 1)):
        place = f"decoder.quantizer.rvq_{kind}"
        out = read(f"{place}.output_proj.weight").double().squeeze(2)
        for level in range(levels):
            book = f"{place}.vq.layers.{level}._codebook"
            usage = read(f"{book}.cluster_usage").double().clamp(min=_LEAST_USAGE)
            tables.append(read(f"{book}.embedding_sum").double() / usage[:, None] @ out.T)
    return torch.stack(tables).float()
