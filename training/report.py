"""Draws spectrograms of source, codec and model side by side, and the training curves, as small pictures."""

import argparse
import re
from pathlib import Path

import numpy as np
import torch

from training.evaluate import flite_speaker
from training.features import frame_features
from training.generate import decode_codes, speak
from training.states import load_states

TEXTS = [
    "Hello, this is Stentor speaking.",
    "The quick brown fox jumps over the lazy dog.",
    "I have 42 apples and 7 oranges.",
]


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
        (5, "book 5"),
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
    model, decoder, quantizer = load_states(arguments.work_dir)
    source = [waveform for waveform, _, _ in flite_speaker("slt")(TEXTS)]
    latents = [quantizer.latents(*frame_features(torch.from_numpy(waveform))) for waveform in source]
    codec = [decode_codes(decoder, quantizer, quantizer.encode(part).numpy()) for part in latents]
    spoken = [waveform for waveform, _ in speak(model, decoder, quantizer, TEXTS)]
    columns = {"source": source, "codec": codec, "model": spoken}
    draw_columns(arguments.folder / "spectrograms.png", columns, TEXTS)
    draw_curves(arguments.folder / "curves.png", arguments.work_dir / "language_model.log")


if __name__ == "__main__":
    main()
