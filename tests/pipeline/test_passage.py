import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from msgspec import structs

from stentor.errors import AbortedError, InternalError, OverloadedError, RequestError, StentorError
from stentor.pipeline.kept_voice import KeptVoice
from stentor.pipeline.passage import Passage, speak
from stentor.pipeline.stream import AudioStream
from stentor.request import Audio, FinishReason, ModelInfo, Reference, SamplingParams, SpeechRequest, Usage
from stentor.text.parts import usual_s

INFO = ModelInfo(
    "m",
    "/m",
    24_000,
    960,
    8,
    1024,
    ("<|prosody:pause|>",),
    4096,
    SamplingParams(max_new_tokens=2048),
    max_prompt_chars=1,
)
TEXT = "Good morning, sir. How are you today? Very well indeed."


class House:
    """Takes requests; what is said of each is put by the test, or all at once by `answer`."""

    def __init__(self) -> None:
        self.requests: list[SpeechRequest] = []
        self.streams: list[AudioStream] = []
        self.continued: list[bool] = []
        self.refusal: StentorError | None = None
        self.answer = False

    def submit(self, request: SpeechRequest, *, continues: bool = False) -> AudioStream:
        if self.refusal is not None:
            raise self.refusal
        stream = AudioStream(request.request_id, lambda: None, lambda: None)
        self.requests.append(request)
        self.streams.append(stream)
        self.continued.append(continues)
        if self.answer:
            self.say(len(self.streams))
        return stream

    def say(self, number: int, reason: FinishReason = FinishReason.STOP, seconds: float = 0.08) -> None:
        """Two pieces of audio of the number-th stream, and its end, with codes of so many seconds."""
        stream = self.streams[number - 1]
        stream.put(Audio(np.full(3, number, np.float32), 24_000))
        codes = np.full((round(25 * seconds), 8), number, np.uint16)
        stream.put(Audio(np.full(2, number, np.float32), 24_000, reason, Usage(10, 5), codes))
        stream.end()


def request(text: str = TEXT, **sampling: int) -> SpeechRequest:
    return SpeechRequest("a", text, sampling=SamplingParams(seed=7, **sampling), return_codes=True)


async def read(stream: AudioStream | Passage) -> list[Audio]:
    return [audio async for audio in stream]


READERS: list[Callable[[AudioStream | Passage], list[Audio]]] = [
    list,
    lambda stream: asyncio.run(read(stream)),
]


@pytest.mark.parametrize("reader", READERS, ids=["threads", "asyncio"])
def test_the_parts_are_heard_in_order_as_one_stream(reader: Callable[..., list[Audio]]) -> None:
    house = House()
    house.answer = True
    pieces = reader(speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0)))
    assert [int(piece.waveform[0]) for piece in pieces] == [1, 1, 2, 2, 3, 3]
    assert [part.text for part in house.requests] == [
        "Good morning, sir.",
        "How are you today?",
        "Very well indeed.",
    ]
    assert len({part.request_id for part in house.requests}) == 3
    assert {part.sampling.seed for part in house.requests} == {7}
    assert house.continued == [False, True, True]
    assert [piece.finish_reason for piece in pieces] == [None] * 5 + [FinishReason.STOP]
    assert pieces[-1].usage == Usage(30, 15)
    assert pieces[-1].codes is not None
    assert pieces[-1].codes[:, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_the_next_part_is_on_its_way_when_the_present_one_is_heard_and_no_further_one() -> None:
    house = House()
    passage = speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))
    assert len(house.streams) == 1
    house.say(1)
    next(passage)
    assert len(house.streams) == 2
    next(passage)
    assert len(house.streams) == 2
    house.say(2)
    next(passage)
    assert len(house.streams) == 3


def test_the_first_reason_that_is_no_stop_is_told() -> None:
    house = House()
    passage = speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))
    for number, reason in enumerate((FinishReason.STOP, FinishReason.RUNAWAY, FinishReason.LENGTH), 1):
        house.say(number, reason)
        last = [next(passage), next(passage)][-1]
    assert last.finish_reason is FinishReason.RUNAWAY
    with pytest.raises(StopIteration):
        next(passage)


@pytest.mark.parametrize("reader", READERS, ids=["threads", "asyncio"])
def test_a_failure_of_a_part_is_the_passages(reader: Callable[..., list[Audio]]) -> None:
    house = House()
    passage = speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))
    house.say(1)
    assert next(passage)
    house.streams[1].put(Audio(np.zeros(3, np.float32), 24_000))
    house.streams[1].end(InternalError("a worker died"))
    with pytest.raises(InternalError, match="a worker died"):
        reader(passage)
    # The third part was on its way when the second was heard: nobody is to hear it.
    assert len(house.streams) == 3
    assert all(stream.released for stream in house.streams)
    assert reader(passage) == []


def test_a_part_that_finds_no_place_at_first_is_tried_again() -> None:
    house = House()
    passage = speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))
    house.say(1)
    house.refusal = OverloadedError("full")
    assert next(passage)
    house.refusal = None
    house.answer = True
    assert len(list(passage)) == 5
    house.refusal = InternalError("the pipeline is closed")
    with pytest.raises(InternalError):
        speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))


def test_an_abort_ends_all_parts() -> None:
    house = House()
    passage = speak(house.submit, request(), INFO, KeptVoice(INFO, 30.0))
    house.say(1)
    next(passage)
    passage.abort()
    assert all(stream.released for stream in house.streams)
    with pytest.raises(AbortedError):
        next(passage)
    assert len(house.streams) == 2


