from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.errors import Failure
from stentor.pipeline.links import Item
from stentor.pipeline.links.arena import Ring, create_arena
from stentor.pipeline.wire import Message, MessageDecoder, encode_message
from stentor.request import (
    Array,
    Audio,
    FinishReason,
    Frames,
    Prompt,
    Reference,
    SamplingParams,
    SpeechRequest,
    Usage,
)
from stentor.stages.base import Abort, Payload, StageTimes

ARENA = create_arena(1)
DECODER = MessageDecoder(ARENA)


def round_trip(*items: Item) -> list[Item]:
    ring = Ring(ARENA, 0)
    data, sent = encode_message(3, 17, items, ring.place)
    message = DECODER.decode(data)
    assert (message.sender, message.sequence) == (3, 17)
    assert len(sent) == len(items)
    return list(message.items)


def audio_of(item: Item) -> Array:
    assert isinstance(item, Payload)
    assert isinstance(item.data, Audio)
    return item.data.waveform


def same(one: Any, other: Any) -> bool:
    """Equality of records, arrays compared by type, shape and every bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if hasattr(one, "__struct_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__
        )
    return type(one) is type(other) and one == other


REQUEST = SpeechRequest(
    "r-1",
    "Grüße, 世界 <|x|>",
    reference=Reference(audio=b"\x00\xffRIFF", codes=np.arange(16, dtype=np.int64).reshape(2, 8), text="yes"),
    sampling=SamplingParams(temperature=0.5, top_k=3, seed=2**40),
    stream=True,
    initial_chunk_frames=4,
)
SAMPLING = SamplingParams(1.0, 1.0, 0, 1, 10)
RECORDS: list[Item] = [
    Abort("r-0"),
    Payload("r-1", REQUEST),
    Payload("r-2", SpeechRequest("r-2", "x", reference=Reference(audio="https://a/b.wav"))),
    Payload(
        "r-3", Prompt(REQUEST, np.arange(9, dtype=np.int32), SAMPLING, 5, 2, np.ones(30_000, np.float32))
    ),
    Payload(
        "r-3", Prompt(REQUEST, np.zeros(0, np.int32), SAMPLING, reference_codes=np.ones((3, 8), np.uint16))
    ),
    Payload("r-4", Frames(np.full((1, 8), 65_535, np.uint16), request=REQUEST)),
    Payload("r-4", Frames(np.zeros((0, 8), np.uint16), None, FinishReason.RUNAWAY, Usage(1, 2)), last=True),
    Payload("r-5", Audio(np.zeros(70_000, np.float32), 24_000, FinishReason.STOP, Usage(1, 2)), last=True),
    Payload("r-6", last=True, failure=Failure("RequestError", "no", "text", "bad")),
]


def test_every_record_crosses_unchanged() -> None:
    for sent, received in zip(RECORDS, round_trip(*RECORDS), strict=True):
        assert same(sent, received)


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(["<f4", "<f8", "<f2", "<u2", "<i4", "<i8", "|u1", "|b1"]),
    shape=st.lists(st.integers(0, 40), max_size=3),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 999),
)
def test_every_array_crosses_bit_for_bit(dtype: str, shape: list[int], order: str, seed: int) -> None:
    content = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.asarray(np.frombuffer(content, dtype).reshape(shape), order=order)  # type: ignore[call-overload]
    (received,) = round_trip(Payload("a", Audio(array, 1)))
    assert same(np.ascontiguousarray(array).reshape(shape), audio_of(received))


def test_nan_infinity_and_slices_survive() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45] * 4000, np.float32)[::2]
    (received,) = round_trip(Payload("a", Audio(array, 1)))
    assert same(np.ascontiguousarray(array), audio_of(received))


def test_large_arrays_do_not_travel_in_the_message() -> None:
    array = np.zeros(100_000, np.float32)
    data, _ = encode_message(1, 1, [Payload("a", Audio(array, 1))], Ring(ARENA, 0).place)
    assert len(data) < 300
    inline, _ = encode_message(1, 1, [Payload("a", Audio(array, 1))], lambda _: None)
    assert len(inline) > array.nbytes
    assert same(audio_of(DECODER.decode(inline).items[0]), array)


def test_a_received_array_is_nobody_elses() -> None:
    ring = Ring(ARENA, 0)
    data, _ = encode_message(1, 1, [Payload("a", Audio(np.ones(50_000, np.float32), 1))], ring.place)
    received = audio_of(DECODER.decode(data).items[0])
    ring.clear()
    ring.place(np.zeros(50_000, np.float32))
    assert received.min() == 1.0
    received[0] = 5.0


def test_numpy_scalars_become_plain_numbers() -> None:
    usage = Usage(np.int64(3), np.int32(4))  # type: ignore[arg-type]
    (received,) = round_trip(Payload("a", Frames(np.zeros((0, 8), np.uint16), usage=usage)))
    assert isinstance(received, Payload)
    assert isinstance(received.data, Frames)
    assert received.data.usage == Usage(3, 4)


def test_what_cannot_be_encoded_fails_its_own_request() -> None:
    bad = Payload("b", Audio(object(), 1))  # type: ignore[arg-type]
    good, failed, abort = round_trip(RECORDS[1], bad, Abort("c"))
    assert same(good, RECORDS[1])
    assert isinstance(failed, Payload)
    assert failed.request_id == "b"
    assert failed.last
    assert failed.failure is not None
    assert failed.failure.kind == "InternalError"
    assert abort == Abort("c")


def test_what_does_not_fit_the_types_turns_into_failures() -> None:
    mark = Abort("c", (StageTimes("encode", 1.0),), submission=3)
    malformed = Payload("b", Audio(np.zeros(2, np.float32), "fast"))  # type: ignore[arg-type]
    failed, abort = round_trip(malformed, mark)
    assert isinstance(failed, Payload)
    assert failed.failure is not None
    assert "malformed" in failed.failure.message
    assert abort == mark


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(Exception, match=r"."):
        DECODER.decode(b"\xc1")
    assert Message.__struct_fields__ == ("sender", "sequence", "items")
