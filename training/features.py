"""Knows what 40 ms of speech are described by: mel patch, pitch with voicing, and phase."""

from functools import cache

import numpy as np
import torch

SAMPLE_RATE_HZ = 24_000
HOP = 240
FRAME = 960
HOPS_PER_FRAME = FRAME // HOP
MEL_BANDS = 64
_FFT = 1024
_WINDOW = 512
MEL_FLOOR = 0.0182
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 400.0
_PITCH_WINDOW = 1200


@cache
def mel_filters(
    bands: int, fft_size: int, top_hz: float = 8000.0, device: torch.device | None = None
) -> torch.Tensor:
    """Triangular mel filters [bands, fft_size // 2 + 1] with unit peaks, from 40 Hz to `top_hz`."""

    def to_mel(hz: np.ndarray | float) -> np.ndarray:
        return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(to_mel(40.0), to_mel(top_hz), bands + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, fft_size // 2 + 1)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None)
    filters /= np.maximum(filters.max(1, keepdims=True), 1e-3)
    return torch.tensor(filters, dtype=torch.float32, device=device)


def between_bands(values: torch.Tensor, bins: int) -> torch.Tensor:
    """What a filter is at frequencies from 0 to 12 kHz [..., bins], given at the bands' centres [..., 64].

    Linear between the centres, constant outside of them.
    """
    filters = mel_filters(MEL_BANDS, _FFT, device=values.device)
    centres = (filters @ torch.arange(filters.shape[1], device=values.device).float()) / filters.sum(1)
    places = torch.linspace(0, filters.shape[1] - 1, bins, device=values.device)
    right = torch.searchsorted(centres, places).clamp(1, MEL_BANDS - 1)
    weight = ((places - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    return values[..., right - 1] * (1 - weight) + values[..., right] * weight


def pad_to_frames(waveform: np.ndarray) -> torch.Tensor:
    """[n] samples in float32, right-padded with zeros to a whole number of 960-sample frames."""
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    return torch.nn.functional.pad(samples, (0, -len(samples) % FRAME))


def log_mel_patches(waveform: torch.Tensor) -> torch.Tensor:
    """Log-mel patches [..., T, 4 * 64] of waveforms [..., 960 T] at 24 kHz.

    Hop k is centred at sample 120 + 240 k.
    """
    padded = torch.nn.functional.pad(waveform, (_FFT // 2 - HOP // 2, _FFT // 2))
    window = torch.hann_window(_WINDOW, device=waveform.device)
    spectrum = torch.stft(padded, _FFT, HOP, _WINDOW, window, center=False, return_complex=True).abs()
    mel = (mel_filters(MEL_BANDS, _FFT, device=waveform.device) @ spectrum).clamp(min=MEL_FLOOR).log()
    hops = waveform.shape[-1] // HOP
    patches = mel.transpose(-1, -2)[..., :hops, :]
    return patches.reshape(*waveform.shape[:-1], hops // HOPS_PER_FRAME, HOPS_PER_FRAME * MEL_BANDS)


def pitch_track(waveform: torch.Tensor) -> torch.Tensor:
    """Pitch in Hz for each 10 ms hop [4 T], 0 where unvoiced, by normalised autocorrelation (as in RAPT)."""
    padded = torch.nn.functional.pad(waveform, (_PITCH_WINDOW // 2 - HOP // 2, _PITCH_WINDOW))
    frames = padded.unfold(0, _PITCH_WINDOW, HOP)[: len(waveform) // HOP]
    frames = frames - frames.mean(1, keepdim=True)
    size = 4096
    power = torch.fft.rfft(frames, size)
    correlation = torch.fft.irfft(power.abs().square(), size)[:, : _PITCH_WINDOW // 2]
    squares = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    lags = torch.arange(_PITCH_WINDOW // 2, device=waveform.device)
    head = squares[:, _PITCH_WINDOW - lags]
    tail = squares[:, -1:] - squares[:, lags]
    normal = correlation / (head * tail + 1e-8).sqrt()
    shortest, longest = int(SAMPLE_RATE_HZ / _HIGHEST_HZ), int(SAMPLE_RATE_HZ / _LOWEST_HZ)
    span = normal[:, shortest : longest + 1]
    peak = (span[:, 1:-1] > span[:, :-2]) & (span[:, 1:-1] >= span[:, 2:])
    score = torch.where(peak, span[:, 1:-1], torch.full_like(span[:, 1:-1], -1.0))
    best = score.max(1).values
    # The first peak that is nearly the best avoids octave errors downwards.
    lag = (score >= (best - 0.08)[:, None]).float().argmax(1) + shortest + 1
    left, mid, right = (normal.gather(1, (lag + d)[:, None])[:, 0] for d in (-1, 0, 1))
    shift = 0.5 * (left - right) / (left - 2 * mid + right).clamp(max=-1e-6)
    loud = squares[:, -1] / _PITCH_WINDOW > 1e-5
    voiced = (best > 0.5) & loud
    return _smooth(torch.where(voiced, SAMPLE_RATE_HZ / (lag + shift), 0.0))


def _smooth(pitch_hz: torch.Tensor) -> torch.Tensor:
    """Median of five hops: drops lonely voiced hops, fills lonely gaps, repairs lonely octave errors."""
    padded = torch.nn.functional.pad(pitch_hz, (2, 2)).unfold(0, 5, 1)
    voiced = (padded > 0).sum(1)
    ordered = padded.sort(1).values
    index = (5 - voiced + (voiced - 1) // 2).clamp(0, 4)
    median = ordered.gather(1, index[:, None])[:, 0]
    near = (pitch_hz / median.clamp(min=1) - 1).abs() < 0.15
    return torch.where(voiced >= 3, torch.where(near, pitch_hz, median), 0.0)


def pulse_phase(waveform: torch.Tensor, pitch_hz: torch.Tensor) -> torch.Tensor:
    """Cosine and sine [T, 2] of the fundamental's phase at each frame's centre; zeros where unvoiced."""
    frames = waveform.reshape(-1, FRAME)
    middle = pitch_hz.reshape(-1, HOPS_PER_FRAME)[:, 1:3]
    voiced = (middle > 0).all(1)
    places = torch.arange(FRAME, device=waveform.device) - FRAME / 2
    turns = middle.mean(1, keepdim=True) / SAMPLE_RATE_HZ * places
    windowed = frames * torch.hann_window(FRAME, device=waveform.device)
    angle = 2 * torch.pi * turns
    wave = torch.stack([(windowed * angle.cos()).sum(1), -(windowed * angle.sin()).sum(1)], 1)
    return torch.nn.functional.normalize(wave, dim=1) * voiced[:, None]


def frame_features(waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mel patches [T, 256], pitch in Hz [T, 4] (0 = unvoiced), phase [T, 2] of a 24 kHz waveform [960 T]."""
    pitch_hz = pitch_track(waveform)
    phase = pulse_phase(waveform, pitch_hz)
    return log_mel_patches(waveform), pitch_hz.reshape(-1, HOPS_PER_FRAME), phase
