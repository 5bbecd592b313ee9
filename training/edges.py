"""Teaches the trained decoder that an utterance begins and ends in silence.

The main training judges a crop two frames away from its edges, where the decoder sees zeros instead of
neighbours. At the edges of a whole utterance it sees the same zeros, and would click.
"""

import math
import time
from pathlib import Path

import torch
from torch import nn

from training.codec import Decoder
from training.features import FRAME
from training.quantizer import Quantizer
from training.train_codec import (
    SHARDS_PER_VOICE,
    Crops,
    CropSampler,
    decoder_input,
    spectral_losses,
)
from training.train_language_model import save_state

_PLACES = ("start", "anywhere", "end")
_INSIDE = {
    "start": slice(0, -2 * FRAME),
    "anywhere": slice(2 * FRAME, -2 * FRAME),
    "end": slice(2 * FRAME, None),
}
# Where the zeros are felt most: the first and the last samples.
_EDGE = {"start": slice(0, 64), "end": slice(-64, None)}
_EDGE_WEIGHT = 20.0


def edge_losses(decoder: Decoder, quantizer: Quantizer, crops: Crops, place: str) -> dict[str, torch.Tensor]:
    """The decoder's losses with the named edge included, and the distance of its first or last samples."""
    with torch.autocast("cpu", torch.bfloat16):
        output = decoder(decoder_input(quantizer, crops.codes)).float()
    inside = _INSIDE[place]
    parts = spectral_losses(output[:, inside], crops.waveforms[:, inside])
    losses = {"magnitude": parts["magnitude"], "mel": 2 * parts["mel"], "phase": 0.5 * parts["phase"]}
    if place in _EDGE:
        edge = _EDGE[place]
        losses["edge"] = _EDGE_WEIGHT * (output[:, edge] - crops.waveforms[:, edge]).abs().mean()
    return losses


def polish_edges(work_dir: Path, steps: int = 300, peak_rate: float = 3e-4, seed: int = 3) -> None:
    """Goes on with the decoder's saved state for `steps`, once; the state says that it was done."""
    path = work_dir / "decoder.pt"
    state = torch.load(path)
    if state.get("edges"):
        return
    decoder = Decoder()
    decoder.load_state_dict(state["model"])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=peak_rate, betas=(0.8, 0.99), weight_decay=0.0)
    quantizer = Quantizer.load(work_dir / "quantizer.pt")
    sampler = CropSampler(work_dir, quantizer, SHARDS_PER_VOICE, seed)
    torch.manual_seed(seed)
    started = time.monotonic()
    for step in range(steps):
        place = _PLACES[step % len(_PLACES)]
        losses = edge_losses(decoder, quantizer, sampler.draw(8, 20, place), place)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 2.0)
        optimizer.param_groups[0]["lr"] = peak_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        if step % 25 in (0, 2):
            shown = " ".join(f"{key} {float(value.detach()):.3f}" for key, value in losses.items())
            print(f"edges {step} {place} {time.monotonic() - started:.0f}s {shown}", flush=True)
    save_state(path, model=decoder.state_dict(), optimizer=state["optimizer"], step=state["step"], edges=True)
