"""The tiny language model: Qwen3 over bytes and fused audio rows, with a training-only phoneme head."""

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from training.data import PHONEMES
from training.features import FRAME, SAMPLE_RATE_HZ
from training.prompts import BOOKS, ROW_VOCABULARY, TEXT_VOCABULARY
from training.quantizer import (
    CODES,
    LEVELS,
    PHASE_BOOK,
    PHASE_STEPS,
    PITCH_BOOK,
    SPEAKER_BOOK,
    TIMBRE_DIM,
    Quantizer,
)

HIDDEN = 256


def backbone_config() -> Qwen3Config:
    """The backbone's shape; its dictionary becomes `text_config` of the checkpoint."""
    return Qwen3Config(
        vocab_size=TEXT_VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=256,
    )


class TinyLanguageModel(nn.Module):
    """Predicts the next delayed row; the audio embedding [8 * 1026, hidden] is also the audio head.

    `dropout` is the share of what each sublayer adds that training leaves out.
    """

    def __init__(self, attention: str = "eager", dropout: float = 0.0) -> None:
        super().__init__()
        # On a CPU and at these lengths plain products train a sixth faster than the fused attention.
        self.backbone = Qwen3Model._from_config(backbone_config(), attn_implementation=attention)
        for layer in self.backbone.layers if dropout else ():
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                last.register_forward_hook(
                    lambda module, _, out: nn.functional.dropout(out, dropout, module.training)
                )
        self.audio_embedding = nn.Embedding(BOOKS * ROW_VOCABULARY, HIDDEN)
        nn.init.normal_(self.audio_embedding.weight, std=0.02)
        nn.init.normal_(self.backbone.embed_tokens.weight, std=0.05)
        self.phoneme_head = nn.Linear(HIDDEN, 2 * len(PHONEMES))
        self.register_buffer("book_offsets", torch.arange(BOOKS) * ROW_VOCABULARY, persistent=False)

    def embed(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Input embeddings [B, S, hidden]: text where `ids` [B, S] ≥ 0, else the sum of `rows` [B, S, 8]."""
        text = self.backbone.embed_tokens(ids.clamp(min=0).long())
        audio = self.audio_embedding(rows + self.book_offsets).sum(-2)
        return torch.where((ids >= 0)[..., None], text, audio)

    def forward(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Final hidden states [B, S, hidden]; right-padded, so that no mask is needed."""
        # The fused attention is causal by itself; to be asked for a mask would cost a wait for the device.
        mask = {"full_attention": None} if self.backbone.config._attn_implementation == "sdpa" else None
        embedded = self.embed(ids, rows)
        return self.backbone(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Row logits [..., 8, 1026] of final hidden states [..., hidden]."""
        flat = nn.functional.linear(hidden, self.audio_embedding.weight)
        return flat.unflatten(-1, (BOOKS, ROW_VOCABULARY))


def seed_phase_geometry(model: TinyLanguageModel, quantizer: Quantizer, size: float = 0.7) -> None:
    """Puts the circle of phases, and each pitch code's turn in one frame, into four embedding directions.

    Next phase = phase + turn of one frame. From bare code numbers that was not learnt within 1,000 steps;
    with angles as (cos, sin) in the embedding it is one product of two vectors in the same position.
    """
    generator = torch.Generator().manual_seed(7)
    directions = torch.linalg.qr(torch.randn(HIDDEN, 4, generator=generator))[0].T * size
    table = model.audio_embedding.weight.data.view(BOOKS, ROW_VOCABULARY, HIDDEN)
    table[PHASE_BOOK, : PHASE_STEPS + 1] += (
        quantizer.books[PHASE_BOOK, : PHASE_STEPS + 1, :2] @ directions[:2]
    )
    pitch_hz, voiced = quantizer.pitches()
    angle = 2 * torch.pi * pitch_hz[:, 0] * FRAME / SAMPLE_RATE_HZ
    turn = torch.stack([angle.cos(), angle.sin()], 1) * voiced.any(1, keepdim=True)
    table[PITCH_BOOK, :CODES] += turn @ directions[2:]


def seed_level_geometry(model: TinyLanguageModel, size: float = 0.6) -> None:
    """Makes every level's phase codes those of level 0, moved in two embedding directions by the level.

    As with timbres: with the place p and -p^2 / 2 in the embedding, a level is repeated by its place.
    """
    generator = torch.Generator().manual_seed(9)
    directions = torch.linalg.qr(torch.randn(HIDDEN, 2, generator=generator))[0].T
    table = model.audio_embedding.weight.data.view(BOOKS, ROW_VOCABULARY, HIDDEN)
    phases = table[PHASE_BOOK, 1 : PHASE_STEPS + 1].clone()
    for place, level in enumerate(LEVELS.tolist()):
        at = size * level / 4
        move = torch.tensor([at, -at * at / 2]) @ directions
        table[PHASE_BOOK, 1 + place * PHASE_STEPS : 1 + (place + 1) * PHASE_STEPS] = phases + move


def seed_timbre_geometry(model: TinyLanguageModel, quantizer: Quantizer, size: float = 0.6) -> None:
    """Puts the places of the speaker codes into 25 embedding directions, so that near codes look alike.

    The model has to repeat the code that it saw most in the reference, also one that it never had to say.
    With the place p and -|p|^2 / 2 in the embedding, a place has its largest product with the nearest code.
    """
    generator = torch.Generator().manual_seed(8)
    directions = torch.linalg.qr(torch.randn(HIDDEN, TIMBRE_DIM + 1, generator=generator))[0].T
    places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
    places = places * size / places.norm(dim=1).mean()
    halves = -places.square().sum(1, keepdim=True) / 2
    table = model.audio_embedding.weight.data.view(BOOKS, ROW_VOCABULARY, HIDDEN)
    table[SPEAKER_BOOK, :CODES] = torch.cat([places, halves], 1) @ directions


def seed_unsaid_timbres(model: TinyLanguageModel, quantizer: Quantizer, said: list[int]) -> None:
    """Gives speaker codes that no speaker of the training has what those that are `said` have come to have.

    What a trained model repeats of a code is for the most part not its place but a direction of its own, by
    which it knows the code again; codes that are never right only drift away together. So the unsaid ones get
    an embedding by their place (a ridge regression over the said ones, on place and square), a random part as
    the said ones' own parts are, and their length.
    """
    table = model.audio_embedding.weight.data.view(BOOKS, ROW_VOCABULARY, HIDDEN)[SPEAKER_BOOK, :CODES]
    places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM].double()
    features = torch.cat([places, places.square().sum(1, keepdim=True)], 1)
    features = torch.cat([features / features.std(0), torch.ones(CODES, 1, dtype=torch.float64)], 1)
    known, target = features[said], table[said].double()
    ridge = torch.eye(features.shape[1], dtype=torch.float64)
    fit = (features @ torch.linalg.solve(known.T @ known + ridge, known.T @ target)).float()
    generator = torch.Generator().manual_seed(5)
    own = torch.randn(CODES, len(said), generator=generator) @ (table[said] - fit[said]) / len(said) ** 0.5
    seeded = nn.functional.normalize(fit + own, dim=1) * table[said].norm(dim=1).mean()
    unsaid = [code for code in range(1, CODES) if code not in set(said)]
    table[unsaid] = seeded[unsaid]
