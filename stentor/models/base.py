"""What a model folder supplies: one `SpeechModel`, from which the pipeline's stages are declared."""

from pathlib import Path
from typing import Protocol

from stentor.config import Config
from stentor.request import ModelInfo
from stentor.stages.base import StageSpec


class SpeechModel(Protocol):
    """One folder of `models/`: describes a checkpoint of its type and declares the pipeline that serves it."""

    def describe(self, checkpoint: Path) -> ModelInfo:
        """Read the checkpoint's configuration only, no weights. Raises CheckpointError."""

    def stages(self, checkpoint: Path, config: Config) -> list[StageSpec]:
        """The chain preprocess, encode, generate, vocode for this checkpoint. Raises CheckpointError, ConfigError."""
