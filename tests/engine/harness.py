"""Drives engines over random models, watches every step, and keeps what each sequence got."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.model import Redraw
from stentor.engine.sequence import Sequence
from stentor.engine.state import Status
from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.higgs_audio_v3.lm import HiggsLM
from stentor.request import FinishReason, SamplingParams
from tests.checkpoints import Recipe, random_tensors
from tests.engine.accounting import check_schedule
from tests.engine.oracle import END, NUM_CODEBOOKS, VOCAB


def make_lm(
    recipe: Recipe,
    dtype: torch.dtype = torch.float32,
    tensors: dict[str, Tensor] | None = None,
    tied: bool = True,
    device: str = "cpu",
    kernels: Kernels | None = None,
    redraw: Redraw | None = None,
) -> HiggsLM:
    """The model under test with the recipe's weights; `redraw` is what another model wants of its sampler."""
    weights = tensors or random_tensors(recipe)
    config = V3Config(
        num_codebooks=NUM_CODEBOOKS,
        codebook_size=VOCAB,
        text_vocab_size=recipe.text_vocab,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_layers=recipe.layers,
        num_heads=recipe.heads,
        num_kv_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        max_positions=4096,
        rope_theta=recipe.rope_theta,
        norm_eps=1e-6,
        tied_heads=tied,
    )
    model = HiggsLM(config, weights.__getitem__, dtype, torch.device(device), kernels)
    model.shape = replace(model.shape, redraw=redraw)
    return model


def make_sequence(name: str, prompt: np.ndarray, sampling: SamplingParams, max_rows: int) -> Sequence:
    """A sequence of a prompt that others may use too."""
    return Sequence(name, prompt.copy(), sampling, max_rows)


class Witness:
    """A model that remembers the scores it gave."""

    def __init__(self, model: HiggsLM) -> None:
        self._model = model
        self.shape, self.device = model.shape, model.device
        self.scores: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, hidden: Tensor) -> Tensor:
        self.scores.append(self._model.logits(hidden))
        return self.scores[-1]


@dataclass
class Story:
    """All that one sequence got: rows [n, 8], digests of the scores behind them, frames, how it ended."""

    rows: np.ndarray
    scores: list[bytes] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    reason: FinishReason | None = None

    def same(self, other: "Story") -> bool:
        """Were they the same, to the last bit of every score?"""
        return (
            np.array_equal(self.rows, other.rows)
            and self.scores == other.scores
            and np.array_equal(np.concatenate(self.frames), np.concatenate(other.frames))
            and self.reason == other.reason
        )


class Rig:
    """An engine under watch: after every step its books and its mirror on the device must be true."""

    def __init__(self, model: HiggsLM, **settings: Any) -> None:
        self.witness = Witness(model)
        self.config = EngineConfig(**({"max_context": 512} | settings))
        self.engine = Engine(self.witness, self.config)
        self.stories: dict[str, Story] = {}
        self._scores: deque[dict[str, Tensor]] = deque()
        self._launch = self.engine._launch
        self.engine._launch = self._watch_launch  # type: ignore[method-assign]

    def _watch_launch(self) -> Any:
        """Keep the scores of each step beside those whose they are, until the step is read."""
        self.witness.scores.clear()
        flight = self._launch()
        if flight is not None:
            rows = torch.cat(self.witness.scores)
            # Behind them may be the row of a prompt that is not complete.
            assert len(rows) - len(flight.sequences) in (0, 1)
            ids = [sequence.id for sequence in flight.sequences]
            self._scores.append(dict(zip(ids, rows, strict=False)))
        return flight

    def step(self) -> None:
        outputs = self.engine.step()
        read = len(self._scores) > bool(self.engine._flight)
        scores = self._scores.popleft() if read else {}
        for output in outputs:
            sequence, row = output.sequence, scores[output.sequence.id]
            story = self.stories.setdefault(sequence.id, Story(sequence.rows[:0]))
            assert story.reason is None
            story.rows = sequence.rows[: sequence.num_rows].copy()
            story.scores.append(blake2b(row.float().numpy().tobytes(), digest_size=8).digest())
            story.frames.append(output.frames)
            story.reason = output.finish_reason
        self.audit()

    def run(self, sequences: Iterable[Sequence], arrivals: Iterable[int] | None = None) -> dict[str, Story]:
        """Let the sequences come at these steps (None: at once), run to the end; every block is free then."""
        sequences = list(sequences)
        due = sorted(zip(arrivals or [0] * len(sequences), range(len(sequences)), strict=True))
        step = 0
        while due or self.engine.has_work():
            while due and due[0][0] <= step:
                self.engine.add(sequences[due.pop(0)[1]])
            self.step()
            step += 1
        assert self.engine.stats()["kv_blocks_used"] == 0
        return self.stories

    def audit(self) -> None:
        """The schedule is in order; the device's rows are those of the running sequences, the rest idle."""
        scheduler, state = self.engine._scheduler, self.engine._runner._state
        under_way = self.engine._flight.sequences if self.engine._flight else []
        check_schedule(scheduler, self.config.max_running_requests, under_way=bool(under_way))
        running, size = scheduler.running, len(scheduler.running)
        assert (state.status[size:] == Status.IDLE).all()
        tables, last_rows = state.block_tables.numpy(), state.last_rows.numpy()
        for slot, sequence in enumerate(running):
            ahead = sequence in under_way
            # What has ended stands still until that is read.
            assert ahead or state.status[slot] == Status.RUNNING
            assert state.step[slot] == sequence.num_rows + ahead
            assert state.positions[slot] == len(sequence.prompt) + sequence.num_rows + ahead - 1
            assert ahead or (last_rows[slot] == sequence.rows[sequence.num_rows - 1]).all()
            assert tables[slot, : len(sequence.blocks)].tolist() == sequence.blocks
            assert not tables[slot, len(sequence.blocks) :].any()
        assert not tables[size:].any()
        assert not state.positions[size:].any()


def content_rows(rows: np.ndarray) -> int:
    """Frames that the rows of one sequence complete before the end of content."""
    ends = np.flatnonzero(rows[NUM_CODEBOOKS:, 0] == END)
    complete = max(0, len(rows) - NUM_CODEBOOKS + 1)
    return min(complete, int(ends[0]) + NUM_CODEBOOKS) if len(ends) else complete
