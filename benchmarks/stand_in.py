"""`stentor` around a card that is not there: all of the real host's work, and kernels that only take time.

    python -m benchmarks.stand_in serve MODEL …    (as `stentor serve`; see `host.py`)

The language model and the decoder are replaced where the engine's runner and the vocoder's graphs would
launch them. A launch asks one card for time; the engine's stream and the vocoder's share it evenly while both
have work. What is drawn are random codes, and a sequence ends with its last row.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from stentor.config import Config, EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.kv_cache import KVCache
from stentor.engine.model import LMShape
from stentor.engine.model_runner import ModelRunner
from stentor.engine.prefill import pack, shape_of
from stentor.engine.scheduler import Chunk, Removal
from stentor.engine.state import Status
from stentor.layers.attention import choose_backend
from stentor.models import registry
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.decoding import batches, decode_shapes
from stentor.models.higgs_audio_v3.checkpoint import read_codec_config
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.higgs_audio_v3.spec import HiggsAudioV3
from stentor.request import Array
from stentor.stages.base import Stage, StageSpec
from stentor.stages.generate import GenerateStage
from stentor.stages.vocode import VocodeStage

# A JSON object of `Times`, for the server's processes.
VARIABLE = "STAND_IN_TIMES"
# In this order: the engine's stream, the vocoder's.
_ENGINE, _VOCODER = 0, 1


@dataclass(frozen=True)
class Times:
    """What a card takes, in ms: a decode step by batch, a prefill by its positions, a vocoder round.

    The steps and rounds are the H200's of 2026-11-27 (float32 vocoder); its prefills were not measured: these
    are a pass over the weights, and from 256 positions on their arithmetic at 600 TFLOP/s.
    """

    step_batch: tuple[int, ...] = (1, 16, 64, 256)
    step_ms: tuple[float, ...] = (2.67, 3.04, 3.49, 5.95)
    prefill_positions: tuple[int, ...] = (64, 256, 512, 2048)
    prefill_ms: tuple[float, ...] = (2.7, 3.6, 7.0, 28.0)
    round_ms: float = 1.8
    round_frame_ms: float = 0.022

    def step_s(self, batch: int) -> float:
        """One decode step."""
        return float(np.interp(batch, self.step_batch, self.step_ms)) / 1e3

    def prefill_s(self, positions: int) -> float:
        """One prefill of so many positions, padding included."""
        return float(np.interp(positions, self.prefill_positions, self.prefill_ms)) / 1e3

    def round_s(self, frames: int) -> float:
        """One vocoder batch of so many frames, padding included."""
        return (self.round_ms + self.round_frame_ms * frames) / 1e3


class Job:
    """Work for the card: seconds of it that are left."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds


