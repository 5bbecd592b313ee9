"""What travels through the pipeline: the request and the records that the stages turn it into.

All records are immutable and made of plain values and numpy arrays, so that the same record crosses a
thread as it is and a process as msgpack with its arrays in shared memory. In request order:

    SpeechRequest -> preprocess -> Prompt -> encode -> Prompt -> generate -> Frames -> vocode -> Audio

What no model could serve (a blank text, a temperature that is not a number) cannot be made: it raises a
RequestError.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from stentor.errors import RequestError

Array = np.ndarray[Any, Any]


class FinishReason(StrEnum):
    """Why a generation ended: by itself, at `max_new_tokens`, or cut by the runaway guard."""

    STOP = "stop"
    LENGTH = "length"
    RUNAWAY = "runaway"


class SamplingParams(msgspec.Struct, frozen=True):
    """How codes are drawn; None means the checkpoint's default (its `generation_config.json`).

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 mean no cut; `seed` None draws a fresh one;
    `max_new_tokens` counts rows (steps of the loop, 40 or 80 ms of audio); `repetition_penalty` above 1 makes
    what a codebook has said in its last 16 rows less likely, 1 is none.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, float, "at least 0", lambda value: value >= 0)
        _check_number("top_p", self.top_p, float, "above 0 and at most 1", lambda value: 0 < value <= 1)
        _check_number("top_k", self.top_k, int, "at least 0 (0 means no cut)", lambda value: value >= 0)
        _check_number("seed", self.seed, int, "from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)
        _check_number("max_new_tokens", self.max_new_tokens, int, "at least 1", lambda value: value >= 1)
        penalty = self.repetition_penalty
        _check_number(
            "repetition_penalty", penalty, float, "from 0.5 to 2 (1 is none)", lambda value: 0.5 <= value <= 2
        )


def _check_number(
    name: str, value: float | None, kind: type[float], bounds: str, fits: Callable[[float], bool]
) -> None:
    if value is None:
        return
    known = isinstance(value, (kind, int)) and not isinstance(value, bool)
    # Larger whole numbers do not travel between processes.
    if not (known and fits(value) and (math.isfinite(value) if type(value) is float else value < 2**63)):
        noun = "a whole number" if kind is int else "a number"
        raise RequestError(f"{name} is {value!r}, but must be {noun} {bounds}", param=name)


if TYPE_CHECKING:
    Recording = str | bytes
else:
    # msgspec refuses to decode a union of the two; msgpack tells text from bytes by itself.
    Recording = Any


class Reference(msgspec.Struct, frozen=True):
    """The recording of a voice to clone: `audio` or `codes`, and what is said in it, if known.

    `audio` is a path, an http(s) URL, a data URI, base64 text or the bytes of an audio file;
    `codes` is an integer array [num_frames, num_codebooks], before the delay pattern.
    Instead of all these, `speaker` is one of the model's own (`ModelInfo.speakers`).
    """

    audio: Recording | None = None
    codes: Array | None = None
    text: str | None = None
    speaker: str | None = None

    def __post_init__(self) -> None:
        for text in (self.audio, self.text):
            if isinstance(text, str):
                check_characters(text, "references")
        if self.speaker is not None and not (self.audio is None and self.codes is None):
            raise RequestError("a speaker of the model and a recording are two voices: give one")


def check_characters(text: str, param: str) -> None:
    """Refuse half characters (lone surrogates): JSON can spell them, UTF-8 cannot. Raises RequestError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text holds half a character at position {error.start}: send it as proper Unicode",
            param=param,
        ) from None


class SpeechRequest(msgspec.Struct, frozen=True, tag=True):
    """What the user asked for, validated.

    `check_tags` refuses unknown control tags; `stream` asks for chunks as early as exactness allows;
    `initial_chunk_frames` is the size of the first chunk in frames (None: the vocoder decides);
    `return_codes` puts the generated codes into the last `Audio`. `enroll` asks for no speech: the reference
    is to become a voice, is trimmed and checked as such, and comes back as the only `Audio`, with its codes.
    `instructions` are words for the delivery, for a model that reads them (`ModelInfo.reads_instructions`).
    `language` is a name, a code or a tag of it, for a model that does not hear it in the text.
    """

    request_id: str
    text: str
    reference: Reference | None = None
    sampling: SamplingParams = SamplingParams()
    runaway_guard: bool = True
    check_tags: bool = True
    stream: bool = False
    initial_chunk_frames: int | None = None
    return_codes: bool = False
    enroll: bool = False
    instructions: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise RequestError(
                f"the text is of type {type(self.text).__name__}, but must be a string", param="input"
            )
        if not self.text.strip():
            raise RequestError("the text is empty: give at least one word to say", param="input")
        check_characters(self.text, "input")
        check_characters(self.instructions or "", "instructions")
        check_characters(self.language or "", "language")
        frames = self.initial_chunk_frames
        _check_number("initial_chunk_frames", frames, int, "at least 1", lambda value: value >= 1)


# In a prompt's ids: no text, but a row that is all begin codes, all end codes, or the voice's vector.
BEGIN_ROW, END_ROW, VOICE_ROW = -1, -2, -3


class Prompt(msgspec.Struct, frozen=True, tag=True):
    """A request ready for the model, before (`reference_waveform`) or after (`reference_codes`) encoding.

    `token_ids` is the prompt as ids, of text or `BEGIN_ROW` and `END_ROW`, int32 [num_tokens]; the rows of
    the reference (delayed codes, one position each) belong before `token_ids[reference_start]` and take no
    place in it; before -1 they belong nowhere. The waveform is mono float32 [num_samples] at the codec's
    rate, the codes are integers [num_frames, num_codebooks], before the delay pattern. `voice`, float32
    [size], is what some models hear of the reference's speaker beside its codes: it stands at `VOICE_ROW`.
    `sampling` has no None left; `max_rows` is the runaway guard's limit (None: guard off).
    """

    request: SpeechRequest
    token_ids: Array
    sampling: SamplingParams
    max_rows: int | None = None
    reference_start: int = 0
    reference_waveform: Array | None = None
    reference_codes: Array | None = None
    voice: Array | None = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request: prompt positions (with those of the reference) and generated rows."""

    prompt_tokens: int
    completion_tokens: int


class Frames(msgspec.Struct, frozen=True, tag=True):
    """The next frames of a stream, uint16 [num_frames, num_codebooks], special codes already replaced.

    `request` comes with the first of a stream; `finish_reason` and `usage` with the last (maybe empty) one.
    """

    codes: Array
    request: SpeechRequest | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Audio(msgspec.Struct, frozen=True, tag=True):
    """The next chunk of a stream: mono float32 [num_samples] in [-1, 1] at `sample_rate_hz`.

    The last one carries `finish_reason`, `usage` and, if asked for, all `codes` [num_frames, num_codebooks];
    that of an enrolled reference its `transcript`, given or heard.
    """

    waveform: Array
    sample_rate_hz: int
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    codes: Array | None = None
    transcript: str | None = None


Record = SpeechRequest | Prompt | Frames | Audio


class ModelInfo(msgspec.Struct, frozen=True):
    """What the front doors may know of a model without loading it.

    One frame is `samples_per_frame` samples; `context_limit` counts positions; `sampling` are the
    checkpoint's own defaults, with no None but `seed`; `control_tags` are in full (`<|prosody:pause|>`).
    Codes of one `codec` (a name made of its codebooks) mean nothing to another. A text of more than
    `max_prompt_chars` is said better in parts of whole sentences; None: any text is said by one prompt.
    Where it does not read instructions, the words in them that have a control tag become tags of the text.
    With a `steady_voice` it speaks in one and the same voice wherever none is asked for. `speaker_tags` say
    in a text who speaks from there on. `speakers` are voices of its own, the first is its default. One that
    does not `clone` knows no others.
    """

    name: str
    checkpoint: str
    sample_rate_hz: int
    samples_per_frame: int
    num_codebooks: int
    codebook_size: int
    control_tags: tuple[str, ...]
    context_limit: int
    sampling: SamplingParams
    codec: str = ""
    max_prompt_chars: int | None = None
    reads_instructions: bool = False
    steady_voice: bool = False
    speaker_tags: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    clones: bool = True

    def require_cloning(self) -> None:
        """Raises RequestError: it clones no voices."""
        if not self.clones:
            advice = f"choose one of {', '.join(self.speakers)}" if self.speakers else "describe one in words"
            raise RequestError(f"the model {self.name} clones no voices: {advice}", param="references")
