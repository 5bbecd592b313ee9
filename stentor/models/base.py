"""What a model folder supplies: one `SpeechModel`, from which the pipeline's stages are declared."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from stentor.config import Config
from stentor.request import ModelInfo, Prompt
from stentor.stages.base import StageSpec


class SpeechModel(Protocol):
    """One folder of `models/`: describes a checkpoint of its type, declares the pipeline that serves it."""

    def describe(self, checkpoint: Path) -> ModelInfo:
        """Read the checkpoint's configuration only, no weights. Raises CheckpointError."""

    def stages(self, checkpoint: Path, config: Config) -> list[StageSpec]:
        """The chain preprocess, encode, generate, vocode for this checkpoint.

        Raises:
            CheckpointError: it is incomplete or damaged.
            ConfigError: a setting does not fit it or this machine.
        """

    def check(self, checkpoint: Path) -> str:
        """See that every tensor is there in its shape, without reading any; what was found, in a few words.

        Raises:
            CheckpointError: names what is missing, not known or of another shape.
        """

    def plain_loop(self, checkpoint: Path, config: Config) -> Callable[[Prompt], int] | None:
        """The straightforward way to run it, for benchmarks to compare with: prompt in, number of frames out.

        None if there is no such way.
        """