class Card:
    """Two streams of jobs. Each runs in order; while both have work, each has half of the card."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.busy_s = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._streams: tuple[list[Job], list[Job]] = ([], [])
        self._at_s = clock()

    def submit(self, stream: int, seconds: float) -> Job:
        """Put a job behind the others of its stream."""
        job = Job(seconds)
        with self._lock:
            self._advance()
            self._streams[stream].append(job)
        return job

    def left_s(self, stream: int, job: Job) -> float:
        """Seconds until the job is done, if nothing comes to the other stream; 0 when it is."""
        with self._lock:
            self._advance()
            ahead_s = 0.0
            for other in self._streams[stream]:
                ahead_s += other.left_s
                if other is job:
                    return ahead_s + min(ahead_s, sum(job.left_s for job in self._streams[1 - stream]))
        return 0.0

    def wait(self, stream: int, job: Job) -> None:
        """Sleep until the job is done."""
        while (left_s := self.left_s(stream, job)) > 0:
            time.sleep(left_s)

    def _advance(self) -> None:
        now_s = self._clock()
        passed_s, self._at_s = now_s - self._at_s, now_s
        while passed_s > 0 and (heads := [stream[0] for stream in self._streams if stream]):
            took_s = min(min(job.left_s for job in heads) * len(heads), passed_s)
            for stream in self._streams:
                if stream:
                    stream[0].left_s -= took_s / len(heads)
                    if stream[0].left_s < 1e-9:
                        stream.pop(0)
            self.busy_s += took_s
            passed_s -= took_s


CARD = Card()


class Nothing:
    """A language model of the shape, whose numbers nobody computes."""

    def __init__(self, config: V3Config) -> None:
        self.device = torch.device("cpu")
        self.shape = LMShape(
            config.num_codebooks,
            config.codebook_size,
            config.begin_code,
            config.end_code,
            num_layers=1,
            num_kv_heads=1,
            head_dim=1,
            max_positions=config.max_positions,
            dtype=torch.float32,
        )


class SleepingRunner(ModelRunner):
    """Does what a runner does beside its kernels, and asks the card for their time."""

    def __init__(self, times: Times, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._times = times
        size = self._state.packed.shape[0]
        self._drawn, self._limits = np.zeros(size, np.int64), np.zeros(size, np.int64)
        # To interpolate takes longer than what it stands for.
        self._step_s = [times.step_s(batch) for batch in range(size + 1)]
        self._codes = np.random.default_rng(0).integers(0, 1024, (size, self._codebooks))
        self._records: list[Array] = []
        self._job = Job(0.0)

    def decode(self, start: int, end: int, longest: int, captured: bool = True) -> None:
        self._draw(start, end)
        self._job = CARD.submit(_ENGINE, self._step_s[end - start])

    def prefill(self, chunks: Sequence[Chunk], first_slot: int, captured: bool = True) -> None:
        rows = self._new_rows(chunks)
        shape = shape_of(chunks, self._codebooks, rows.shape[1])
        pack(chunks, rows, shape, self._cache.block_size)
        complete = [chunk.sequence for chunk in chunks if chunk.completes]
        slots = slice(first_slot, first_slot + len(complete))
        self._drawn[slots] = 0
        self._limits[slots] = [sequence.max_rows for sequence in complete]
        self._draw(slots.start, slots.stop)
        self._job = CARD.submit(_ENGINE, self._times.prefill_s(shape.tokens))

    def land(self) -> Callable[[], Array]:
        records, self._records = np.concatenate(self._records), []
        return partial(self._read, self._job, records)

    def release(self, removal: Removal) -> None:
        super().release(removal)
        for values in (self._drawn, self._limits):
            values[removal.slot] = values[removal.last]

    def _draw(self, start: int, end: int) -> None:
        self._drawn[start:end] += 1
        ended = self._drawn[start:end] >= self._limits[start:end]
        status = np.where(ended, Status.LENGTH, Status.RUNNING)
        self._records.append(np.concatenate((self._codes[start:end], status[:, None]), axis=1))

    @staticmethod
    def _read(job: Job, records: Array) -> Array:
        CARD.wait(_ENGINE, job)
        return records


class SleepingEngine(Engine):
    """Tells beside its gauges how many steps there were, and for how long the card was busy."""

    def __init__(self, model: Nothing, config: EngineConfig, times: Times) -> None:
        self._times = times
        self._steps = 0
        super().__init__(model, config)  # type: ignore[arg-type]

    def step(self):  # type: ignore[no-untyped-def]
        self._steps += 1
        return super().step()

    def stats(self) -> dict[str, float]:
        return {**super().stats(), "steps": self._steps, "card_busy_s": CARD.busy_s}

    def _make_runner(self, model, config, shape, num_blocks):  # type: ignore[no-untyped-def]
        cache = KVCache(shape, num_blocks, config.block_size, model.device)
        backend = choose_backend("sdpa", model.device)
        return SleepingRunner(
            self._times, model, backend, cache, config.max_running_requests, self.max_context
        )


class SleepingVocoder:
    """Implements `stages.vocode.Vocoder`: noise, in the batches that a GPU's graphs would decode."""

    overlaps = True

    def __init__(self, config: CodecConfig, most_frames: int, times: Times) -> None:
        self.sample_rate_hz = config.sample_rate_hz
        self.samples_per_frame = config.samples_per_frame
        self.context_frames = self.lookahead_frames = self.near_frames = config.context_frames
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self._times = times
        self._rows: dict[int, list[int]] = {}
        for windows, frames in decode_shapes(most_frames, config.context_frames):
            self._rows.setdefault(frames, []).append(windows)
        self.longest_window = max(self._rows)
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, self.longest_window * self.samples_per_frame)
        self._noise = noise.astype(np.float32)

    def begin(self, windows: Sequence[Array], skipped: Sequence[int]) -> Callable[[], list[Array]]:
        seconds = 0.0
        for frames, places in batches(windows, self._padded, lambda frames: self._rows[frames][-1]):
            rows = next(rows for rows in self._rows[frames] if rows >= len(places))
            codes = np.zeros((rows, frames, self.num_codebooks), np.int16)
            for row, place in enumerate(places):
                codes[row, : len(windows[place])] = windows[place]
            seconds += self._times.round_s(rows * frames)
        return partial(self._read, CARD.submit(_VOCODER, seconds), [len(window) for window in windows])

    def _padded(self, frames: int) -> int:
        return min(known for known in self._rows if known >= frames)

    def _read(self, job: Job, lengths: list[int]) -> list[Array]:
        CARD.wait(_VOCODER, job)
        return [self._noise[: length * self.samples_per_frame].copy() for length in lengths]


class StandIn(HiggsAudioV3):
    """The model as it is served, but for what a card would do."""

    def stages(self, checkpoint: Path, config: Config) -> list[StageSpec]:
        times = Times(**json.loads(os.environ.get(VARIABLE, "{}")))
        preprocess, encode, _, _ = super().stages(checkpoint, config)
        options = {"checkpoint": checkpoint, "config": config, "times": times}
        return [
            preprocess,
            encode,
            StageSpec("generate", build_generate, options, group="engine"),
            StageSpec("vocode", build_vocode, options, group="engine"),
        ]


def build_generate(checkpoint: Path, config: Config, times: Times) -> Stage:
    """As `spec.build_generate`."""
    model = Nothing(V3Config.read(checkpoint))
    return GenerateStage(SleepingEngine(model, config.engine, times), model.shape)


def build_vocode(checkpoint: Path, config: Config, times: Times) -> Stage:
    """As `spec.build_vocode`."""
    codec = read_codec_config(checkpoint, V3Config.read(checkpoint))
    vocoder = SleepingVocoder(codec, config.vocoder.max_batch_frames, times)
    return VocodeStage(vocoder, config.vocoder)


if __name__ == "__main__":
    from stentor.cli.main import run

    registry._MODELS["higgs_multimodal_qwen3"] = "benchmarks.stand_in:StandIn"
    run()
