"""A minimal batched generator for validation during training, with the delay pattern's wind-down."""

import numpy as np
import torch
from transformers import DynamicCache

from training.codec import Decoder
from training.language_model import TinyLanguageModel
from training.prompts import BEGIN_OF_CODES, BOOKS, END_OF_CODES, PLACEHOLDER, Prompt, build_prompt, undelay
from training.quantizer import Quantizer

# What the checkpoint's generation settings say.
TEMPERATURE = 0.6


def row_limit(text: str) -> int:
    """Rows after which an utterance counts as a runaway: four frames for each byte and three seconds."""
    return 4 * len(text.encode()) + 75


def _left_padded(prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    rows = torch.zeros(len(prompts), longest, BOOKS, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        start = longest - len(prompt.ids)
        placed = torch.from_numpy(prompt.ids == PLACEHOLDER)
        ids[index, start:] = torch.from_numpy(prompt.ids).masked_fill(placed, -1)
        rows[index, start:][placed] = torch.from_numpy(prompt.reference_rows)
        mask[index, start:] = 1
    return ids, rows, mask


def _sample(logits: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator) -> torch.Tensor:
    """One code per book from logits [B, 8, 1026]; temperature 0 is greedy."""
    if temperature <= 0:
        return logits.argmax(-1)
    kept = logits.topk(top_k, -1)
    probabilities = (kept.values / temperature).softmax(-1)
    choice = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).reshape(
        *logits.shape[:2], 1
    )
    return kept.indices.gather(-1, choice)[..., 0]


@torch.inference_mode()
def generate_codes(
    model: TinyLanguageModel, prompts: list[Prompt], limits: list[int], temperature: float = TEMPERATURE,
    top_k: int = 50, seed: int = 0,
) -> list[tuple[np.ndarray, bool]]:  # fmt: skip
    """Codes [T, 8] of each prompt and whether it stopped by itself within its limit of rows."""
    ids, rows, mask = _left_padded(prompts)
    generator = torch.Generator().manual_seed(seed)
    cache = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    embedded = model.embed(ids, rows)
    count = len(prompts)
    end_row = torch.full((count,), 1 << 30)
    history: list[torch.Tensor] = []
    books = torch.arange(BOOKS)
    for step in range(max(limits)):
        hidden = model.backbone(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        row = _sample(model.logits(hidden).float(), temperature, top_k, generator)
        row[:, books > step] = BEGIN_OF_CODES
        ended = (row[:, 0] == END_OF_CODES) & (step >= BOOKS) & (end_row > step)
        end_row[ended] = step
        row = torch.where(books <= step - end_row[:, None], END_OF_CODES, row)
        history.append(row)
        if bool(((end_row + BOOKS - 2 <= step) | (torch.tensor(limits) <= step + 1)).all()):
            break
        embedded = model.embed(torch.full((count, 1), -1), row[:, None])
        mask = torch.cat([mask, mask.new_ones(count, 1)], 1)
        positions = positions[:, -1:] + 1
    stacked = torch.stack(history, 1).numpy()
    out = []
    for index in range(count):
        rows_used = min(int(end_row[index]) + BOOKS - 1, limits[index], stacked.shape[1])
        out.append((undelay(stacked[index, :rows_used]), int(end_row[index]) < limits[index]))
    return out


@torch.inference_mode()
def decode_codes(decoder: Decoder, quantizer: Quantizer, codes: np.ndarray) -> np.ndarray:
    """Waveform [960 T] at 24 kHz of codes [T, 8]."""
    if len(codes) == 0:
        return np.zeros(0, dtype=np.float32)
    latents = quantizer.decode(torch.from_numpy(codes.astype(np.int64)))
    return decoder(latents[None])[0].numpy()


def speak(
    model: TinyLanguageModel, decoder: Decoder, quantizer: Quantizer, texts: list[str],
    references: list[tuple[np.ndarray, str | None]] | None = None, temperature: float = TEMPERATURE,
    batch: int = 16, seed: int = 0,
) -> list[tuple[np.ndarray, bool]]:  # fmt: skip
    """Waveforms of the texts and whether each stopped by itself."""
    out = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        refs = references[start : start + batch] if references else [(None, None)] * len(part)
        prompts = [build_prompt(text, *reference) for text, reference in zip(part, refs, strict=True)]
        limits = [row_limit(text) for text in part]
        for codes, stopped in generate_codes(model, prompts, limits, temperature, seed=seed + start):
            out.append((decode_codes(decoder, quantizer, codes), stopped))
    return out
