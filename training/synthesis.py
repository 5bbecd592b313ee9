"""Knows how to make flite speak in this process, as any speaker and in any delivery, with phoneme times."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.speakers import Speaker

SAMPLE_RATE_HZ = 16_000
# The level of every speaker before its delivery's gain: RMS of the whole utterance, of full scale.
_LEVEL = 0.08
# Without it the median pitch of rms lies a third of the spread below its mean.
_MEDIAN_LIFT = {"rms": 0.34}
_LEAD_S, _TAIL_S = 0.08, 0.16


@dataclass(frozen=True)
class Delivery:
    """How something is said: speed ratio, pitch shift, pitch range ratio, gain, tilt, voiced or whispered."""

    rate: float = 1.0
    semitones: float = 0.0
    spread: float = 1.0
    gain_db: float = 0.0
    tilt: float = 0.0
    whisper: bool = False


PLAIN = Delivery()


@dataclass(frozen=True)
class Utterance:
    """One spoken text: int16 samples at 16 kHz, and for each phoneme its name and end time in seconds."""

    text: str
    samples: np.ndarray
    phonemes: list[tuple[str, float]]


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


# `cst_cg_db` of flite 2.2's cst_cg.h up to the last field that is changed here.
_P, _I, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
_DATABASE_TYPES = [_P, _P, _I, _I, _F, _F, _I, _P, _I, *[_P] * 6, _I, _I, *[_P] * 4, _I, _F, _I, *[_P] * 3]
_DATABASE_TYPES += [_I, _P, _I, _F, _F, *[_I] * 4, _P, _I]
_CHANGED = {len(_DATABASE_TYPES) - 8: "alpha", len(_DATABASE_TYPES) - 1: "accents"}


class _Database(ctypes.Structure):
    _fields_ = tuple((_CHANGED.get(i, f"field{i}"), kind) for i, kind in enumerate(_DATABASE_TYPES))


_MEAN, _SPREAD, _STRETCH = b"int_f0_target_mean", b"int_f0_target_stddev", b"duration_stretch"


def synthesiser_library(name: str) -> ctypes.CDLL:
    """A library of a synthesiser.

    Raises:
        OSError: it is not installed.
    """
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise OSError(f"{error}: sudo apt install flite espeak-ng") from None


class Flite:
    """One flite voice (Debian packages `flite`, `libflite1`); `speak` is synchronous and seedless."""

    def __init__(self, voice: str) -> None:
        self._library = synthesiser_library("libflite.so.1")
        for name in ("libflite_cmulex.so.1", "libflite_usenglish.so.1"):
            synthesiser_library(name)
        self._declare()
        self._library.flite_init()
        voices = synthesiser_library(f"libflite_cmu_us_{voice}.so.1")
        register = getattr(voices, f"register_cmu_us_{voice}")
        register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        self._voice = register(None)
        self._features = ctypes.cast(self._voice, ctypes.POINTER(_Voice)).contents.features
        value = self._library.feat_val(self._features, b"cg_db")
        self._database = self._library.val_cg_db(value).contents
        self._native_alpha = float(self._database.alpha)
        self._make_writable()
        # rms comes with a second model of pitch accents, which ignores the targets for mean and spread.
        self._database.accents = 0
        self._lift = _MEDIAN_LIFT.get(voice, 0.0)

    def _make_writable(self) -> None:
        """The voice's constants lie in read-only pages of its library; the warping must be changed there."""
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        address = ctypes.addressof(self._database)
        page = address & ~4095
        size = -(-(address - page + ctypes.sizeof(_Database) + 64) // 4096) * 4096
        if protect(page, size, 3):
            raise OSError("cannot make flite's voice writable")

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
            "feat_val": (pointer, [pointer, text]),
            "val_cg_db": (ctypes.POINTER(_Database), [pointer]),
            "feat_set_float": (None, [pointer, text, ctypes.c_float]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def _items(self, utterance: int, relation: bytes) -> Iterator[int]:
        item = self._library.relation_head(self._library.utt_relation(utterance, relation))
        while item:
            yield item
            item = self._library.item_next(item)

    def _name(self, item: int) -> str:
        return self._library.item_feat_string(item, b"name").decode()

    def words(self, text: str) -> list[str]:
        """The words that are spoken for `text`: numbers, dates and prices written out, no punctuation."""
        utterance = self._library.flite_synth_text(text.encode(), self._voice)
        words = [self._name(item) for item in self._items(utterance, b"Word")]
        self._library.delete_utterance(utterance)
        return words

    def speak(self, text: str, speaker: Speaker, delivery: Delivery = PLAIN) -> Utterance:
        """Speaks `text` and trims the silence at both ends to a fixed length."""
        flite, shift = self._library, 2 ** (delivery.semitones / 12)
        # Without any pitch the synthesis filter is excited by noise alone: a whisper.
        voiced = 0.0 if delivery.whisper else shift
        flite.feat_set_float(
            self._features, _MEAN, (speaker.pitch_hz + self._lift * speaker.spread_hz) * voiced
        )
        flite.feat_set_float(self._features, _SPREAD, speaker.spread_hz * delivery.spread * voiced)
        flite.feat_set_float(self._features, _STRETCH, 1 / (speaker.rate * delivery.rate))
        self._database.alpha = self._native_alpha + speaker.warp
        utterance = flite.flite_synth_text(text.encode(), self._voice)
        # The library's voice is one for the whole process: the next object of it must find it as it was.
        self._database.alpha = self._native_alpha
        wave = flite.utt_wave(utterance).contents
        assert wave.sample_rate == SAMPLE_RATE_HZ
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32)
        phonemes = [
            (self._name(item), float(flite.item_feat_float(item, b"end")))
            for item in self._items(utterance, b"Segment")
        ]
        flite.delete_utterance(utterance)
        start_s = max(0.0, phonemes[0][1] - _LEAD_S)
        end_s = (phonemes[-2][1] if phonemes[-1][0] == "pau" else phonemes[-1][1]) + _TAIL_S
        samples = samples[int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)]
        level_db = delivery.gain_db - (9 if delivery.whisper else 0)
        shaped = levelled(samples, speaker.tilt + delivery.tilt, level_db)
        return Utterance(text, shaped, [(name, end - start_s) for name, end in phonemes])


def levelled(samples: np.ndarray, tilt: float, gain_db: float) -> np.ndarray:
    """int16 samples with `tilt` dB per octave about 1 kHz, at the common level changed by `gain_db`."""
    spectrum = np.fft.rfft(samples.astype(np.float32))
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    octaves = np.clip(np.log2(np.maximum(hz, 1) / 1000), -3, 3)
    # Nothing below 50 Hz is speech.
    spectrum *= 10 ** (tilt * octaves / 20) * np.clip(hz / 50, 0, 1)
    shaped = np.fft.irfft(spectrum, len(samples))
    loudness = np.sqrt(np.mean(shaped**2)) + 1e-6
    shaped *= 32768 * _LEVEL * 10 ** (gain_db / 20) / loudness
    peak = np.abs(shaped).max()
    return (shaped * min(1.0, 31000 / (peak + 1e-6))).astype(np.int16)
