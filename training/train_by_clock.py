"""Trains the language model for a given time, on a GPU or on cores; processes beside it draw the batches."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.batches import Batch
from training.files import save_state
from training.language_model import TinyLanguageModel
from training.mixture import batches
from training.quantizer import MEL_BOOKS, Quantizer
from training.schedules import held_then_falling
from training.train_language_model import (
    log,
    losses,
    matrices_and_others,
    start_model,
    total,
    validate,
    validation_batches,
)


@dataclass(frozen=True)
class TimedSchedule:
    """Seconds of the clock, so that a run ends in time whatever the machine's speed; positions of a batch.

    Weights are saved every `save_every_s`, or twenty times where that is rarer: each look costs some seconds.
    """

    seconds: float
    batch: int = 16_384
    workers: int = 4
    peak_rate: float = 1.5e-3
    warm_up: float = 0.03
    hold: float = 0.3
    dropout: float = 0.1
    line_every_s: float = 10.0
    save_every_s: float = 40.0
    seed: int = 1

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` (0 to 1): linear warm-up, hold, then cosine to 3 %."""
        if progress < self.warm_up:
            return self.peak_rate * (0.02 + 0.98 * progress / self.warm_up)
        return self.peak_rate * held_then_falling(progress, self.hold, floor=0.03)


class GroupedMuon(torch.optim.Muon):
    """Muon that makes all matrices of one shape orthogonal at once: a GPU waits for launches otherwise."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step; closures are not supported."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                self._step_alike(matrices, group)

    def _step_alike(self, matrices: list[torch.Tensor], group: dict) -> None:
        gradients = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        stacked = orthogonalised(torch.stack(updates), group["ns_coefficients"], group["ns_steps"])
        rate = group["lr"] * 0.2 * math.sqrt(max(matrices[0].shape))
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(stacked.to(matrices[0].dtype).unbind()), alpha=-rate)


def orthogonalised(stack: torch.Tensor, coefficients: tuple[float, float, float], steps: int) -> torch.Tensor:
    """Matrices [N, A, B] with singular values near 1, by the iteration of `torch.optim.Muon`."""
    a, b, c = coefficients
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class BatchStream(IterableDataset):
    """Endless batches; every process that draws has a seed of its own."""

    def __init__(self, work_dir: Path, quantizer: Quantizer, tokens: int, seed: int) -> None:
        self._arguments, self._seed = (work_dir, quantizer, tokens), seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker:
            torch.set_num_threads(1)
        return batches(*self._arguments, self._seed + 1000 * (worker.id if worker else 0))


def drawn_ahead(stream: BatchStream, workers: int, pinned: bool) -> Iterator[Batch]:
    """The stream's batches, drawn by `workers` processes ahead of their use."""
    ahead = {"prefetch_factor": 8} if workers else {}
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, pin_memory=pinned, **ahead))


