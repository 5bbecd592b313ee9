"""What a codebook has said a moment ago: a request may have it less likely, a model have it drawn again."""

import torch
from torch import Tensor

from stentor.engine.arrays import Values, cast, count, library
from stentor.engine.model import LMShape
from stentor.engine.noise import gumbel
from stentor.engine.state import RECENT_ROWS, BatchState

# No step of a sequence draws with noise from so far ahead.
_FRESH_NOISE = 1 << 24


def penalise(logits: Tensor, state: BatchState, shape: LMShape) -> Tensor:
    """Lower the scores of each codebook's last `RECENT_ROWS` codes, as often as they may stand there.

    A score above 0 is divided by the row's penalty, one below is multiplied by it (Keskar et al. 2019,
    "CTRL", section 4.1). The codes that begin and end content are no speech and keep their scores. The row
    that is fed to this step enters `recent_rows` here, so a batch in which nobody asks for a penalty does
    nothing for it.

    Args:
        logits: [batch, codebooks, codebook_size], of the first ones at the least.
        state: the batch's rows, at least one of which each sequence has drawn; tensors.

    Returns:
        float32, of the same shape.
    """
    recent, ages = _remember(state, shape)
    recent = recent[..., : logits.shape[1]]
    codes = torch.where((ages < state.step[:, None])[..., None], recent, shape.begin_code).transpose(1, 2)
    said = torch.zeros_like(logits, dtype=torch.bool).scatter_(2, codes, True)
    for code in (shape.begin_code, shape.end_code):
        said[..., code] = False
    scores, penalty = logits.float(), state.repetition_penalty[:, None, None]
    return torch.where(said, torch.where(scores > 0, scores / penalty, scores * penalty), scores)


def redraw(codes: Values, logits: Values, state: BatchState, shape: LMShape) -> Values:
    """The codes, those drawn again that their codebook said too often (`Redraw`), with noise of their own.

    The codes that begin and end content are no speech and are not counted. Like `penalise`, it writes the row
    that is fed to this step into `recent_rows`.

    Args:
        codes: int64 [batch, num_codebooks], just drawn.
        logits: [batch, num_codebooks, codebook_size], of the state's kind.
        state: the batch's rows.

    Returns:
        int64, of the codes' shape.
    """
    assert shape.redraw is not None
    recent, ages = _remember(state, shape)
    counted = (ages < state.step[:, None]) & (ages < shape.redraw.window)
    same = (recent == codes[:, None]) & counted[..., None] & (codes < shape.begin_code)[:, None]
    again = cast(same, "int64").sum(1) >= shape.redraw.limit
    position = cast(state.step, "int32")[:, None] * shape.num_codebooks
    position = position + count(shape.num_codebooks, position, "int32") + _FRESH_NOISE
    noise = gumbel(
        state.noise_key[:, None, None], position[..., None], count(shape.codebook_size, position, "int32")
    )
    return library(codes).where(again, (logits + noise).argmax(-1), codes)


def _remember(state: BatchState, shape: LMShape) -> tuple[Values, Values]:
    """The last rows with that one among them which is fed to this step, [batch, RECENT_ROWS, num_codebooks],
    and how many rows ago each was drawn, [batch, RECENT_ROWS]; older ones than `step` never were.
    """
    recent = state.recent_rows.reshape(-1, RECENT_ROWS, shape.num_codebooks)
    ages = (state.step[:, None] - 1 - count(RECENT_ROWS, recent)) % RECENT_ROWS
    recent = library(recent).where((ages == 0)[..., None], state.last_rows[:, None], recent)
    state.recent_rows[...] = recent.reshape(len(recent), -1)
    return recent, ages
