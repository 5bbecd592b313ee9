"""Knows the shape that every training's learning rate has behind its warm-up."""

import math


def held_then_falling(progress: float, hold: float, floor: float) -> float:
    """1 until the share `hold` of a run is over, then half a cosine down to `floor` at its end."""
    fallen = min(max(0.0, (progress - hold) / (1 - hold)), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fallen))
