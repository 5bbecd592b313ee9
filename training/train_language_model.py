"""Trains the language model; its state is saved every two minutes and resumed after an interruption."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from training.batches import VALIDATION, Batch, collate, load_examples, sequence
from training.data import PHONEMES, shard_path
from training.files import save_state
from training.language_model import (
    TinyLanguageModel,
    seed_level_geometry,
    seed_phase_geometry,
    seed_timbre_geometry,
)
from training.mixture import batches
from training.prompts import BOOKS, ROW_VOCABULARY
from training.quantizer import Quantizer
from training.schedules import held_then_falling
from training.warm_start import load_language_model, previous_tensors

BOOK_WEIGHTS = (1.5, 1.0, 0.9, 0.8, 0.7, 0.7, 0.9, 0.5)


@dataclass(frozen=True)
class Schedule:
    """Lengths in steps; the reference stage begins at `reference_from` and the run ends at `steps`."""

    steps: int
    reference_from: int
    tokens: int = 3400
    peak_rate: float = 2e-3
    warm_up: int = 150
    hold: float = 0.4
    seed: int = 1

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, hold, then cosine to 3 %."""
        if step < self.warm_up:
            return self.peak_rate * (step + 1) / self.warm_up
        return self.peak_rate * held_then_falling(step / self.steps, self.hold, floor=0.03)


def losses(model: TinyLanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood per book [8], weighted, and of the phoneme labels (scalar)."""
    with torch.autocast(batch.ids.device.type, torch.bfloat16):
        hidden = model(batch.ids, batch.rows).flatten(0, 1).index_select(0, batch.spoken.long())
        logits = model.logits(hidden)
        phoneme_logits = model.phoneme_head(hidden)
    targets, phonemes = batch.targets.long(), batch.phonemes.long()
    nll = nn.functional.cross_entropy(
        logits.float().reshape(-1, ROW_VOCABULARY), targets.reshape(-1), ignore_index=-100, reduction="none"
    ).reshape(-1, BOOKS)
    counts = (targets != -100).sum(0).clamp(min=1)
    auxiliary = nn.functional.cross_entropy(
        phoneme_logits.float().reshape(-1, len(PHONEMES)), phonemes.reshape(-1), reduction="sum"
    ) / (phonemes != -100).sum().clamp(min=1)
    return (nll * batch.weights).sum(0) / counts, auxiliary


def total(books: torch.Tensor, auxiliary: torch.Tensor, progress: float) -> torch.Tensor:
    """What is minimised at `progress` (0 to 1) of a run: phonemes help first, and matter less later."""
    weights = torch.tensor(BOOK_WEIGHTS, device=books.device)
    return (books * weights).mean() + max(0.1, 0.5 * (1 - progress / 0.6)) * auxiliary


def matrices_and_others(model: TinyLanguageModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The backbone's matrices, which Muon steps, and all other parameters."""
    matrices = [p for n, p in model.backbone.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return matrices, others


def make_optimizers(model: TinyLanguageModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the backbone's matrices, AdamW for embeddings, norms and heads."""
    matrices, others = matrices_and_others(model)
    return [
        torch.optim.Muon(matrices, lr=schedule.peak_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=schedule.peak_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def validation_batches(work_dir: Path, quantizer: Quantizer, count: int = 96) -> list[Batch]:
    """Zero-shot batches of the default voice's first shard, which is never trained on."""
    examples = load_examples(shard_path(work_dir, VALIDATION), quantizer)[:count]
    examples.sort(key=lambda example: len(example.codes))
    return [collate([sequence(e) for e in examples[i : i + 16]]) for i in range(0, len(examples), 16)]


@torch.no_grad()
def validate(model: TinyLanguageModel, held_out: list[Batch]) -> str:
    """One line of mean validation losses by book."""
    model.eval()
    parts = [losses(model, batch) for batch in held_out]
    model.train()
    books = torch.stack([nll for nll, _ in parts]).mean(0)
    auxiliary = torch.stack([aux for _, aux in parts]).mean()
    return " ".join(f"{value:.3f}" for value in books.tolist()) + f" | phonemes {float(auxiliary):.3f}"


def log(work_dir: Path, line: str) -> None:
    """Shows a line and keeps it for the report."""
    print(line, flush=True)
    with (work_dir / "language_model.log").open("a") as file:
        file.write(line + "\n")


def start_model(work_dir: Path, quantizer: Quantizer) -> TinyLanguageModel:
    """The model before its first step: a checkpoint's weights where there are any, else random ones."""
    model = TinyLanguageModel()
    tensors = previous_tensors(work_dir)
    if tensors is None:
        seed_phase_geometry(model, quantizer)
    else:
        load_language_model(tensors, model)
    seed_timbre_geometry(model, quantizer)
    seed_level_geometry(model)
    return model


def train(work_dir: Path, schedule: Schedule) -> None:
    """Trains to the end of the schedule, resuming from `language_model.pt` when it is there."""
    torch.manual_seed(schedule.seed)
    quantizer = Quantizer.load(work_dir / "quantizer.pt")
    model = start_model(work_dir, quantizer)
    optimizers = make_optimizers(model, schedule)
    path, step, stage = work_dir / "language_model.pt", 0, ""
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        # Weights alone are another run's result: this one begins from them.
        if "optimizers" in state:
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            step = state["step"]
    held_out = validation_batches(work_dir, quantizer)
    log(work_dir, f"validation {step} {validate(model, held_out)}")
    stream = iter(())
    started = saved_at = time.monotonic()
    while step < schedule.steps:
        wanted = "references" if step >= schedule.reference_from else "zero-shot"
        if wanted != stage:
            stage = wanted
            seed, references = schedule.seed + step, wanted == "references"
            stream = batches(work_dir, quantizer, schedule.tokens, seed, references)
        batch = next(stream)
        loss = _step(model, optimizers, batch, schedule, step)
        step += 1
        if step % 25 == 0:
            print(
                f"step {step} {time.monotonic() - started:.0f}s loss {loss:.3f} {tuple(batch.ids.shape)}",
                flush=True,
            )
        if step % 250 == 0:
            log(work_dir, f"validation {step} {validate(model, held_out)}")
        if time.monotonic() - saved_at > 120 or step == schedule.steps:
            saved_at = time.monotonic()
            save_state(
                path, model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], step=step
            )


def _step(
    model: TinyLanguageModel,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    schedule: Schedule,
    step: int,
) -> float:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.zero_grad(set_to_none=True)
    books, auxiliary = losses(model, batch)
    loss = total(books, auxiliary, step / schedule.steps)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())
