from collections.abc import Sequence

import numpy as np
import pytest
from msgspec import structs

from stentor.errors import CheckpointError, RequestError
from stentor.request import Array, Audio, Prompt, Reference, SamplingParams, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.encode import EncodeStage

FRAME = 10


class CountingEncoder:
    """Codes that tell of the whole clip, and a record of the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def encode(self, waveforms: Sequence[Array]) -> list[Array]:
        self.batches.append([len(waveform) for waveform in waveforms])
        return [codes_of(waveform) for waveform in waveforms]


def codes_of(waveform: Array) -> Array:
    digest = round(float(np.abs(waveform).sum()) * 1000) % 1024
    return np.full((len(waveform) // FRAME, 8), digest, np.uint16)


class Factory:
    """Makes the encoder, and knows how often it did."""

    def __init__(self) -> None:
        self.encoder = CountingEncoder()
        self.made = 0

    def __call__(self) -> CountingEncoder:
        self.made += 1
        return self.encoder


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def stage(factory: Factory) -> EncodeStage:
    return EncodeStage(factory, cache_bytes=10_000)


def clip(frames: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(frames * FRAME).astype(np.float32)


def prompt(name: str, waveform: Array | None = None) -> Payload:
    request = SpeechRequest(name, "hello")
    tokens = np.arange(3, dtype=np.int32)
    return Payload(name, Prompt(request, tokens, SamplingParams(), 7, 2, waveform), last=True)


def drain(stage: EncodeStage) -> list[Payload]:
    out: list[Payload] = []
    while stage.has_work():
        out += stage.step()
    return out


def prompts(payloads: Sequence[Payload]) -> dict[str, Prompt]:
    assert all(isinstance(payload.data, Prompt) for payload in payloads)
    return {payload.request_id: payload.data for payload in payloads if isinstance(payload.data, Prompt)}


def test_codes_take_the_place_of_the_recording_and_nothing_else_changes(stage: EncodeStage) -> None:
    before = prompt("a", clip(5))
    stage.add(before)
    (out,) = drain(stage)
    after, given = out.data, before.data
    assert isinstance(after, Prompt)
    assert isinstance(given, Prompt)
    assert (out.request_id, out.last, after.reference_waveform) == ("a", True, None)
    np.testing.assert_array_equal(after.reference_codes, codes_of(clip(5)))
    assert (after.request, after.max_rows, after.reference_start) == (given.request, 7, 2)


def test_prompts_without_a_recording_pass_straight_on_in_order(stage: EncodeStage, factory: Factory) -> None:
    payloads = [prompt("a"), prompt("b", clip(3)), prompt("c"), prompt("d")]
    for payload in payloads:
        stage.add(payload)
    assert stage.step() == [payloads[0], payloads[2], payloads[3]]
    assert factory.made == 0
    assert [payload.request_id for payload in drain(stage)] == ["b"]


def test_the_encoder_is_made_once_and_only_for_a_recording(stage: EncodeStage, factory: Factory) -> None:
    for number in range(3):
        stage.add(prompt(f"a{number}", clip(3, number)))
        drain(stage)
    assert factory.made == 1


def test_equal_lengths_share_a_batch_and_others_never_do(stage: EncodeStage, factory: Factory) -> None:
    for number, frames in enumerate([3, 4, 3, 5, 4, 3]):
        stage.add(prompt(str(number), clip(frames, number)))
    out = prompts(drain(stage))
    assert factory.encoder.batches == [[30, 30, 30], [40, 40], [50]]
    for number, frames in enumerate([3, 4, 3, 5, 4, 3]):
        np.testing.assert_array_equal(out[str(number)].reference_codes, codes_of(clip(frames, number)))


def test_recordings_that_become_equally_long_share_a_batch(factory: Factory) -> None:
    stage = EncodeStage(factory, 10_000, padded_length=lambda samples: -(-samples // FRAME) * FRAME)
    for number, samples in enumerate([29, 31, 21, 30]):
        stage.add(prompt(str(number), clip(4, number)[:samples]))
    assert len(drain(stage)) == 4
    assert factory.encoder.batches == [[29, 21, 30], [31]]


def test_batches_are_bounded(stage: EncodeStage, factory: Factory) -> None:
    for number in range(20):
        stage.add(prompt(str(number), clip(2, number)))
    assert len(drain(stage)) == 20
    assert max(map(len, factory.encoder.batches)) <= 8


def test_a_known_recording_is_not_encoded_again(stage: EncodeStage, factory: Factory) -> None:
    for name in ("a", "b"):
        stage.add(prompt(name, clip(5)))
        drain(stage)
    for name in ("c", "d"):
        stage.add(prompt(name, clip(6)))
    assert len(drain(stage)) == 2
    assert factory.encoder.batches == [[50], [60]]
    assert stage.stats()["reference_cache_hits"] == 1


def test_recordings_that_differ_in_one_sample_differ(stage: EncodeStage, factory: Factory) -> None:
    other = clip(5)
    other[17] += 0.5
    stage.add(prompt("a", clip(5)))
    stage.add(prompt("b", other))
    out = prompts(drain(stage))
    assert not np.array_equal(out["a"].reference_codes, out["b"].reference_codes)  # type: ignore[arg-type]


def test_the_cache_keeps_the_recently_used_within_its_bytes(factory: Factory) -> None:
    size = codes_of(clip(5)).nbytes
    stage = EncodeStage(factory, cache_bytes=2 * size)
    for seed in (0, 1, 0, 2, 0, 1):
        stage.add(prompt("a", clip(5, seed)))
        drain(stage)
        assert stage.stats()["reference_cache_bytes"] <= 2 * size
    assert len(factory.encoder.batches) == 4


def test_a_cache_of_no_bytes_keeps_nothing(factory: Factory) -> None:
    stage = EncodeStage(factory, cache_bytes=0)
    for _ in range(2):
        stage.add(prompt("a", clip(5)))
        assert len(drain(stage)) == 1
    assert len(factory.encoder.batches) == 2


@pytest.mark.parametrize(
    "bad", [np.zeros(0, np.float32), np.zeros((2, 10), np.float32), np.array([0.0, np.nan], np.float32)]
)
def test_a_bad_recording_fails_its_own_request_only(stage: EncodeStage, bad: Array) -> None:
    stage.add(prompt("good", clip(3)))
    with pytest.raises(RequestError, match="reference"):
        stage.add(prompt("bad", bad))
    assert set(prompts(drain(stage))) == {"good"}


def test_an_encoder_that_cannot_be_made_fails_who_needs_it() -> None:
    def broken() -> CountingEncoder:
        raise CheckpointError("the codec's encoder is missing")

    stage = EncodeStage(broken, cache_bytes=100)
    stage.add(prompt("needs it", clip(3)))
    stage.add(prompt("does not"))
    out = {payload.request_id: payload for payload in drain(stage)}
    failure = out["needs it"].failure
    assert failure is not None
    assert (failure.kind, out["needs it"].last) == ("CheckpointError", True)
    assert out["does not"].failure is None


def test_a_voice_is_heard_once_in_a_recording_or_in_codes_alone(factory: Factory) -> None:
    heard: list[tuple[int, int | None]] = []

    def hear(codes: Array, waveform: Array | None) -> Array:
        heard.append((len(codes), None if waveform is None else len(waveform)))
        return np.full(4, codes[0, 0], np.float32)

    stage = EncodeStage(factory, 10_000, make_voice_encoder=lambda: hear)
    stored = np.full((3, 8), 7, np.uint16)
    for _ in range(2):
        given = prompt("stored")
        stage.add(structs.replace(given, data=structs.replace(given.data, reference_codes=stored)))
        for payload in (prompt("recorded", clip(5)), prompt("nobody")):
            stage.add(payload)
        out = prompts(drain(stage))
        np.testing.assert_array_equal(out["recorded"].voice, np.full(4, codes_of(clip(5))[0, 0]))
        np.testing.assert_array_equal(out["stored"].voice, np.full(4, 7))
        np.testing.assert_array_equal(out["stored"].reference_codes, stored)
        assert out["nobody"].voice is None
    assert heard == [(3, None), (5, 50)]
    assert stage.stats()["reference_cache_bytes"] == codes_of(clip(5)).nbytes + stored.nbytes + 2 * 16
    for number in range(2):
        given = prompt(str(number))
        stage.add(
            structs.replace(given, data=structs.replace(given.data, reference_codes=stored + 1 + number))
        )
    # One by one: together they would only hold up others.
    assert [len(stage.step()) for _ in range(2)] == [1, 1]
    given = prompt("a voice to be")
    request = SpeechRequest("a voice to be", "hello", Reference(text="x"), enroll=True)
    stage.add(
        structs.replace(given, data=structs.replace(given.data, request=request, reference_codes=stored + 9))
    )
    assert len(stage.step()) == 1
    assert len(heard) == 4
    assert factory.made == 1


def test_abort_forgets_the_prompt(stage: EncodeStage, factory: Factory) -> None:
    stage.add(prompt("a", clip(3)))
    stage.add(prompt("b"))
    for name in ("a", "b", "never heard of"):
        stage.abort(name)
    assert not stage.has_work()
    assert factory.made == 0


def test_closing_frees_everything(stage: EncodeStage) -> None:
    stage.add(prompt("a", clip(3)))
    drain(stage)
    stage.add(prompt("b", clip(4)))
    stage.close()
    assert not stage.has_work()
    assert stage.stats()["reference_cache_bytes"] == 0


def test_a_voice_to_be_goes_out_as_it_was_encoded_with_its_codes(stage: EncodeStage) -> None:
    sound = clip(4)
    payloads = [prompt("audio", sound), prompt("again", sound), prompt("codes")]
    for payload in payloads:
        assert isinstance(payload.data, Prompt)
        reference = Reference(text=f"words of {payload.request_id}")
        request = SpeechRequest(payload.request_id, "hello", reference, enroll=True)
        codes = np.ones((3, 8), np.uint16) if payload.request_id == "codes" else None
        data = structs.replace(payload.data, request=request, reference_codes=codes)
        stage.add(structs.replace(payload, data=data))
    done = {}
    while stage.has_work():
        done |= {payload.request_id: payload for payload in stage.step()}
    for name in ("audio", "again"):
        audio = done[name].data
        assert isinstance(audio, Audio)
        assert done[name].last
        assert (audio.sample_rate_hz, audio.transcript) == (24_000, f"words of {name}")
        np.testing.assert_array_equal(audio.waveform, sound)
        np.testing.assert_array_equal(audio.codes, codes_of(sound))
    assert len(done["codes"].data.waveform) == 0
    np.testing.assert_array_equal(done["codes"].data.codes, np.ones((3, 8)))
