"""Counter-based noise: what a seed, a step, a codebook and a code have to say, in any batch and any order."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# exp(-2^-32) is the largest uniform that still gives a finite Gumbel value.
_LARGEST_LOG = -(2.0**-32)
_SMALLEST_LOG = -torch.finfo(torch.float64).max


def stream_key(seed: int) -> int:
    """The state of the hash after a 64-bit seed, as a signed 32-bit number; the rest is mixed into it."""
    key = torch.zeros((), dtype=torch.int32)
    for word in (seed & _MASK, (seed >> 32) & _MASK):
        key = _mix(key, torch.tensor(_signed(word), dtype=torch.int32))
    return int(key)


def hash32(key: Tensor, position: Tensor, column: Tensor) -> Tensor:
    """MurmurHash3 (x86, 32 bit) of four words: the two of the seed (in `key`), `position` and `column`.

    All int32, as is the result, and broadcast against each other: their bits count, not their signs, and
    products are meant to overflow.
    """
    h = _mix(_mix(key, position), column) ^ 16
    h = (h ^ _shift_right(h, 16)) * _signed(0x85EBCA6B)
    h = (h ^ _shift_right(h, 13)) * _signed(0xC2B2AE35)
    return h ^ _shift_right(h, 16)


def gumbel(key: Tensor, position: Tensor, column: Tensor) -> Tensor:
    """Standard Gumbel noise in float64; adding it to log-probabilities makes their argmax a draw."""
    uniform = (hash32(key, position, column).long() & _MASK).double().div_(_MASK)
    return uniform.log_().clamp_(_SMALLEST_LOG, _LARGEST_LOG).neg_().log_().neg_()


def _mix(h: Tensor, word: Tensor) -> Tensor:
    word = _rotate(word * _signed(0xCC9E2D51), 15) * _signed(0x1B873593)
    return _rotate(h ^ word, 13) * 5 + _signed(0xE6546B64)


def _rotate(word: Tensor, bits: int) -> Tensor:
    return (word << bits) | _shift_right(word, 32 - bits)


def _shift_right(word: Tensor, bits: int) -> Tensor:
    # PyTorch's own shift draws the sign along.
    return (word >> bits) & (_MASK >> bits)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
