"""Trains the codec's decoder (codes to waveform) and encoder (waveform to latents); both can resume."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import nn

from training.batches import read_codes
from training.codec import Decoder, Encoder
from training.data import shard_paths
from training.features import FRAME, SAMPLE_RATE_HZ, mel_filters
from training.quantizer import MEL_BOOKS, MEL_DIMS, PHASE_DIMS, PITCH_DIMS, Quantizer
from training.synthesis import SAMPLE_RATE_HZ as SOURCE_RATE_HZ
from training.train_language_model import save_state

VOICE_SHARES = {"slt": 0.4, "rms": 0.2, "awb": 0.2, "kal16": 0.2}
_SOURCE_FRAME = FRAME * SOURCE_RATE_HZ // SAMPLE_RATE_HZ
_STFT_SIZES = (256, 512, 1024, 2048)
SHARDS_PER_VOICE = 6


@dataclass(frozen=True)
class Crops:
    """Some crops: waveforms [B, 960 F] at 24 kHz, codes [B, F, 8] and un-quantised latents [B, F, 128]."""

    waveforms: torch.Tensor
    codes: torch.Tensor
    latents: torch.Tensor


class CropSampler:
    """Draws random crops of all voices from the first `shards` shards of each."""

    def __init__(self, work_dir: Path, quantizer: Quantizer, shards: int, seed: int) -> None:
        self._quantizer = quantizer
        self._rng = np.random.default_rng(seed)
        self._voices: dict[str, list[dict[str, np.ndarray]]] = {voice: [] for voice in VOICE_SHARES}
        for voice, entries in self._voices.items():
            for path in shard_paths(work_dir, voice)[1 : 1 + shards]:
                with np.load(path) as data:
                    names = ("offsets", "samples", "mel", "pitch_hz", "phase")
                    entries.append(
                        {name: data[name] for name in names} | {"codes": read_codes(path, quantizer)}
                    )

    def draw(self, count: int, frames: int, place: str = "anywhere") -> Crops:
        """`count` crops of `frames` frames: from "anywhere", the "start" or the "end" of their utterances."""
        crops = [self._crop(frames, place) for _ in range(count)]
        waveforms, codes, latents = zip(*crops, strict=True)
        return Crops(torch.stack(waveforms), torch.stack(codes), torch.stack(latents))

    def _crop(self, frames: int, place: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = self._rng
        voice = str(rng.choice(list(VOICE_SHARES), p=list(VOICE_SHARES.values())))
        while True:
            shard = self._voices[voice][rng.integers(len(self._voices[voice]))]
            index = rng.integers(len(shard["offsets"]) - 1)
            first, last = shard["offsets"][index], shard["offsets"][index + 1]
            if last - first >= frames:
                break
        start = int(rng.integers(first, last - frames + 1))
        start = {"anywhere": start, "start": int(first), "end": int(last - frames)}[place]
        span = slice(start, start + frames)
        # Resampling with one frame more on both sides keeps the filter's edges out of the crop.
        left, right = min(1, start - first), min(1, last - start - frames)
        pcm = shard["samples"][(start - left) * _SOURCE_FRAME : (start + frames + right) * _SOURCE_FRAME]
        wave = soxr.resample(pcm.astype(np.float32) / 32768.0, SOURCE_RATE_HZ, SAMPLE_RATE_HZ)
        wave = torch.from_numpy(wave[left * FRAME : (left + frames) * FRAME])
        features = (torch.from_numpy(shard[name][span]).float() for name in ("mel", "pitch_hz", "phase"))
        return wave, torch.from_numpy(shard["codes"][span]).long(), self._quantizer.latents(*features)


def spectral_losses(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log-magnitude and convergence at four resolutions, mel distance, complex distance below 1.5 kHz."""
    magnitude = mel = phase = torch.zeros(())
    for size in _STFT_SIZES:
        window = torch.hann_window(size)
        got, want = (
            torch.stft(x, size, size // 4, window=window, return_complex=True) for x in (output, target)
        )
        got_abs, want_abs = (s.abs().clamp(min=2e-5 * size) for s in (got, want))
        magnitude = magnitude + (got_abs.log() - want_abs.log()).abs().mean()
        magnitude = magnitude + 0.5 * (got_abs - want_abs).norm() / want_abs.norm()
        if size == 1024:
            filters = mel_filters(80, size)
            mel = ((filters @ got_abs).log() - (filters @ want_abs).log()).abs().mean()
        if size in (512, 1024):
            top = size * 1500 // SAMPLE_RATE_HZ
            phase = (
                phase + (got[:, :top] - want[:, :top]).abs().pow(2).sum().sqrt() / want[:, :top].abs().norm()
            )
    return {"magnitude": magnitude / len(_STFT_SIZES), "mel": mel, "phase": phase / 2}


@dataclass(frozen=True)
class CodecSchedule:
    """Steps of decoder and encoder, and the shape of a step."""

    decoder_steps: int
    encoder_steps: int
    batch: int = 8
    frames: int = 26
    peak_rate: float = 1e-3
    seed: int = 2

    def rate(self, step: int, steps: int) -> float:
        """Learning rate: 50 steps of warm-up, hold for half, cosine to 2 %."""
        progress = max(0.0, (step / steps - 0.5) / 0.5)
        shape = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.peak_rate * min(1.0, (step + 1) / 50) * shape


def decoder_input(quantizer: Quantizer, codes: torch.Tensor) -> torch.Tensor:
    """Latents of codes [B, F, 8]; now and then with fewer mel books or no phase, so that errors hurt less."""
    latents = quantizer.decode(codes)
    for row in range(len(codes)):
        chance = torch.rand(()).item()
        if chance < 0.15:
            few = quantizer.decode(codes[row], int(torch.randint(2, MEL_BOOKS, ()).item()))
            latents[row, :, MEL_DIMS] = few[:, MEL_DIMS]
        elif chance < 0.22:
            latents[row, :, PHASE_DIMS] = 0
    return latents


def decoder_losses(decoder: Decoder, quantizer: Quantizer, crops: Crops) -> dict[str, torch.Tensor]:
    """Weighted losses of the decoder's output, two frames away from the crop's edges."""
    with torch.autocast("cpu", torch.bfloat16):
        output = decoder(decoder_input(quantizer, crops.codes))
    inner = slice(2 * FRAME, -2 * FRAME)
    parts = spectral_losses(output.float()[:, inner], crops.waveforms[:, inner])
    return {"magnitude": parts["magnitude"], "mel": 2 * parts["mel"], "phase": 0.5 * parts["phase"]}


def encoder_losses(encoder: Encoder, quantizer: Quantizer, crops: Crops) -> dict[str, torch.Tensor]:
    """Squared errors of the latents, each group of dimensions relative to its own power, weighted."""
    with torch.autocast("cpu", torch.bfloat16):
        output = encoder(crops.waveforms)
    inner = slice(2, -2)
    error = (output.float() - crops.latents).square()[:, inner]
    power = crops.latents.square()[:, inner]
    weights = {"mel": (MEL_DIMS, 1.0), "pitch": (PITCH_DIMS, 0.5), "phase": (PHASE_DIMS, 0.2)}
    return {
        name: weight * error[..., dims].mean() / power[..., dims].mean().clamp(min=1e-3)
        for name, (dims, weight) in weights.items()
    }


LOSSES = {"decoder": decoder_losses, "encoder": encoder_losses}


def _train(work_dir: Path, name: str, module: nn.Module, schedule: CodecSchedule, steps: int) -> None:
    """Runs one of the two trainings to its end, from its saved state when there is one."""
    path, step = work_dir / f"{name}.pt", 0
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=schedule.peak_rate, betas=(0.8, 0.99), weight_decay=0.0
    )
    if path.exists():
        state = torch.load(path)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    quantizer = Quantizer.load(work_dir / "quantizer.pt")
    sampler = CropSampler(work_dir, quantizer, SHARDS_PER_VOICE, schedule.seed + step)
    torch.manual_seed(schedule.seed + step)
    started = saved_at = time.monotonic()
    while step < steps:
        parts = LOSSES[name](module, quantizer, sampler.draw(schedule.batch, schedule.frames))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimizer.param_groups[0]["lr"] = schedule.rate(step, steps)
        optimizer.step()
        step += 1
        if step % 25 == 0:
            shown = " ".join(f"{key} {float(value.detach()):.3f}" for key, value in parts.items())
            print(f"{name} {step} {time.monotonic() - started:.0f}s {shown}", flush=True)
        if time.monotonic() - saved_at > 120 or step == steps:
            saved_at = time.monotonic()
            save_state(path, model=module.state_dict(), optimizer=optimizer.state_dict(), step=step)


def train_decoder(work_dir: Path, schedule: CodecSchedule) -> None:
    """Trains the decoder to the end."""
    torch.manual_seed(schedule.seed)
    _train(work_dir, "decoder", Decoder(), schedule, schedule.decoder_steps)


def train_encoder(work_dir: Path, schedule: CodecSchedule) -> None:
    """Trains the encoder to the end."""
    torch.manual_seed(schedule.seed)
    _train(work_dir, "encoder", Encoder(), schedule, schedule.encoder_steps)
