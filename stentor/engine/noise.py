"""Counter-based noise: what a seed, a step, a codebook and a code have to say, in any batch and any order."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# exp(-2^-32) is the largest uniform that still gives a finite Gumbel value.
_LARGEST_LOG = -(2.0**-32)
_SMALLEST_LOG = -torch.finfo(torch.float64).max


def stream_key(seed: int) -> int:
    """The state of the hash after a 64-bit seed; what each step and code is mixed into."""
    return int(_mix(_mix(torch.tensor(0), seed & _MASK), (seed >> 32) & _MASK))


def hash32(key: Tensor, position: Tensor, column: Tensor) -> Tensor:
    """MurmurHash3 (x86, 32 bit) of four words: the two of the seed (in `key`), `position` and `column`.

    All int64 with 32-bit values, broadcast against each other.
    """
    h = _mix(_mix(key, position), column) ^ 16
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _MASK
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def gumbel(key: Tensor, position: Tensor, column: Tensor) -> Tensor:
    """Standard Gumbel noise in float64; adding it to log-probabilities makes their argmax a draw."""
    uniform = hash32(key, position, column).double() / _MASK
    return -torch.log(-uniform.log().clamp(_SMALLEST_LOG, _LARGEST_LOG))


def _mix(h: Tensor, word: Tensor | int) -> Tensor:
    word = (word * 0xCC9E2D51) & _MASK
    word = ((word << 15) & _MASK) | (word >> 17)
    h = h ^ ((word * 0x1B873593) & _MASK)
    h = ((h << 13) & _MASK) | (h >> 19)
    return (h * 5 + 0xE6546B64) & _MASK
