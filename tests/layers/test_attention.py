"""Paged attention equals the plain formula, and a position's result hangs on what it sees alone."""

import pytest
import torch
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.attention import SdpaBackend, choose_backend
from stentor.layers.context import Batch, DecodeBatch, PrefillBatch, PrefillSpan

BLOCK = 16


class Paged:
    """Some sequences' keys and values in blocks that lie about in no order."""

    def __init__(
        self, lengths: list[int], heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        generator = torch.Generator().manual_seed(sum(lengths) + heads)
        self.q = [torch.randn(n, heads, head_dim, generator=generator).to(dtype) for n in lengths]
        self.kv = [torch.randn(n, 2 * kv_heads, head_dim, generator=generator).to(dtype) for n in lengths]
        num_blocks = [-(-n // BLOCK) for n in lengths]
        order = torch.randperm(sum(num_blocks), generator=generator) + 1
        self.blocks = list(torch.split(order, num_blocks))
        # What is masked may hold anything finite.
        self.cache = torch.full((len(order) + 1, BLOCK, 2 * kv_heads, head_dim), 1e4, dtype=dtype)

    def slots(self, i: int, start: int, end: int) -> Tensor:
        position = torch.arange(start, end)
        return self.blocks[i][position // BLOCK] * BLOCK + position % BLOCK

    def attend(self, rows: list[tuple[int, int, int]], batch: Batch) -> Tensor:
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        kv = torch.cat([self.kv[i][start:end] for i, start, end in rows])
        return SdpaBackend()(q, kv, self.cache, batch)

    def prefill(self, *rows: tuple[int, int, int]) -> list[Tensor]:
        """The positions [start, end) of each sequence i, whose earlier ones are in the cache."""
        spans, first = [], 0
        for i, start, end in rows:
            spans.append(PrefillSpan(first, first + end - start, end, self.blocks[i]))
            first += end - start
        positions = torch.cat([torch.arange(start, end) for _, start, end in rows])
        slots = torch.cat([self.slots(*row) for row in rows])
        out = self.attend(list(rows), PrefillBatch(positions, slots, tuple(spans)))
        return list(out.split([end - start for _, start, end in rows]))

    def decode(self, sequences: list[int], num_blocks: int) -> Tensor:
        """The last position of each of the sequences, whose earlier ones are in the cache."""
        rows = [(i, len(self.q[i]) - 1, len(self.q[i])) for i in sequences]
        tables = torch.zeros(len(rows), num_blocks, dtype=torch.int64)
        for row, i in enumerate(sequences):
            tables[row, : len(self.blocks[i])] = self.blocks[i]
        slots = torch.cat([self.slots(*row) for row in rows])
        positions = torch.tensor([start for _, start, _ in rows])
        return self.attend(rows, DecodeBatch(positions, slots, tables))

    def plain(self, i: int) -> Tensor:
        """The formula, in float64, for every position of sequence i."""
        q, (k, v) = self.q[i].double(), self.kv[i].double().chunk(2, dim=1)
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
        scores = scores.masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -torch.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


SHAPES = [(4, 2, 16), (6, 1, 24), (8, 8, 8), (8, 2, 32)]
DTYPES = [torch.float32, torch.bfloat16]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 3e-2 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_decode_equal_the_plain_formula(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    lengths = [1, 16, 17, 130, 64]
    paged = Paged(lengths, *shape, dtype)
    for i, out in enumerate(paged.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths) if n > 1)), 1):
        assert_near(out, paged.plain(i)[:-1])
    out = paged.decode(list(range(5)), num_blocks=12)
    for i in range(5):
        assert_near(out[i], paged.plain(i)[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_prefix_changes_no_bit(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    whole = Paged([200], *shape, dtype)
    (expected,) = whole.prefill((0, 0, 200))
    for cut in (16, 48, 64, 80, 192, 199):
        paged = Paged([200], *shape, dtype)
        (begin,) = paged.prefill((0, 0, cut))
        (rest,) = paged.prefill((0, cut, 200))
        assert torch.equal(torch.cat((begin, rest)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_company_and_the_width_of_the_table_change_no_bit(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    lengths = [20, 201, 333, 600, 5]
    paged = Paged(lengths, *shape, dtype)
    together = paged.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths)))
    for i, n in enumerate(lengths):
        assert torch.equal(paged.prefill((i, 0, n - 1))[0], together[i])
    batch = paged.decode(list(range(5)), num_blocks=48)
    for i in range(5):
        needed = -(-lengths[i] // 64) * 4
        for num_blocks in {needed, needed + 4, needed + 8, 48, 64}:
            assert torch.equal(paged.decode([i], num_blocks)[0], batch[i])


def test_new_keys_and_values_go_to_their_slots_only() -> None:
    paged = Paged([40], 4, 2, 16, torch.float32)
    before = paged.cache.clone()
    paged.prefill((0, 0, 30))
    flat, slots = paged.cache.flatten(0, 1), paged.slots(0, 0, 30)
    assert torch.equal(flat[slots], paged.kv[0][:30])
    others = torch.ones(len(flat), dtype=torch.bool)
    others[slots] = False
    assert torch.equal(flat[others], before.flatten(0, 1)[others])


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    assert isinstance(choose_backend("auto"), SdpaBackend)
    with pytest.raises(ConfigError, match="'magic'; choose one of: auto, sdpa"):
        choose_backend("magic")
