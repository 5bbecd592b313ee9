from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.config import VocoderConfig
from stentor.errors import RequestError
from stentor.request import Array, Audio, FinishReason, Frames, SpeechRequest, Usage
from stentor.stages.base import Payload
from stentor.stages.vocode import VocodeStage

CONTEXT, FRAME_SAMPLES, RATE_HZ = 10, 4, 100
FRAME_S = FRAME_SAMPLES / RATE_HZ


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class NeighbourVocoder:
    """Each sample is a sum over the frames CONTEXT before to CONTEXT after; decoding moves the clock."""

    sample_rate_hz = RATE_HZ
    samples_per_frame = FRAME_SAMPLES
    context_frames = lookahead_frames = near_frames = CONTEXT
    num_codebooks = 8
    codebook_size = 1024
    longest_window: int | None = None

    def __init__(self, clock: Clock, seconds_per_frame: float = 0.0, overlaps: bool = False) -> None:
        self.clock = clock
        self.overlaps = overlaps
        self.begun = self.read = 0
        self.seconds_per_frame = seconds_per_frame
        self.calls: list[list[int]] = []
        generator = np.random.default_rng(0)
        self.kernel = generator.standard_normal((2 * CONTEXT + 1, FRAME_SAMPLES)) / 10

    def begin(self, windows: Sequence[Array], skipped: Sequence[int] = ()) -> Callable[[], list[Array]]:
        self.calls.append([len(window) for window in windows])
        assert all(len(window) <= (self.longest_window or 10**9) for window in windows)
        done_s = self.clock.now_s + self.seconds_per_frame * sum(map(len, windows))
        self.begun += 1

        def read() -> list[Array]:
            self.read += 1
            self.clock.now_s = max(self.clock.now_s, done_s)
            return [self._decode(window) for window in windows]

        return read

    def decode(self, windows: Sequence[Array]) -> list[Array]:
        return self.begin(windows)()

    def _decode(self, window: Array) -> Array:
        if not len(window):
            return np.zeros(0, np.float32)
        levels = np.pad(window.sum(axis=1) / 8192, CONTEXT)
        near = np.lib.stride_tricks.sliding_window_view(levels, 2 * CONTEXT + 1)
        return (near @ self.kernel).reshape(-1).astype(np.float32)


class CausalVocoder(NeighbourVocoder):
    """Looks back only, and leaves out what nobody hears."""

    lookahead_frames, near_frames = 0, 3

    def __init__(self, clock: Clock, seconds_per_frame: float = 0.0, overlaps: bool = False) -> None:
        super().__init__(clock, seconds_per_frame, overlaps)
        self.kernel[CONTEXT + 1 :] = 0

    def begin(self, windows: Sequence[Array], skipped: Sequence[int] = ()) -> Callable[[], list[Array]]:
        read, skipped = super().begin(windows), skipped or [0] * len(windows)
        self.calls[-1] = [
            len(window) - max(0, many - self.near_frames)
            for window, many in zip(windows, skipped, strict=True)
        ]
        return lambda: [
            waveform[many * FRAME_SAMPLES :] for waveform, many in zip(read(), skipped, strict=True)
        ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vocoder(clock: Clock) -> NeighbourVocoder:
    return NeighbourVocoder(clock)


@pytest.fixture
def stage(vocoder: NeighbourVocoder, clock: Clock) -> VocodeStage:
    return VocodeStage(vocoder, VocoderConfig(), clock)


def codes(frames: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 1024, (frames, 8)).astype(np.uint16)


def request(name: str = "a", *, stream: bool = True, initial: int | None = None) -> SpeechRequest:
    return SpeechRequest(name, "hello", stream=stream, initial_chunk_frames=initial)


def pieces(
    asked: SpeechRequest, all_codes: Array, sizes: Sequence[int], usage: Usage | None = None
) -> Iterator[Payload]:
    """The frames of one stream in pieces of these sizes; whatever is left ends it."""
    start = 0
    for number, size in enumerate([*sizes, len(all_codes)]):
        last = start + size >= len(all_codes)
        frames = Frames(
            all_codes[start : start + size],
            asked if number == 0 else None,
            FinishReason.STOP if last else None,
            usage if last else None,
        )
        yield Payload(asked.request_id, frames, last=last)
        if last:
            return
        start += size


def drain(stage: VocodeStage) -> list[Payload]:
    """Steps until nothing is due."""
    out: list[Payload] = []
    while stage.has_work():
        out += stage.step()
    return out


def run(stage: VocodeStage, payloads: Iterator[Payload]) -> list[Payload]:
    out: list[Payload] = []
    for payload in payloads:
        stage.add(payload)
        out += drain(stage)
    return out


def audios(payloads: Sequence[Payload]) -> list[Audio]:
    assert all(isinstance(payload.data, Audio) for payload in payloads)
    return [payload.data for payload in payloads if isinstance(payload.data, Audio)]


def sound(payloads: Sequence[Payload]) -> Array:
    return np.concatenate([audio.waveform for audio in audios(payloads)])


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 150),
    sizes=st.lists(st.integers(1, 40), max_size=30),
    delays_s=st.lists(st.sampled_from([0.0, 0.01, 0.04, 0.5]), min_size=31, max_size=31),
    streaming=st.booleans(),
    overlaps=st.booleans(),
    kind=st.sampled_from([NeighbourVocoder, CausalVocoder]),
    longest=st.sampled_from([None, 24, 70]),
    config=st.builds(
        VocoderConfig,
        initial_chunk_frames=st.integers(1, 30),
        max_chunk_frames=st.integers(1, 60),
        max_batch_frames=st.integers(1, 100),
    ),
)
def test_streaming_equals_offline(
    frames: int,
    sizes: list[int],
    delays_s: list[float],
    streaming: bool,
    overlaps: bool,
    kind: type[NeighbourVocoder],
    longest: int | None,
    config: VocoderConfig,
) -> None:
    clock = Clock()
    vocoder = kind(clock, seconds_per_frame=0.001, overlaps=overlaps)
    vocoder.longest_window = longest
    stage = VocodeStage(vocoder, config, clock)
    all_codes = codes(frames)
    out: list[Payload] = []
    for payload, delay_s in zip(pieces(request(stream=streaming), all_codes, sizes), delays_s, strict=False):
        clock.now_s += delay_s
        stage.add(payload)
        out += drain(stage)
    assert [payload.last for payload in out] == [False] * (len(out) - 1) + [True]
    vocoder.longest_window = None
    expected = np.clip(vocoder.decode([all_codes])[0], -1, 1)
    np.testing.assert_allclose(sound(out), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [NeighbourVocoder, CausalVocoder])
