"""Windows padded into one batch are decoded as each alone, by graphs whose number and memory are known.

A recorder stands in for CUDA: it does the captured operations again on the captured memory, without Python.
"""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stentor.config import VocoderConfig
from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.decoding import DecodeGraphs, decode_shapes
from stentor.models.higgs_audio_codec.gpu_decoder import GpuDecoder
from stentor.models.higgs_audio_codec.vocoder import CodecVocoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from stentor.request import Array, Audio, Frames, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.vocode import VocodeStage
from tests.engine.recorder import Recorder, capture_beside
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

CPU = torch.device("cpu")
SHAPES = [(1, 16), (4, 16), (2, 24), (2, 48)]


@pytest.fixture
def decoder(tiny: CodecConfig, parameters: Tensors) -> Decoder:
    return Decoder(CodecWeights(MemoryWeights(parameters), tiny), tiny, Target(CPU, torch.float32))


@pytest.fixture
def on_gpu(tiny: CodecConfig, parameters: Tensors) -> GpuDecoder:
    """A GPU's operations, done by PyTorch on a CPU."""
    read = CodecWeights(MemoryWeights(parameters), tiny)
    return GpuDecoder(read, tiny, CPU, "float32", Kernels())


def windows(*frames: int) -> list[Array]:
    return [random_codes(size, tiny_config(), seed) for seed, size in enumerate(frames)]


def alone(decoder: Decoder, window: Array) -> Array:
    return decoder(torch.from_numpy(window.astype(np.int64))[None])[0].numpy()


MIXED = [(12, 7, 16, 4, 13), (20, 4), (48, 31, 9), (5,), (16, 16, 16, 16, 16, 24, 17)]


@pytest.mark.parametrize("frames", MIXED)
def test_windows_of_different_lengths_share_a_batch_to_the_bit(
    frames: tuple[int, ...], decoder: Decoder, tiny: CodecConfig
) -> None:
    graphs = DecodeGraphs(decoder, tiny, CPU, SHAPES, None, None)
    wanted = windows(*frames)
    for window, waveform in zip(wanted, graphs.begin(wanted)(), strict=True):
        np.testing.assert_array_equal(waveform, alone(decoder, window))


def test_a_window_ends_where_it_ends_whatever_stands_behind_it(decoder: Decoder) -> None:
    codes = torch.from_numpy(np.stack([random_codes(24, tiny_config(), seed) for seed in (1, 2)]))
    ended = decoder(codes.long(), torch.tensor([10, 24]))
    codes[0, 10:] = 7
    again = decoder(codes.long(), torch.tensor([10, 24]))
    assert torch.equal(ended[0, : 10 * 960], again[0, : 10 * 960])
    assert not torch.equal(decoder(codes.long())[0, : 10 * 960], ended[0, : 10 * 960])


def test_replayed_rounds_give_the_samples_of_each_window_alone(
    on_gpu: GpuDecoder, decoder: Decoder, tiny: CodecConfig
) -> None:
    graphs = DecodeGraphs(on_gpu, tiny, CPU, SHAPES, capture_beside(), None)
    graphs.warm_up()
    assert len(graphs) == len(SHAPES)
    for wanted in [windows(*order) for frames in MIXED for order in (frames, frames[::-1])]:
        read = graphs.begin(wanted)
        # A round that is begun before this one is read changes nothing of it.
        graphs.begin(windows(16, 3, 24, 40))
        for window, waveform in zip(wanted, read(), strict=True):
            np.testing.assert_allclose(waveform, alone(decoder, window), rtol=0, atol=1e-5)
    assert len(graphs) == len(SHAPES)


def test_two_rounds_of_one_shape_are_the_same_operations_and_look_at_no_value(on_gpu: GpuDecoder) -> None:
    seen = []
    for seed, lengths in ((1, [24, 3]), (2, [11, 0])):
        codes = torch.from_numpy(np.stack([random_codes(24, tiny_config(), seed + row) for row in (0, 9)]))
        with torch.inference_mode(), Recorder() as recorder:
            on_gpu(codes.to(torch.int16), torch.tensor(lengths, dtype=torch.int16))
        seen.append(recorder.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 50


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=2, max_size=4), st.integers(1, 20))
def test_streams_that_share_padded_rounds_sound_as_each_decoded_whole(
    tiny: CodecConfig, parameters: Tensors, lengths: list[tuple[int, bool]], step: int
) -> None:
    vocoder = on_padded_rounds(tiny, parameters)
    stage = VocodeStage(vocoder, VocoderConfig(max_batch_frames=100, max_chunk_frames=20))
    spoken = {str(i): random_codes(frames, tiny_config(), i) for i, (frames, _) in enumerate(lengths)}
    heard: dict[str, list[Array]] = {name: [] for name in spoken}
    for start in range(0, 60, step):
        for name, codes in spoken.items():
            if start >= len(codes):
                continue
            request = SpeechRequest(name, "hello", stream=lengths[int(name)][1]) if not start else None
            frames = Frames(codes[start : start + step], request)
            stage.add(Payload(name, frames, last=start + step >= len(codes)))
        while stage.has_work():
            for payload in stage.step():
                assert isinstance(payload.data, Audio)
                heard[payload.request_id].append(payload.data.waveform)
    for name, codes in spoken.items():
        whole = alone(vocoder._decoder, codes) if len(codes) >= 4 else vocoder._decode_here([codes])[0]
        np.testing.assert_array_equal(np.concatenate(heard[name]), np.clip(whole, -1, 1))


def on_padded_rounds(config: CodecConfig, parameters: Tensors) -> CodecVocoder:
    """A vocoder on a CPU that decodes as on a GPU: padded, the next round begun before the last is read."""
    decoder = Decoder(CodecWeights(MemoryWeights(parameters), config), config, Target(CPU, torch.float32))
    vocoder = CodecVocoder(decoder, config, CPU, most_frames=100)
    shapes = decode_shapes(100, config.context_frames)
    vocoder._graphs = DecodeGraphs(vocoder._decoder, config, CPU, shapes, None, None)
    vocoder.overlaps, vocoder.longest_window = True, vocoder._graphs.longest
    return vocoder


@pytest.mark.parametrize("most", [1, 16, 25, 100, 600, 5000])
def test_shapes_are_few_and_none_is_larger_than_what_was_asked_for(most: int) -> None:
    shapes = decode_shapes(most, 10)
    assert len(shapes) == len(set(shapes)) <= 6 * (most.bit_length())
    assert max(frames for _, frames in shapes) > 2 * 10
    assert all(rows * frames <= most or rows == 1 for rows, frames in shapes)
    # Files and the longest chunks fit, with context on both sides.
    assert most < 144 or max(frames for _, frames in shapes) == 144


def test_the_default_round_is_captured_in_less_than_thirty_graphs() -> None:
    assert len(decode_shapes(600, 10)) < 30


def test_the_declared_memory_holds_what_decoding_takes(on_gpu: GpuDecoder, tiny: CodecConfig) -> None:
    class Meter(TorchDispatchMode):
        """The bytes of all results that are alive at once, at most."""

        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, weakref.ref[torch.Tensor]] = {}
            self.most_bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.alive[leaf.data_ptr()] = weakref.ref(leaf)
            sizes = {
                tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for there in self.alive.values()
                if (tensor := there()) is not None
            }
            self.most_bytes = max(self.most_bytes, sum(sizes.values()))
            return out

    with Meter() as meter:
        on_gpu(torch.zeros((3, 48, 8), dtype=torch.int64), torch.tensor([48, 20, 3]))
    assert 0 < meter.most_bytes <= tiny.decoding_bytes(3 * 48, 4)
