"""What the `config.json` of a checkpoint says, with its quirks resolved."""

from dataclasses import dataclass
from pathlib import Path

from stentor.models.fields import Fields
from stentor.models.higgs_audio.generation import read_generation
from stentor.request import SamplingParams

MODEL_TYPE = "higgs_multimodal_qwen3"
# What a checkpoint's `generation_config.json` need not say: no cut, no penalty.
SAMPLING = SamplingParams(1.0, 1.0, 0, None, 2048, 1.0)

# Qwen3's base; the checkpoint's own field is null, and the usual fallback of 10,000 is wrong.
_ROPE_THETA = 1_000_000.0
# Begin and end of content stand behind the real codes.
_NUM_SPECIAL_CODES = 2


@dataclass(frozen=True)
class V3Config:
    """The geometry of the language model.

    `codebook_size` counts all ids of a codebook: the real codes, then `begin_code` and `end_code`. The
    queries are `num_heads * head_dim` wide, which need not be `hidden_size`.
    """

    num_codebooks: int
    codebook_size: int
    text_vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float
    norm_eps: float
    tied_heads: bool = True

    @property
    def num_codes(self) -> int:
        """Real codes per codebook."""
        return self.codebook_size - _NUM_SPECIAL_CODES

    @property
    def begin_code(self) -> int:
        """The code that fills a codebook before its content begins."""
        return self.num_codes

    @property
    def end_code(self) -> int:
        """The code that ends a codebook's content."""
        return self.num_codes + 1

    @classmethod
    def read(cls, folder: Path) -> "V3Config":
        """Read `config.json`.

        Raises:
            CheckpointError: it is absent, damaged, of another model type, or a field is missing or unfit.
        """
        fields = Fields.read(folder / "config.json")
        model_type = fields.get("model_type", str)
        if model_type != MODEL_TYPE:
            raise fields.error(f"model_type is {model_type!r}, not {MODEL_TYPE!r}")
        audio, text = fields.section("audio_encoder_config"), fields.section("text_config")
        _refuse_other_kinds(audio, text)
        hidden_size = text.size("hidden_size")
        num_heads = text.size("num_attention_heads")
        config = cls(
            num_codebooks=audio.size("num_codebooks", 8),
            codebook_size=audio.size("vocab_size", 1026),
            text_vocab_size=text.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=text.size("intermediate_size"),
            num_layers=text.size("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=text.size("num_key_value_heads", num_heads),
            head_dim=text.size("head_dim", max(1, hidden_size // num_heads)),
            max_positions=text.size("max_position_embeddings", 32768),
            rope_theta=_rope_theta(text),
            norm_eps=text.get("rms_norm_eps", float, 1e-6),
            tied_heads=audio.get("tie_word_embeddings", bool, True),
        )
        _check_geometry(config, audio, text)
        return config


def read_max_prompt_chars(folder: Path) -> int | None:
    """`max_prompt_chars` of `generation_config.json`, a key of ours (see `ModelInfo`); None without it.

    Raises:
        CheckpointError: the file is damaged, or the value is no positive number.
    """
    fields = read_generation(folder)
    chars = fields.get("max_prompt_chars", int, 0)
    if chars < 0:
        raise fields.error(f"max_prompt_chars is {chars}: it must be positive")
    return chars or None


def _refuse_other_kinds(audio: Fields, text: Fields) -> None:
    encoder = audio.get("encoder_type", str, "discrete")
    if encoder != "discrete":
        raise audio.error(
            f"audio_encoder_config.encoder_type is {encoder!r}: only 'discrete' speaks; "
            "others recognise speech"
        )
    backbone = text.get("model_type", str, "qwen3")
    if backbone != "qwen3":
        raise text.error(f"text_config.model_type is {backbone!r}: only 'qwen3' is supported")
    activation = text.get("hidden_act", str, "silu")
    if activation != "silu":
        raise text.error(f"text_config.hidden_act is {activation!r}: only 'silu' is supported")
    for name in ("attention_bias", "use_sliding_window"):
        if text.get(name, bool, False):
            raise text.error(f"text_config.{name} is true: that is not supported")


def _check_geometry(config: V3Config, audio: Fields, text: Fields) -> None:
    if config.codebook_size <= _NUM_SPECIAL_CODES:
        raise audio.error(
            f"audio_encoder_config.vocab_size is {config.codebook_size}: there is no room for codes"
        )
    if config.num_codebooks < 2:
        raise audio.error("audio_encoder_config.num_codebooks is 1: the delay pattern needs at least 2")
    out_dim = audio.size("out_dim", config.hidden_size)
    if out_dim != config.hidden_size:
        raise audio.error(
            f"audio_encoder_config.out_dim is {out_dim}, but text_config.hidden_size is {config.hidden_size}"
        )
    if config.num_heads % config.num_kv_heads:
        raise text.error(
            f"text_config.num_attention_heads ({config.num_heads}) is no multiple of num_key_value_heads "
            f"({config.num_kv_heads})"
        )
    if config.head_dim % 2:
        raise text.error(f"text_config.head_dim is {config.head_dim}; it must be even")


def _rope_theta(text: Fields) -> float:
    for name in ("rope_parameters", "rope_scaling"):  # The second is what older files call it.
        given = text.get(name, dict, {})
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default":
            raise text.error(f"text_config.{name}: rope_type is {kind!r}: only 'default' is supported")
    nested = Fields(text.path, text.get("rope_parameters", dict, {}), "text_config.rope_parameters.")
    return text.get("rope_theta", float, nested.get("rope_theta", float, _ROPE_THETA))
