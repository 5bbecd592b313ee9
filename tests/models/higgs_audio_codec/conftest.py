"""Tiny codecs, made once for the whole room."""

import json
from pathlib import Path
from typing import Any

import pytest

from stentor.models.higgs_audio_codec.config import CodecConfig
from tests.models.higgs_audio_codec.reference import (
    Tensors,
    random_parameters,
    tiny_config,
    transformers_codec,
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CodecConfig:
    """The tiny codec's configuration."""
    return read_config(tmp_path_factory.mktemp("codec"), tiny_config())


@pytest.fixture(scope="session")
def parameters() -> Tensors:
    """The tiny codec's parameters."""
    return random_parameters(tiny_config(), seed=1)


@pytest.fixture(scope="session")
def oracle(parameters: Tensors) -> Any:
    """transformers' module with these parameters."""
    return transformers_codec(tiny_config(), parameters)


def read_config(folder: Path, config: dict[str, Any]) -> CodecConfig:
    """The configuration as the code under test reads it."""
    path = folder / "codec.json"
    path.write_text(json.dumps(config))
    return CodecConfig.read(path)
