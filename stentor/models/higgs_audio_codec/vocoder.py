"""The vocode stage's worker: windows of codes to waveforms, batched, on a GPU as captured graphs."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stentor.errors import ConfigError
from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.decoding import Decode, DecodeGraphs, batches, decode_shapes
from stentor.models.higgs_audio_codec.gpu_decoder import DTYPES, GpuDecoder
from stentor.request import Array

# Of shorter signals some convolutions are computed in another order: these are padded to as much.
_SHORTEST_FRAMES = 4
# On a CPU more frames at once are no faster, and what they take is never given back: 2 MiB each.
_CPU_BATCH_FRAMES = 120


def make_decoder(
    read: ReadWeight, config: CodecConfig, device: torch.device, arithmetic: str, kernels: Kernels
) -> Decode:
    """The decoder for this device, in one of the arithmetics of `--vocoder-dtype`.

    Raises:
        ConfigError: the device has no such arithmetic.
    """
    if device.type == "cuda":
        return GpuDecoder(read, config, device, arithmetic, kernels)
    if arithmetic == "float16":
        raise ConfigError(f"--vocoder-dtype float16 needs a GPU, the device is {device.type}: use float32")
    return Decoder(read, config, Target(device, DTYPES[arithmetic]))


class CodecVocoder:
    """Decodes each window as if nothing stood beyond its edges (see `stages.vocode.Vocoder`).

    Decoding a stream by windows with `context_frames` frames on either side gives the samples of decoding it
    whole, bit for bit: in float32 on a CPU, where oneDNN computes; on a GPU with Triton's kernels in every
    arithmetic.
    """

    def __init__(
        self,
        decoder: Decode,
        config: CodecConfig,
        device: torch.device,
        most_frames: int,
        *,
        graphs: bool = True,
    ) -> None:
        """`most_frames` are decoded at once, at most; on a GPU, `graphs` captures all that may be.

        Raises:
            ConfigError: there is no memory for the largest batch.
        """
        self.sample_rate_hz = config.sample_rate_hz
        self.samples_per_frame = config.samples_per_frame
        self.context_frames = self.lookahead_frames = self.near_frames = config.context_frames
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.longest_window: int | None = None
        self.overlaps = device.type == "cuda"
        self._decoder = decoder
        self._graphs: DecodeGraphs | None = None
        if self.overlaps:
            self._graphs = self._on_gpu(config, device, most_frames, graphs)
            self.longest_window = self._graphs.longest
        # The first decode of a process takes several times as long: let no listener wait for it.
        self.decode([np.zeros((self.context_frames + 2, self.num_codebooks), np.uint16)])

    def begin(self, windows: Sequence[Array], skipped: Sequence[int] = ()) -> Callable[[], list[Array]]:
        """Start to decode integers [frames, codebooks], below `codebook_size`; gives a function that waits
        for it: float32 [frames * samples_per_frame] each, which may exceed 1 in magnitude.
        """
        assert all(not len(window) or window.max() < self.codebook_size for window in windows), (
            "special codes must not reach the tables"
        )
        if self._graphs is not None:
            return self._graphs.begin(windows)
        waveforms = self._decode_here(windows)
        return lambda: waveforms

    def decode(self, windows: Sequence[Array]) -> list[Array]:
        """`begin`, and wait."""
        return self.begin(windows)()

    def _decode_here(self, windows: Sequence[Array]) -> list[Array]:
        """On a CPU padding costs what it pads: only windows of one length share a batch, and few of them."""
        waveforms: list[Array] = [np.zeros(0, np.float32)] * len(windows)
        for frames, places in batches(windows, int, lambda frames: max(1, _CPU_BATCH_FRAMES // frames)):
            codes = np.stack([windows[place] for place in places]).astype(np.int64)
            missing = max(0, _SHORTEST_FRAMES - frames)
            padded = torch.from_numpy(np.pad(codes, ((0, 0), (0, missing), (0, 0))))
            lengths = torch.full((len(places),), frames) if missing else None
            for place, waveform in zip(places, self._decoder(padded, lengths).cpu().numpy(), strict=True):
                waveforms[place] = waveform[: frames * self.samples_per_frame]
        return waveforms

    def _on_gpu(
        self, config: CodecConfig, device: torch.device, most_frames: int, graphs: bool
    ) -> DecodeGraphs:
        # Loaded here: it brings the engine's side of a GPU along.
        from stentor.engine.cuda_graph import capture_on, own_stream
        from stentor.engine.memory import free_bytes, report_part

        stream = own_stream(device)
        shapes = decode_shapes(most_frames, config.context_frames)
        capture = capture_on(stream) if graphs else None
        made = DecodeGraphs(self._decoder, config, device, shapes, capture, stream)
        before_bytes = free_bytes(device)
        try:
            made.warm_up()
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"beside what is there, {device} has no memory for a vocoder round of {most_frames} "
                f"frames ({before_bytes} bytes are free): lower --max-batch-frames"
            ) from None
        used_bytes = before_bytes - free_bytes(device)
        report_part(f"vocoder: {len(made)} graphs with their buffers", used_bytes, device)
        return made
