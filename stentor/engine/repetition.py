"""The repetition penalty: what a codebook has said a moment ago is less likely to be said again."""

import torch
from torch import Tensor

from stentor.engine.model import LMShape
from stentor.engine.state import RECENT_ROWS, BatchState


def penalise(logits: Tensor, state: BatchState, shape: LMShape) -> Tensor:
    """Lower the scores of each codebook's last `RECENT_ROWS` codes, as often as they may stand there.

    A score above 0 is divided by the row's penalty, one below is multiplied by it (Keskar et al. 2019,
    "CTRL", section 4.1). The codes that begin and end content are no speech and keep their scores. The row
    that is fed to this step enters `recent_rows` here, so a batch in which nobody asks for a penalty does
    nothing for it.

    Args:
        logits: [batch, num_codebooks, codebook_size].
        state: the batch's rows, at least one of which each sequence has drawn; tensors.

    Returns:
        float32, of the same shape.
    """
    recent = state.recent_rows.view(-1, RECENT_ROWS, shape.num_codebooks)
    place = ((state.step - 1) % RECENT_ROWS)[:, None, None]
    recent.scatter_(1, place.expand(-1, 1, shape.num_codebooks), state.last_rows[:, None])
    drawn = torch.arange(RECENT_ROWS, device=logits.device) < state.step[:, None]
    codes = torch.where(drawn[..., None], recent, shape.begin_code).transpose(1, 2)
    said = torch.zeros_like(logits, dtype=torch.bool).scatter_(2, codes, True)
    for code in (shape.begin_code, shape.end_code):
        said[..., code] = False
    scores, penalty = logits.float(), state.repetition_penalty[:, None, None]
    return torch.where(said, torch.where(scores > 0, scores / penalty, scores * penalty), scores)