def test_the_law_fails_with_less_context(clock: Clock, kind: type[NeighbourVocoder]) -> None:
    vocoder = kind(clock)
    vocoder.context_frames = CONTEXT - 1
    out = run(VocodeStage(vocoder, VocoderConfig(), clock), pieces(request(), codes(100), [1] * 100))
    assert np.abs(sound(out) - vocoder.decode([codes(100)])[0]).max() > 1e-3


@pytest.mark.parametrize(("initial", "first"), [(None, 2), (5, 5), (1, 1)])
def test_the_first_chunk_comes_as_soon_as_it_is_exact(
    stage: VocodeStage, initial: int | None, first: int
) -> None:
    arrived = 0
    for payload in pieces(request(initial=initial), codes(50), [1] * 50):
        stage.add(payload)
        arrived += 1
        if out := drain(stage):
            break
    assert arrived == CONTEXT + first
    assert len(sound(out)) == first * FRAME_SAMPLES


def test_a_causal_vocoder_s_first_chunk_comes_when_its_frames_are_there(clock: Clock) -> None:
    stage = VocodeStage(CausalVocoder(clock), VocoderConfig(), clock)
    stage.add(Payload("a", Frames(codes(1), request())))
    assert drain(stage) == []
    stage.add(Payload("a", Frames(codes(1))))
    assert len(sound(drain(stage))) == 2 * FRAME_SAMPLES


def test_a_request_that_does_not_stream_is_decoded_in_one_go_when_it_has_ended(
    stage: VocodeStage, vocoder: NeighbourVocoder
) -> None:
    *early, last = pieces(request(stream=False), codes(300), [30] * 9)
    for payload in early:
        stage.add(payload)
        assert not stage.has_work()
    stage.add(last)
    assert [payload.last for payload in drain(stage)] == [True]
    assert vocoder.calls == [[300]]


@pytest.mark.parametrize("kind", [NeighbourVocoder, CausalVocoder])
def test_no_round_decodes_more_than_the_limit(clock: Clock, kind: type[NeighbourVocoder]) -> None:
    vocoder = kind(clock)
    stage = VocodeStage(vocoder, VocoderConfig(max_batch_frames=200), clock)
    for name in "abcdefgh":
        for payload in pieces(request(name, stream=name > "d"), codes(500), []):
            stage.add(payload)
    drain(stage)
    assert max(map(sum, vocoder.calls)) == 200


def test_streams_in_step_are_decoded_as_one_batch_of_equal_windows(
    stage: VocodeStage, vocoder: NeighbourVocoder
) -> None:
    streams = [pieces(request(name), codes(12), [12]) for name in "abc"]
    for stream in streams:
        frames = next(stream).data
        assert isinstance(frames, Frames)
        stage.add(Payload(frames.request.request_id if frames.request else "", frames))
    drain(stage)
    assert vocoder.calls == [[12, 12, 12]]


