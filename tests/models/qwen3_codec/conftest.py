"""A tiny codec, made once for the whole room."""

from pathlib import Path

import pytest
import torch

from stentor.models.higgs_audio_codec.convolution import ReadWeight
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.models.qwen3_codec.convolution import reader
from stentor.models.qwen3_codec.inventory import open_codec
from stentor.models.qwen3_codec.vocoder import QwenVocoder
from tests.qwen3_codec_files import make_speech_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the codec's."""
    folder = tmp_path_factory.mktemp("qwen")
    make_speech_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def config(checkpoint: Path) -> QwenCodecConfig:
    """Its configuration."""
    return QwenCodecConfig.of_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def read(checkpoint: Path, config: QwenCodecConfig) -> ReadWeight:
    """Its tensors."""
    return reader(open_codec(checkpoint, config))


@pytest.fixture(scope="session")
def vocoder(read: ReadWeight, config: QwenCodecConfig) -> QwenVocoder:
    """It on a CPU."""
    return QwenVocoder(read, config, torch.device("cpu"), "float32", most_frames=600)
