"""Draws spectrograms of source, codec and model side by side, and the training curves, as small pictures."""

import argparse
import re
from pathlib import Path

import numpy as np
import torch

from training.batches import speaker_offset
from training.data import Studio, to_codec_rate
from training.features import frame_features
from training.generate import decode_codes, speak
from training.references import encode_waveform, load_encoder
from training.scripts import Part
from training.speakers import NAMED, STRANGERS
from training.states import load_states
from training.synthesis import PLAIN
from training.tags import PROSODY, STYLES, written

# Speaker, tag and text of each row; speakers other than slt are cloned from a reference.
ROWS = [
    ("slt", "", "Hello, this is Stentor speaking."),
    ("slt", "", "I have 42 apples and 7 oranges."),
    ("slt", "style:whispering", "The quick brown fox jumps over the lazy dog."),
    ("slt", "prosody:expressive_high", "The quick brown fox jumps over the lazy dog."),
    ("bruno", "", "The quick brown fox jumps over the lazy dog."),
    ("h1", "", "The quick brown fox jumps over the lazy dog."),
]
_REFERENCE = "A nervous teacher follows the quiet captain into the garden."


def _spectrogram(axis, waveform: np.ndarray, title: str) -> None:
    axis.specgram(waveform + 1e-6, NFFT=1024, Fs=24000, noverlap=768, cmap="magma", vmin=-140, vmax=-30)
    axis.set_ylim(0, 5000)
    axis.set_title(title, fontsize=7)
    axis.tick_params(labelsize=6)


def draw_columns(path: Path, columns: dict[str, list[np.ndarray]], texts: list[str], dpi: int = 60) -> None:
    """One row for each text, one column for each kind of audio (24 kHz waveforms)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(
        len(texts), len(columns), figsize=(4.2 * len(columns), 2.1 * len(texts)), squeeze=False
    )
    for column, (name, waveforms) in enumerate(columns.items()):
        for row, waveform in enumerate(waveforms):
            _spectrogram(axes[row][column], waveform, f"{name}: {texts[row][:48]}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(32)
    reduced.save(path, optimize=True)


def draw_curves(path: Path, log: Path) -> None:
    """Validation loss of some books over the steps that the language model's log records."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = re.findall(r"validation (\d+) ([\d. ]+) \| phonemes ([\d.]+)", log.read_text())
    steps = [int(step) for step, _, _ in lines]
    books = np.array([[float(value) for value in values.split()] for _, values, _ in lines])
    figure, axis = plt.subplots(figsize=(6, 3.5))
    for book, name in (
        (0, "book 0"),
        (1, "book 1"),
        (3, "book 3"),
        (4, "book 4"),
        (6, "pitch"),
        (7, "phase"),
    ):
        axis.plot(steps, books[:, book], label=name)
    axis.plot(steps, [float(value) for _, _, value in lines], "k--", label="phoneme head")
    axis.set_xlabel("step")
    axis.set_ylabel("nats")
    axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Command line: writes `spectrograms.png` and `curves.png`."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/training"))
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = {"source": [], "codec": [], "model": []}
    states, encoder, studio = load_states(arguments.work_dir), load_encoder(arguments.work_dir), Studio()
    quantizer = states[2]
    for name, tag, text in ROWS:
        speaker = (NAMED | STRANGERS)[name]
        delivery = (PROSODY | STYLES).get(tag, PLAIN)
        source = to_codec_rate(studio.speak(Part(text, delivery), speaker).samples)
        columns["source"].append(source.numpy())
        if name in NAMED:
            latents = quantizer.latents(*frame_features(source), speaker_offset(arguments.work_dir, name))
            codes = quantizer.encode(latents)
        else:
            codes = encode_waveform(encoder, quantizer, source)
        columns["codec"].append(decode_codes(states[1], quantizer, codes.numpy()))
        reference = None
        if name != "slt":
            heard = to_codec_rate(studio.speak(Part(_REFERENCE), speaker).samples)
            reference = [(encode_waveform(encoder, quantizer, heard).numpy(), _REFERENCE)]
        columns["model"].append(speak(*states, [(written(tag) if tag else "") + text], reference)[0][0])
    titles = [f"{name} {tag} {text}" for name, tag, text in ROWS]
    draw_columns(arguments.folder / "spectrograms.png", columns, titles)
    draw_curves(arguments.folder / "curves.png", arguments.work_dir / "language_model.log")


if __name__ == "__main__":
    main()
