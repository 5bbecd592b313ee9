"""Draws spectrograms of source, codec and model side by side, and the training curves, as small pictures."""

import re
from pathlib import Path

import numpy as np


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

    figure, axes = plt.subplots(
        len(texts), len(columns), figsize=(4.2 * len(columns), 2.1 * len(texts)), squeeze=False
    )
    for column, (name, waveforms) in enumerate(columns.items()):
        for row, waveform in enumerate(waveforms):
            _spectrogram(axes[row][column], waveform, f"{name}: {texts[row][:48]}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)


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
