"""The tiny codec's trained modules: transformers' DAC decoder and encoder with a fast Snake."""

import torch
from torch import nn
from transformers import DacConfig, HubertConfig
from transformers.models.dac import modeling_dac

from training.quantizer import LATENT_DIM

ACOUSTIC_DIM = 96
SEMANTIC_DIM = LATENT_DIM - ACOUSTIC_DIM
RATIOS = [8, 5, 4, 2, 3]
# Channels of the encoder's first convolution; each block doubles them.
ENCODER_WIDTH = 16


class _SnakeFunction(torch.autograd.Function):
    """x + sin²(αx) / α with a hand-written backward: a third of the memory traffic of the composed one."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.save_for_backward(x, alpha)
        sine = torch.sin(alpha.to(x.dtype) * x)
        return torch.addcmul(x, sine * sine, (1 / (alpha + 1e-9)).to(x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        x, alpha = ctx.saved_tensors
        doubled = 2 * alpha.to(x.dtype) * x
        sine = torch.sin(doubled)
        to_x = torch.addcmul(gradient, gradient, sine)
        slope = x * sine * (1 / alpha).to(x.dtype) - (1 - torch.cos(doubled)) * (0.5 / alpha**2).to(x.dtype)
        return to_x, (gradient * slope).float().sum((0, 2), keepdim=True).to(alpha.dtype)


class FusedSnake(nn.Module):
    """Drop-in for transformers' Snake1d with the same parameter name."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, hidden_dim, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the activation to [B, C, T]."""
        return _SnakeFunction.apply(x, self.alpha)


def acoustic_config(encoder_width: int = ENCODER_WIDTH) -> DacConfig:
    """`acoustic_model_config` of the checkpoint: Higgs's ratio order at small widths."""
    return DacConfig(
        encoder_hidden_size=encoder_width,
        decoder_hidden_size=384,
        hidden_size=ACOUSTIC_DIM,
        downsampling_ratios=RATIOS,
        upsampling_ratios=RATIOS,
        codebook_size=1024,
        codebook_dim=8,
        n_codebooks=9,
        sampling_rate=16000,
    )


def semantic_config() -> HubertConfig:
    """`semantic_model_config` of the checkpoint: a very small HuBERT, present for the format only."""
    return HubertConfig(
        hidden_size=SEMANTIC_DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        conv_bias=False,
        feat_extract_norm="group",
        feat_proj_layer_norm=True,
        do_stable_layer_norm=False,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
    )


def _with_fused_snake(build: type[nn.Module], encoder_width: int = ENCODER_WIDTH) -> nn.Module:
    original, modeling_dac.Snake1d = modeling_dac.Snake1d, FusedSnake
    try:
        return build(acoustic_config(encoder_width))
    finally:
        modeling_dac.Snake1d = original


class Decoder(nn.Module):
    """Latents [B, T, 128] to waveform [B, 960 T]: `fc2`, then DAC with Higgs's output padding and no tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(LATENT_DIM, ACOUSTIC_DIM)
        self.acoustic_decoder = _with_fused_snake(modeling_dac.DacDecoder)
        self.acoustic_decoder.tanh = nn.Identity()
        for block, stride in zip(self.acoustic_decoder.block, RATIOS, strict=True):
            block.conv_t1.output_padding = (stride % 2,)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Synthesises the waveform."""
        return self.acoustic_decoder(self.fc2(latents).transpose(1, 2))[:, 0]


class Encoder(nn.Module):
    """Waveform [B, 960 T] to latents [B, T, 128] by the DAC encoder and the acoustic columns of `fc`."""

    def __init__(self, width: int = ENCODER_WIDTH) -> None:
        super().__init__()
        self.acoustic_encoder = _with_fused_snake(modeling_dac.DacEncoder, width)
        self.fc = nn.Linear(LATENT_DIM, LATENT_DIM)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Estimates the latents; the semantic columns of `fc` stay unused."""
        hidden = self.acoustic_encoder(waveform[:, None]).transpose(1, 2)
        return nn.functional.linear(hidden, self.fc.weight[:, :ACOUSTIC_DIM], self.fc.bias)

    @property
    def width(self) -> int:
        """Channels of the first convolution."""
        return self.acoustic_encoder.conv1.out_channels

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor]) -> "Encoder":
        """The encoder, of whatever width, that `weights` are the state of."""
        encoder = cls(len(weights["acoustic_encoder.conv1.weight"]))
        encoder.load_state_dict(weights)
        return encoder

    @torch.no_grad()
    def grow_from(self, narrow: "Encoder") -> None:
        """Takes over a narrower encoder: the same function, with new channels that nothing listens to yet."""
        for (name, wide), old in zip(self.state_dict().items(), narrow.state_dict().values(), strict=True):
            known = tuple(slice(0, size) for size in old.shape)
            if wide.dim() > 1 and not name.endswith("alpha"):
                wide[known[0]] = 0
            wide[known] = old