def timed_optimizers(model: TinyLanguageModel, schedule: TimedSchedule) -> list[torch.optim.Optimizer]:
    """As `make_optimizers`, with few launches."""
    matrices, others = matrices_and_others(model)
    rate = schedule.peak_rate
    return [
        GroupedMuon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def starting_state(work_dir: Path, quantizer: Quantizer) -> tuple[dict[str, torch.Tensor], int]:
    """What was trained last, whatever its optimizers were, and its step; else what a run begins with."""
    path = work_dir / "language_model.pt"
    if path.exists():
        state = torch.load(path, map_location="cpu")
        return state["model"], state["step"]
    return start_model(work_dir, quantizer).state_dict(), 0


class Company:
    """The processes that `torchrun` started: they train one model, each on its share of a batch.

    Two processes of one thread each make more of two cores than one process of two threads.
    """

    def __init__(self, device: torch.device) -> None:
        self.number, self.size, self._device = 0, 1, device
        if distributed.is_torchelastic_launched():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            self.number, self.size = distributed.get_rank(), distributed.get_world_size()

    def mean(self, value: float) -> float:
        """The processes' mean of a number, the same in all of them."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(shared)
        return float(shared) / self.size

    def average(self, gradients: list[torch.Tensor]) -> None:
        """Replaces gradients by the processes' mean."""
        if self.size > 1:
            flat = nn.utils.parameters_to_vector(gradients)
            distributed.all_reduce(flat)
            nn.utils.vector_to_parameters(flat / self.size, gradients)


class TimedRun:
    """A run's model, optimizers and clock, which starts when it is made."""

    def __init__(self, work_dir: Path, schedule: TimedSchedule, device: torch.device) -> None:
        self._started = time.monotonic()
        self._company = company = Company(device)
        # All begin with the same weights, also where these are random; what is dropped differs.
        torch.manual_seed(schedule.seed)
        self._work_dir, self._schedule, self._device = work_dir, schedule, device
        quantizer = Quantizer.load(work_dir / "quantizer.pt")
        weights, self._steps = starting_state(work_dir, quantizer)
        # Whoever goes on draws other batches than those of the run before.
        seed = schedule.seed + 100_000 * company.number + 10_000_000 * self._steps
        stream = BatchStream(work_dir, quantizer, schedule.batch // company.size, seed)
        # Before the device is touched, because processes are forked here.
        self._stream = drawn_ahead(stream, schedule.workers, device.type == "cuda")
        self._held_out = [batch.to(device) for batch in validation_batches(work_dir, quantizer)]
        # See there: cores train faster without the fused attention.
        self._model = TinyLanguageModel("eager" if device.type == "cpu" else "sdpa", schedule.dropout)
        self._model.load_state_dict(weights)
        torch.manual_seed(schedule.seed + company.number)
        self._model.to(device)
        self._optimizers = timed_optimizers(self._model, schedule)
        self._positions = 0
        self._least = math.inf

    def run(self) -> None:
        """Trains until the time is over; saves weights now and then, and at the end."""
        schedule = self._schedule
        started, shown = self._started, time.monotonic()
        saved = shown
        self._validate(0.0)
        # The last look and the last save take some seconds.
        while (now := self._company.mean(time.monotonic() - started)) < schedule.seconds - 4:
            loss = self._step(next(self._stream), now / schedule.seconds)
            if time.monotonic() - shown > schedule.line_every_s:
                shown = time.monotonic()
                # The only place that waits for the device.
                speed = self._positions * self._company.size / (shown - started)
                line = f"{now:.0f}s step {self._steps} loss {float(loss):.3f} {speed:.0f} positions/s"
                self._log(line)
            if time.monotonic() - saved > max(schedule.save_every_s, schedule.seconds / 20):
                saved = time.monotonic()
                self._save(now)
        self._save(time.monotonic() - started)

    def _step(self, batch: Batch, progress: float) -> torch.Tensor:
        self._steps += 1
        self._positions += batch.ids.numel()
        batch = batch.to(self._device)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._schedule.rate(progress)
            optimizer.zero_grad(set_to_none=True)
        loss = total(*losses(self._model, batch), progress)
        loss.backward()
        self._company.average([p.grad for p in self._model.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return loss.detach()

    def _log(self, line: str) -> None:
        if self._company.number == 0:
            log(self._work_dir, line)

    def _validate(self, now_s: float) -> float:
        line = validate(self._model, self._held_out)
        shown = f"{now_s:.0f}s {self._positions * self._company.size / 1e6:.1f}M positions"
        self._log(f"validation {self._steps} {line} | {shown}")
        return sum(map(float, line.split()[:MEL_BOOKS]))

    def _save(self, now_s: float) -> None:
        """Weights alone, in half precision: what the checkpoint has, and what other runs can begin from."""
        if self._company.number > 0:
            return
        nats = self._validate(now_s)
        weights = {name: tensor.half().cpu() for name, tensor in self._model.state_dict().items()}
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise FloatingPointError("weights are no longer finite; the last saved ones are kept")
        save_state(self._work_dir / "language_model.pt", model=weights, step=self._steps)
        if nats < self._least:
            self._least = nats
            save_state(self._work_dir / "language_model_best.pt", model=weights, step=self._steps)
