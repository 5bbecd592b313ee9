"""What the `config.json` of a checkpoint says, in the layout it was published in and in transformers'."""

from dataclasses import dataclass
from pathlib import Path

from stentor.models.fields import Fields
from stentor.models.higgs_audio.generation import read_generation
from stentor.request import SamplingParams

# The original layout's, and transformers'.
MODEL_TYPES = ("higgs_audio", "higgs_audio_v2")
# What a checkpoint's `generation_config.json` need not say: as the model's own examples draw.
SAMPLING = SamplingParams(1.0, 0.95, 50, None, 2048, 1.0)

# The largest context of the model's own servers; what the files say, 2,048 and 131,072, was never meant so.
_MAX_POSITIONS = 8192
_NUM_SPECIAL_CODES = 2
# The engine remembers so many rows.
_LONGEST_WINDOW = 16
# What only other models of the family have; absent, it is false, null or 0.
_OTHERS = (
    "use_audio_out_self_attention",
    "use_audio_out_embed_projector",
    "use_rq_transformer",
    "audio_embed_avg",
    "attention_bias",
    "mlp_bias",
)


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of the rotation to longer contexts: a frequency counts as slow or fast by its turns
    within `original` positions, fewer than `low` or more than `high`.
    """

    factor: float
    low: float
    high: float
    original: float


@dataclass(frozen=True)
class V2Config:
    """The geometry of the language model; `codebook_size` counts the real codes, then begin and end.

    A code that stands `redraw_limit` times in its codebook's last `redraw_window` rows is drawn again; a
    window of 0 draws nothing again.
    """

    num_codebooks: int
    codebook_size: int
    text_vocab_size: int
    hidden_size: int
    intermediate_size: int
    audio_intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rope_scaling: RopeScaling
    norm_eps: float
    redraw_window: int
    redraw_limit: int
    max_positions: int = _MAX_POSITIONS

    @property
    def num_codes(self) -> int:
        """Real codes per codebook."""
        return self.codebook_size - _NUM_SPECIAL_CODES

    @classmethod
    def read(cls, folder: Path) -> "V2Config":
        """Read `config.json`, and of `generation_config.json` how codes are drawn again.

        Raises:
            CheckpointError: a file is absent, damaged, of another model type, or a field is missing or unfit.
        """
        fields = Fields.read(folder / "config.json")
        model_type = fields.get("model_type", str)
        if model_type not in MODEL_TYPES:
            raise fields.error(f"model_type is {model_type!r}, not one of {', '.join(MODEL_TYPES)}")
        original = model_type == MODEL_TYPES[0]
        text = fields.section("text_config") if original else fields
        _refuse_other_kinds(fields, text)
        num_heads, hidden_size = text.size("num_attention_heads"), text.size("hidden_size")
        inner = text.size("intermediate_size")
        window, limit = _redraw(folder)
        config = cls(
            num_codebooks=fields.size("audio_num_codebooks" if original else "num_codebooks", 8),
            codebook_size=_codebook_size(fields, original),
            text_vocab_size=text.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=inner,
            audio_intermediate_size=fields.size("audio_ffn_intermediate_size", inner),
            num_layers=text.size("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=text.size("num_key_value_heads", num_heads),
            head_dim=text.size("head_dim", max(1, hidden_size // num_heads)),
            rope_theta=_rope(text).get("rope_theta", float, text.get("rope_theta", float, 500_000.0)),
            rope_scaling=_scaling(text),
            norm_eps=text.get("rms_norm_eps", float, 1e-5),
            redraw_window=window,
            redraw_limit=limit,
        )
        _check(config, fields, original)
        return config


def _codebook_size(fields: Fields, original: bool) -> int:
    """The original counts the real codes only, transformers all; both say which is the first special one."""
    size = fields.size("audio_codebook_size", 1024) + _NUM_SPECIAL_CODES if original else None
    if size is None:
        size = fields.size("codebook_size", 1024 + _NUM_SPECIAL_CODES)
    begin = fields.get("audio_stream_bos_id", int, size - 2)
    end = fields.get("audio_stream_eos_id", int, size - 1)
    if (begin, end) != (size - 2, size - 1):
        raise fields.error(
            f"audio_stream_bos_id and audio_stream_eos_id are {begin} and {end}: in codebooks of {size} "
            f"they must be the last two, {size - 2} and {size - 1}"
        )
    return size


def _rope(text: Fields) -> Fields:
    for name in ("rope_parameters", "rope_scaling"):
        given = text.get(name, dict, {})
        if given:
            return Fields(text.path, given, f"{text.prefix}{name}.")
    raise text.error(f"{text.prefix}rope_scaling is missing: the model was made with Llama 3's")


def _scaling(text: Fields) -> RopeScaling:
    rope = _rope(text)
    kind = rope.get("rope_type", str, "llama3")
    if kind != "llama3":
        raise rope.error(f"{rope.prefix}rope_type is {kind!r}: only 'llama3' is supported")
    return RopeScaling(
        factor=rope.get("factor", float),
        low=rope.get("low_freq_factor", float),
        high=rope.get("high_freq_factor", float),
        original=rope.get("original_max_position_embeddings", float),
    )


def _redraw(folder: Path) -> tuple[int, int]:
    """The window and the limit; those of the model's examples, unless the file says otherwise or 0."""
    fields = read_generation(folder)
    window, limit = fields.get("ras_win_len", int, 7), fields.get("ras_win_max_num_repeat", int, 2)
    if window > _LONGEST_WINDOW:
        raise fields.error(f"ras_win_len is {window}: at most {_LONGEST_WINDOW} is supported")
    if window > 0 and limit < 1:
        raise fields.error(f"ras_win_max_num_repeat is {limit}: it must be at least 1")
    return max(0, window), limit


def _refuse_other_kinds(fields: Fields, text: Fields) -> None:
    activation = text.get("hidden_act", str, "silu")
    if activation != "silu":
        raise text.error(f"{text.prefix}hidden_act is {activation!r}: only 'silu' is supported")
    if not fields.get("use_delay_pattern", bool, True):
        raise fields.error("use_delay_pattern is false: only rows that run behind each other are supported")
    for name in _OTHERS:
        for section in (fields, text):
            if section.values.get(name):
                raise section.error(
                    f"{section.prefix}{name} is {section.values[name]}: that is not supported"
                )


def _check(config: V2Config, fields: Fields, original: bool) -> None:
    if config.num_codebooks < 2:
        raise fields.error("there is 1 codebook: the delay pattern needs at least 2")
    if config.num_heads % config.num_kv_heads:
        raise fields.error(
            f"num_attention_heads ({config.num_heads}) is no multiple of num_key_value_heads "
            f"({config.num_kv_heads})"
        )
    if config.head_dim % 2:
        raise fields.error(f"head_dim is {config.head_dim}; it must be even")
    layers = fields.get("audio_dual_ffn_layers", list, list(range(config.num_layers)))
    if layers != list(range(config.num_layers)):
        raise fields.error("audio_dual_ffn_layers names some layers: only models with all are supported")
