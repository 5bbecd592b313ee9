"""Makes small random checkpoints of Qwen3-TTS, of transformers' own Qwen3, and scores what is drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stentor.models.fields import Fields
from stentor.models.qwen3_codec.speaker_config import SpeakerConfig
from tests.checkpoints import Recipe, tokenizer_json
from tests.qwen3_codec_files import make_speech_tokenizer

CODES, CODEBOOKS, TEXT_SIZE, TEXT_HIDDEN = 64, 16, 300, 24
VOCAB = CODES + 1024
MARKS = {"tts_bos": 290, "tts_eos": 291, "tts_pad": 292}
TALKER_MARKS = dict(
    zip(
        ("eos_token", "think", "nothink", "think_bos", "think_eos", "pad", "bos"),
        range(CODES + 102, CODES + 109),
        strict=True,
    )
)
SPEAKERS = {"vivian": CODES + 900, "eric": CODES + 901}
LANGUAGES = {"english": CODES + 2, "chinese": CODES + 7, "sichuan_dialect": CODES + 14}
SPEAKER = {
    "enc_dim": 48,
    "enc_channels": [8, 8, 8, 8, 24],
    "enc_attention_channels": 4,
    "enc_res2net_scale": 2,
    "enc_se_channels": 4,
}
_TALKER = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "rope_theta": 1_000_000.0}
_PREDICTOR = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "rope_theta": 1_000_000.0}
_BOTH = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6}


def config(kind: str = "custom_voice") -> dict[str, Any]:
    """`config.json`, with what a real one has beside."""
    talker = _TALKER | _BOTH | {f"codec_{name}_id": id for name, id in TALKER_MARKS.items()}
    return {
        "model_type": "qwen3_tts",
        "tts_model_type": kind,
        "tts_model_size": "1b7",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "speaker_encoder_config": SPEAKER,
        **{f"{name}_token_id": id for name, id in MARKS.items()},
        "talker_config": talker
        | {
            "vocab_size": VOCAB,
            "text_vocab_size": TEXT_SIZE,
            "text_hidden_size": TEXT_HIDDEN,
            "num_code_groups": CODEBOOKS,
            "max_position_embeddings": 4096,
            "rope_scaling": {"interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
            "spk_id": SPEAKERS if kind == "custom_voice" else {},
            "spk_is_dialect": {"vivian": False, "eric": "sichuan_dialect"},
            "codec_language_id": LANGUAGES,
            "code_predictor_config": _PREDICTOR
            | _BOTH
            | {"vocab_size": CODES, "num_code_groups": CODEBOOKS, "max_position_embeddings": 4096},
        },
    }


class Network(nn.Module):
    """The language model in plain words, without a cache, by the names that checkpoints have."""

    def __init__(self, seed: int = 0) -> None:
        from transformers import Qwen3Config, Qwen3Model

        super().__init__()
        hidden, inner = _TALKER["hidden_size"], _PREDICTOR["hidden_size"]
        torch.manual_seed(seed)

        def backbone(shape: dict[str, Any], **tables: nn.Module) -> nn.Module:
            rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
            given = {name: value for name, value in shape.items() if name != "rope_theta"}
            model = Qwen3Model(Qwen3Config(**given, **_BOTH, vocab_size=1, rope_parameters=rope))
            del model.embed_tokens
            for name, table in tables.items():
                model.add_module(name, table)
            return model

        def heads(size: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(width, size, bias=False) for _ in range(CODEBOOKS - 1))

        self.talker = nn.Module()
        codec, text = nn.Embedding(VOCAB, hidden), nn.Embedding(TEXT_SIZE, TEXT_HIDDEN)
        self.talker.model = backbone(_TALKER, codec_embedding=codec, text_embedding=text)
        self.talker.codec_head = nn.Linear(hidden, VOCAB, bias=False)
        self.talker.text_projection = nn.Module()
        self.talker.text_projection.linear_fc1 = nn.Linear(TEXT_HIDDEN, TEXT_HIDDEN)
        self.talker.text_projection.linear_fc2 = nn.Linear(TEXT_HIDDEN, hidden)
        self.talker.code_predictor = nn.Module()
        tables = nn.ModuleList(nn.Embedding(CODES, hidden) for _ in range(CODEBOOKS - 1))
        self.talker.code_predictor.model = backbone(_PREDICTOR, codec_embedding=tables)
        self.talker.code_predictor.lm_head = heads(CODES, inner)
        self.talker.code_predictor.small_to_mtp_projection = nn.Linear(hidden, inner)
        with torch.no_grad():
            for name, values in self.named_parameters():
                if values.ndim > 1:
                    gain = 3.0 if "mlp" in name or "v_proj" in name else 1.0
                    values.normal_(0, gain / values.shape[1] ** 0.5)
            for head in (self.talker.codec_head, *self.talker.code_predictor.lm_head):
                head.weight.mul_(8)

    def text(self, ids: list[int]) -> Tensor:
        """Text as the talker reads it, [n, hidden]."""
        projection = self.talker.text_projection
        embedded = self.talker.model.text_embedding(torch.tensor(ids, dtype=torch.int64))
        out: Tensor = projection.linear_fc2(nn.functional.silu(projection.linear_fc1(embedded)))
        return out

    def special(self, ids: list[int]) -> Tensor:
        """Ids of the talker's vocabulary, [n, hidden]."""
        out: Tensor = self.talker.model.codec_embedding(torch.tensor(ids, dtype=torch.int64))
        return out

    def rows(self, codes: np.ndarray) -> Tensor:
        """Frames [n, 16] as they are fed back, but for the text's pad, [n, hidden]."""
        given = torch.from_numpy(codes.astype(np.int64))
        tables = [self.talker.model.codec_embedding, *self.talker.code_predictor.model.codec_embedding]
        return torch.stack([table(given[:, n]) for n, table in enumerate(tables)]).sum(0)

    @torch.inference_mode()
    def scores(self, prompt: Tensor, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of `frames` [n, 16], each after `prompt` [p, hidden] and those before it: of the first codes
        [n, CODES + 2] (the end last, with nothing before it) and of the others [n, 15, CODES].
        """
        fed = self.rows(frames[:-1]) + self.text([MARKS["tts_pad"]])
        hidden = self.talker.model(inputs_embeds=torch.cat((prompt, fed))[None]).last_hidden_state[0]
        states, predictor = hidden[len(prompt) - 1 :], self.talker.code_predictor
        first = self.talker.codec_head(states)
        end = first[:, TALKER_MARKS["eos_token"], None]
        nothing = torch.full_like(end, -torch.inf)
        given = torch.from_numpy(frames.astype(np.int64))
        tables = [self.talker.model.codec_embedding, *predictor.model.codec_embedding][:-1]
        known = [states, *(table(given[:, n]) for n, table in enumerate(tables))]
        narrow = predictor.small_to_mtp_projection(torch.stack(known, 1))
        told = predictor.model(inputs_embeds=narrow).last_hidden_state
        others = torch.stack([head(told[:, n + 1]) for n, head in enumerate(predictor.lm_head)], 1)
        return torch.cat((first[:, :CODES], nothing, end), 1).numpy(), others.numpy()


def make_qwen3_checkpoint(folder: Path, kind: str = "custom_voice", seed: int = 0) -> Path:
    """Write a checkpoint with its codec and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: values.contiguous() for name, values in Network(seed).state_dict().items()}
    if kind == "base":
        speaker = SpeakerConfig.of(Fields(folder, SPEAKER)).shapes("speaker_encoder.")
        tensors |= {name: torch.randn(size) / max(1, sum(size[1:])) ** 0.5 for name, size in speaker.items()}
    make_speech_tokenizer(folder, CODES, seed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(kind)))
    content = tokenizer_json(Recipe())
    first, entry = len(content["model"]["vocab"]), content["added_tokens"][0]
    content["added_tokens"] = [
        entry | {"id": first + number, "content": token}
        for number, token in enumerate(("<|im_start|>", "<|im_end|>"))
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder
