import asyncio
import gc
import threading

import numpy as np
import pytest

from stentor.errors import AbortedError, InternalError, RequestError
from stentor.pipeline.stream import AudioStream
from stentor.request import Audio


def audio(number: int) -> Audio:
    return Audio(np.full(3, number, np.float32), 24_000)


class Place:
    """What the pipeline does when a stream needs its place no longer."""

    def __init__(self) -> None:
        self.released = 0
        self.dismissed = 0

    def stream(self) -> AudioStream:
        return AudioStream("a", self.release, self.dismiss)

    def release(self) -> None:
        self.released += 1

    def dismiss(self) -> None:
        self.dismissed += 1


def numbers(stream: AudioStream) -> list[int]:
    return [int(piece.waveform[0]) for piece in stream]


def test_pieces_come_in_order_then_the_end_and_the_place_is_free() -> None:
    place = Place()
    stream = place.stream()
    for number in range(3):
        stream.put(audio(number))
    stream.end()
    assert place.released == 0
    assert numbers(stream) == [0, 1, 2]
    assert place.released == 1
    assert stream.ended
    assert numbers(stream) == []
    stream.abort()
    assert stream.ended
    assert place.released == 1


def test_the_place_is_free_too_when_the_end_comes_after_the_last_piece_was_read() -> None:
    place = Place()
    stream = place.stream()
    stream.put(audio(1))
    next(stream)
    assert place.released == 0
    stream.end()
    assert place.released == 1
    assert numbers(stream) == []


def test_an_error_comes_after_the_audio_before_it_and_once() -> None:
    place = Place()
    stream = place.stream()
    stream.put(audio(1))
    stream.end(RequestError("no", param="text"))
    assert next(stream).waveform[0] == 1
    assert place.released == 0
    with pytest.raises(RequestError, match="no") as caught:
        next(stream)
    assert caught.value.param == "text"
    assert place.released == 1
    assert stream.ended
    assert numbers(stream) == []


def test_only_the_first_end_counts_and_nothing_comes_after_it() -> None:
    stream = Place().stream()
    stream.end()
    stream.end(InternalError("late"))
    stream.put(audio(1))
    assert stream.ended
    assert numbers(stream) == []


def test_abort_drops_the_unread_and_is_idempotent() -> None:
    place = Place()
    stream = place.stream()
    stream.put(audio(1))
    stream.abort()
    stream.abort()
    stream.put(audio(2))
    stream.end()
    assert stream.ended
    assert place.released == 1
    with pytest.raises(AbortedError):
        next(stream)
    assert numbers(stream) == []


def test_abort_after_the_end_but_before_it_was_read_is_no_silent_success() -> None:
    stream = Place().stream()
    stream.put(audio(1))
    stream.end()
    stream.abort()
    assert stream.ended
    with pytest.raises(AbortedError):
        next(stream)


def test_abort_wakes_a_waiting_reader() -> None:
    stream = Place().stream()
    threading.Timer(0.05, stream.abort).start()
    with pytest.raises(AbortedError):
        next(stream)


def test_a_stream_that_nobody_holds_is_dismissed() -> None:
    place = Place()
    stream = place.stream()
    stream.put(audio(1))
    del stream
    gc.collect()
    assert (place.released, place.dismissed) == (0, 1)
    read = place.stream()
    read.end()
    del read
    gc.collect()
    assert (place.released, place.dismissed) == (1, 1)


def test_asyncio_reads_the_same_without_a_thread_per_stream() -> None:
    count = 50

    async def read(stream: AudioStream) -> list[int]:
        return [int(piece.waveform[0]) async for piece in stream]

    async def main() -> list[list[int] | BaseException]:
        streams = [Place().stream() for _ in range(count)]
        readers = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(0.01)
        threads = threading.active_count()
        writer = threading.Thread(target=write, args=(streams,))
        writer.start()
        assert threading.active_count() <= threads + 1
        results = await asyncio.gather(*readers, return_exceptions=True)
        writer.join()
        return results

    def write(streams: list[AudioStream]) -> None:
        for number in range(5):
            for stream in streams:
                stream.put(audio(number))
        for index, stream in enumerate(streams):
            stream.end(RequestError("no") if index == 0 else None)

    results = asyncio.run(main())
    assert isinstance(results[0], RequestError)
    assert results[1:] == [[0, 1, 2, 3, 4]] * (count - 1)


def test_a_cancelled_async_reader_leaves_nothing_broken() -> None:
    async def main() -> None:
        stream = Place().stream()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.02)
        stream.put(audio(1))
        assert (await anext(stream)).waveform[0] == 1
        stream.abort()
        with pytest.raises(AbortedError):
            await anext(stream)

    asyncio.run(main())


def test_a_piece_for_a_loop_that_is_gone_does_not_hurt() -> None:
    stream = Place().stream()

    async def give_up() -> None:
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    stream.put(audio(1))
    assert next(stream).waveform[0] == 1
