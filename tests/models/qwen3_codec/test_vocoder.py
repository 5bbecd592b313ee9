import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.config import VocoderConfig
from stentor.errors import ConfigError
from stentor.models.higgs_audio_codec.convolution import ReadWeight
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.models.qwen3_codec.vocoder import QwenVocoder
from stentor.request import Array, Audio, Frames, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.vocode import VocodeStage


def codes(frames: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 64, (frames, 16)).astype(np.uint16)


@pytest.fixture
def padding(vocoder: QwenVocoder, monkeypatch: pytest.MonkeyPatch) -> QwenVocoder:
    """As on a GPU: windows padded and batched, the next round begun before the last is read."""
    monkeypatch.setattr(vocoder, "overlaps", True)
    return vocoder


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    streaming=st.booleans(),
    overlaps=st.booleans(),
    config=st.builds(
        VocoderConfig, max_chunk_frames=st.integers(1, 30), max_batch_frames=st.integers(20, 80)
    ),
)
def test_the_stage_gives_the_samples_of_decoding_all_at_once(
    vocoder: QwenVocoder, sizes: list[int], streaming: bool, overlaps: bool, config: VocoderConfig
) -> None:
    all_codes = {name: codes(sum(sizes), seed) for seed, name in enumerate("ab")}
    heard: dict[str, list[Array]] = {"a": [], "b": []}
    vocoder.overlaps = overlaps
    try:
        stage = VocodeStage(vocoder, config)
        for number, end in enumerate(itertools.accumulate(sizes)):
            for name, spoken in all_codes.items():
                request = SpeechRequest(name, "hello", stream=streaming) if number == 0 else None
                frames = Frames(spoken[end - sizes[number] : end], request)
                stage.add(Payload(name, frames, last=end == len(spoken)))
            while stage.has_work():
                for payload in stage.step():
                    assert isinstance(payload.data, Audio)
                    heard[payload.request_id].append(payload.data.waveform)
    finally:
        vocoder.overlaps = False
    for name, spoken in all_codes.items():
        whole = np.clip(vocoder.decode([spoken])[0], -1, 1)
        np.testing.assert_allclose(np.concatenate(heard[name]), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("less", [4, 12])
def test_less_context_is_heard(vocoder: QwenVocoder, less: int) -> None:
    """If this failed, the law above would hold for any decoder that its biases dominate."""
    spoken, context = codes(60), vocoder.context_frames - less
    window = vocoder.decode([spoken[40 - context :]], [context])[0]
    assert np.abs(window - vocoder.decode([spoken])[0][40 * 1920 :]).max() > 1e-5


def test_the_convolutions_begin_as_few_frames_before_as_they_need(
    vocoder: QwenVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolve, seen = vocoder._decoder.samples, []

    def counted(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.shape[1])
        return convolve(states)

    monkeypatch.setattr(vocoder._decoder, "samples", counted)
    vocoder.decode([codes(30), codes(7)], [25, 3])
    assert seen == [10 + 5, 7]


def test_windows_of_any_lengths_come_back_in_order(padding: QwenVocoder) -> None:
    windows = [codes(frames, frames) for frames in (17, 3, 30, 0, 12, 3)]
    skipped = [12, 0, 25, 0, 1, 2]
    for window, many, found in zip(windows, skipped, padding.decode(windows, skipped), strict=True):
        assert (found.dtype, found.shape) == (np.float32, ((len(window) - many) * 1920,))
        alone = padding.decode([window])[0][many * 1920 :]
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


def test_alone_on_a_cpu_is_as_in_company_to_the_bit(vocoder: QwenVocoder) -> None:
    for window, found in zip(windows := [codes(9, 1), codes(9, 2)], vocoder.decode(windows), strict=True):
        np.testing.assert_array_equal(found, vocoder.decode([window])[0])


def test_special_codes_never_reach_the_tables(vocoder: QwenVocoder) -> None:
    with pytest.raises(AssertionError, match="special"):
        vocoder.decode([codes(4) + 60])


def test_a_cpu_has_no_float16(read: ReadWeight, config: QwenCodecConfig) -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        QwenVocoder(read, config, torch.device("cpu"), "float16", most_frames=20)
    rough = QwenVocoder(read, config, torch.device("cpu"), "bfloat16", most_frames=20)
    exact = QwenVocoder(read, config, torch.device("cpu"), "tfloat32", most_frames=20)
    found, expected = (vocoder.decode([codes(20)])[0] for vocoder in (rough, exact))
    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("arithmetic", "bound"), [("float32", 1e-5), ("tfloat32", 1e-2), ("float16", 1e-2), ("bfloat16", 8e-2)]
)
def test_a_gpu_decodes_what_a_cpu_does(
    vocoder: QwenVocoder, read: ReadWeight, config: QwenCodecConfig, arithmetic: str, bound: float
) -> None:
    on_gpu = QwenVocoder(read, config, torch.device("cuda"), arithmetic, most_frames=100)
    windows, skipped = [codes(frames, frames) for frames in (70, 12, 33, 31)], [40, 0, 22, 20]
    under_way, later = on_gpu.begin(windows, skipped), on_gpu.begin([codes(9)])
    for found, expected in zip(under_way(), vocoder.decode(windows, skipped), strict=True):
        assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)
    later()