@pytest.mark.parametrize("when_heard", [True, False])
def test_an_abort_while_the_next_part_is_begun_ends_all_parts(when_heard: bool) -> None:
    house = House()

    def submit(request: SpeechRequest, *, continues: bool = False) -> AudioStream:
        if continues and house.refusal is None:  # As by another thread, at this moment.
            passage.abort()
        return house.submit(request, continues=continues)

    passage = speak(submit, request(), INFO, KeptVoice(INFO, 30.0))
    house.say(1)
    if not when_heard:  # The place for it comes when its turn has come, and not before.
        house.refusal = OverloadedError("full")
        next(passage)
    next(passage)
    house.refusal = None
    with pytest.raises(AbortedError):
        next(passage)
    assert [stream.ended for stream in house.streams] == [True, True]
    with pytest.raises(StopIteration):
        next(passage)


def test_what_needs_no_cut_is_a_request_as_it_is() -> None:
    whole = structs.replace(INFO, max_prompt_chars=None)
    for asked, info in (
        (request("Good morning, sir."), INFO),
        (request(), whole),
        (request(max_new_tokens=9), INFO),
    ):
        house = House()
        assert isinstance(speak(house.submit, asked, info, KeptVoice(info, 30.0)), AudioStream)
        assert house.requests == [asked]


def test_a_model_that_clones_no_voices_says_what_to_do_instead() -> None:
    for speakers, words in (("vivian", "ryan"), "choose one of vivian, ryan"), ((), "describe one in words"):
        info = structs.replace(INFO, speakers=speakers, clones=False)
        house = House()
        for reference in (Reference(audio=b"x"), Reference(codes=np.ones((80, 8), int))):
            with pytest.raises(RequestError, match=f"clones no voices: {words}"):
                speak(
                    house.submit, structs.replace(request(), reference=reference), info, KeptVoice(info, 30.0)
                )
        asked = structs.replace(request("Good morning, sir."), reference=Reference(speaker="ryan"))
        speak(house.submit, asked, info, KeptVoice(info, 30.0))
        assert house.requests == [asked]


SENTENCE = "The old dog saw the small boat near the river, and then it went home. "


def test_a_text_that_no_prompt_can_say_is_said_in_parts_of_one_voice() -> None:
    info = structs.replace(INFO, max_prompt_chars=None, codec="codec-1")
    house = House()
    asked = structs.replace(request(SENTENCE * 40), return_codes=False)
    passage = speak(house.submit, asked, info, KeptVoice(info, 30.0))
    house.say(1, seconds=18)
    next(passage)
    # The first part is heard, but its voice is not known before its end.
    assert len(house.requests) == 1
    last = next(passage)
    assert (last.finish_reason, last.codes) == (None, None)
    assert len(house.requests) == 2
    first, second = house.requests
    assert first.reference is None
    assert second.reference is not None
    assert second.reference.text == first.text
    assert len(second.reference.codes) == 450  # type: ignore[arg-type]
    assert 200 < len(first.text) < 450
    house.say(2, seconds=18)
    next(passage)
    third = house.requests[2].reference
    assert third is not None
    assert third.text == second.reference.text
    passage.abort()


def test_parts_in_a_named_voice_do_not_wait_for_it() -> None:
    info = structs.replace(INFO, max_prompt_chars=None, codec="codec-1")
    reference = Reference(codes=np.ones((80, 8), int))
    house = House()
    asked = structs.replace(request(SENTENCE * 40), reference=reference)
    passage = speak(house.submit, asked, info, KeptVoice(info, 30.0))
    house.say(1)
    next(passage)
    assert [each.reference for each in house.requests] == [reference] * 2
    passage.abort()


def test_only_a_text_that_would_be_cut_short_is_said_in_parts() -> None:
    info = structs.replace(INFO, max_prompt_chars=None)
    chinese = "今天天气很好，我们去公园。"
    for text, parts in ((SENTENCE * 14, 1), (SENTENCE * 15, 4), (chinese * 21, 1), (chinese * 24, 4)):
        house = House()
        house.answer = True
        list(speak(house.submit, request(text), info, KeptVoice(info, 30.0)))
        assert len(house.requests) == parts
        assert "".join(each.text for each in house.requests).replace(" ", "") == text.replace(" ", "")


def test_who_speaks_goes_on_speaking_in_the_next_part() -> None:
    info, house = structs.replace(INFO, speaker_tags=("[SPEAKER0]", "[SPEAKER1]")), House()
    house.answer = True
    text = "[SPEAKER0] Good morning. How are you? [SPEAKER1] Very well. And you?"
    list(speak(house.submit, request(text), info, KeptVoice(info, 30.0)))
    said = [each.text for each in house.requests]
    assert said[1:] == ["[SPEAKER0] How are you? [SPEAKER1] Very well.", "[SPEAKER1] And you?"]


def test_a_small_context_holds_a_part_with_the_voice_of_the_first() -> None:
    info = structs.replace(INFO, max_prompt_chars=None, context_limit=1024)
    house = House()
    house.answer = True
    list(speak(house.submit, request(SENTENCE * 14), info, KeptVoice(info, 30.0)))
    rows = [round(25 * usual_s(each.text)) for each in house.requests]
    assert max(rows) < 1024 / 2
    whole = SENTENCE * 4
    assert usual_s(whole) > 0.75 * 512 / 25
    assert isinstance(speak(house.submit, request(whole), info, KeptVoice(info, 30.0)), AudioStream)


def test_an_unknown_tag_anywhere_is_refused_before_anything_is_said() -> None:
    house = House()
    with pytest.raises(RequestError, match="no control tag"):
        speak(house.submit, request(TEXT + " <|prosody:pouse|> And you, sir?"), INFO, KeptVoice(INFO, 30.0))
    assert house.requests == []
