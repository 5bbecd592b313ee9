"""Knows how to make flite speak in this process and how to read the phoneme times of what it said."""

import ctypes
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE_HZ = 16_000
VOICES = ("slt", "rms", "awb", "kal16")
# One gain per voice brings all of them to about the same speech level (RMS 0.08 of full scale).
_GAINS = {"slt": 0.75, "rms": 1.5, "awb": 1.4, "kal16": 1.9}
_LEAD_S, _TAIL_S = 0.08, 0.16


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


@dataclass(frozen=True)
class Utterance:
    """One spoken text: int16 samples at 16 kHz, and for each phoneme its name and end time in seconds."""

    text: str
    samples: np.ndarray
    phonemes: list[tuple[str, float]]


class Flite:
    """One flite voice (Debian packages `flite`, `libflite1`); `speak` is synchronous and seedless."""

    def __init__(self, voice: str) -> None:
        load = ctypes.CDLL
        self._library = load("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
        for name in ("libflite_cmulex.so.1", "libflite_usenglish.so.1"):
            load(name, mode=ctypes.RTLD_GLOBAL)
        self._declare()
        self._library.flite_init()
        register = getattr(load(f"libflite_cmu_us_{voice}.so.1"), f"register_cmu_us_{voice}")
        register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        self._voice = register(None)
        self._gain = _GAINS[voice]

    def _declare(self) -> None:
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        signatures = {
            "flite_synth_text": (pointer, [text, pointer]),
            "utt_wave": (ctypes.POINTER(_Wave), [pointer]),
            "utt_relation": (pointer, [pointer, text]),
            "relation_head": (pointer, [pointer]),
            "item_next": (pointer, [pointer]),
            "item_feat_string": (text, [pointer, text]),
            "item_feat_float": (ctypes.c_float, [pointer, text]),
            "delete_utterance": (None, [pointer]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def speak(self, text: str) -> Utterance:
        """Speaks `text` and trims the silence at both ends to a fixed length."""
        flite = self._library
        utterance = flite.flite_synth_text(text.encode(), self._voice)
        wave = flite.utt_wave(utterance).contents
        assert wave.sample_rate == SAMPLE_RATE_HZ
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
        phonemes = []
        item = flite.relation_head(flite.utt_relation(utterance, b"Segment"))
        while item:
            name = flite.item_feat_string(item, b"name").decode()
            phonemes.append((name, float(flite.item_feat_float(item, b"end"))))
            item = flite.item_next(item)
        flite.delete_utterance(utterance)
        return self._trim(text, samples, phonemes)

    def _trim(self, text: str, samples: np.ndarray, phonemes: list[tuple[str, float]]) -> Utterance:
        start_s = max(0.0, phonemes[0][1] - _LEAD_S)
        speech_end_s = phonemes[-2][1] if phonemes[-1][0] == "pau" else phonemes[-1][1]
        end_s = speech_end_s + _TAIL_S
        samples = samples[int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)]
        samples = np.clip(samples * self._gain, -32767, 32767).astype(np.int16)
        return Utterance(text, samples, [(name, end - start_s) for name, end in phonemes])
