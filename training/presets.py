"""Makes the checkpoint's named voices: a reference's codes, what it says, and further names for them."""

import json
from pathlib import Path

import numpy as np

from training.batches import speaker_offset
from training.data import Studio, to_codec_rate
from training.features import frame_features
from training.quantizer import PHASE_BOOK, SPEAKER_BOOK, Quantizer, at_level
from training.references import encode_waveform, load_encoder
from training.scripts import Part
from training.speakers import NAMED, PRESETS

_TEXT = "Hello, my name is {name}, and this is how I sound when I speak to you."
# The names that OpenAI's clients ask for, by likeness as far as there is one.
ALIASES = {
    "alloy": "default", "nova": "ida", "shimmer": "vera", "coral": "clara", "sage": "ida", "marin": "vera",
    "ballad": "angus", "fable": "angus", "verse": "finn", "ash": "oscar", "echo": "martin",
    "cedar": "martin", "onyx": "bruno",
}  # fmt: skip


def write_presets(work_dir: Path, folder: Path) -> None:
    """Writes `voices/NAME.npy`, `voices/NAME.txt` and `voices/aliases.json` into a checkpoint folder.

    The codes are the neural encoder's, as the language model knows references, but timbre and level are
    exact.
    """
    quantizer, encoder, studio = Quantizer.load(work_dir / "quantizer.pt"), load_encoder(work_dir), Studio()
    voices = folder / "voices"
    voices.mkdir(parents=True, exist_ok=True)
    for name, speaker_name in PRESETS.items():
        text = _TEXT.format(name=name.capitalize())
        waveform = to_codec_rate(studio.speak(Part(text), NAMED[speaker_name]).samples)
        codes = encode_waveform(encoder, quantizer, waveform).clone()
        features = frame_features(waveform)
        offset = speaker_offset(work_dir, speaker_name)
        exact = quantizer.encode(quantizer.latents(*features, offset))
        codes[:, SPEAKER_BOOK] = exact[:, SPEAKER_BOOK]
        codes = codes.numpy()
        codes[:, PHASE_BOOK] = at_level(codes[:, PHASE_BOOK], offset.level)
        np.save(voices / f"{name}.npy", codes.astype(np.int16))
        (voices / f"{name}.txt").write_text(text + "\n")
    (voices / "aliases.json").write_text(json.dumps(ALIASES, indent=2) + "\n")
