"""What the `config.json` of a checkpoint says of the talker and its code predictor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.models.fields import Fields
from stentor.request import SamplingParams

MODEL_TYPE = "qwen3_tts"
# What a checkpoint's `generation_config.json` need not say: as the model's own package draws.
SAMPLING = SamplingParams(0.9, 1.0, 50, None, 2048, 1.05)

# What a checkpoint is for: cloning, its own speakers, voices by description.
BASE, CUSTOM_VOICE, VOICE_DESIGN = KINDS = ("base", "custom_voice", "voice_design")
# The last ids of the talker's vocabulary are no codes but structure, speakers and languages.
_NUM_SPECIAL = 1024
# The smaller models were not taught instructions; the package leaves them out there.
_UNINSTRUCTED_SIZE = "0b6"


@dataclass(frozen=True)
class Transformer:
    """The geometry of a Qwen3 backbone."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def read(cls, fields: Fields) -> "Transformer":
        """Raises CheckpointError: a field is missing or unfit."""
        for switch in ("use_sliding_window", "attention_bias"):
            if fields.get(switch, bool, False):
                raise fields.error(f"{fields.prefix}{switch} must be false: else is not supported")
        heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
        return cls(
            hidden_size=hidden,
            intermediate_size=fields.size("intermediate_size"),
            num_layers=fields.size("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=fields.size("num_key_value_heads", heads),
            head_dim=fields.size("head_dim", max(1, hidden // heads)),
            rope_theta=fields.get("rope_theta", float, 1_000_000.0),
            norm_eps=fields.get("rms_norm_eps", float, 1e-6),
        )


@dataclass(frozen=True)
class Marks:
    """Ids with a meaning: `tts_*` of the text's vocabulary, the others of the talker's."""

    tts_bos: int
    tts_eos: int
    tts_pad: int
    pad: int
    bos: int
    eos: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int


@dataclass(frozen=True)
class QwenConfig:
    """The geometry of the language model, and what its checkpoint is for.

    `speakers` and `languages` (English names in lower case) are ids of the talker's vocabulary; `dialects`
    names the language of speakers who have one of their own. All codebooks have `num_codes` codes.
    """

    kind: str
    reads_instructions: bool
    talker: Transformer
    predictor: Transformer
    marks: Marks
    num_codebooks: int
    vocab_size: int
    text_vocab_size: int
    text_hidden_size: int
    max_positions: int
    speakers: Mapping[str, int]
    dialects: Mapping[str, str]
    languages: Mapping[str, int]
    speaker_encoder: Mapping[str, Any]

    @property
    def num_codes(self) -> int:
        """Real codes per codebook."""
        return self.vocab_size - _NUM_SPECIAL

    @classmethod
    def read(cls, folder: Path) -> "QwenConfig":
        """Read `config.json`.

        Raises:
            CheckpointError: it is absent, damaged, of another model type or kind, or a field is missing or
                unfit.
        """
        fields = Fields.read(folder / "config.json")
        if (model_type := fields.get("model_type", str)) != MODEL_TYPE:
            raise fields.error(f"model_type is {model_type!r}, not {MODEL_TYPE}")
        if (kind := fields.get("tts_model_type", str)) not in KINDS:
            raise fields.error(f"tts_model_type is {kind!r}, not one of {', '.join(KINDS)}")
        talker = fields.section("talker_config")
        predictor = talker.section("code_predictor_config")
        codebooks = talker.size("num_code_groups")
        config = cls(
            kind=kind,
            reads_instructions=kind != BASE and fields.get("tts_model_size", str, "") != _UNINSTRUCTED_SIZE,
            talker=Transformer.read(talker),
            predictor=Transformer.read(predictor),
            marks=_marks(fields, talker),
            num_codebooks=codebooks,
            vocab_size=talker.size("vocab_size"),
            text_vocab_size=talker.size("text_vocab_size", 151_936),
            text_hidden_size=talker.size("text_hidden_size"),
            max_positions=talker.size("max_position_embeddings"),
            speakers=_ids(talker, "spk_id"),
            dialects={
                name.lower(): dialect
                for name, dialect in talker.get("spk_is_dialect", dict, {}).items()
                if isinstance(dialect, str)
            },
            languages=_ids(talker, "codec_language_id"),
            speaker_encoder=fields.get("speaker_encoder_config", dict, {}),
        )
        if predictor.size("vocab_size") != config.num_codes or predictor.size("num_code_groups") != codebooks:
            raise predictor.error(
                f"the code predictor must have {codebooks} groups of {config.num_codes} codes, as the talker"
            )
        if kind == CUSTOM_VOICE and not config.speakers:
            raise talker.error("talker_config.spk_id names no speaker, but tts_model_type is custom_voice")
        return config


def _marks(fields: Fields, talker: Fields) -> Marks:
    text = {f"tts_{name}": fields.size(f"tts_{name}_token_id") for name in ("bos", "eos", "pad")}
    names = {name: name for name in Marks.__dataclass_fields__ if name not in text} | {"eos": "eos_token"}
    return Marks(**text, **{name: talker.size(f"codec_{theirs}_id") for name, theirs in names.items()})


def _ids(fields: Fields, name: str) -> dict[str, int]:
    given = fields.get(name, dict, {})
    if not all(isinstance(key, str) and type(value) is int for key, value in given.items()):
        raise fields.error(f"{fields.prefix}{name} must map names to ids")
    limit = fields.size("vocab_size")
    if any(not 0 <= value < limit for value in given.values()):
        raise fields.error(f"{fields.prefix}{name} has an id beyond the talker's {limit}")
    return {key.lower(): value for key, value in given.items()}
