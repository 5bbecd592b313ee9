"""The vocode stage's worker: windows of codes with a long context before them to waveforms."""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stentor.engine.cuda_graph import own_stream
from stentor.engine.landing import download, landed, upload
from stentor.errors import ConfigError
from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.higgs_audio_codec.decoding import batches
from stentor.models.higgs_audio_codec.encoder import exact_convolutions
from stentor.models.higgs_audio_codec.gpu_decoder import DTYPES
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.models.qwen3_codec.decoder import Decoder
from stentor.request import Array

# Windows are lengthened to a multiple of so many frames.
_STEP = 16


class QwenVocoder:
    """Decodes each window as if nothing stood before it (see `stages.vocode.Vocoder`); none needs lookahead.

    A frame's samples are those of decoding the whole stream to 1e-5, where the arithmetic is float32.
    """

    def __init__(
        self,
        read: ReadWeight,
        config: QwenCodecConfig,
        device: torch.device,
        arithmetic: str,
        most_frames: int,
    ) -> None:
        """`read` gives tensors by their names in the codec's file, `arithmetic` is one of `--vocoder-dtype`;
        the convolutions are computed for `most_frames` at once, at most.

        Raises:
            ConfigError: the device has no such arithmetic, or no memory for the largest batch.
        """
        if arithmetic == "float16" and device.type == "cpu":
            raise ConfigError("--vocoder-dtype float16 needs a GPU, the device is cpu: use float32")
        self.sample_rate_hz = config.sample_rate_hz
        self.samples_per_frame = config.samples_per_frame
        self.context_frames = config.context_frames
        self.lookahead_frames = 0
        self.near_frames = config.near_frames
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.longest_window: int | None = config.context_frames + most_frames
        self.overlaps = device.type == "cuda"
        self._device, self._most_frames = device, most_frames
        self._exact = device if arithmetic == "float32" else torch.device("cpu")
        target = Target(device, DTYPES[arithmetic])
        self._decoder = Decoder(read, config, target, self.longest_window + _STEP)
        self._stream = own_stream(device) if self.overlaps else None
        self._warm_up()

    def begin(self, windows: Sequence[Array], skipped: Sequence[int] = ()) -> Callable[[], list[Array]]:
        """Start to decode integers [frames, codebooks], below `codebook_size`; gives a function that waits
        for it: float32 [(frames - skipped) * samples_per_frame] each, which may exceed 1 in magnitude.
        """
        assert all(not len(window) or window.max() < self.codebook_size for window in windows), (
            "special codes must not reach the tables"
        )
        starts = skipped or [0] * len(windows)
        near = [max(0, start - self.near_frames) for start in starts]
        # On a CPU padding costs what it pads, and alone a window is decoded as it is in any company.
        grown: Callable[[int], int] = _padded if self.overlaps else int
        most: Callable[[int], int] = self._most_rows if self.overlaps else lambda frames: 1
        heard = [window[first:] for window, first in zip(windows, near, strict=True)]
        parts: list[tuple[list[int], Tensor]] = []
        with self._in_order():
            for _, places in batches(heard, grown, most):
                samples = self._decode(
                    [windows[place] for place in places], [near[place] for place in places]
                )
                parts.append((places, download(samples)))
            wait = landed(self._device)

        def read() -> list[Array]:
            wait()
            waveforms: list[Array] = [np.zeros(0, np.float32)] * len(windows)
            for places, samples in parts:
                for place, row in zip(places, samples.numpy(), strict=True):
                    first, last = starts[place] - near[place], len(heard[place])
                    waveforms[place] = row[first * self.samples_per_frame : last * self.samples_per_frame]
            return waveforms

        return read

    def decode(self, windows: Sequence[Array], skipped: Sequence[int] = ()) -> list[Array]:
        """`begin`, and wait."""
        return self.begin(windows, skipped)()

    def _decode(self, windows: Sequence[Array], firsts: Sequence[int]) -> Tensor:
        """The samples from each one's first frame that is convolved; behind its end they mean nothing."""
        # What stands behind the end changes nothing; few lengths are few tables of oneDNN.
        longest = -(-max(map(len, windows)) // _STEP) * _STEP
        codes = np.zeros((len(windows), longest, self.num_codebooks), np.int32)
        for row, window in zip(codes, windows, strict=True):
            row[: len(window)] = window
        frames = max(len(window) - first for window, first in zip(windows, firsts, strict=True))
        with exact_convolutions(self._device):
            states = self._decoder.states(upload(codes, self._device))
        places = np.minimum(np.array(firsts)[:, None] + np.arange(frames), codes.shape[1] - 1)
        near = upload(places, self._device)[..., None].expand(-1, -1, states.shape[2])
        with exact_convolutions(self._exact):
            return self._decoder.samples(states.gather(1, near))

    def _most_rows(self, frames: int) -> int:
        return max(1, self._most_frames // frames)

    def _warm_up(self) -> None:
        """The first decode of a process takes several times as long: let no listener wait for it."""
        # On a GPU the largest, whose memory stays: who comes later finds the rest.
        frames = self.near_frames + (self._most_frames if self.overlaps else 2)
        try:
            self.decode([np.zeros((frames, self.num_codebooks), np.uint16)])
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"beside what is there, {self._device} has no memory for a vocoder round of "
                f"{self._most_frames} frames: lower --max-batch-frames"
            ) from None

    def _in_order(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _padded(frames: int) -> int:
    """The power of two from that many on: windows of nearly one length share a batch."""
    return 1 << (frames - 1).bit_length()
