"""Whisper as it writes down a recording: greedily, in the language that it hears, without timestamps."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stentor.audio.resample import resample
from stentor.errors import OverloadedError
from stentor.models.fields import Fields
from stentor.models.weights import check_shapes, open_checkpoint
from stentor.request import Array

if TYPE_CHECKING:
    import torch

# Recordings that a GPU hears at once.
_BATCH = 4
# The same tensor as the decoder's embedding; a file may hold it or not.
_TIED = "proj_out.weight"

log = logging.getLogger(__name__)


class _Parts(NamedTuple):
    model: Any
    features: Any
    tokenizer: Any


class Whisper:
    """Implements `stages.transcribe.Recogniser` over a checkpoint in transformers' format.

    Made where nothing may be loaded: it loads when it is first asked to transcribe, and until then it can be
    pickled. What it hears in a recording does not depend on others beside it: on a CPU they are heard one by
    one, and a GPU's batches are all of one size.
    """

    def __init__(self, folder: Path, device: str) -> None:
        """Raises CheckpointError if a file is missing or damaged."""
        sound = Fields.read(folder / "preprocessor_config.json")
        Fields.read(folder / "tokenizer.json")
        Fields.read(folder / "generation_config.json")
        self._weights = open_checkpoint(folder)
        self._rate_hz = sound.size("sampling_rate", 16_000)
        self.max_seconds: float = sound.size("chunk_length", 30)
        # Its makers let it say so much of a window; what is longer goes round in circles.
        self._max_tokens = Fields.read(folder / "config.json").size("max_target_positions", 448) // 2
        self._folder = folder
        self._device = device
        self._parts: _Parts | None = None
        log.info("references without a transcript are heard by %s", folder)

    @property
    def max_batch(self) -> int:
        """See `Recogniser.max_batch`. Raises ConfigError if there is no such device."""
        return 1 if self._where().type == "cpu" else _BATCH

    def transcribe(self, waveforms: Sequence[Array], sample_rate_hz: int) -> list[str]:
        """See `Recogniser.transcribe`. Raises OverloadedError if there is no memory for it."""
        import torch

        from stentor.engine.memory import one_out_of_memory

        heard = [resample(waveform, sample_rate_hz, self._rate_hz) for waveform in waveforms]
        heard += heard[:1] * (self.max_batch - len(heard))
        try:
            with one_out_of_memory(), torch.inference_mode(), _quiet():
                if self._parts is None:
                    self._parts = self._load()
                return self._words(self._parts, heard)[: len(waveforms)]
        except torch.OutOfMemoryError:
            raise OverloadedError(
                "no memory to hear what the reference says: send its words with it, or try later"
            ) from None

    def _words(self, parts: _Parts, recordings: list[Array]) -> list[str]:
        model, features, tokenizer = parts
        spectra = features(recordings, sampling_rate=self._rate_hz, return_tensors="pt").input_features
        defaults = model.generation_config
        multilingual = getattr(defaults, "is_multilingual", False)
        tokens = model.generate(
            # Given, it is not computed a second time for the language.
            encoder_outputs=model.model.encoder(spectra.to(model.device, model.dtype)),
            return_timestamps=False,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._max_tokens,
            **({"task": "transcribe"} if multilingual else {}),
        )
        ended = (tokens != defaults.pad_token_id).sum(dim=1) < self._max_tokens
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) if whole else "" for text, whole in zip(texts, ended, strict=True)]

    def _load(self) -> _Parts:
        started_s, folder, device = time.monotonic(), self._folder, self._where()
        import torch
        from transformers import (
            GenerationConfig,
            WhisperConfig,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
            WhisperTokenizer,
        )

        # Its own arithmetic where the hardware has it.
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(folder))
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tied = {_TIED: wanted.pop(_TIED)}
        check_shapes(folder, self._weights.shapes, wanted, tied)
        state = {name: self._weights.tensor(name).to(device, dtype) for name in wanted}
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        model.generation_config = GenerationConfig.from_pretrained(folder)
        features = WhisperFeatureExtractor.from_pretrained(folder)
        tokenizer = WhisperTokenizer.from_pretrained(folder)
        seconds = time.monotonic() - started_s
        log.info("the recogniser %s is loaded on %s in %.1f s", folder, device, seconds)
        return _Parts(model.eval(), features, tokenizer)

    def _where(self) -> "torch.device":
        from stentor.layers.device import resolve_device

        return resolve_device(self._device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it transformers does not advise against what it does itself."""
    from transformers.utils import logging as its

    level = its.get_verbosity()
    its.set_verbosity_error()
    try:
        yield
    finally:
        its.set_verbosity(level)
