"""The vocode stage's worker: windows of codes to waveforms, equal lengths decoded as one batch."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.request import Array


class CodecVocoder:
    """Decodes each window as if nothing stood beyond its edges (see `stages.vocode.Vocoder`).

    In float32, decoding a stream by windows with `context_frames` frames on either side gives the samples of
    decoding it whole, to the rounding of one float32 sum.
    """

    def __init__(self, read: ReadWeight, config: CodecConfig, target: Target) -> None:
        self.sample_rate_hz = config.sample_rate_hz
        self.samples_per_frame = config.samples_per_frame
        self.context_frames = config.context_frames
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self._decoder = Decoder(read, config, target)
        # The first decode of a process takes several times as long: let no listener wait for it.
        self.decode([np.zeros((self.context_frames + 2, self.num_codebooks), np.uint16)])

    def decode(self, windows: Sequence[Array]) -> list[Array]:
        """Integers [frames, codebooks], below `codebook_size`, to float32 [frames * samples_per_frame] each.

        The samples may exceed 1 in magnitude.
        """
        waveforms: list[Array] = [np.zeros(0, np.float32)] * len(windows)
        by_length = defaultdict(list)
        for place, window in enumerate(windows):
            if len(window):
                assert window.max() < self.codebook_size, "special codes must not reach the tables"
                by_length[len(window)].append(place)
        for places in by_length.values():
            codes = torch.from_numpy(np.stack([windows[place] for place in places]).astype(np.int64))
            for place, waveform in zip(places, self._decoder(codes).cpu().numpy(), strict=True):
                waveforms[place] = waveform
        return waveforms
