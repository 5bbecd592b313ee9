"""Writes the trained states as a checkpoint folder in the Higgs v3 format, with fp16 weights."""

import json
import os
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import HubertModel

from training.codec import (
    ACOUSTIC_DIM,
    ENCODER_WIDTH,
    SEMANTIC_DIM,
    Decoder,
    Encoder,
    acoustic_config,
    semantic_config,
)
from training.generate import TEMPERATURE
from training.language_model import HIDDEN, TinyLanguageModel, backbone_config
from training.presets import write_presets
from training.prompts import BOOKS, ROW_VOCABULARY, SPECIAL_TOKENS, TOKEN_IDS
from training.quantizer import CODES, LATENT_DIM, Quantizer, book_dims

CODEC_PREFIX = "tied.embedding.modality_embeddings.0.model."
GENERATION = {
    "temperature": TEMPERATURE,
    "top_p": 1.0,
    "top_k": 50,
    "max_new_tokens": 1024,
    # It was trained on single sentences: of three in one prompt it says a quarter of the words wrong.
    "max_prompt_chars": 1,
    "steady_voice": True,
}
_CODEC_KEYS = {
    "sample_rate": 24000,
    "semantic_sample_rate": 16000,
    "downsample_factor": 320,
    "codebook_size": CODES,
    "codebook_dim": 64,
    "target_bandwidths": [0.5, 1, 1.5, 2],
    "kernel_size": 3,
    "unit_kernel_size": 3,
    "strides": [1, 1],
    "channel_ratios": [1, 1],
    "block_dilations": [1, 1],
    "initializer_range": 0.02,
}
_COUNT_IN_CLUSTER = 4.0


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def model_config() -> dict[str, object]:
    """`config.json` with the real model's keys and this model's sizes."""
    text = backbone_config().to_dict()
    names = (
        "attention_bias attention_dropout eos_token_id head_dim hidden_act hidden_size initializer_range "
        "intermediate_size max_position_embeddings model_type num_attention_heads num_hidden_layers "
        "num_key_value_heads rms_norm_eps tie_word_embeddings use_cache vocab_size"
    ).split()
    text_config: dict[str, object] = {name: text[name] for name in names}
    text_config |= {"dtype": "float16", "use_cache": True, "rope_theta": None}
    text_config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1_000_000}
    return {
        "architectures": ["HiggsMultimodalQwen3ForConditionalGeneration"],
        "model_type": "higgs_multimodal_qwen3",
        "audio_token_id": -100,
        "ignore_index": -100,
        "mel_per_sample": 8,
        "audio_encoder_config": {
            "encoder_type": "discrete",
            "model_type": "higgs_audio_encoder",
            "num_codebooks": BOOKS,
            "vocab_size": ROW_VOCABULARY,
            "out_dim": HIDDEN,
            "tie_word_embeddings": True,
            "use_delay_pattern": True,
        },
        "text_config": text_config,
        "dtype": "float16",
        "transformers_version": "5.5.0",
    }


def codec_config(encoder_width: int = ENCODER_WIDTH) -> dict[str, object]:
    """`higgs_audio_v2_tokenizer.json`: the bundled codec's own configuration in transformers' layout."""
    acoustic, semantic = acoustic_config(encoder_width).to_dict(), semantic_config().to_dict()
    acoustic_names = (
        "model_type encoder_hidden_size decoder_hidden_size hidden_size downsampling_ratios "
        "upsampling_ratios hop_length n_codebooks codebook_size codebook_dim sampling_rate"
    ).split()
    semantic_names = (
        "model_type hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "layer_norm_eps conv_dim conv_kernel conv_stride conv_bias feat_extract_norm feat_extract_activation "
        "feat_proj_layer_norm do_stable_layer_norm num_conv_pos_embeddings num_conv_pos_embedding_groups "
        "conv_pos_batch_norm mask_time_prob"
    ).split()
    return {
        "model_type": "higgs_audio_v2_tokenizer",
        "architectures": ["HiggsAudioV2TokenizerModel"],
        **_CODEC_KEYS,
        "acoustic_model_config": {name: acoustic[name] for name in acoustic_names},
        "semantic_model_config": {name: semantic[name] for name in semantic_names},
        "dtype": "float32",
    }


def byte_symbols() -> list[str]:
    """The 256 printable symbols that ByteLevel tokenizers write bytes with, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    shown = {byte: byte for byte in printable} | {byte: 256 + index for index, byte in enumerate(hidden)}
    return [chr(shown[byte]) for byte in range(256)]


def write_tokenizer(folder: Path) -> None:
    """`tokenizer.json` (bytes without merges, every special token one id) and `tokenizer_config.json`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": TOKEN_IDS[token], "content": token, **flags} for token in SPECIAL_TOKENS],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": None,
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
            "vocab": {symbol: index for index, symbol in enumerate(byte_symbols())},
            "merges": [],
        },
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
        },
    )


