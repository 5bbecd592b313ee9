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
    voice.hear("<|emotion:awe|> Hello. ", said(1.5, first=1))
    assert not voice.settled
    second = voice.dress(request("Then on."))
    assert second.reference is not None
    assert (second.reference.text, second.return_codes) == ("Hello.", True)
    voice.hear("Then on.", said(3.0, first=2))
    assert voice.settled
    third = voice.dress(request("And home."))
    assert third.reference is not None
    assert (third.reference.text, third.return_codes) == ("Hello. Then on.", False)
    assert third.reference.codes is not None
    assert third.reference.codes[:, 0].tolist() == [1] * 38 + [2] * 75
    voice.hear("And home.", said(2.0))
    again = voice.dress(request("And home.")).reference
    assert again is not None
    assert len(again.codes) == 113  # type: ignore[arg-type]


def test_a_named_voice_is_left_alone_and_nothing_waits_for_it() -> None:
    voice, reference = KeptVoice(INFO, 30.0), Reference(codes=np.ones((40, 8), int))
    named = request(reference=reference)
    assert voice.dress(named) is named
    assert voice.settled


def test_what_failed_or_was_cut_is_no_voice() -> None:
    voice = KeptVoice(INFO, 30.0)
    for last in (None, said(9, FinishReason.RUNAWAY), said(9, FinishReason.LENGTH)):
        voice.hear("Hello.", last)
    voice.hear("Hello.", structs.replace(said(9), codes=None))
    assert not voice.settled
    assert voice.dress(request()).reference is None


def test_a_reference_is_never_longer_than_it_may_be() -> None:
    voice = KeptVoice(INFO, 3.0)
    voice.hear("Too long.", said(3.5))
    assert voice.dress(request()).reference is None
    voice.hear("Hello.", said(2.0))
    voice.hear("Then on.", said(1.5))
    kept = voice.dress(request()).reference
    assert kept is not None
    assert kept.text == "Hello."
    voice.hear("Yes.", said(1.0))
    assert voice.settled


@pytest.mark.parametrize("fields", [{"codec": ""}, {"steady_voice": True}])
def test_a_model_that_has_a_voice_or_no_codes_of_use_keeps_none(fields: dict[str, Any]) -> None:
    voice = KeptVoice(structs.replace(INFO, **fields), 30.0)
    assert voice.settled
    assert voice.dress(request()) == request()