def test_who_runs_dry_first_goes_first(vocoder: NeighbourVocoder, clock: Clock) -> None:
    stage = VocodeStage(vocoder, VocoderConfig(max_batch_frames=30), clock)
    for name, initial in (("later", 8), ("sooner", 4)):
        stage.add(Payload(name, Frames(codes(CONTEXT + initial), request(name, initial=initial))))
    drain(stage)
    clock.now_s = 8 * FRAME_S
    for name in ("later", "sooner"):
        stage.add(Payload(name, Frames(codes(8))))
    assert [payload.request_id for payload in drain(stage)] == ["sooner", "later"]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("speed", [1.1, 2.0, 8.0])
def test_no_listener_runs_dry_while_generation_is_faster_than_playing(speed: float, overlaps: bool) -> None:
    clock = Clock()
    vocoder = NeighbourVocoder(clock, seconds_per_frame=0.02 * FRAME_S, overlaps=overlaps)
    stage = VocodeStage(vocoder, VocoderConfig(), clock)
    chunks = simulate(stage, clock, ["a", "b", "c", "d"], frames=400, interval_s=FRAME_S / speed)
    assert stage.stats()["underruns"] == 0
    if speed > 4:
        assert max(chunks) == 50


def test_where_decoding_goes_on_elsewhere_the_next_round_begins_before_the_last_is_read(clock: Clock) -> None:
    vocoder = NeighbourVocoder(clock, seconds_per_frame=0.001, overlaps=True)
    stage = VocodeStage(vocoder, VocoderConfig(max_batch_frames=30), clock)
    for name in "abc":
        stage.add(Payload(name, Frames(codes(12), request(name))))
    ahead = []
    while stage.has_work():
        stage.step()
        ahead.append(vocoder.begun - vocoder.read)
    assert ahead == [1, 1, 0]
    assert vocoder.calls == [[12, 12], [12]]


def test_a_stream_has_one_chunk_under_way(clock: Clock) -> None:
    vocoder = NeighbourVocoder(clock, overlaps=True)
    stage = VocodeStage(vocoder, VocoderConfig(), clock)
    stage.add(Payload("a", Frames(codes(30), request())))
    assert stage.step() == []
    stage.add(Payload("a", Frames(codes(70))))
    (first,) = stage.step()
    assert vocoder.begun == 1
    assert len(sound([first])) == 16 * FRAME_SAMPLES


def test_what_was_under_way_for_an_aborted_stream_is_dropped(clock: Clock) -> None:
    vocoder = NeighbourVocoder(clock, overlaps=True)
    stage = VocodeStage(vocoder, VocoderConfig(), clock)
    stage.add(Payload("a", Frames(codes(30), request())))
    stage.step()
    stage.abort("a")
    # The name may be another stream's by then.
    stage.add(Payload("a", Frames(codes(12, seed=5), request())))
    heard = drain(stage)
    np.testing.assert_allclose(
        sound(heard), vocoder.decode([codes(12, seed=5)])[0][: 2 * FRAME_SAMPLES], atol=1e-6
    )


def test_a_stalled_generation_is_counted(stage: VocodeStage, clock: Clock) -> None:
    simulate(stage, clock, ["a"], frames=60, interval_s=2 * FRAME_S)
    assert stage.stats()["underruns"] > 0


