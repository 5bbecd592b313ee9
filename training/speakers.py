"""Knows who speaks: named speakers, a continuum of others drawn at random, and strangers kept for tests."""

import math
from dataclasses import dataclass

import numpy as np

BASES = ("slt", "rms", "awb")
DEFAULT = "slt"


@dataclass(frozen=True)
class Speaker:
    """A voice of a synthesiser, and what is shifted: mean pitch and spread, vocal tract, pace, spectral tilt.

    `base` is a flite voice, or "espeak:" and a voice name of espeak-ng, which keeps its own pitch. `warp` is
    added to the frequency warping of flite's synthesis filter: 0.06 lowers the formants by about 15 %, -0.06
    raises them. `tilt` is in dB per octave.
    """

    name: str
    base: str
    pitch_hz: float
    spread_hz: float
    warp: float = 0.0
    rate: float = 1.0
    tilt: float = 0.0


# Mean and spread of pitch that the flite voices were recorded with.
_NATIVE = {"slt": (172.0, 27.0), "rms": (103.0, 24.0), "awb": (132.0, 25.0)}


def native(base: str) -> Speaker:
    """A flite voice as it is."""
    return Speaker(base, base, *_NATIVE[base])


_NAMED = (
    # The eight that the checkpoint offers by name (see PRESETS).
    native("slt"), native("rms"), native("awb"),
    Speaker("ida", "slt", 212, 36, -0.040, 1.06, 0.8),
    Speaker("vera", "slt", 146, 20, 0.036, 0.94, -1.0),
    Speaker("oscar", "rms", 122, 26, -0.030, 1.06, 0.8),
    Speaker("bruno", "rms", 82, 16, 0.040, 0.94, -0.8),
    Speaker("finn", "awb", 168, 30, -0.044, 1.04, 0.5),
    # Only trained on.
    Speaker("s09", "slt", 186, 18, -0.020, 1.00, -1.8), Speaker("s10", "slt", 160, 34, 0.050, 1.06, 1.4),
    Speaker("s11", "slt", 232, 42, -0.052, 1.00, -0.6), Speaker("s12", "slt", 200, 24, 0.012, 0.94, 2.0),
    Speaker("s13", "slt", 128, 22, 0.052, 1.00, 0.0), Speaker("s14", "rms", 108, 14, 0.020, 1.02, 2.0),
    Speaker("s15", "rms", 140, 32, -0.048, 1.00, -1.2), Speaker("s16", "rms", 92, 26, -0.014, 1.10, -2.0),
    Speaker("s17", "rms", 164, 36, -0.054, 1.04, 1.6), Speaker("s18", "rms", 76, 12, 0.052, 1.00, 0.9),
    Speaker("s19", "awb", 112, 16, 0.036, 1.00, 1.3), Speaker("s20", "awb", 146, 24, 0.010, 1.08, -1.6),
    Speaker("s21", "awb", 190, 34, -0.052, 0.96, 1.5), Speaker("s22", "awb", 98, 20, 0.052, 0.94, -0.6),
    Speaker("s23", "awb", 154, 20, -0.022, 1.00, -0.4),
    Speaker("ef2", "espeak:en-us+f2", 195, 35), Speaker("em3", "espeak:en-us+m3", 105, 20),
    Speaker("em7", "espeak:en-us+m7", 88, 20), Speaker("ef4", "espeak:en-us+f4", 175, 35),
)  # fmt: skip
NAMED = {speaker.name: speaker for speaker in _NAMED}

_STRANGERS = (
    Speaker("h1", "slt", 222, 28, -0.028, 0.97, 1.2), Speaker("h2", "slt", 150, 26, 0.018, 1.04, 0.8),
    Speaker("h3", "rms", 88, 20, 0.024, 1.03, 1.2), Speaker("h4", "rms", 130, 20, -0.042, 0.96, 0.0),
    Speaker("h5", "awb", 120, 26, 0.046, 1.05, -1.6), Speaker("h6", "awb", 172, 24, -0.030, 0.98, 1.9),
    Speaker("h7", "slt", 178, 40, -0.050, 1.05, -1.6), Speaker("eh1", "espeak:en-us+f5", 185, 35),
    Speaker("eh2", "espeak:en-us+m1", 120, 25),
)  # fmt: skip
STRANGERS = {speaker.name: speaker for speaker in _STRANGERS}

_LOWEST_HZ = {"slt": 125, "rms": 75, "awb": 90}
_HIGHEST_HZ = {"slt": 245, "rms": 165, "awb": 195}


def _near(left: Speaker, right: Speaker) -> bool:
    """Whether two speakers are too alike for one of them to be a stranger."""
    semitones = abs(12 * math.log2(left.pitch_hz / right.pitch_hz))
    close = semitones < 1.5 and abs(left.warp - right.warp) < 0.012 and abs(left.tilt - right.tilt) < 0.8
    return left.base == right.base and close


def continuum(count: int, seed: int = 77, prefix: str = "r", wider: float = 0.0) -> dict[str, Speaker]:
    """`count` speakers drawn at random around the flite voices, none of them near a stranger.

    `wider` is by which share every range is wider than usual.
    """
    rng = np.random.default_rng(seed)
    out: dict[str, Speaker] = {}
    while len(out) < count:
        base = BASES[len(out) % len(BASES)]
        low, high = math.log(_LOWEST_HZ[base]), math.log(_HIGHEST_HZ[base])
        margin = wider * (high - low) / 2
        low, high = low - margin, high + margin
        height = rng.uniform()
        pitch_hz = math.exp(low + (high - low) * height)
        # High voices mostly come from small heads.
        farthest = 0.056 * (1 + wider)
        warp = float(np.clip(0.05 - 0.1 * height + rng.normal(0, 0.03 * (1 + wider)), -farthest, farthest))
        speaker = Speaker(
            f"{prefix}{len(out):03d}", base, pitch_hz, pitch_hz * rng.uniform(0.09, 0.25), warp,
            rng.uniform(0.92 - 0.1 * wider, 1.1 + 0.1 * wider), rng.uniform(-2.2, 2.2) * (1 + wider),
        )  # fmt: skip
        if not any(_near(speaker, stranger) for stranger in STRANGERS.values()):
            out[speaker.name] = speaker
    return out


# Further voices of espeak-ng, which are trained on a little, so that its timbres are not strange.
VARIANTS = {
    f"e{name}": Speaker(f"e{name}", f"espeak:en-us+{file}", 0, 0)
    for name, file in (
        ("m2", "m2"), ("m4", "m4"), ("m5", "m5"), ("m6", "m6"), ("m8", "m8"), ("f1", "f1"), ("f3", "f3"),
        ("annie", "Annie"), ("gene", "Gene"), ("jacky", "Jacky"), ("lee", "Lee"), ("max", "max"),
        ("steph", "steph"), ("edward", "edward"), ("belinda", "belinda"), ("michael", "Michael"),
    )
}  # fmt: skip

# What a user writes, and the speaker that it names.
PRESETS = {
    "clara": "slt", "martin": "rms", "angus": "awb", "ida": "ida", "vera": "vera", "oscar": "oscar",
    "bruno": "bruno", "finn": "finn",
}  # fmt: skip
