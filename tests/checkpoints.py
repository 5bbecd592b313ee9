"""Makes small random checkpoints in the real Higgs Audio v3 format, for everybody's tests.

Every name and shape here is written out from the format's description, not asked of the code under test.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.codec_tensors import TINY_CODEC, codec_shapes

CODEC_PREFIX = "tied.embedding.modality_embeddings.0.model."
NUM_CODEBOOKS, CODEBOOK_VOCAB = 8, 1026

STOCK_TOKENS = [
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    *["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>"],
    *[
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ],
    *["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"],
    *["<|repo_name|>", "<|file_sep|>"],
]
STRUCTURE_TOKENS = [
    *["<|asr|>", "<|streaming_asr|>", "<|tts|>", "<|streaming_tts|>", "<|audio_cont_txt|>", "<|audio|>"],
    *["<|audio_end|>", "<|text|>", "<|text_end|>", "<|eoc|>", "<|user|>", "<|assistant|>", "<|system|>"],
    *["<|await_audio|>", "<|ref_audio|>", "<|ref_text|>"],
]
EMOTIONS = (
    "elation amusement enthusiasm determination pride contentment affection relief contemplation confusion "
    "surprise awe longing arousal anger fear disgust bitterness sadness shame helplessness"
).split()
STYLES = "singing shouting whispering".split()
EFFECTS = "cough laughter crying screaming burping humming sigh sniff sneeze".split()
PROSODY = (
    "speed_very_slow speed_slow speed_fast speed_very_fast pitch_low pitch_high pause long_pause".split()
)
EXPRESSIVENESS = "expressive_high expressive_low".split()

CONTROL_TAGS = [
    *[f"<|emotion:{name}|>" for name in EMOTIONS],
    *[f"<|style:{name}|>" for name in STYLES],
    *[f"<|sfx:{name}|>" for name in EFFECTS],
    *[f"<|prosody:{name}|>" for name in [*PROSODY, *EXPRESSIVENESS]],
]

SPECIAL_TOKENS = [
    *[*STOCK_TOKENS, *STRUCTURE_TOKENS],
    *[*CONTROL_TAGS[:21], "<|env:music|>", "<|env:noise|>", *CONTROL_TAGS[21:41]],
    *["<|chatml|>", *CONTROL_TAGS[41:]],
]
"""All added tokens, in the order of their ids in the real tokenizer (151643 and up)."""


@dataclass(frozen=True)
class Recipe:
    """What may differ between the checkpoints that `make_checkpoint` writes.

    `eoc_gain` widens the logit of end-of-content: at 3.0 most greedy runs end within 150 rows.
    `drop_tokens` leaves special tokens out of the tokenizer, `shuffle_tokens` permutes their ids. `codec` is
    the codec's configuration (None: the tiny one); without `with_codec` neither it nor its tensors are there.
    """

    seed: int = 0
    hidden: int = 48
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 96
    text_vocab_padding: int = 5
    tied_heads_on_disk: bool = True
    shards: int = 1
    dtype: str = "bfloat16"
    eoc_gain: float = 1.0
    shuffle_tokens: bool = False
    drop_tokens: tuple[str, ...] = ()
    rope_theta: float = 1_000_000.0
    generation: dict[str, Any] | None = None
    codec: dict[str, Any] | None = None
    with_codec: bool = True

    @property
    def codec_config(self) -> dict[str, Any]:
        """The codec's configuration: the given one or the tiny one."""
        return self.codec or TINY_CODEC

    @property
    def special_tokens(self) -> list[str]:
        """The tokenizer's added tokens, in the order of their ids."""
        tokens = [token for token in SPECIAL_TOKENS if token not in self.drop_tokens]
        if self.shuffle_tokens:
            random.Random(self.seed).shuffle(tokens)
        return tokens

    @property
    def text_vocab(self) -> int:
        """Rows of the text embedding; a few more than there are tokens, as in the real checkpoint."""
        return len(_byte_vocabulary()) + len(MERGES) + len(self.special_tokens) + self.text_vocab_padding


MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or")]


