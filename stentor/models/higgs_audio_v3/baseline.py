"""The plain way to run this model, for benchmarks: transformers' modules and cache, one request at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.engine.sequence import delay
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.weights import Weights
from stentor.request import Prompt, SamplingParams

_ROWS = "tied.embedding.modality_embeddings.0.embedding.weight"
_TEXT = "tied.embedding.text_embedding.weight"
_HEAD = "tied.head.modality_heads.0.weight"
_BODY = "body."


class PlainLoop:
    """One prompt after the other, through transformers' Qwen3 with a cache that grows step by step."""

    def __init__(self, config: V3Config, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import Qwen3Config, Qwen3Model

        def load(name: str) -> Tensor:
            return weights.tensor(name).to(device, dtype)

        self._config, self._device = config, device
        backbone = Qwen3Model(
            Qwen3Config(
                vocab_size=1,  # its own embedding is not used
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                max_position_embeddings=config.max_positions,
                rms_norm_eps=config.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            )
        )
        named = {name.removeprefix(_BODY): load(name) for name in weights.shapes if name.startswith(_BODY)}
        backbone.load_state_dict(named, strict=False)
        self._backbone = backbone.to(device, dtype).eval()
        self._text, self._rows = load(_TEXT), load(_ROWS)
        self._head = self._rows if config.tied_heads else load(_HEAD)
        self._offsets = torch.arange(config.num_codebooks, device=device) * config.codebook_size

    def __call__(self, prompt: Prompt) -> int:
        """Generate to the end; the number of frames."""
        return max(0, len(self.rows(prompt)) - self._config.num_codebooks + 1)

    @torch.inference_mode()
    def rows(self, prompt: Prompt) -> list[list[int]]:
        """Generate to the end; the delayed rows, each of num_codebooks codes."""
        from transformers import DynamicCache

        sampling, cache = prompt.sampling, DynamicCache()
        assert sampling.max_new_tokens is not None, "preprocess resolves every default"
        limit = min(sampling.max_new_tokens, prompt.max_rows or sampling.max_new_tokens)
        generator = torch.Generator(self._device).manual_seed(sampling.seed or 0)
        rows: list[list[int]] = []
        end_row: int | None = None
        embedded = self._embed(prompt)
        while len(rows) < limit:
            output = self._backbone(inputs_embeds=embedded[None], cache=cache, use_cache=True)
            logits = F.linear(output.last_hidden_state[0, -1], self._head).float()
            drawn = _draw(logits.view(self._config.num_codebooks, -1), sampling, generator)
            row = self._delayed(drawn, len(rows), end_row)
            rows.append(row)
            if end_row is not None and len(rows) == end_row + self._config.num_codebooks - 1:
                break
            if end_row is None and len(rows) > self._config.num_codebooks and row[0] == self._config.end_code:
                end_row = len(rows) - 1
            embedded = self._rows[torch.tensor(row, device=self._device) + self._offsets].sum(0, keepdim=True)
        return rows

    def _embed(self, prompt: Prompt) -> Tensor:
        text = self._text[torch.as_tensor(prompt.token_ids, dtype=torch.int64, device=self._device)]
        if prompt.reference_codes is None:
            return text
        codes = delay(prompt.reference_codes, self._config.begin_code, self._config.end_code)
        rows = torch.as_tensor(codes, dtype=torch.int64, device=self._device) + self._offsets
        start = prompt.reference_start
        return torch.cat((text[:start], self._rows[rows].sum(1), text[start:]))

    def _delayed(self, drawn: list[int], number: int, end_row: int | None) -> list[int]:
        """What is drawn as row `number`, with the codes that the delay pattern puts there instead."""
        config = self._config
        if number < config.num_codebooks:
            return [code if c <= number else config.begin_code for c, code in enumerate(drawn)]
        if end_row is None:
            return drawn
        return [config.end_code if c <= number - end_row else code for c, code in enumerate(drawn)]


def _draw(logits: Tensor, sampling: SamplingParams, generator: torch.Generator) -> list[int]:
    """One code per codebook from [num_codebooks, codebook_size]: temperature, top-k, top-p, a draw."""
    if not sampling.temperature:
        return list(logits.argmax(-1).tolist())
    logits = logits / sampling.temperature
    if sampling.top_k:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        kept = (ordered.cumsum(-1) - ordered) < sampling.top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * kept)
    return list(torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist())
