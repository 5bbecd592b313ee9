"""Which tensors a Qwen3-TTS checkpoint must hold, and its codec's."""

from pathlib import Path

from stentor.errors import CheckpointError
from stentor.models.fields import Fields
from stentor.models.higgs_audio.shapes import backbone_shapes
from stentor.models.qwen3_codec.config import FOLDER, QwenCodecConfig
from stentor.models.qwen3_codec.speaker_config import SpeakerConfig
from stentor.models.qwen3_tts.config import BASE, QwenConfig
from stentor.models.weights import Checkpoint, Shape, Shapes, check_shapes, open_checkpoint

SPEAKER_PREFIX = "speaker_encoder."


def open_weights(folder: Path, config: QwenConfig) -> Checkpoint:
    """Open the files of language model and speaker encoder, and account for every tensor in them.

    Raises:
        CheckpointError: a file is damaged; a tensor is missing, not known or of another shape.
    """
    checkpoint = open_checkpoint(folder)
    check_shapes(folder, checkpoint.shapes, all_shapes(folder, config))
    return checkpoint


def all_shapes(folder: Path, config: QwenConfig) -> Shapes:
    """The tensors of language model and, of a Base checkpoint, speaker encoder."""
    speaker = read_speaker(folder, config)
    return {**lm_shapes(config), **(speaker.shapes(SPEAKER_PREFIX) if speaker is not None else {})}


def read_speaker(folder: Path, config: QwenConfig) -> SpeakerConfig | None:
    """The speaker encoder of a Base checkpoint. Raises CheckpointError: it does not fit the talker."""
    if config.kind != BASE:
        return None
    fields = Fields(folder / "config.json", config.speaker_encoder, "speaker_encoder_config.")
    speaker = SpeakerConfig.of(fields)
    if speaker.size != config.talker.hidden_size:
        raise fields.error(
            f"speaker_encoder_config.enc_dim is {speaker.size}, but the talker's hidden_size "
            f"{config.talker.hidden_size}: they must be the same"
        )
    return speaker


def read_codec(folder: Path, config: QwenConfig) -> QwenCodecConfig:
    """The geometry of the codec. Raises CheckpointError: it is damaged, or is not of this language model."""
    codec = QwenCodecConfig.of_checkpoint(folder)
    if (codec.num_codebooks, codec.codebook_size) != (config.num_codebooks, config.num_codes):
        raise CheckpointError(
            f"{folder / FOLDER}: the codec has {codec.num_codebooks} codebooks of {codec.codebook_size} "
            f"codes, the language model {config.num_codebooks} of {config.num_codes}: they do not belong "
            "together"
        )
    return codec


def codec_identity(folder: Path) -> str:
    """A name made of the quantizer; empty without readable weights."""
    try:
        checkpoint = open_checkpoint(folder / FOLDER)
        return checkpoint.digest([name for name in sorted(checkpoint.shapes) if ".quantizer." in name])
    except CheckpointError:
        return ""  # Whoever loads the weights will say what is wrong with them.


def lm_shapes(config: QwenConfig) -> dict[str, Shape]:
    """The tensors of talker and code predictor."""
    size, text, codes = config.talker.hidden_size, config.text_hidden_size, config.num_codes
    inner, place = config.predictor.hidden_size, "talker.code_predictor."
    shapes: dict[str, Shape] = {
        "talker.model.codec_embedding.weight": (config.vocab_size, size),
        "talker.model.text_embedding.weight": (config.text_vocab_size, text),
        "talker.codec_head.weight": (config.vocab_size, size),
        "talker.text_projection.linear_fc1.weight": (text, text),
        "talker.text_projection.linear_fc1.bias": (text,),
        "talker.text_projection.linear_fc2.weight": (size, text),
        "talker.text_projection.linear_fc2.bias": (size,),
        **backbone_shapes(config.talker, "talker.model."),
        **backbone_shapes(config.predictor, f"{place}model."),
    }
    if inner != size:
        shapes[f"{place}small_to_mtp_projection.weight"] = (inner, size)
        shapes[f"{place}small_to_mtp_projection.bias"] = (inner,)
    for number in range(config.num_codebooks - 1):
        shapes[f"{place}model.codec_embedding.{number}.weight"] = (codes, size)
        shapes[f"{place}lm_head.{number}.weight"] = (codes, inner)
    return shapes