def make_checkpoint(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint into `folder` (made if absent) and return it; `changes` are fields of `Recipe`."""
    recipe = Recipe(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", model_config(recipe))
    _write_json(folder / "tokenizer.json", tokenizer_json(recipe))
    if recipe.generation is not None:
        _write_json(folder / "generation_config.json", recipe.generation)
    if recipe.with_codec:
        _write_json(folder / "higgs_audio_v2_tokenizer.json", recipe.codec_config)
    write_tensors(folder, random_tensors(recipe), recipe.shards)
    return folder


def model_config(recipe: Recipe) -> dict[str, Any]:
    """`config.json` with the real one's keys and oddities (null rope_theta beside rope_parameters)."""
    return {
        "model_type": "higgs_multimodal_qwen3",
        "architectures": ["HiggsMultimodalQwen3ForConditionalGeneration"],
        "audio_token_id": -100,
        "ignore_index": -100,
        "mel_per_sample": 8,
        "dtype": recipe.dtype,
        "audio_encoder_config": {
            "model_type": "higgs_audio_encoder",
            "encoder_type": "discrete",
            "num_codebooks": NUM_CODEBOOKS,
            "vocab_size": CODEBOOK_VOCAB,
            "out_dim": recipe.hidden,
            "tie_word_embeddings": True,
            "use_delay_pattern": True,
        },
        "text_config": {
            "model_type": "qwen3",
            "hidden_size": recipe.hidden,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.kv_heads,
            "head_dim": recipe.head_dim,
            "intermediate_size": recipe.intermediate,
            "vocab_size": recipe.text_vocab,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "eos_token_id": 151643,
            "rope_theta": None,
            "rope_parameters": {"rope_theta": recipe.rope_theta, "rope_type": "default"},
        },
        "transformers_version": "5.5.0",
    }


def lm_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Every tensor of the language model, the duplicate tied heads last."""
    hidden, head_dim, inner = recipe.hidden, recipe.head_dim, recipe.intermediate
    query, key = recipe.heads * head_dim, recipe.kv_heads * head_dim
    fused = NUM_CODEBOOKS * CODEBOOK_VOCAB
    shapes: dict[str, tuple[int, ...]] = {
        "tied.embedding.text_embedding.weight": (recipe.text_vocab, hidden),
        "tied.embedding.modality_embeddings.0.embedding.weight": (fused, hidden),
        "body.norm.weight": (hidden,),
    }
    for layer in range(recipe.layers):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "self_attn.q_norm": (head_dim,),
            "self_attn.k_norm": (head_dim,),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"body.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    if recipe.tied_heads_on_disk:
        shapes["tied.head.text_head.weight"] = (recipe.text_vocab, hidden)
        shapes["tied.head.modality_heads.0.weight"] = (fused, hidden)
    return shapes


def random_tensors(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Random values for every tensor, scaled so that logits are spread and greedy codes keep changing."""
    generator = torch.Generator().manual_seed(recipe.seed)
    shapes = lm_shapes(recipe)
    if recipe.with_codec:
        shapes |= {CODEC_PREFIX + name: shape for name, shape in codec_shapes(recipe.codec_config).items()}
    dtype = getattr(torch, recipe.dtype)
    tensors = {name: _random(name, shape, generator).to(dtype) for name, shape in shapes.items()}
    fused = "tied.embedding.modality_embeddings.0.embedding.weight"
    tensors[fused][CODEBOOK_VOCAB - 1] *= recipe.eoc_gain
    if recipe.tied_heads_on_disk:
        tensors["tied.head.modality_heads.0.weight"] = tensors[fused].clone()
        tensors["tied.head.text_head.weight"] = tensors["tied.embedding.text_embedding.weight"].clone()
    return tensors


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """One file, or `shards` files; always with an index, without the duplicate tied heads, as in reality."""
    names = list(tensors)
    files = ["model.safetensors"]
    if shards > 1:
        files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files):
        part = {name: tensors[name].contiguous() for name in names[number :: len(files)]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part if not name.startswith("tied.head.")}
    total = sum(tensors[name].nbytes for name in weight_map)
    index = {"metadata": {"total_size": str(total)}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def tokenizer_json(recipe: Recipe) -> dict[str, Any]:
    """A byte-level BPE tokenizer (256 bytes, a handful of merges) with the special tokens as added ones."""
    vocab = {symbol: number for number, symbol in enumerate(_byte_vocabulary())}
    for left, right in MERGES:
        vocab[left + right] = len(vocab)
    added = [
        {
            "id": len(vocab) + number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token.startswith("<|"),
        }
        for number, token in enumerate(recipe.special_tokens)
    ]
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    )
    pattern = words + r"|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in MERGES],
        },
    }


def _byte_vocabulary() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    last = name.rsplit(".", 1)[-1]
    if last == "alpha":
        return 1.0 + 0.2 * noise.clamp(-2, 2)
    if last in ("inited", "cluster_size"):
        return torch.ones(shape)
    if last in ("embed", "embed_avg"):
        return noise * (4.0 if last == "embed_avg" else 1.0)
    if last == "original0":
        return noise.abs() + 0.5
    if len(shape) == 1:
        is_norm = "norm" in name and last == "weight"
        return (1.0 + 0.1 * noise) * _gain(name) if is_norm else 0.05 * noise
    fan_in = shape[0] * 2 if "conv_t1" in name else noise[0].numel()
    return noise * _gain(name) / fan_in**0.5


def _gain(name: str) -> float:
    """Small embeddings under strong layers keep codes changing; quiet convolutions keep audio below 1."""
    gains = {
        "embedding.weight": 0.3,
        "body.norm": 10.0,
        "self_attn.v_proj": 3.0,
        "mlp.gate_proj": 3.0,
        "mlp.up_proj": 3.0,
        "acoustic_decoder.conv2": 0.01,
    }
    if ".res_unit" in name and ".conv2." in name:
        return 0.4
    return next((gain for part, gain in gains.items() if part in name), 1.0)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
