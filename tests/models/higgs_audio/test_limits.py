"""Laws of a prompt's limits: defaults shrink to the room there is, what was asked for does not."""

from typing import Any

import numpy as np
import pytest

from stentor.errors import RequestError, TooLargeError
from stentor.models.higgs_audio.length import longest_plausible_s
from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.request import Prompt, Reference, SamplingParams, SpeechRequest

DEFAULTS = SamplingParams(0.7, 0.9, 40, None, 2048)
CODES = np.arange(80).reshape(10, 8)
SPEECH = np.ones(24500, dtype=np.float32)


def prepare(text: str = "Hello.", *, context_limit: int = 4096, **fields: Any) -> Prompt:
    """The prompt of a text of one id per letter, between two ids and one."""
    limits = Limits(CodecConfig.read(), context_limit, 30.0, DEFAULTS)
    request = SpeechRequest("r", text, **fields)
    given = request.reference is not None and request.reference.audio is not None
    sound = limits.sound(request.reference, SPEECH if given else None)
    return limits.prompt(request, [1, 2, *map(ord, text), 3], 2, sound)


def test_a_recording_is_padded_to_whole_frames() -> None:
    prompt = prepare(reference=Reference(audio=b"a recording"))
    assert prompt.reference_waveform is not None
    assert prompt.reference_waveform.shape == (26 * 960,)
    assert prompt.reference_waveform.dtype == np.float32
    assert np.array_equal(prompt.reference_waveform[:24500], SPEECH)
    assert not prompt.reference_waveform[24500:].any()


def test_what_is_not_given_takes_the_checkpoints_defaults() -> None:
    sampling = prepare(sampling=SamplingParams(temperature=0.0, seed=7)).sampling
    assert sampling == SamplingParams(0.0, 0.9, 40, 7, 2048)


def test_without_a_seed_every_request_gets_a_fresh_one() -> None:
    seeds = {prepare().sampling.seed for _ in range(5)}
    assert None not in seeds
    assert len(seeds) > 1


def test_the_default_number_of_rows_shrinks_to_what_the_context_leaves() -> None:
    prompt = prepare(context_limit=300)
    assert prompt.sampling.max_new_tokens == 300 - len(prompt.token_ids)
    cloned = prepare(context_limit=300, reference=Reference(codes=CODES))
    assert cloned.sampling.max_new_tokens == 300 - len(cloned.token_ids) - 17
    recorded = prepare(context_limit=300, reference=Reference(audio=b"a recording"))
    assert recorded.sampling.max_new_tokens == 300 - len(recorded.token_ids) - 33


def test_an_explicit_number_of_rows_that_does_not_fit_is_refused_with_the_numbers() -> None:
    fits = prepare("x" * 7, context_limit=300, sampling=SamplingParams(max_new_tokens=290))
    assert fits.sampling.max_new_tokens == 290
    problem = r"max_new_tokens is 291.* take 10 positions .* context of 300: at most 290 are left"
    with pytest.raises(TooLargeError, match=problem) as caught:
        prepare("x" * 7, context_limit=300, sampling=SamplingParams(max_new_tokens=291))
    assert caught.value.param == "max_new_tokens"


def test_a_text_that_leaves_no_room_for_speech_is_refused() -> None:
    assert prepare("x" * 289, context_limit=300).sampling.max_new_tokens == 8
    with pytest.raises(TooLargeError, match="take 293 positions of a context of 300") as caught:
        prepare("x" * 290, context_limit=300)
    assert caught.value.param == "input"


def test_the_guard_allows_the_longest_plausible_speech_and_can_be_off() -> None:
    text = "We asked over twenty people."
    max_rows = prepare(text).max_rows
    assert max_rows is not None
    assert 0 <= max_rows - 7 - longest_plausible_s(text) * 25 < 1
    assert prepare(text, runaway_guard=False).max_rows is None


@pytest.mark.parametrize(
    ("codes", "problem"),
    [
        (np.zeros((0, 8), int), r"shape \[0, 8\]"),
        (np.zeros((5, 7), int), r"shape \[5, 7\], but must be \[num_frames, 8\]"),
        (np.zeros(8, int), r"shape \[8\]"),
        (np.zeros((1, 5, 8), int), r"shape \[1, 5, 8\]"),
        (np.zeros((5, 8)), "of type float64, but must be whole numbers"),
        (np.zeros((5, 8), bool), "of type bool"),
        (np.full((5, 8), -1), "from -1 to -1, but must be from 0 to 1023"),
        (np.full((5, 8), 1024), "from 1024 to 1024"),
        (np.full((5, 8), 2**40), "but must be from 0 to 1023"),
        ([[1, 2], [3]], "rows differ in length"),
        ("codes", r"shape \[\]"),
    ],
)
def test_codes_of_wrong_shape_or_range_are_refused(codes: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as caught:
        prepare(reference=Reference(codes=codes))
    assert caught.value.param == "reference_codes"


def test_codes_may_be_plain_lists() -> None:
    codes: Any = CODES.tolist()
    assert np.array_equal(prepare(reference=Reference(codes=codes)).reference_codes, CODES)


def test_codes_that_last_too_long_are_refused() -> None:
    assert prepare(reference=Reference(codes=np.zeros((750, 8), int))).reference_codes is not None
    with pytest.raises(TooLargeError, match=r"30\.0 s: send at most 30 s"):
        prepare(reference=Reference(codes=np.zeros((751, 8), int)))


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (Reference(text="I said this."), "a transcript, but neither audio nor codes"),
        (Reference(), "no audio"),
        (Reference(audio=b"x", codes=CODES), "both audio and codes"),
        (Reference(codes=CODES, text=7), "must be a string"),  # type: ignore[arg-type]
    ],
)
def test_an_incomplete_reference_is_refused(reference: Reference, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        prepare(reference=reference)
