"""What a clone is told of a reference beside its codes: the voice, as one vector."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from stentor.models.qwen3_codec.speaker import SpeakerEncoder
from stentor.models.qwen3_codec.vocoder import QwenVocoder
from stentor.request import Array

# Codes whose sound is heard for a voice, the first 6 s: more takes a CPU too long, and says little more.
HEARD_FRAMES = 75


class VoiceEncoder:
    """Implements `stages.encode.VoiceEncoder`; of codes alone it hears the sound that the first stand for."""

    def __init__(self, speaker: SpeakerEncoder, make_vocoder: Callable[[], QwenVocoder]) -> None:
        """The vocoder is made when the first codes without a recording come."""
        self._speaker, self._make_vocoder = speaker, make_vocoder

    def __call__(self, codes: Array, waveform: Array | None) -> Array:
        """See `stages.encode.VoiceEncoder`."""
        if waveform is None:
            waveform = np.clip(self._vocoder.decode([codes[:HEARD_FRAMES]])[0], -1.0, 1.0)
        return self._speaker(waveform)

    @cached_property
    def _vocoder(self) -> QwenVocoder:
        return self._make_vocoder()