def semantic_tensors() -> dict[str, torch.Tensor]:
    """Seeded random weights of the semantic branch: the format wants the names, `fc` ignores the output."""
    torch.manual_seed(0)
    hubert = HubertModel(semantic_config()).state_dict()
    tensors = {f"semantic_model.{name}": value for name, value in hubert.items()}
    tensors["semantic_model.masked_spec_embed"] = torch.zeros(SEMANTIC_DIM)
    kernels = {"encoder_semantic.conv": 3, "decoder_semantic.conv1": 3, "decoder_semantic.conv2": 3}
    for side, block in product(("encoder", "decoder"), (0, 1)):
        prefix = f"{side}_semantic.conv_blocks.{block}"
        kernels[f"{prefix}.conv"] = 3
        tensors[f"{prefix}.conv.bias"] = torch.zeros(SEMANTIC_DIM)
        for unit in (0, 1):
            kernels |= {f"{prefix}.res_units.{unit}.conv1": 3, f"{prefix}.res_units.{unit}.conv2": 1}
    for name, kernel in kernels.items():
        tensors[f"{name}.weight"] = 0.05 * torch.randn(SEMANTIC_DIM, SEMANTIC_DIM, kernel)
    return tensors


def codec_tensors(decoder: Decoder, encoder: Encoder, quantizer: Quantizer) -> dict[str, torch.Tensor]:
    """Every tensor of the bundled codec by its name without prefix."""
    tensors = semantic_tensors() | _shortened(decoder.state_dict()) | encoder.state_dict()
    tensors["fc1.weight"], tensors["fc1.bias"] = (
        torch.zeros(SEMANTIC_DIM, LATENT_DIM),
        torch.zeros(SEMANTIC_DIM),
    )
    weight = tensors["fc.weight"].clone()
    weight[:, ACOUSTIC_DIM:] = 0
    tensors["fc.weight"] = weight
    for book in range(BOOKS):
        dims, name = book_dims(book), f"quantizer.quantizers.{book}."
        select = torch.zeros(64, LATENT_DIM)
        select[range(dims.stop - dims.start), range(dims.start, dims.stop)] = 1
        tensors[name + "project_in.weight"], tensors[name + "project_out.weight"] = (
            select,
            select.T.contiguous(),
        )
        tensors[name + "project_in.bias"], tensors[name + "project_out.bias"] = (
            torch.zeros(64),
            torch.zeros(LATENT_DIM),
        )
        tensors[name + "codebook.embed"] = quantizer.books[book]
        tensors[name + "codebook.embed_avg"] = quantizer.books[book] * _COUNT_IN_CLUSTER
        tensors[name + "codebook.cluster_size"] = torch.full((CODES,), _COUNT_IN_CLUSTER)
        tensors[name + "codebook.inited"] = torch.ones(1)
    return tensors


def language_model_tensors(model: TinyLanguageModel) -> dict[str, torch.Tensor]:
    """Every tensor of the language model by its checkpoint name; the phoneme head stays behind."""
    tensors = {"tied.embedding.modality_embeddings.0.embedding.weight": model.audio_embedding.weight}
    for name, tensor in model.backbone.state_dict().items():
        renamed = "tied.embedding.text_embedding.weight" if name == "embed_tokens.weight" else f"body.{name}"
        tensors[renamed] = tensor
    return tensors


def _shortened(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in seven significant bits: no measure feels it (of the decoder's sound 45 dB below), and a new
    checkpoint adds a quarter less to the history of the repository.
    """
    parts = {name: torch.frexp(value.detach().float()) for name, value in tensors.items()}
    return {name: torch.ldexp((part * 128).round() / 128, power) for name, (part, power) in parts.items()}


def export(work_dir: Path, folder: Path) -> None:
    """Writes the folder's generated files; weights appear by renaming, so nobody reads half of them."""
    from training.references import load_encoder
    from training.states import load_states

    model, decoder, quantizer = load_states(work_dir)
    encoder = load_encoder(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_presets(work_dir, folder)
    tensors = _shortened(language_model_tensors(model))
    tensors |= {
        CODEC_PREFIX + name: value for name, value in codec_tensors(decoder, encoder, quantizer).items()
    }
    tensors = {name: value.detach().to(torch.float16).contiguous().clone() for name, value in tensors.items()}
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
    _write_json(folder / "config.json", model_config())
    _write_json(folder / "higgs_audio_v2_tokenizer.json", codec_config(encoder.width))
    _write_json(folder / "generation_config.json", {"do_sample": True, **GENERATION})
    write_tokenizer(folder)
    temporary = folder / ".model.safetensors.new"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, folder / "model.safetensors")
