"""Which tensors a Higgs Audio v2 checkpoint must hold, and where its codec is."""

from pathlib import Path

from stentor.errors import CheckpointError
from stentor.models import registry
from stentor.models.fields import Fields
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import expected_shapes
from stentor.models.higgs_audio_v2.config import V2Config
from stentor.models.weights import Checkpoint, Shape, check_shapes, open_checkpoint

# The codec is published apart: it lies in this folder of a checkpoint, or comes from the hub.
CODEC_FOLDER = "codec"
CODEC_HUB_ID = "bosonai/higgs-audio-v2-tokenizer"

# Names that say which layout a checkpoint is in, as a prefix of its layers.
_BODY = {"transformers": "model.", "original": ""}
_HEADS = {"transformers": "", "original": "audio_decoder_proj."}
_CODES = {
    "transformers": "model.embed_audio_tokens.embed_audio_tokens.weight",
    "original": "audio_codebook_embeddings.weight",
}


class Names:
    """The tensors' names in the layout that a checkpoint has: `body` stands before those of its layers."""

    def __init__(self, found: frozenset[str] = frozenset()) -> None:
        original = any(name.startswith("layers.") for name in found)
        layout = "original" if original else "transformers"
        self.body = _BODY[layout]
        self.text_embedding = f"{self.body}embed_tokens.weight"
        self.code_embedding = _CODES[layout]
        self.norm = f"{self.body}norm.weight"
        self.head = f"{_HEADS[layout]}audio_lm_head.weight"


def lm_shapes(
    config: V2Config, found: frozenset[str] = frozenset()
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The language model's tensors, in the layout of the names `found`: those that must be there, and those
    that may. Some exports have the heads under both layouts' names; the text head is never used.
    """
    names, hidden = Names(found), config.hidden_size
    fused, text = (config.num_codebooks * config.codebook_size, hidden), (config.text_vocab_size, hidden)
    wanted: dict[str, Shape] = {
        names.text_embedding: text,
        names.code_embedding: fused,
        names.norm: (hidden,),
    }
    wanted[names.head] = fused
    for layer in range(config.num_layers):
        for name, shape in _block_shapes(config).items():
            wanted[f"{names.body}layers.{layer}.{name}.weight"] = shape
    optional: dict[str, Shape] = {"audio_codebook_weights": (config.num_codebooks,)}
    for prefix in _HEADS.values():
        optional |= {f"{prefix}text_lm_head.weight": text, f"{prefix}audio_lm_head.weight": fused}
    return wanted, optional


def open_weights(folder: Path, config: V2Config) -> Checkpoint:
    """Open the language model's files and account for every tensor in them.

    Raises:
        CheckpointError: a file is damaged; a tensor is missing, not known or of another shape.
    """
    checkpoint = open_checkpoint(folder)
    check_shapes(folder, checkpoint.shapes, *lm_shapes(config, frozenset(checkpoint.shapes)))
    return checkpoint


def codec_config(folder: Path, config: V2Config) -> CodecConfig:
    """The geometry of the checkpoint's codec; the real one's if it lies elsewhere.

    Raises:
        CheckpointError: it is damaged, or does not fit the language model.
    """
    path = folder / CODEC_FOLDER / "config.json"
    given = path.exists() and "acoustic_model_config" in Fields.read(path).values
    # The original layout's file names the same network in words of its own.
    codec = CodecConfig.read(path if given else None)
    if (codec.num_codebooks, codec.codebook_size) != (config.num_codebooks, config.num_codes):
        raise CheckpointError(
            f"{path.parent}: the codec has {codec.num_codebooks} codebooks of {codec.codebook_size} codes, "
            f"the language model {config.num_codebooks} of {config.num_codes}: they do not belong together"
        )
    return codec


def open_codec(folder: Path, codec: CodecConfig) -> Checkpoint:
    """Open the codec's files, from the hub where the checkpoint has none, and account for every tensor.

    Raises:
        CheckpointError: a file is damaged or not the codec's; a tensor is missing, not known or misshapen.
        ConfigError: the hub cannot be reached.
    """
    local = folder / CODEC_FOLDER
    place = local if local.is_dir() else registry.resolve(CODEC_HUB_ID)
    if not any(place.glob("*.safetensors")) and (place / "model.pth").exists():
        raise CheckpointError(
            f"{place}: the codec is a pickle, model.pth, which may run anything when it is opened; make it "
            'safe once: python -c "import torch; from safetensors.torch import save_file; '
            "save_file(torch.load('model.pth', weights_only=True), 'model.safetensors')\""
        )
    checkpoint = open_checkpoint(place)
    names = frozenset(checkpoint.shapes)
    if any(name.startswith(("layers.", "model.layers.")) for name in names):
        raise CheckpointError(
            f"{place}: these weights are a language model's, not the codec's: put a folder with the codec's "
            f"config.json and model.safetensors at {local}"
        )
    check_shapes(place, checkpoint.shapes, *expected_shapes(codec, names))
    return checkpoint


def codec_identity(folder: Path) -> str:
    """A name made of the quantizer, or the published codec's; empty without readable weights."""
    local = folder / CODEC_FOLDER
    if not local.is_dir():
        return CODEC_HUB_ID
    try:
        checkpoint = open_checkpoint(local)
        names = [name for name in sorted(checkpoint.shapes) if name.startswith("quantizer.")]
        return checkpoint.digest(names) if names else ""
    except CheckpointError:
        return ""  # Whoever loads the weights will say what is wrong with them.


def _block_shapes(config: V2Config) -> dict[str, Shape]:
    hidden = config.hidden_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, Shape] = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
    }
    for prefix, inner in (("", config.intermediate_size), ("audio_", config.audio_intermediate_size)):
        shapes |= {
            f"{prefix}input_layernorm": (hidden,),
            f"{prefix}post_attention_layernorm": (hidden,),
            f"{prefix}mlp.gate_proj": (inner, hidden),
            f"{prefix}mlp.up_proj": (inner, hidden),
            f"{prefix}mlp.down_proj": (hidden, inner),
        }
    return shapes
