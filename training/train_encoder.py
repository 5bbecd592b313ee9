"""Trains the encoder by the clock, on a GPU, while other processes speak what it hears."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.codec import Encoder
from training.crowd import read_casting, start_performing
from training.files import save_state
from training.hearing import Hall, Heard, Held
from training.quantizer import (
    BOOKS,
    LEVEL_DIMS,
    MEL_DIMS,
    PHASE_DIMS,
    PITCH_DIMS,
    SPEAKER_BOOK,
    SPEAKER_DIMS,
    TIMBRE_DIM,
    Quantizer,
)
from training.schedules import held_then_falling
from training.warm_start import encoder_of, previous_tensors, start_encoder

# Squared distance over which a speaker code's neighbours are told apart.
_SHARPNESS = 8.0
_EMA = 0.998
# How many must have spoken before the training begins.
_FIRST_SPEAKERS = 12
# Time that is kept for scores, and how many utterances of a speaker they are made of.
_SCORING_S, _SCORED = 10, 8


@dataclass(frozen=True)
class Clock:
    """How long and how wide to train: seconds in all, processes that speak, crops of a step."""

    seconds: float
    workers: int = 4
    batch: int = 48
    frames: int = 64
    peak_rate: float = 1e-3
    seed: int = 5

    @property
    def speaking_s(self) -> float:
        """When the processes stop to speak."""
        return 0.5 * self.seconds

    def rate(self, progress: float) -> float:
        """Learning rate: 2 % warm-up, hold to 35 %, cosine to 1 %."""
        shape = held_then_falling(progress, hold=0.35, floor=0.01)
        return self.peak_rate * min(1.0, progress / 0.02 + 0.02) * shape


def hearing_losses(output: torch.Tensor, quantizer: Quantizer, heard: Heard) -> dict[str, torch.Tensor]:
    """Squared errors of latents [B, F, 128] in the judged frames, relative to each group's power, weighted.

    "timbre" asks for the speaker's place itself, so that unknown speakers are not drawn to an entry, and
    "speaker" for the right entry of the book. "whole" is the mel patch that the decoder will see.
    """
    judged = heard.judged
    # In silence, and at the default voice's own place, the speaker dimensions are 0.
    strange = (heard.latents[..., SPEAKER_DIMS] != 0).any(-1)
    active = judged & strange
    error = output - heard.latents
    place = heard.places[:, None] * strange[..., None]
    whole = error[..., MEL_DIMS] + quantizer.timbre_as_mel(error)

    def relative(difference: torch.Tensor, target: torch.Tensor, floor: float) -> torch.Tensor:
        frames = judged.sum().clamp(min=1) * target.shape[-1]
        power = (target.square() * judged[..., None]).sum() / frames
        return (difference.square() * judged[..., None]).sum() / frames / power.clamp(min=floor)

    phase = slice(PHASE_DIMS.start, LEVEL_DIMS.start)
    mel, pitch, turn, level = (heard.latents[..., d] for d in (MEL_DIMS, PITCH_DIMS, phase, LEVEL_DIMS))
    entries = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
    chosen = (output[..., SPEAKER_DIMS][active], heard.latents[..., SPEAKER_DIMS][active])
    nearness, wanted = (_nearness(points, entries) for points in chosen)
    return {
        "mel": relative(error[..., MEL_DIMS], mel, 1e-3),
        "whole": 0.5 * relative(whole, mel, 1e-3),
        "pitch": 0.5 * relative(error[..., PITCH_DIMS], pitch, 1e-3),
        "phase": 0.2 * relative(error[..., phase], turn, 1e-3),
        "timbre": 2.0 * relative(output[..., SPEAKER_DIMS] - place, place, 0.05),
        "speaker": 0.02
        * nn.functional.cross_entropy(nearness, wanted.argmax(1), reduction="sum")
        / active.sum().clamp(min=1),
        "level": 0.5 * relative(error[..., LEVEL_DIMS], level, 0.2),
    }


def _nearness(points: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """Logits [N, 1024] of the speaker book's entries at points [N, 24]."""
    return _SHARPNESS * (points @ entries.T - entries.square().sum(1) / 2)


def _start(work_dir: Path) -> Encoder:
    """The encoder that was saved, or that of the checkpoint to go on from, widened; otherwise a new one."""
    path, encoder = work_dir / "encoder.pt", Encoder()
    if path.exists():
        encoder.grow_from(Encoder.of(torch.load(path)["model"]))
    else:
        start_encoder(work_dir, encoder)
    return encoder


def train_encoder(work_dir: Path, device: torch.device, clock: Clock) -> None:
    """Trains until the time is up and saves `encoder.pt` (a running mean of the weights) every 30 s.

    Raises:
        RuntimeError: if nothing was spoken in the time that was meant for speaking.
    """
    started = time.monotonic()
    torch.manual_seed(clock.seed)
    torch.backends.cudnn.benchmark = True
    workers = start_performing(work_dir, clock.workers, clock.speaking_s)
    try:
        quantizer = Quantizer.load(work_dir / "quantizer.pt").to(device)
        hall = Hall(work_dir, quantizer, read_casting(work_dir)[0], device)
        encoder = _start(work_dir).to(device)
        _await_speakers(hall, workers, started + clock.speaking_s + 5)
        trained = _train(work_dir, encoder, quantizer, hall, clock, started)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
    encoders = {"trained": trained}
    tensors = previous_tensors(work_dir)
    if tensors is not None:
        encoders["previous"] = encoder_of(tensors).to(device)
    for name, each in encoders.items():
        score(name, each, quantizer, hall.held())


