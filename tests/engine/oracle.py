"""The engine's judge: transformers' Qwen3 without any cache, and the delay machine written as one would explain it."""

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3Model

from stentor.engine.sequence import Sequence
from stentor.request import SamplingParams
from tests.checkpoints import Recipe, random_tensors

FUSED = "tied.embedding.modality_embeddings.0.embedding.weight"
TEXT = "tied.embedding.text_embedding.weight"
BEGIN, END, NUM_CODEBOOKS, VOCAB = 1024, 1025, 8, 1026


class Oracle:
    """Generation by full recomputation of everything at every step, in float32."""

    def __init__(self, recipe: Recipe, tensors: dict[str, torch.Tensor] | None = None) -> None:
        tensors = {k: v.float() for k, v in (tensors or random_tensors(recipe)).items()}
        self._text, self._fused = tensors[TEXT], tensors[FUSED]
        config = Qwen3Config(
            vocab_size=8,
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.head_dim,
            intermediate_size=recipe.intermediate,
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            attn_implementation="eager",
        )
        self._backbone = Qwen3Model(config).eval()
        weights = {k.removeprefix("body."): v for k, v in tensors.items() if k.startswith("body.")}
        missing, unexpected = self._backbone.load_state_dict(weights, strict=False)
        assert missing == ["embed_tokens.weight"]
        assert not unexpected

    @torch.inference_mode()
    def generate(
        self, prompts: list[np.ndarray], max_rows: int, seeds: list[int] | None = None
    ) -> list[np.ndarray]:
        """Rows [num_rows, 8] of each prompt [num_tokens, 9], at most `max_rows` each; greedy, or drawn at
        temperature 1 with a seed each."""
        histories = [prompt.astype(np.int64) for prompt in prompts]
        machines = [DelayMachine() for _ in prompts]
        for step in range(max_rows):
            active = [i for i, machine in enumerate(machines) if not machine.done]
            if not active:
                break
            for i, logits in zip(active, self._logits([histories[i] for i in active]), strict=True):
                noise = gumbel_noise(seeds[i], step) if seeds else 0.0
                row = machines[i].step((logits + noise).argmax(-1).tolist())
                histories[i] = np.concatenate((histories[i], [[-1, *row]]))
        return [np.array(machine.rows) for machine in machines]

    def _logits(self, histories: list[np.ndarray]) -> np.ndarray:
        longest = max(map(len, histories))
        embedded = torch.zeros(len(histories), longest, self._fused.shape[1])
        for i, history in enumerate(histories):
            rows = torch.from_numpy(history[:, 1:]) + VOCAB * torch.arange(NUM_CODEBOOKS)
            embedded[i, : len(history)] = self._fused[rows].sum(1)
            is_text = history[:, 0] >= 0
            embedded[i, : len(history)][is_text] = self._text[history[is_text, 0]]
        # Padding stands on the right, where a causal model cannot see it.
        hidden = self._backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state
        last = torch.stack([hidden[i, len(history) - 1] for i, history in enumerate(histories)])
        return (last @ self._fused.T).view(-1, NUM_CODEBOOKS, VOCAB).double().numpy()


def gumbel_noise(seed: int, step: int) -> np.ndarray:
    """The noise of one step by the published recipe, float64 [8, 1026], with Python's own integers."""
    noise = np.empty((NUM_CODEBOOKS, VOCAB))
    for c in range(NUM_CODEBOOKS):
        prefix = 0
        for word in (seed & 0xFFFFFFFF, seed >> 32, step * NUM_CODEBOOKS + c):
            prefix = murmur_mix(prefix, word)
        uniform = np.array([murmur_end(murmur_mix(prefix, code)) for code in range(VOCAB)]) / (2**32 - 1)
        with np.errstate(divide="ignore"):
            noise[c] = -np.log(-np.clip(np.log(uniform), -np.finfo(float).max, -(2.0**-32)))
    return noise


def murmur_mix(h: int, word: int) -> int:
    """One round of MurmurHash3 for 32 bits."""
    word = word * 0xCC9E2D51 % 2**32
    word = ((word << 15) | (word >> 17)) % 2**32
    h ^= word * 0x1B873593 % 2**32
    h = ((h << 13) | (h >> 19)) % 2**32
    return (h * 5 + 0xE6546B64) % 2**32


def murmur_end(h: int) -> int:
    """The end of MurmurHash3 for a key of 16 bytes."""
    h ^= 16
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


class DelayMachine:
    """One sequence's delay and end-of-content machine, in scalars."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.done = False
        self._end_row: int | None = None

    def step(self, codes: list[int]) -> list[int]:
        """Turn freely drawn codes into the row that is emitted and fed back."""
        number = len(self.rows)
        row = list(codes)
        if number < NUM_CODEBOOKS:
            row = [code if c <= number else BEGIN for c, code in enumerate(row)]
        elif self._end_row is not None:
            row = [END if c <= number - self._end_row else code for c, code in enumerate(row)]
            self.done = number == self._end_row + NUM_CODEBOOKS - 2
        elif row[0] == END:
            self._end_row = number
        self.rows.append(row)
        return row


def random_prompt(recipe: Recipe, seed: int, text: int = 20, reference: int = 0) -> np.ndarray:
    """A prompt of `text` random ids with `reference` random rows of codes in its middle, int32 [n, 9]."""
    rng = np.random.default_rng(seed)
    prompt = np.zeros((text + reference, 1 + NUM_CODEBOOKS), dtype=np.int32)
    prompt[:, 0] = rng.integers(0, recipe.text_vocab, len(prompt))
    middle = slice(text // 2, text // 2 + reference)
    prompt[middle, 0] = -1
    prompt[middle, 1:] = rng.integers(0, VOCAB, (reference, NUM_CODEBOOKS))
    return prompt


def greedy(name: str, prompt: np.ndarray, max_rows: int, guard_rows: int | None = None) -> Sequence:
    """A sequence that is decoded greedily."""
    return Sequence(name, prompt, SamplingParams(temperature=0.0), max_rows, guard_rows)


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, by name, straight from its files."""
    from safetensors.torch import load_file

    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}
