"""Which tensors a Higgs Audio v3 checkpoint must hold, and the one door through which they are read."""

from pathlib import Path

from stentor.errors import CheckpointError
from stentor.models.higgs_audio.shapes import backbone_shapes
from stentor.models.higgs_audio_codec.config import FILE_NAME as CODEC_FILE
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import expected_shapes
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.weights import Checkpoint, Shape, check_shapes, open_checkpoint

CODEC_PREFIX = "tied.embedding.modality_embeddings.0.model."

_AUDIO_HEAD = "tied.head.modality_heads.0.weight"
_TEXT_HEAD = "tied.head.text_head.weight"


def lm_shapes(config: V3Config) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The language model's tensors: those that must be there, and those that may.

    The text head is never used, and a tied audio head equals the embedding; real checkpoints hold both all
    the same, unlisted in the index.
    """
    fused = (config.num_codebooks * config.codebook_size, config.hidden_size)
    wanted: dict[str, Shape] = {
        "tied.embedding.text_embedding.weight": (config.text_vocab_size, config.hidden_size),
        "tied.embedding.modality_embeddings.0.embedding.weight": fused,
        **backbone_shapes(config, "body."),
    }
    optional: dict[str, Shape] = {_TEXT_HEAD: (config.text_vocab_size, config.hidden_size)}
    (optional if config.tied_heads else wanted)[_AUDIO_HEAD] = fused
    return wanted, optional


def all_shapes(
    config: V3Config, codec: CodecConfig, found: frozenset[str] = frozenset()
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The tensors of model and codec: those that must be there, and those that may.

    `found` are the names that a checkpoint has; they tell in which layout its codec is.
    """
    wanted, optional = lm_shapes(config)
    names = frozenset(name.removeprefix(CODEC_PREFIX) for name in found if name.startswith(CODEC_PREFIX))
    for place, shapes in zip((wanted, optional), expected_shapes(codec, names), strict=True):
        place.update({CODEC_PREFIX + name: shape for name, shape in shapes.items()})
    return wanted, optional


def open_weights(folder: Path, config: V3Config, codec: CodecConfig) -> Checkpoint:
    """Open the checkpoint's files and account for every tensor in them.

    Raises:
        CheckpointError: a file is damaged; a tensor is missing, not known or of another shape.
    """
    checkpoint = open_checkpoint(folder)
    wanted, optional = all_shapes(config, codec, frozenset(checkpoint.shapes))
    if not any(name.startswith(CODEC_PREFIX) for name in checkpoint.shapes):
        raise CheckpointError(
            f"{folder}: the audio codec is missing: there are no tensors named {CODEC_PREFIX}*; "
            "take a checkpoint that bundles its codec"
        )
    check_shapes(folder, checkpoint.shapes, wanted, optional)
    return checkpoint


def codec_identity(folder: Path) -> str:
    """A name made of the quantizer, which gives codes their meaning; empty without readable weights."""
    try:
        checkpoint = open_checkpoint(folder)
        names = [name for name in sorted(checkpoint.shapes) if name.startswith(CODEC_PREFIX + "quantizer.")]
        return checkpoint.digest(names) if names else ""
    except CheckpointError:
        return ""  # Whoever loads the weights will say what is wrong with them.


def read_codec_config(folder: Path, config: V3Config) -> CodecConfig:
    """The configuration of the bundled codec.

    Raises:
        CheckpointError: it is damaged, or does not fit the language model.
    """
    codec = CodecConfig.of_checkpoint(folder)
    if (codec.num_codebooks, codec.codebook_size) != (config.num_codebooks, config.num_codes):
        raise CheckpointError(
            f"{folder}: {CODEC_FILE} has {codec.num_codebooks} codebooks of {codec.codebook_size} codes, "
            f"but config.json {config.num_codebooks} of {config.num_codes} (and two special ones): "
            "they are not of one checkpoint"
        )
    return codec
