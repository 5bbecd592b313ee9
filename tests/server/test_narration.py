"""Laws of a narration: in order, one sentence ahead and no more, and an end at once when it is cancelled."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from msgspec import structs

from stentor.audio.formats import to_pcm16
from stentor.errors import OverloadedError, RateLimitedError, RequestError, TooLargeError
from stentor.request import SpeechRequest
from stentor.server.admission import Admission
from stentor.server.bodies import SpeechBody
from stentor.server.caller import Caller, enter
from stentor.server.delivery import make_form
from stentor.server.keys import Key
from stentor.server.metrics import Metrics
from stentor.server.narration import Manner, Narration, Piece
from stentor.server.outcomes import Outcomes
from stentor.server.protocol import Reader
from stentor.server.utterance import Service
from stentor.text.sentences import SentenceSplitter
from tests.server.fakes import INFO, Act, FakePipeline, config, say, spoken_with_codes, tone, voices

BODY = SpeechBody(input="-", response_format="pcm", stream=True, trim_silence=False)
TAGS = ("<|emotion:sadness|>", "<|emotion:anger|>", "<|prosody:pause|>")
TEXT = "The old dog saw the boat. Then it went home. It slept."


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline(say(0.2))


@pytest.fixture
def service(pipeline: FakePipeline) -> Iterator[Service]:
    admission = Admission(pipeline)  # type: ignore[arg-type]
    reader = Reader(INFO, voices(), config())
    with ThreadPoolExecutor(2) as encoders:
        yield Service(
            admission, reader, Metrics(pipeline.stats), Outcomes(60), encoders, INFO, write_timeout_s=1
        )


def narration(service: Service, max_pending_chars: int = 1000) -> Narration:
    manner = Manner(service.reader, BODY, "talk")
    return Narration(service, manner, make_form, SentenceSplitter(), max_pending_chars)


async def told(narrated: Narration) -> list[Piece]:
    async with narrated.pieces() as pieces:
        return [piece async for piece in pieces]


def test_pieces_come_in_order_and_each_sentence_has_an_end(service: Service) -> None:
    async def run() -> list[Piece]:
        narrated = narration(service)
        narrated.write(TEXT)
        narrated.end()
        return await told(narrated)

    pieces = asyncio.run(run())
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
    assert b"".join(piece.data for piece in pieces) == 3 * to_pcm16(tone(0.2))
    assert [piece.text for piece in pieces if piece.last] == [
        "The old dog saw the boat. ",
        "Then it went home. ",
        "It slept.",
    ]
    assert {piece.id for piece in pieces} == {"talk-1", "talk-2", "talk-3"}


def test_a_character_may_come_in_two_halves_but_not_in_one(service: Service) -> None:
    async def run() -> list[Piece]:
        narrated = narration(service)
        for portion in ("Hello \ud83d", "", "\ude00 there", "\ud83d\ude00."):
            narrated.write(portion)
        for lone in ("\ude00", "\ud83d dog"):
            with pytest.raises(RequestError, match="half a character"):
                narrated.write(lone)
        narrated.write(" It slept.\ud83d")
        narrated.end()
        return await told(narrated)

    pieces = asyncio.run(run())
    assert (
        "".join(piece.text for piece in pieces if piece.last) == "Hello \U0001f600 there\U0001f600. It slept."
    )


def test_blank_text_is_not_spoken(service: Service, pipeline: FakePipeline) -> None:
    async def run() -> list[Piece]:
        narrated = narration(service)
        narrated.write(" \n\n ")
        narrated.end()
        return await told(narrated)

    assert asyncio.run(run()) == []
    assert pipeline.requests == []


def test_a_sentence_that_fails_does_not_end_the_others(service: Service, pipeline: FakePipeline) -> None:
    def script(request: SpeechRequest) -> Iterator[Act]:
        if request.text.startswith("Then"):
            yield RequestError("a bad text")
        yield from say(0.1)(request)

    async def run() -> list[Piece]:
        narrated = narration(service)
        narrated.write(TEXT)
        narrated.end()
        return await told(narrated)

    pipeline.script = script
    ends = [piece for piece in asyncio.run(run()) if piece.last or piece.error]
    assert [str(piece.error) if piece.error else "" for piece in ends] == ["", "a bad text", ""]
    assert not pipeline.open


def test_a_narration_waits_for_text_and_a_cancelled_one_ends(
    service: Service, pipeline: FakePipeline
) -> None:
    async def run() -> None:
        narrated = narration(service)
        listening = asyncio.ensure_future(told(narrated))
        narrated.write("A sentence without an end")
        await asyncio.sleep(0.05)
        assert narrated.idle
        assert not listening.done()
        narrated.cancel()
        assert await asyncio.wait_for(listening, 10) == []
        narrated.write("Nothing of this is said. Nor of this.")
        assert narrated.cancelled
        assert not pipeline.requests

    asyncio.run(run())


def test_who_leaves_frees_both_sentences(service: Service, pipeline: FakePipeline) -> None:
    def endless(request: SpeechRequest) -> Iterator[Act]:
        while True:
            yield from say(0.2, finish_reason=None, usage=None)(request)  # type: ignore[arg-type]
            yield 0.01

    async def run() -> None:
        narrated = narration(service)
        narrated.write(TEXT)
        narrated.end()
        async with narrated.pieces() as pieces:
            await anext(pieces)
            assert len(pipeline.open) == 2
        assert not pipeline.open

    pipeline.script = endless
    asyncio.run(run())


def test_what_may_wait_is_bounded(service: Service) -> None:
    async def run() -> None:
        narrated = narration(service, max_pending_chars=len(TEXT))
        narrated.write(TEXT)
        assert narrated.num_pending == len(TEXT)
        with pytest.raises(TooLargeError, match="send text as it is needed"):
            narrated.write("!")
        assert narrated.num_pending == len(TEXT)
        narrated.cancel()

    asyncio.run(run())


def test_a_manner_of_speaking_holds_on_in_the_sentences_behind_it(
    service: Service, pipeline: FakePipeline
) -> None:
    service = replace(service, info=structs.replace(INFO, control_tags=TAGS))
    manner = Manner(Reader(service.info, voices(), config()), BODY, "talk")

    async def run(narrated: Narration) -> list[Piece]:
        narrated.write(f"{TAGS[0]}The old dog {TAGS[2]} saw the boat. Then it went home. {TAGS[1]}It slept.")
        narrated.end()
        return await told(narrated)

    for _ in range(2):  # Another text knows nothing of it.
        narrated = Narration(service, manner, make_form, SentenceSplitter(), 1000)
        pieces = asyncio.run(run(narrated))
        assert [piece.text for piece in pieces if piece.last][1] == "Then it went home. "
    said = [request.text.strip() for request in pipeline.requests]
    assert said[:3] == [
        f"{TAGS[0]}The old dog {TAGS[2]} saw the boat.",
        f"{TAGS[0]} Then it went home.",
        f"{TAGS[1]}It slept.",
    ]
    assert said[3:] == said[:3]


def test_who_speaks_goes_on_speaking_in_the_next_sentence(service: Service, pipeline: FakePipeline) -> None:
    service = replace(service, info=structs.replace(INFO, speaker_tags=("[SPEAKER1]",)))
    manner = Manner(service.reader, BODY, "talk")

    async def run() -> None:
        narrated = Narration(service, manner, make_form, SentenceSplitter(), 1000)
        narrated.write("[SPEAKER1] It slept. Then it went home.")
        narrated.end()
        await told(narrated)

    asyncio.run(run())
    assert [request.text.strip() for request in pipeline.requests][1] == "[SPEAKER1] Then it went home."


def test_what_is_being_said_goes_on_when_the_server_is_full_or_about_to_end(
    service: Service, pipeline: FakePipeline
) -> None:
    async def run() -> list[Piece]:
        narrated = narration(service)
        narrated.write(TEXT)
        narrated.end()
        async with narrated.pieces() as pieces:
            first = await anext(pieces)
            pipeline.max_requests = 0
            service.pipeline.draining = True
            return [first, *[piece async for piece in pieces]]

    pieces = asyncio.run(run())
    assert [str(piece.error) for piece in pieces if piece.error] == []
    assert b"".join(piece.data for piece in pieces) == 3 * to_pcm16(tone(0.2))

    # What has not begun is new, and refused.
    refused = asyncio.run(run())
    assert len(refused) == 3
    assert all(isinstance(piece.error, OverloadedError) for piece in refused)


def test_a_key_that_has_had_its_share_is_told_in_the_middle_as_well(service: Service) -> None:
    async def run() -> list[Piece]:
        enter(Caller(key=Key("alice", b"", requests_per_minute=2)))
        narrated = narration(service)
        narrated.write(TEXT)
        narrated.end()
        return await told(narrated)

    errors = [type(piece.error) for piece in asyncio.run(run()) if piece.error or piece.last]
    assert errors == [type(None), type(None), RateLimitedError]


def test_a_manner_that_cannot_be_served_is_refused_before_there_is_a_text(service: Service) -> None:
    with pytest.raises(RequestError, match="there is no voice"):
        Manner(service.reader, BODY.model_copy(update={"voice": "nobody"}), "talk")


def test_a_piece_of_several_sentences_is_said_in_parts_also_ahead(
    service: Service, pipeline: FakePipeline
) -> None:
    service = replace(service, info=structs.replace(INFO, max_prompt_chars=1))
    manner = Manner(service.reader, BODY, "talk")

    async def run() -> list[Piece]:
        narrated = Narration(service, manner, make_form, SentenceSplitter("none"), 1000)
        for _ in range(2):
            narrated.write(TEXT)
            narrated.flush()
        narrated.end()
        return await told(narrated)

    assert all(piece.error is None for piece in asyncio.run(run()))
    said = ["The old dog saw the boat.", "Then it went home.", "It slept."]
    assert sorted(request.text for request in pipeline.requests) == sorted(said * 2)


def test_a_voice_that_nobody_named_goes_on_from_sentence_to_sentence(service: Service) -> None:
    """And whoever takes its voice from another waits for its end; from then on one is begun ahead again."""
    info = structs.replace(INFO, codec="codec-1")
    pipeline = FakePipeline(spoken_with_codes)
    admission = Admission(pipeline)  # type: ignore[arg-type]
    keeping = replace(service, info=info, pipeline=admission, reader=Reader(info, voices(), config()))

    async def run() -> None:
        narrated = narration(keeping)
        narrated.write("One was said. Then it went home. Now it is told. It slept.")
        narrated.end()
        ahead = []
        async with narrated.pieces() as pieces:
            async for piece in pieces:
                ahead.append((piece.index, len(pipeline.requests)))
        # While a sentence is heard, so many have been submitted.
        assert dict(ahead) == {0: 1, 1: 2, 2: 4, 3: 4}

    asyncio.run(run())
    references = [request.reference for request in pipeline.requests]
    assert references[0] is None
    texts = [reference.text for reference in references[1:] if reference is not None]
    assert texts == ["One was said.", *["One was said. Then it went home."] * 2]
    assert [request.return_codes for request in pipeline.requests] == [True, True, False, False]