def simulate(
    stage: VocodeStage, clock: Clock, names: Sequence[str], frames: int, interval_s: float
) -> list[int]:
    """Generation of some streams in lockstep; returns the sizes of the chunks that came out, in frames."""
    chunks = []
    for number in range(frames):
        clock.now_s = max(clock.now_s, number * interval_s)
        for name in names:
            asked = request(name) if number == 0 else None
            last = number == frames - 1
            stage.add(Payload(name, Frames(codes(1), asked), last=last))
        chunks += [len(audio.waveform) // FRAME_SAMPLES for audio in audios(drain(stage))]
    assert sum(chunks) == frames * len(names)
    return chunks


def test_a_long_file_does_not_make_listeners_wait(clock: Clock) -> None:
    vocoder = NeighbourVocoder(clock, seconds_per_frame=0.2 * FRAME_S)
    stage = VocodeStage(vocoder, VocoderConfig(), clock)
    stage.add(Payload("listener", Frames(codes(CONTEXT + 50), request("listener", initial=50))))
    drain(stage)
    for payload in pieces(request("file", stream=False), codes(3000), []):
        stage.add(payload)
    out = []
    while stage.has_work():
        before_s = clock.now_s
        out += stage.step()
        arrived = round((clock.now_s - before_s) / FRAME_S * 2)
        stage.add(Payload("listener", Frames(codes(arrived))))
    assert {payload.request_id for payload in out} == {"listener", "file"}
    assert stage.stats()["underruns"] == 0


def test_progress_needs_no_timer(stage: VocodeStage) -> None:
    """With the clock standing still, every frame comes out by the last payload at the latest."""
    out = run(stage, pieces(request(), codes(200), [1] * 200))
    assert len(sound(out)) == 200 * FRAME_SAMPLES
    assert not stage.has_work()


def test_the_last_audio_alone_tells_the_end(stage: VocodeStage) -> None:
    asked = SpeechRequest("a", "hello", stream=True, return_codes=True)
    usage = Usage(3, 47)
    *others, last = audios(run(stage, pieces(asked, codes(40), [7] * 5, usage)))
    assert all((audio.finish_reason, audio.usage, audio.codes) == (None, None, None) for audio in others)
    assert (last.finish_reason, last.usage, last.sample_rate_hz) == (FinishReason.STOP, usage, RATE_HZ)
    assert last.codes is not None
    np.testing.assert_array_equal(last.codes, codes(40))


def test_codes_come_back_only_when_asked_for(stage: VocodeStage) -> None:
    assert audios(run(stage, pieces(request(), codes(5), [])))[-1].codes is None


@pytest.mark.parametrize("streaming", [True, False])
def test_a_stream_without_frames_ends_once_with_silence(stage: VocodeStage, streaming: bool) -> None:
    empty = Frames(codes(0), request(stream=streaming), FinishReason.LENGTH)
    (ended,) = run(stage, iter([Payload("a", empty, last=True)]))
    assert ended.last
    assert len(sound([ended])) == 0
    assert audios([ended])[0].finish_reason == FinishReason.LENGTH


def test_an_end_without_frames_flushes_the_rest(stage: VocodeStage) -> None:
    out = run(
        stage,
        iter([Payload("a", Frames(codes(20), request())), Payload("a", Frames(codes(0)), last=True)]),
    )
    assert len(sound(out)) == 20 * FRAME_SAMPLES
    assert [payload.last for payload in out][-1]


def test_samples_are_clipped_to_one(vocoder: NeighbourVocoder, stage: VocodeStage) -> None:
    vocoder.kernel *= 100
    samples = sound(run(stage, pieces(request(), codes(30), [])))
    assert (samples.min(), samples.max()) == (-1.0, 1.0)


@pytest.mark.parametrize("lost", [np.inf, np.nan])
def test_numbers_out_of_range_fail_their_own_request_and_are_never_heard(
    vocoder: NeighbourVocoder, stage: VocodeStage, lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = vocoder._decode

    def overflow(window: Array) -> Array:
        samples = decode(window)
        samples[-1] = lost if len(window) == 12 else samples[-1]
        return samples

    monkeypatch.setattr(vocoder, "_decode", overflow)
    for name, frames in (("loud", 12), ("good", 13)):
        stage.add(Payload(name, Frames(codes(frames), request(name)), last=True))
    heard = {payload.request_id: payload for payload in stage.step()}
    assert heard["loud"].last
    assert heard["loud"].data is None
    assert heard["loud"].failure is not None
    assert "--vocoder-dtype" in heard["loud"].failure.message
    assert isinstance(heard["good"].data, Audio)
    assert not stage.has_work()


def test_abort_forgets_the_stream_and_what_still_comes_of_it(stage: VocodeStage) -> None:
    stage.add(Payload("a", Frames(codes(30), request())))
    stage.abort("a")
    stage.abort("never heard of")
    stage.add(Payload("a", Frames(codes(30)), last=True))
    assert not stage.has_work()
    assert stage.stats()["streams"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        np.full((3, 8), 1024, np.uint16),
        np.full((3, 8), -1),
        np.zeros((3, 7), int),
        np.zeros(8, int),
        np.zeros((3, 8)),
    ],
    ids=["special code", "negative", "seven codebooks", "one-dimensional", "floats"],
)
def test_unfit_codes_fail_their_own_request_only(stage: VocodeStage, bad: Array) -> None:
    stage.add(Payload("good", Frames(codes(5), request("good"))))
    stage.add(Payload("bad", Frames(codes(5), request("bad"))))
    with pytest.raises(RequestError, match="code"):
        stage.add(Payload("bad", Frames(bad)))
    stage.add(Payload("bad", Frames(codes(5)), last=True))
    stage.add(Payload("good", Frames(codes(5)), last=True))
    assert {payload.request_id for payload in drain(stage)} == {"good"}


def test_closing_frees_the_streams(stage: VocodeStage) -> None:
    stage.add(Payload("a", Frames(codes(30), request())))
    stage.close()
    assert stage.stats()["streams"] == 0
