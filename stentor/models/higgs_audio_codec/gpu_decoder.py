"""The codec's decoder on a GPU: each convolution, or a whole residual unit, with all that lies behind it.

A signal has been through its Snake when it is written: a layer reads it as it is, and where it is added as a
residual too, it is there both ways.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from stentor.layers.convolution import Convolve, Filter, Signal
from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_codec.config import RESIDUAL_DILATIONS, CodecConfig
from stentor.models.higgs_audio_codec.convolution import ReadWeight, phases
from stentor.models.higgs_audio_codec.decoder import fold_quantizers

# In what signals and weights are kept; sums are float32. TensorFloat32 is a way to multiply float32.
DTYPES = {
    "float32": torch.float32,
    "tfloat32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_PLACE = "acoustic_decoder"


class GpuDecoder:
    """Gives what `decoder.Decoder` gives, to the rounding of its `arithmetic`, which is one of `DTYPES`."""

    def __init__(
        self, read: ReadWeight, config: CodecConfig, device: torch.device, arithmetic: str, kernels: Kernels
    ) -> None:
        self._read, self._device, self._kernels = read, device, kernels
        self._dtype, self._rounds = DTYPES[arithmetic], arithmetic == "tfloat32"
        self._table = fold_quantizers(read, config).flatten(0, 1).to(device, self._dtype)
        self._first_rows = config.codebook_size * torch.arange(config.num_codebooks, device=device)
        self._layers = list(self._make_layers(config.acoustic.upsampling_ratios))

    @torch.inference_mode()
    def __call__(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Integers [batch, frames, codebooks], all below the codebook size, to float32 [batch, samples].

        With `lengths` [batch], a row is decoded as if nothing stood behind so many of its frames; what comes
        out behind them means nothing. The samples may exceed 1 in magnitude; what has left float16's range on
        its way comes out infinite or not a number.
        """
        batch, frames, codebooks = codes.shape
        rows = codes.to(self._device).reshape(-1, codebooks)
        latents = self._kernels.embed_codes(rows, self._first_rows, self._table)
        signal = Signal(None, latents.reshape(batch, frames, -1), lengths)
        for layer in self._layers:
            signal = layer(signal)
        return signal.active.reshape(batch, -1)

    def _make_layers(self, strides: tuple[int, ...]) -> Iterator[Convolve]:
        made = self._kernels.convolution
        snakes = [f"block.{number}.snake1" for number in range(len(strides))] + ["snake1"]
        yield made(self._filter("conv1", snakes[0]))
        for number, stride in enumerate(strides):
            units = [f"block.{number}.res_unit{unit}" for unit in range(1, len(RESIDUAL_DILATIONS) + 1)]
            behind = [*(f"{unit}.snake1" for unit in units), snakes[number + 1]]
            yield made(self._filter(f"block.{number}.conv_t1", behind[0], stride=stride, keeps_plain=True))
            for unit, dilation, after in zip(units, RESIDUAL_DILATIONS, behind[1:], strict=True):
                first = self._filter(f"{unit}.conv1", f"{unit}.snake2", dilation=dilation)
                # The next unit adds its change to it; the next block reads it through a Snake alone.
                yield made(first, self._filter(f"{unit}.conv2", after, keeps_plain=unit != units[-1]))
        yield made(self._filter("conv2"))

    def _filter(
        self, name: str, snake: str = "", *, dilation: int = 1, stride: int = 1, keeps_plain: bool = False
    ) -> Filter:
        """The layer of this name, and the Snake behind it; one with a stride is transposed."""
        weight, bias = self._read(f"{_PLACE}.{name}.weight"), self._read(f"{_PLACE}.{name}.bias")
        if name.endswith("conv_t1"):
            weight, bias = phases(weight), bias.repeat(stride)
        alpha = self._read(f"{_PLACE}.{snake}.alpha").flatten().to(self._device) if snake else None
        weight = weight.to(self._device, self._dtype)
        return Filter(weight, bias.to(self._device), alpha, dilation, stride, keeps_plain, self._rounds)
