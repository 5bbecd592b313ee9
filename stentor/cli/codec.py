"""Recordings to codes and back in this process, without loading the language model."""

from pathlib import Path

import numpy as np

from stentor.config import Config, override
from stentor.errors import RequestError
from stentor.models import registry
from stentor.request import Array, Audio, FinishReason, Frames, Prompt, SpeechRequest
from stentor.stages.inline import InlineStages
from stentor.tts import Speech, make_reference


def inline_stages(config: Config, *names: str) -> InlineStages:
    """These stages of `config.model`, built here. Raises NotFoundError, CheckpointError."""
    folder = registry.resolve(config.model.model)
    specs = {spec.name: spec for spec in registry.model_for(folder).stages(folder, config)}
    return InlineStages(specs[name] for name in names)


def encode_reference(reference: str | Path | bytes, config: Config) -> Array:
    """The codes of a recording, integers [num_frames, num_codebooks]; nobody asks what it says."""
    config = override(config, {"reference": {"asr": ""}})
    prompt = _encode(SpeechRequest("encode", "a reference", reference=make_reference(reference)), config)
    assert isinstance(prompt, Prompt), "what encode hands on"
    assert prompt.reference_codes is not None, "what encode is for"
    return prompt.reference_codes


def enroll_reference(reference: str | Path | bytes | Array, text: str | None, config: Config) -> Audio:
    """What is kept of a recording (or of codes) as a voice: its trimmed sound and its codes.

    Raises:
        RequestError: it is of no use as one: see `stentor.audio.enroll`.
    """
    made = make_reference(reference, text)
    audio = _encode(SpeechRequest("enroll", "a voice", reference=made, enroll=True), config)
    assert isinstance(audio, Audio), "what encode hands on"
    return audio


def _encode(request: SpeechRequest, config: Config) -> object:
    with inline_stages(config, "preprocess", "encode") as stages:
        (record,) = stages.run(request.request_id, request)
    return record


def decode_codes(codes: Array, config: Config) -> Speech:
    """The sound of codes, integers [num_frames, num_codebooks].

    Raises:
        RequestError: the array is not of that shape, or a code is outside the codebook.
    """
    if codes.size == 0:
        raise RequestError("there are no codes to decode: give integers [num_frames, num_codebooks]")
    request = SpeechRequest("decode", "codes")
    with inline_stages(config, "vocode") as stages:
        records = stages.run(request.request_id, Frames(codes, request, FinishReason.STOP))
    audio = [record for record in records if isinstance(record, Audio)]
    return Speech(np.concatenate([piece.waveform for piece in audio]), audio[0].sample_rate_hz, codes)
