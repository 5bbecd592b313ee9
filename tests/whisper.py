"""Makes small Whisper checkpoints in transformers' format that have learnt what a few recordings say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from stentor.request import Array

END, START, LANGUAGES = "<|endoftext|>", "<|startoftranscript|>", ("<|en|>", "<|de|>")
TASKS = ("<|translate|>", "<|transcribe|>")
STRUCTURE = (START, *LANGUAGES, *TASKS, "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
RATE_HZ, WINDOW_S = 16_000, 4


def make_whisper(folder: Path, says: Mapping[str, Sequence[Array]], rounds: int = 80) -> Path:
    """Write a checkpoint into `folder` that hears each text in its recordings, mono float32 at `RATE_HZ`.

    Texts that begin with a capital are in its first language, others in the second. Without any `rounds` it
    is random, and goes on to the limit. It hears `WINDOW_S` seconds, the real ones 30.
    """
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": list(STRUCTURE)})
    ids = dict(zip((END, *STRUCTURE), tokenizer.convert_tokens_to_ids([END, *STRUCTURE]), strict=True))
    features = WhisperFeatureExtractor(chunk_length=WINDOW_S)
    model = _model(ids, len(tokenizer))
    if rounds:
        _teach(model, features, tokenizer, ids, says, rounds)
    for part in (model, features, tokenizer):
        part.save_pretrained(folder)
    return folder


def _model(ids: Mapping[str, int], size: int) -> WhisperForConditionalGeneration:
    ends = {"decoder_start_token_id": ids[START], **dict.fromkeys(("eos_token_id", "pad_token_id"), ids[END])}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=size + 1501,  # with a token for each moment, as the real ones have
            **{f"{half}_layers": 1 for half in ("encoder", "decoder")},
            **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
            **{f"{half}_ffn_dim": 64 for half in ("encoder", "decoder")},
            d_model=32,
            max_source_positions=WINDOW_S * 50,
            max_target_positions=128,
            bos_token_id=ids[END],
            **ends,
        )
    )
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in LANGUAGES},
        task_to_id={name.strip("<|>"): ids[name] for name in TASKS},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        begin_suppress_tokens=[ids[END]],
        suppress_tokens=[ids[START]],
        max_length=128,
        **ends,
    )
    return model


def _teach(
    model: WhisperForConditionalGeneration,
    features: WhisperFeatureExtractor,
    tokenizer: WhisperTokenizer,
    ids: Mapping[str, int],
    says: Mapping[str, Sequence[Array]],
    rounds: int,
) -> None:
    clips = [(text, clip) for text, recordings in says.items() for clip in recordings]
    sound = features([clip for _, clip in clips], sampling_rate=RATE_HZ, return_tensors="pt").input_features
    rows = []
    for text, _ in clips:
        language = LANGUAGES[not text[0].isupper()]
        head = [ids[name] for name in (START, language, "<|transcribe|>", "<|notimestamps|>")]
        rows.append([*head, *tokenizer(text, add_special_tokens=False).input_ids])
    longest = 1 + max(map(len, rows))
    target = torch.tensor([row + [ids[END]] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(rounds):
        scores = model(sound, decoder_input_ids=target[:, :-1]).logits
        loss = F.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