def _train(
    work_dir: Path, encoder: Encoder, quantizer: Quantizer, hall: Hall, clock: Clock, started: float
) -> Encoder:
    device, step, rng = quantizer.mean.device, 0, np.random.default_rng(clock.seed)
    weights = list(encoder.parameters())
    optimizer = torch.optim.AdamW(
        weights, lr=clock.peak_rate, betas=(0.8, 0.99), weight_decay=0.0, fused=device.type == "cuda"
    )
    mean = Encoder(encoder.width).to(device)
    mean.load_state_dict(encoder.state_dict())
    begun = told_at = saved_at = time.monotonic()
    ends = started + clock.seconds - _SCORING_S
    while (now := time.monotonic()) < ends:
        if step % 10 == 0:
            hall.take_in()
        heard = hall.draw(clock.batch, clock.frames, rng)
        with torch.autocast(device.type, torch.bfloat16):
            output = encoder(heard.waveforms)
        parts = hearing_losses(output.float(), quantizer, heard)
        optimizer.param_groups[0]["lr"] = clock.rate((now - begun) / (ends - begun))
        _descend(optimizer, weights, torch.stack(list(parts.values())).sum())
        step += 1
        with torch.no_grad():
            kept = min(_EMA, step / (step + 10))
            torch._foreach_lerp_([*mean.parameters()], weights, 1 - kept)
        if now - told_at > 10 or step == 1:
            told_at = now
            shown = " ".join(f"{key} {float(value.detach()):.4f}" for key, value in parts.items())
            heard_h = f"{hall.hours:.2f} h of {len(hall.speakers)} speakers"
            print(f"encoder {step} {now - started:.0f}s {heard_h} {shown}", flush=True)
        if now - saved_at > 30:
            saved_at = now
            _save(work_dir, mean, step)
    _save(work_dir, mean, step)
    return mean


def _descend(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    # What is not finite must not reach the weights; to look whether it is would wait for the device.
    for weight in weights:
        if weight.grad is not None:
            weight.grad.nan_to_num_(0.0, 0.0, 0.0)
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def _await_speakers(hall: Hall, workers: list[subprocess.Popen[bytes]], until: float) -> None:
    while not hall.tuned or len(hall.speakers) < _FIRST_SPEAKERS:
        ended = all(worker.poll() is not None for worker in workers)
        if not hall.take_in():
            if ended or time.monotonic() > until:
                if hall.hours == 0:
                    raise RuntimeError("nobody spoke in time: see what their processes say above")
                print(f"only {len(hall.speakers)} spoke in time", flush=True)
                return
            time.sleep(0.1)


def _save(work_dir: Path, encoder: Encoder, step: int) -> None:
    weights = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
    save_state(work_dir / "encoder.pt", model=weights, step=step)


@torch.inference_mode()
def score(name: str, encoder: Encoder, quantizer: Quantizer, held: list[Held]) -> None:
    """Prints for each held speaker how far its estimated place is from its own, and the share of right codes.

    "mean" is the distance of the mean estimate, "heard" that of the mean of the chosen entries, both over an
    utterance; "mel" is the error of the mel latents relative to their power.
    """
    rows: dict[str, list[list[float]]] = {}
    encoder.eval()
    # Every utterance has another length.
    torch.backends.cudnn.benchmark = False
    for utterance in held:
        if len(rows.get(utterance.speaker, [])) == _SCORED:
            continue
        estimate = encoder(utterance.waveform[None])[0].float()
        latents = utterance.latents
        sounding = (latents[:, SPEAKER_DIMS] != 0).any(-1)
        got, want = quantizer.encode(estimate), quantizer.encode(latents)
        entries = quantizer.books[SPEAKER_BOOK, got[:, SPEAKER_BOOK], :TIMBRE_DIM]
        mean, heard = (part[sounding].mean(0) for part in (estimate[:, SPEAKER_DIMS], entries))
        error = (estimate - latents)[:, MEL_DIMS].square().mean() / latents[:, MEL_DIMS].square().mean()
        right = [float((got == want)[:, book].float().mean()) for book in range(BOOKS)]
        distances = [float((each - utterance.place).norm()) for each in (mean, heard)]
        rows.setdefault(utterance.speaker, []).append([*distances, float(error), *right])
    print(f"score {name}: speaker | mean heard mel | right codes of books 0 to 7", flush=True)
    for speaker, lines in rows.items():
        shown = " ".join(f"{value:.3f}" for value in np.nanmean(lines, 0))
        print(f"score {name}: {speaker} | {shown}", flush=True)
