import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.config import VocoderConfig
from stentor.errors import ConfigError
from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.vocoder import CodecVocoder, make_decoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from stentor.request import Array, Audio, Frames, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.vocode import VocodeStage
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

FRAMES = 60


@pytest.fixture(scope="module")
def vocoder(tiny: CodecConfig, parameters: Tensors) -> CodecVocoder:
    read, device = CodecWeights(MemoryWeights(parameters), tiny), torch.device("cpu")
    decoder = make_decoder(read, tiny, device, "float32", Kernels())
    return CodecVocoder(decoder, tiny, device, most_frames=600)


def test_a_cpu_decodes_in_the_arithmetics_that_it_has(tiny: CodecConfig, parameters: Tensors) -> None:
    read, device = CodecWeights(MemoryWeights(parameters), tiny), torch.device("cpu")
    codes = torch.from_numpy(random_codes(5, tiny_config()).astype(np.int64))[None]
    exact = make_decoder(read, tiny, device, "float32", Kernels())
    same = make_decoder(read, tiny, device, "tfloat32", Kernels())
    rough = make_decoder(read, tiny, device, "bfloat16", Kernels())
    assert isinstance(exact, Decoder)
    assert torch.equal(same(codes, None), exact(codes, None))
    assert not torch.equal(rough(codes, None), exact(codes, None))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        make_decoder(read, tiny, device, "float16", Kernels())


def pcm16(waveform: Array) -> Array:
    return np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int32)


def decode_by_windows(vocoder: CodecVocoder, codes: Array, cuts: list[int], context: int) -> Array:
    """The chunks between the cuts, each from a window with `context` frames on either side."""
    parts = []
    for first, last in itertools.pairwise([0, *cuts, len(codes)]):
        start, end = max(0, first - context), min(len(codes), last + context)
        waveform = vocoder.decode([codes[start:end]])[0]
        parts.append(waveform[(first - start) * 960 : (last - start) * 960])
    return np.concatenate(parts)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, FRAMES - 1), max_size=12, unique=True), st.integers(0, 4))
def test_streaming_equals_offline(vocoder: CodecVocoder, cuts: list[int], seed: int) -> None:
    codes = random_codes(FRAMES, tiny_config(), seed)
    whole = vocoder.decode([codes])[0]
    streamed = decode_by_windows(vocoder, codes, sorted(cuts), vocoder.context_frames)
    np.testing.assert_array_equal(streamed, whole)


@pytest.mark.parametrize("context", [9, 4])
def test_less_context_is_heard(vocoder: CodecVocoder, context: int) -> None:
    """If this failed, the law above would hold for any decoder that its biases dominate."""
    codes = random_codes(FRAMES, tiny_config())
    whole = vocoder.decode([codes])[0]
    streamed = decode_by_windows(vocoder, codes, list(range(5, FRAMES, 5)), context)
    assert np.abs(pcm16(streamed) - pcm16(whole)).max() > 1


def test_the_sound_depends_on_the_codes_and_is_loud_enough_to_judge(vocoder: CodecVocoder) -> None:
    first, second = vocoder.decode([random_codes(FRAMES, tiny_config(), seed) for seed in (0, 1)])
    assert 0.1 < first.std() < 0.5
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_windows_of_any_lengths_come_back_in_order(vocoder: CodecVocoder) -> None:
    windows = [random_codes(frames, tiny_config(), frames) for frames in (7, 3, 7, 0, 12, 3)]
    for window, waveform in zip(windows, vocoder.decode(windows), strict=True):
        assert waveform.dtype == np.float32
        assert waveform.shape == (960 * len(window),)
        alone = vocoder.decode([window])[0]
        np.testing.assert_array_equal(waveform, alone)


def test_special_codes_never_reach_the_tables(vocoder: CodecVocoder) -> None:
    codes = random_codes(4, tiny_config())
    codes[2, 3] = 1024
    with pytest.raises(AssertionError, match="special"):
        vocoder.decode([codes])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 25), min_size=1, max_size=20),
    st.booleans(),
    st.builds(VocoderConfig, max_chunk_frames=st.integers(1, 30), max_batch_frames=st.integers(25, 80)),
)
def test_the_stage_gives_the_samples_of_decoding_all_at_once(
    vocoder: CodecVocoder, sizes: list[int], streaming: bool, config: VocoderConfig
) -> None:
    codes = random_codes(sum(sizes), tiny_config())
    stage = VocodeStage(vocoder, config)
    chunks = []
    for number, end in enumerate(itertools.accumulate(sizes)):
        request = SpeechRequest("a", "hello", stream=streaming) if number == 0 else None
        frames = Frames(codes[end - sizes[number] : end], request)
        stage.add(Payload("a", frames, last=end == len(codes)))
        while stage.has_work():
            chunks += [payload.data.waveform for payload in stage.step() if isinstance(payload.data, Audio)]
    whole = vocoder.decode([codes])[0]
    np.testing.assert_array_equal(np.concatenate(chunks), np.clip(whole, -1, 1))


def test_a_round_on_a_cpu_is_decoded_in_batches_of_few_frames(
    vocoder: CodecVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = [random_codes(frames, tiny_config(), seed) for frames in (30, 7) for seed in range(20)]
    alone = [vocoder.decode([window])[0] for window in windows]
    decode, sizes = vocoder._decoder, []

    def counted(codes: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(codes.shape[0] * codes.shape[1])
        return decode(codes, lengths)

    monkeypatch.setattr(vocoder, "_decoder", counted)
    for waveform, expected in zip(vocoder.decode(windows), alone, strict=True):
        np.testing.assert_array_equal(waveform, expected)
    assert sum(sizes) == 20 * 37
    assert max(sizes) <= 120
