"""Knows how to load what the training runs saved."""

from pathlib import Path

import torch

from training.codec import Decoder
from training.language_model import TinyLanguageModel
from training.quantizer import Quantizer


def load_states(work_dir: Path) -> tuple[TinyLanguageModel, Decoder, Quantizer]:
    """Language model, decoder and quantizer in evaluation mode."""
    model, decoder = TinyLanguageModel(), Decoder()
    model.load_state_dict(torch.load(work_dir / "language_model.pt")["model"])
    decoder.load_state_dict(torch.load(work_dir / "decoder.pt")["model"])
    return model.eval(), decoder.eval(), Quantizer.load(work_dir / "quantizer.pt")
