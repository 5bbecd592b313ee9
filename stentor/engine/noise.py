"""Counter-based noise: what a seed, a step, a codebook and a code have to say, in any batch and any order."""

import numpy as np

from stentor.engine.arrays import Values, cast, library

_MASK = 0xFFFFFFFF
# exp(-2^-32) is the largest uniform that still gives a finite Gumbel value.
_LARGEST_LOG = -(2.0**-32)
_SMALLEST_LOG = -np.finfo(np.float64).max


def stream_key(seed: int) -> int:
    """The state of the hash after a 64-bit seed, as a signed 32-bit number; the rest is mixed into it."""
    key = np.zeros(1, dtype=np.int32)
    for word in (seed & _MASK, (seed >> 32) & _MASK):
        key = _mix(key, np.array([_signed(word)], dtype=np.int32))
    return int(key[0])


def hash32(key: Values, position: Values, column: Values) -> Values:
    """MurmurHash3 (x86, 32 bit) of four words: the two of the seed (in `key`), `position` and `column`.

    All int32, as is the result, and broadcast against each other: their bits count, not their signs, and
    products are meant to overflow.
    """
    h = _mix(_mix(key, position), column) ^ 16
    h = (h ^ _shift_right(h, 16)) * _signed(0x85EBCA6B)
    h = (h ^ _shift_right(h, 13)) * _signed(0xC2B2AE35)
    return h ^ _shift_right(h, 16)


def gumbel(key: Values, position: Values, column: Values) -> Values:
    """Standard Gumbel noise in float64; adding it to log-probabilities makes their argmax a draw."""
    array_library = library(key)
    uniform = cast(cast(hash32(key, position, column), "int64") & _MASK, "float64") / _MASK
    with np.errstate(divide="ignore"):
        logarithm = array_library.clip(array_library.log(uniform), _SMALLEST_LOG, _LARGEST_LOG)
    return -array_library.log(-logarithm)


def _mix(h: Values, word: Values) -> Values:
    word = _rotate(word * _signed(0xCC9E2D51), 15) * _signed(0x1B873593)
    return _rotate(h ^ word, 13) * 5 + _signed(0xE6546B64)


def _rotate(word: Values, bits: int) -> Values:
    return (word << bits) | _shift_right(word, 32 - bits)


def _shift_right(word: Values, bits: int) -> Values:
    # PyTorch's own shift draws the sign along.
    return (word >> bits) & (_MASK >> bits)


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
