"""A voice that nobody named stays that of the first words; one that was named is left alone."""

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from stentor.pipeline.kept_voice import KeptVoice
from stentor.request import Audio, FinishReason, ModelInfo, Reference, SamplingParams, SpeechRequest

INFO = ModelInfo("m", "/m", 24_000, 960, 8, 1024, ("<|emotion:awe|>",), 4096, SamplingParams(), "codec-1")


def request(text: str = "Hello.", **fields: Any) -> SpeechRequest:
    return SpeechRequest("r", text, **fields)


def said(seconds: float, reason: FinishReason = FinishReason.STOP, first: int = 0) -> Audio:
    codes = np.full((round(25 * seconds), 8), first, np.uint16)
    return Audio(np.zeros(0, np.float32), 24_000, reason, codes=codes)


def test_what_was_said_is_the_reference_of_what_follows_until_it_is_enough() -> None:
    voice = KeptVoice(INFO, 30.0)
    first = voice.dress(request())
    assert first == request(return_codes=True)
    voice.hear(structs.replace(first, text="<|emotion:awe|> Hello. "), said(1.5, first=1))
    assert not voice.settled
    second = voice.dress(request("Then on."))
    assert second.reference is not None
    assert (second.reference.text, second.return_codes) == ("Hello.", True)
    voice.hear(second, said(3.0, first=2))
    assert voice.settled
    third = voice.dress(request("And home."))
    assert third.reference is not None
    assert (third.reference.text, third.return_codes) == ("Hello. Then on.", False)
    assert third.reference.codes is not None
    assert third.reference.codes[:, 0].tolist() == [1] * 38 + [2] * 75
    voice.hear(third, said(2.0))
    again = voice.dress(request("And home.")).reference
    assert again is not None
    assert len(again.codes) == 113  # type: ignore[arg-type]


def test_a_named_voice_is_left_alone_and_nothing_waits_for_it() -> None:
    voice, reference = KeptVoice(INFO, 30.0), Reference(codes=np.ones((40, 8), int))
    named = request(reference=reference)
    assert voice.dress(named) is named
    assert voice.settled


def test_a_voice_that_is_named_for_a_while_does_not_end_the_keeping_of_one() -> None:
    voice = KeptVoice(INFO, 30.0)
    voice.dress(request(reference=Reference(codes=np.ones((40, 8), int))))
    first = voice.dress(request())
    assert (voice.settled, first.return_codes) == (False, True)
    voice.hear(first, said(1.5))
    voice.dress(request(reference=Reference(codes=np.ones((40, 8), int))))
    kept = voice.dress(request()).reference
    assert kept is not None
    assert kept.text == "Hello."


def test_of_several_at_a_time_one_voice_is_kept() -> None:
    voice = KeptVoice(INFO, 30.0)
    first, second = voice.dress(request("One.")), voice.dress(request("Two."))
    voice.hear(second, said(1.5, first=2))
    voice.hear(first, said(1.5, first=1))
    kept = voice.dress(request()).reference
    assert kept is not None
    assert (kept.text, set(np.ravel(kept.codes))) == ("Two.", {2})


def test_what_failed_or_was_cut_is_no_voice() -> None:
    voice = KeptVoice(INFO, 30.0)
    for last in (None, said(9, FinishReason.RUNAWAY), said(9, FinishReason.LENGTH)):
        voice.hear(request(), last)
    voice.hear(request(), structs.replace(said(9), codes=None))
    assert not voice.settled
    assert voice.dress(request()).reference is None


@pytest.mark.parametrize(("longest_s", "context"), [(3.0, 4096), (30.0, 2 * 75)])
def test_a_reference_is_never_longer_than_it_may_be(longest_s: float, context: int) -> None:
    voice = KeptVoice(structs.replace(INFO, context_limit=context), longest_s)
    voice.hear(voice.dress(request("Too long.")), said(3.5))
    assert voice.dress(request()).reference is None
    voice.hear(voice.dress(request()), said(2.0))
    voice.hear(voice.dress(request("Then on.")), said(1.5))
    kept = voice.dress(request()).reference
    assert kept is not None
    assert kept.text == "Hello."
    voice.hear(voice.dress(request("Yes.")), said(1.0))
    assert voice.settled


@pytest.mark.parametrize("fields", [{"codec": ""}, {"steady_voice": True}, {"clones": False}])
def test_a_model_that_has_a_voice_or_no_codes_of_use_keeps_none(fields: dict[str, Any]) -> None:
    voice = KeptVoice(structs.replace(INFO, **fields), 30.0)
    assert voice.settled
    assert voice.dress(request()) == request()
