"""The geometry of the speaker encoder, and its tensors by name and shape; needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from stentor.models.fields import Fields
from stentor.models.weights import Shape, Shapes

SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True)
class SpeakerConfig:
    """A first layer, blocks in which `scale` groups of channels are one behind the other, and a last layer
    over what all blocks say; `channels`, `kernels` and `dilations` have an entry for each of these.
    """

    size: int
    mels: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    dilations: tuple[int, ...]
    attention: int
    scale: int
    squeeze: int

    @classmethod
    def of(cls, fields: Fields) -> "SpeakerConfig":
        """Read a checkpoint's `speaker_encoder_config`. Raises CheckpointError: it does not fit together."""
        config = cls(
            fields.size("enc_dim", 1024),
            fields.size("mel_dim", 128),
            fields.sizes("enc_channels", (512, 512, 512, 512, 1536)),
            fields.sizes("enc_kernel_sizes", (5, 3, 3, 3, 1)),
            fields.sizes("enc_dilations", (1, 2, 3, 4, 1)),
            fields.size("enc_attention_channels", 128),
            fields.size("enc_res2net_scale", 8),
            fields.size("enc_se_channels", 128),
        )
        *blocks, last = config.channels
        fits = len(set(blocks)) == 1 and blocks[0] % config.scale == 0 and last == sum(blocks[1:]) > 0
        if not fits or not len(config.channels) == len(config.kernels) == len(config.dilations):
            raise fields.error(
                f"{fields.prefix}enc_channels is {list(config.channels)}; it must list one multiple of "
                "enc_res2net_scale for the first layer and each block, then the sum of the blocks', as many "
                "entries as enc_kernel_sizes and enc_dilations"
            )
        if fields.size("sample_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
            raise fields.error(f"{fields.prefix}sample_rate must be {SAMPLE_RATE_HZ}")
        return config

    def shapes(self, prefix: str = "") -> Shapes:
        """Its tensors by their names behind `prefix`."""
        return {
            f"{prefix}{name}.{part}": shape
            for name, weight in self._convolutions()
            for part, shape in (("weight", weight), ("bias", weight[:1]))
        }

    def _convolutions(self) -> Iterator[tuple[str, Shape]]:
        width, last, group = self.channels[0], self.channels[-1], self.channels[0] // self.scale
        yield "blocks.0.conv", (width, self.mels, self.kernels[0])
        for number, kernel in enumerate(self.kernels[1:-1], 1):
            block = f"blocks.{number}"
            yield f"{block}.tdnn1.conv", (width, width, 1)
            for step in range(self.scale - 1):
                yield f"{block}.res2net_block.blocks.{step}.conv", (group, group, kernel)
            yield f"{block}.tdnn2.conv", (width, width, 1)
            yield f"{block}.se_block.conv1", (self.squeeze, width, 1)
            yield f"{block}.se_block.conv2", (width, self.squeeze, 1)
        yield "mfa.conv", (last, last, self.kernels[-1])
        yield "asp.tdnn.conv", (self.attention, 3 * last, 1)
        yield "asp.conv", (last, self.attention, 1)
        yield "fc", (self.size, 2 * last, 1)
