"""Our paged attention equals the reference, and keeps the law that a row does not feel its company."""

from dataclasses import replace

import pytest
import torch

from stentor.layers.attention import SdpaBackend
from stentor.layers.context import DecodeBatch, Place, PrefillBatch, PrefillSpan
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Norm
from stentor.layers.rotary import RotaryTable
from tests.layers.paged import Paged
from tests.layers.triton.interpreted import DEVICE, DTYPES, HALF, assert_close, randn

attention = pytest.importorskip("stentor.layers.triton.attention")
heads = pytest.importorskip("stentor.layers.triton.heads")

SHAPES = [(4, 2, 16), (6, 1, 24), (8, 2, 128)]


def paged(lengths: list[int], shape: tuple[int, int, int], dtype: torch.dtype) -> Paged:
    return Paged(lengths, shape, dtype, attention.TritonBackend(), device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_decode_equal_the_plain_formula(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    lengths = [1, 16, 17, 290, 64]
    there = paged(lengths, shape, dtype)
    for i, out in enumerate(there.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths) if n > 1)), 1):
        assert_close(out, there.plain(i)[:-1])
    out = there.decode(list(range(5)), num_blocks=20)
    for i in range(5):
        assert_close(out[i], there.plain(i)[-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_known_prefix_changes_no_bit(dtype: torch.dtype) -> None:
    (expected,) = paged([200], (2, 1, 32), dtype).prefill((0, 0, 200))
    for cut in (16, 48, 64, 199):
        there = paged([200], (2, 1, 32), dtype)
        (begin,) = there.prefill((0, 0, cut))
        (rest,) = there.prefill((0, cut, 200))
        assert_close(torch.cat((begin, rest)), expected)
        if DEVICE != "cpu":  # The interpreter's products round by NumPy's tiles, not by the card's.
            assert torch.equal(torch.cat((begin, rest)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_company_and_the_width_of_the_table_change_no_bit(dtype: torch.dtype) -> None:
    lengths = [20, 201, 300, 5]
    there = paged(lengths, (2, 1, 32), dtype)
    together = there.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths)))
    for i, n in enumerate(lengths):
        assert torch.equal(there.prefill((i, 0, n - 1))[0], together[i])
    batch = there.decode(list(range(4)), num_blocks=24)
    for i in range(4):
        for num_blocks in {-(-lengths[i] // 16), 20, 24, 40}:
            assert torch.equal(there.decode([i], num_blocks)[0], batch[i])


def test_rows_that_pad_a_prefill_are_finite() -> None:
    there = paged([40], (4, 2, 32), HALF)
    (out,) = there.prefill((0, 0, 39), padding=25)
    assert_close(out, there.plain(0)[:39])


def test_the_host_need_not_know_the_spans_of_a_prefill() -> None:
    there = paged([40, 90], (4, 2, 32), torch.float32)
    expected = torch.cat(there.prefill((0, 0, 39), (1, 0, 60)))
    known = there.backend
    there.backend = lambda q, cache, batch: known(q, cache, replace(batch, spans=()))
    assert torch.equal(torch.cat(there.prefill((0, 0, 39), (1, 0, 60))), expected)


def test_a_cache_in_float8_is_read_as_what_it_holds() -> None:
    backend, dtype = attention.TritonBackend(), torch.float8_e4m3fn
    there = Paged([130, 40], (4, 2, 16), torch.float32, backend, cache_dtype=dtype, device=DEVICE)
    for i, out in enumerate(there.prefill((0, 0, 129), (1, 0, 39))):
        assert_close(out, there.plain(i)[:-1])
    for i, out in enumerate(there.decode([0, 1], num_blocks=12)):
        assert_close(out, there.plain(i)[-1])


def test_blocks_are_found_beyond_what_32_bits_count() -> None:
    # 2^31 numbers of which few are ever touched: untouched pages take no memory.
    cache = torch.empty((2**20 + 40, 16, 4, 32), dtype=torch.float16, device=DEVICE)
    tables = torch.tensor([[2**20 + 3, 7, 2**20 + 39], [2**20 + 1, 2**20 + 21, 0]], device=DEVICE)
    lengths = [40, 17]
    for block in tables.flatten().tolist():
        cache[block] = randn(16, 4, 32, dtype=torch.float16)
    positions = torch.tensor(lengths, device=DEVICE) - 1
    slots = tables.gather(1, (positions // 16)[:, None])[:, 0] * 16 + positions % 16
    qkv, norm = randn(2, 8, 32, dtype=torch.float16), randn(6, 32, dtype=torch.float16)
    turn = RotaryTable(32, 64, 1e4, torch.float16, torch.device(DEVICE)).at(positions)
    expected = Kernels().place_heads(qkv.clone(), Norm(norm, 1e-6), turn, Place(cache, slots))
    written = cache.view(-1, 4, 32)[slots].clone()
    cache.view(-1, 4, 32)[slots] = 0
    assert_close(heads.place_heads(qkv, Norm(norm, 1e-6), turn, Place(cache, slots)), expected)
    assert_close(cache.view(-1, 4, 32)[slots], written)

    decode = DecodeBatch(positions, slots, tables)
    q = randn(2, 4, 32, dtype=torch.float16)
    assert_close(attention.TritonBackend()(q, cache, decode), SdpaBackend()(q, cache, decode))
    starts, contexts = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 9, 26], lengths)
    )
    spans = (PrefillSpan(0, 9, 40), PrefillSpan(9, 26, 17))
    prefill = PrefillBatch(positions, slots, tables, starts, contexts, spans, positions)
    q = randn(26, 4, 32, dtype=torch.float16)
    assert_close(attention.TritonBackend()(q, cache, prefill), SdpaBackend()(q, cache, prefill))
