"""From a request's parts to a prompt: a reference of so many seconds, and room left for speech."""

import math
import secrets
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from stentor.errors import RequestError, TooLargeError
from stentor.models.higgs_audio.length import longest_plausible_s
from stentor.request import Array, Prompt, Reference, SamplingParams, SpeechRequest

# Fresh seeds are short enough to be copied by hand.
_SEED_BITS = 31


class Sound(NamedTuple):
    """A reference as a prompt has it: a waveform to encode (lengthened by silence as its encoding wants), or
    codes uint16 [num_frames, num_codebooks]; without either there is none, and no frames.
    """

    waveform: Array | None = None
    codes: Array | None = None
    num_frames: int = 0


class CodecShape(Protocol):
    """What must be known of a codec to count its frames."""

    @property
    def sample_rate_hz(self) -> int: ...
    @property
    def samples_per_frame(self) -> int: ...
    @property
    def num_codebooks(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...

    def padded_length(self, num_samples: int) -> int:
        """Samples of a clip once it is lengthened for encoding."""


@dataclass(frozen=True)
class Limits:
    """What the preprocessor must know of the model and of the settings.

    `context_limit` counts positions, `sampling` are the checkpoint's defaults. `can_grow`: does the model
    take more positions than the setting lets it.
    """

    codec: CodecShape
    context_limit: int
    max_reference_s: float
    sampling: SamplingParams
    can_grow: bool = False

    def rows(self, num_frames: int) -> int:
        """Positions that so many frames take under the delay pattern."""
        return num_frames + self.codec.num_codebooks - 1

    def frames(self, seconds: float) -> float:
        """Frames in so much time."""
        return seconds * self.codec.sample_rate_hz / self.codec.samples_per_frame

    def sound(self, reference: Reference | None, waveform: Array | None) -> Sound:
        """What a request's reference, its recording read as `waveform`, is to the prompt.

        Raises:
            RequestError: it has no recording and no codes, or both, or codes of another shape.
        """
        if reference is None:
            return Sound()
        if reference.audio is not None and reference.codes is not None:
            raise RequestError("the reference has both audio and codes: give one of them", param="references")
        if reference.audio is None and reference.codes is None:
            problem = "a transcript, but neither audio nor codes" if reference.text else "no audio"
            raise RequestError(f"the reference has {problem}: give its recording", param="references")
        if not isinstance(reference.text, str | None):
            raise RequestError("the reference's transcript must be a string", param="references")
        if reference.codes is not None:
            codes = self._read_codes(reference.codes)
            return Sound(codes=codes, num_frames=len(codes))
        if waveform is None:
            return Sound()
        waveform = self._lengthen(waveform)
        padded = self.codec.padded_length(len(waveform))
        return Sound(waveform, num_frames=padded // self.codec.samples_per_frame)

    def prompt(
        self, request: SpeechRequest, token_ids: list[int], reference_start: int, sound: Sound
    ) -> Prompt:
        """The prompt of these ids, with the rows of the reference before those from `reference_start` on.

        Raises:
            TooLargeError: the context does not leave the room for speech that it needs, or is asked for.
        """
        reference_rows = self.rows(sound.num_frames) if sound.num_frames else 0
        return Prompt(
            request=request,
            token_ids=np.array(token_ids, dtype=np.int32),
            sampling=self._resolve(request.sampling, len(token_ids) + reference_rows),
            max_rows=self._guard_rows(request.text) if request.runaway_guard else None,
            reference_start=reference_start,
            reference_waveform=sound.waveform,
            reference_codes=sound.codes,
        )

    def _resolve(self, sampling: SamplingParams, prompt_positions: int) -> SamplingParams:
        """Fill in the defaults; a default number of rows is cut to what the context leaves."""
        given = {name: value for name, value in msgspec.structs.asdict(sampling).items() if value is not None}
        filled = msgspec.structs.replace(self.sampling, **given)
        if filled.seed is None:
            filled = msgspec.structs.replace(filled, seed=secrets.randbits(_SEED_BITS))
        limit = self.context_limit
        room = limit - prompt_positions
        if room < self.rows(1):
            further = ", or raise --max-context" if self.can_grow else ""
            raise TooLargeError(
                f"the text and its reference take {prompt_positions} positions of a context of {limit}, "
                f"which leaves no room for speech: shorten the text or the reference{further}",
                param="input",
            )
        rows = filled.max_new_tokens
        assert rows is not None, "the checkpoint's defaults have no None but the seed"
        if rows <= room:
            return filled
        if sampling.max_new_tokens is not None:
            raise TooLargeError(
                f"max_new_tokens is {rows}, but the text and its reference take {prompt_positions} "
                f"positions of a context of {limit}: at most {room} are left; lower it, leave it out, "
                "or shorten the text",
                param="max_new_tokens",
            )
        return msgspec.structs.replace(filled, max_new_tokens=room)

    def _guard_rows(self, text: str) -> int:
        return self.rows(math.ceil(self.frames(longest_plausible_s(text))))

    def _lengthen(self, waveform: Array) -> Array:
        """Done here, so that the rows of the reference are known before it is encoded."""
        missing = self.codec.padded_length(len(waveform)) - len(waveform)
        return np.pad(waveform, (0, missing)).astype(np.float32, copy=False)

    def _read_codes(self, given: Array) -> Array:
        """The codes as uint16 [num_frames, num_codebooks], if that is what they are."""
        codec = self.codec
        wanted = f"[num_frames, {codec.num_codebooks}]"
        try:
            codes = np.asarray(given)
        except ValueError:
            raise _code_error(f"not a matrix {wanted}: its rows differ in length") from None
        if codes.ndim != 2 or codes.shape[1] != codec.num_codebooks or len(codes) == 0:
            raise _code_error(f"of shape {list(codes.shape)}, but must be {wanted} with at least one frame")
        if codes.dtype.kind not in "iu":
            raise _code_error(f"of type {codes.dtype}, but must be whole numbers")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= codec.codebook_size:
            last = codec.codebook_size - 1
            raise _code_error(
                f"from {low} to {high}, but must be from 0 to {last}, without the delay pattern"
            )
        longest_s = self.max_reference_s
        if len(codes) > self.frames(longest_s):
            raise TooLargeError(
                f"the reference codes last {len(codes) / self.frames(1):.1f} s: send at most "
                f"{longest_s:g} s, or raise --max-seconds",
                param="reference_codes",
            )
        return codes.astype(np.uint16)


def _code_error(problem: str) -> RequestError:
    return RequestError(f"the reference codes are {problem}", param="reference_codes")
