"""The noise is the published hash, and drawing with it follows the probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.engine.noise import gumbel, hash32, stream_key
from tests.engine.oracle import gumbel_noise, murmur


def hash_of(seed: int, position: int, column: int) -> int:
    words = [torch.tensor(word, dtype=torch.int32) for word in (stream_key(seed), position, column)]
    return int(hash32(*words)) % 2**32


@pytest.mark.parametrize(
    ("seed", "position", "column", "expected"),
    [
        (42, 0, 0, 1868632036),
        (42, 0, 1, 1791484015),
        (42, 8, 1025, 3313761062),
        (7, 123, 512, 500059084),
        (0x0123456789ABCDEF, 1145416960, 0, 1293512163),
    ],
)
def test_the_hash_gives_the_published_values(seed: int, position: int, column: int, expected: int) -> None:
    assert hash_of(seed, position, column) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_hash_equals_the_plain_one(seed: int, position: int, column: int) -> None:
    assert hash_of(seed, position, column) == murmur(seed & 0xFFFFFFFF, seed >> 32, position, column)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**63 - 1])
def test_the_noise_of_a_step_equals_the_plain_one(seed: int) -> None:
    position = torch.arange(40, 48, dtype=torch.int32)[:, None]
    noise = gumbel(torch.tensor(stream_key(seed)).int(), position, torch.arange(1026).int())
    assert noise.dtype == torch.float64
    np.testing.assert_allclose(noise.numpy(), gumbel_noise(seed, 5), rtol=1e-12)


def test_seeds_steps_and_codebooks_do_not_share_noise() -> None:
    keys = torch.tensor([stream_key(seed) for seed in range(40)]).int()[:, None]
    draws = hash32(keys, torch.arange(40).int(), torch.tensor(0).int())
    assert len(draws.unique()) == 1600
    assert hash_of(5, 0, 0) != hash_of(5 + 2**32, 0, 0)


@pytest.mark.parametrize("bits", [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
def test_the_noise_is_finite_at_the_ends_of_the_hash(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = bits - 2**32 if bits >= 2**31 else bits
    monkeypatch.setattr("stentor.engine.noise.hash32", lambda *words: torch.tensor(signed, dtype=torch.int32))
    value = float(gumbel(torch.tensor(0), torch.tensor(0), torch.tensor(0)))
    assert np.isfinite(value)
    assert -710 < value < 22.2


def test_draws_follow_the_probabilities() -> None:
    num_draws, scores = 20_000, torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0])
    noise = gumbel(
        torch.tensor(stream_key(11)).int(), torch.arange(num_draws).int()[:, None], torch.arange(6).int()
    )
    counts = np.bincount((scores + noise).argmax(-1), minlength=6)
    expected = scores.softmax(-1).numpy() * num_draws
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded once in a thousand
