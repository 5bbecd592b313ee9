"""Knows the checkpoint's tokens, prompt layouts and delay pattern, as the Higgs v3 format defines them."""

import re
from dataclasses import dataclass

import numpy as np

BOOKS = 8
ROW_VOCABULARY = 1026
BEGIN_OF_CODES, END_OF_CODES = 1024, 1025
_EMOTIONS = (
    "elation amusement enthusiasm determination pride contentment affection relief contemplation confusion "
    "surprise awe longing arousal anger fear disgust bitterness sadness shame helplessness"
).split()
_SOUNDS = "cough laughter crying screaming burping humming sigh sniff sneeze".split()
_PROSODY = (
    "speed_very_slow speed_slow speed_fast speed_very_fast pitch_low pitch_high pause long_pause".split()
)
SPECIAL_TOKENS = [
    f"<|{name}|>"
    for name in [
        *"endoftext im_start im_end asr streaming_asr tts streaming_tts audio_cont_txt audio".split(),
        *"audio_end text text_end eoc user assistant system await_audio ref_audio ref_text".split(),
        *(f"emotion:{name}" for name in _EMOTIONS),
        *("env:music", "env:noise"),
        *(f"style:{name}" for name in ("singing", "shouting", "whispering")),
        *(f"sfx:{name}" for name in _SOUNDS),
        *(f"prosody:{name}" for name in _PROSODY),
        "chatml",
        *("prosody:expressive_high", "prosody:expressive_low"),
    ]
]
TOKEN_IDS = {token: 256 + index for index, token in enumerate(SPECIAL_TOKENS)}
TEXT_VOCABULARY = 384
TTS, TEXT, AUDIO, REF_AUDIO, REF_TEXT = (
    TOKEN_IDS[f"<|{name}|>"] for name in ("tts", "text", "audio", "ref_audio", "ref_text")
)
PLACEHOLDER = -100
_TAG = re.compile(r"(<\|[a-z_]+:[a-z_]+\|>)")


def text_ids(text: str) -> list[int]:
    """Bytes, and one id for each control tag."""
    pieces = enumerate(_TAG.split(text))
    return [i for odd, piece in pieces for i in ([TOKEN_IDS[piece]] if odd % 2 else piece.encode())]


def delay(codes: np.ndarray) -> np.ndarray:
    """Delayed rows [T + 7, 8] of codes [T, 8]: book c starts c rows late, with BOC before and EOC after."""
    frames = len(codes)
    rows = np.full((frames + BOOKS - 1, BOOKS), END_OF_CODES, dtype=np.int64)
    for book in range(BOOKS):
        rows[:book, book] = BEGIN_OF_CODES
        rows[book : book + frames, book] = codes[:, book]
    return rows


def undelay(rows: np.ndarray) -> np.ndarray:
    """Codes [L - 7, 8] of delayed rows [L, 8]; BOC and EOC cells become code 0."""
    frames = max(len(rows) - BOOKS + 1, 0)
    codes = np.stack([rows[book : book + frames, book] for book in range(BOOKS)], 1)
    return np.where(codes >= BEGIN_OF_CODES, 0, codes)


@dataclass(frozen=True)
class Prompt:
    """Token ids with PLACEHOLDER where the delayed reference rows [R, 8] stand."""

    ids: np.ndarray
    reference_rows: np.ndarray


def build_prompt(text: str, reference: np.ndarray | None = None, reference_text: str | None = None) -> Prompt:
    """The layouts zero-shot, reference only, and transcript with reference; `reference` is codes [T, 8]."""
    ids = [TTS]
    rows = np.zeros((0, BOOKS), dtype=np.int64)
    if reference is not None:
        rows = delay(reference)
        if reference_text is not None:
            ids += [REF_TEXT, *text_ids(reference_text)]
        ids += [REF_AUDIO, *[PLACEHOLDER] * len(rows)]
    ids += [TEXT, *text_ids(text), AUDIO]
    return Prompt(np.array(ids, dtype=np.int64), rows)
