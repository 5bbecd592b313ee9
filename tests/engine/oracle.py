"""The engine's judge: Qwen3 of transformers without any cache, and the delay machine in plain words."""

from pathlib import Path

import numpy as np
import torch

from stentor.engine.sequence import Sequence
from stentor.request import SamplingParams
from tests.checkpoints import Recipe, random_tensors

FUSED = "tied.embedding.modality_embeddings.0.embedding.weight"
HEAD = "tied.head.modality_heads.0.weight"
TEXT = "tied.embedding.text_embedding.weight"
BEGIN, END, NUM_CODEBOOKS, VOCAB = 1024, 1025, 8, 1026


class Oracle:
    """The model without a cache: every call computes everything from its beginning."""

    def __init__(
        self,
        recipe: Recipe,
        tensors: dict[str, torch.Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        tied: bool = True,
    ) -> None:
        from transformers import Qwen3Config, Qwen3Model

        tensors = {k: v.to(dtype) for k, v in (tensors or random_tensors(recipe)).items()}
        self._text, self._fused = tensors[TEXT], tensors[FUSED]
        self._head = self._fused if tied else tensors[HEAD]
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
        self._backbone = Qwen3Model(config).to(dtype).eval()
        weights = {k.removeprefix("body."): v for k, v in tensors.items() if k.startswith("body.")}
        missing, unexpected = self._backbone.load_state_dict(weights, strict=False)
        assert missing == ["embed_tokens.weight"]
        assert not unexpected

    def generate(
        self, prompts: list[np.ndarray], max_rows: int, seeds: list[int] | None = None
    ) -> list[np.ndarray]:
        """Rows [num_rows, 8] of each prompt [num_tokens, 9], at most `max_rows` each; greedy, or drawn at
        temperature 1 with a seed each."""
        return [
            self._generate_one(prompt, max_rows, seeds[i] if seeds else None)
            for i, prompt in enumerate(prompts)
        ]

    def continuation(
        self,
        prompt: np.ndarray,
        rows: np.ndarray,
        seed: int | None = None,
        tolerance: float = 0.0,
        penalty: float = 1.0,
    ) -> np.ndarray:
        """What `generate` draws after the prompt and each beginning of these `rows` [num_rows, 8].

        A causal model needs only one pass to say what it would have drawn after every beginning, so this
        judges hundreds of rows in the time of one: rows are the oracle's own if and only if they equal their
        continuation. A code whose score comes within `tolerance` of the best counts as the best.
        """
        logits = self.logits(prompt, rows[:-1])
        machine = DelayMachine()
        for step, scores in enumerate(logits):
            if machine.done:
                break
            scores = penalised(scores, rows[:step], penalty)
            if seed is not None:
                scores = scores + gumbel_noise(seed, step)
            codes = scores.argmax(-1)
            given = np.minimum(rows[step], VOCAB - 1)[:, None].astype(np.int64)
            near = np.take_along_axis(scores, given, 1)[:, 0] >= scores.max(-1) - tolerance
            machine.step(np.where(near, given[:, 0], codes).tolist())
        return np.array(machine.rows)

    def logits(self, prompt: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores after the prompt and after each of `rows` [n, 8], float64 [n + 1, 8, 1026]."""
        fed = np.concatenate((np.full((len(rows), 1), -1), rows), axis=1)
        hidden = self._hidden(np.concatenate((prompt, fed)).astype(np.int64))[len(prompt) - 1 :]
        return (hidden @ self._head.T).view(-1, NUM_CODEBOOKS, VOCAB).double().numpy()

    def _generate_one(self, prompt: np.ndarray, max_rows: int, seed: int | None) -> np.ndarray:
        machine = DelayMachine()
        while len(machine.rows) < max_rows and not machine.done:
            rows = np.array(machine.rows, dtype=np.int64).reshape(-1, NUM_CODEBOOKS)
            scores = self.logits(prompt, rows)[-1]
            if seed is not None:
                scores = scores + gumbel_noise(seed, len(rows))
            machine.step(scores.argmax(-1).tolist())
        return np.array(machine.rows)

    @torch.inference_mode()
    def _hidden(self, history: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(history[:, 1:]) + VOCAB * torch.arange(NUM_CODEBOOKS)
        embedded = self._fused[rows].sum(1)
        is_text = history[:, 0] >= 0
        embedded[is_text] = self._text[history[is_text, 0]]
        hidden: torch.Tensor = self._backbone(inputs_embeds=embedded[None], use_cache=False).last_hidden_state
        return hidden[0]


def penalised(scores: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
    """Scores [8, 1026] after `rows` [n, 8]; the codes of each codebook's last 16 rows are less likely."""
    scores = scores.copy()
    for codebook in range(NUM_CODEBOOKS):
        for code in set(rows[-16:, codebook].tolist()) - {BEGIN, END}:
            score = scores[codebook, code]
            scores[codebook, code] = score / penalty if score > 0 else score * penalty
    return scores


def gumbel_noise(seed: int, step: int) -> np.ndarray:
    """The noise of one step by the published recipe, float64 [8, 1026], with unsigned integers that wrap."""
    position = np.arange(step * NUM_CODEBOOKS, (step + 1) * NUM_CODEBOOKS)[:, None]
    words = (seed & 0xFFFFFFFF, seed >> 32, position, np.arange(VOCAB))
    uniform = murmur(*words) / (2**32 - 1)
    with np.errstate(divide="ignore"):
        noise: np.ndarray = -np.log(-np.clip(np.log(uniform), -np.finfo(float).max, -(2.0**-32)))
    return noise


def murmur(*words: int | np.ndarray) -> np.ndarray:
    """MurmurHash3 for 32 bits of keys made of these words, which broadcast against each other."""
    h = np.zeros((), dtype=np.uint64)
    for word in words:
        k = np.asarray(word, dtype=np.uint64) * np.uint64(0xCC9E2D51) % 2**32
        k = ((k << 15) | (k >> 17)) % 2**32
        h = h ^ (k * np.uint64(0x1B873593) % 2**32)
        h = ((h << 13) | (h >> 19)) % 2**32
        h = (h * np.uint64(5) + np.uint64(0xE6546B64)) % 2**32
    h = h ^ np.uint64(4 * len(words))
    h = (h ^ (h >> 16)) * np.uint64(0x85EBCA6B) % 2**32
    h = (h ^ (h >> 13)) * np.uint64(0xC2B2AE35) % 2**32
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
