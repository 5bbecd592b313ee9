"""Makes small random checkpoints of Higgs Audio v2, saved by transformers' own model, in both layouts."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.checkpoints import Recipe, _random, tokenizer_json
from tests.codec_tensors import TINY_CODEC, codec_shapes

STRUCTURE = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"),
    *("<|eot_id|>", "<|audio_bos|>", "<|audio_eos|>", "<|audio_out_bos|>", "<|reserved_special_token_6|>"),
    *("<|AUDIO|>", "<|AUDIO_OUT|>", "<|scene_desc_start|>", "<|scene_desc_end|>"),
]
EVENTS = ["<SE>", "</SE>", "<SE_s>", "</SE_s>", "<SE_e>", "</SE_e>"]
_HEADS = {"audio_lm_head.weight": "audio_decoder_proj.audio_lm_head.weight"}
_CODES = "model.embed_audio_tokens.embed_audio_tokens.weight"


def tokenizer() -> dict[str, Any]:
    """A byte-level BPE tokenizer with the special tokens of the real one."""
    content = tokenizer_json(Recipe())
    first, entry = len(content["model"]["vocab"]), content["added_tokens"][0]
    content["added_tokens"] = [
        entry | {"id": first + number, "content": token, "special": True}
        for number, token in enumerate([*STRUCTURE, *EVENTS])
    ]
    return content


def token_ids() -> dict[str, int]:
    return {entry["content"]: entry["id"] for entry in tokenizer()["added_tokens"]}


def hugging_face(seed: int = 0) -> Any:
    """transformers' own model, small, with random weights that spread its scores."""
    from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

    ids = token_ids()
    config = HiggsAudioV2Config(
        vocab_size=max(ids.values()) + 6,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        codebook_size=1026,
        pad_token_id=ids["<|end_of_text|>"],
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|eot_id|>"],
        audio_token_id=ids["<|AUDIO_OUT|>"],
        audio_bos_token_id=ids["<|audio_out_bos|>"],
        audio_delay_token_id=ids["<|reserved_special_token_6|>"],
    )
    model = HiggsAudioV2ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            gain = 3.0 if "mlp" in name or "v_proj" in name else 1.0
            values.copy_(_random(name, tuple(values.shape), generator) * gain)
        model.audio_lm_head.weight.mul_(8)
    return model


def make_v2_checkpoint(folder: Path, *, original: bool = False, codec: bool = True, seed: int = 0) -> Path:
    """Write a checkpoint, with its codec beside it if wanted, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = hugging_face(seed)
    if original:
        tensors = {_original(name): values.contiguous() for name, values in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", original_config(model.config.to_dict()))
    else:
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
    write_json(folder / "tokenizer.json", tokenizer())
    if codec:
        (folder / "codec").mkdir()
        write_json(folder / "codec" / "config.json", TINY_CODEC)
        generator = torch.Generator().manual_seed(seed)
        parts = {name: _random(name, shape, generator) for name, shape in codec_shapes(TINY_CODEC).items()}
        save_file(parts, folder / "codec" / "model.safetensors", metadata={"format": "pt"})
    return folder


def original_config(flat: dict[str, Any]) -> dict[str, Any]:
    """The configuration as the model was published with, from transformers'."""
    rope = flat["rope_parameters"]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = {name: flat[name] for name in (*names, "num_key_value_heads", "head_dim", "rms_norm_eps")}
    return {
        "model_type": "higgs_audio",
        "audio_num_codebooks": 8,
        "audio_codebook_size": 1024,
        "audio_stream_bos_id": 1024,
        "audio_stream_eos_id": 1025,
        "audio_adapter_type": "dual_ffn_fast_forward",
        "audio_dual_ffn_layers": [0, 1],
        "audio_ffn_hidden_size": flat["hidden_size"],
        "audio_ffn_intermediate_size": flat["intermediate_size"],
        "audio_embed_avg": False,
        "use_delay_pattern": True,
        "text_config": text
        | {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_theta": rope["rope_theta"],
            # The same bends, counted in other positions.
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": rope["factor"],
                "low_freq_factor": rope["low_freq_factor"] * 8,
                "high_freq_factor": rope["high_freq_factor"] * 8,
                "original_max_position_embeddings": rope["original_max_position_embeddings"] * 8,
            },
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _original(name: str) -> str:
    if name == _CODES:
        return "audio_codebook_embeddings.weight"
    return _HEADS.get(name, name.removeprefix("model."))
