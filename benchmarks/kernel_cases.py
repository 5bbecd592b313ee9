"""Every kernel at the shapes of the 4B model, with its reference and the bytes that it must move.

`gpu_kernels.py` checks and times them on a card, `compile_kernels.py` compiles them without one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stentor.engine import sampler
from stentor.engine.model import LMShape
from stentor.engine.state import BatchState
from stentor.layers import quantization
from stentor.layers.attention import AttentionBackend, SdpaBackend
from stentor.layers.context import Batch, DecodeBatch, Place, PrefillBatch, PrefillSpan
from stentor.layers.convolution import Filter, Signal
from stentor.layers.kernels import Kernels, rms_norm, silu_mul
from stentor.layers.linear import Norm
from stentor.layers.rotary import RotaryTable
from stentor.layers.triton import convolution, heads, pointwise, products
from stentor.layers.triton import rows as row_kernels
from stentor.layers.triton.attention import TritonBackend

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 2560, 9728, 32, 8, 128
CODEBOOKS, CODEBOOK_SIZE, BLOCK = 8, 1026, 16
DTYPE = torch.bfloat16
PRODUCTS = {
    "qkv": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    "output": (HIDDEN, HEADS * HEAD_DIM),
    "gate-up": (2 * INNER, HIDDEN),
    "down": (HIDDEN, INNER),
    "head": (CODEBOOKS * CODEBOOK_SIZE, HIDDEN),
}
EAGER = Kernels()

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """`run` and `reference` give the same numbers, to a relative error of `bound`: each rounds to bfloat16
    in its own places. `size_bytes` is read and written once in any case.
    """

    name: str
    run: Run
    reference: Run
    size_bytes: int
    bound: float = 2e-2


def randn(device: str, *shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=device) * scale).to(DTYPE)


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def small_cases(rows: int, device: str) -> Iterator[Case]:
    """What lies between the products, for `rows` rows."""
    x, weight = randn(device, rows, HIDDEN), randn(device, HIDDEN)
    yield Case(
        f"norm {rows}",
        lambda: row_kernels.rms_norm(x, weight, 1e-6),
        lambda: rms_norm(x, weight, 1e-6),
        2 * size_of(x),
    )
    gate_up = randn(device, rows, 2 * INNER, scale=2.0)
    yield Case(
        f"silu-mul {rows}",
        lambda: pointwise.silu_mul(gate_up),
        lambda: silu_mul(gate_up),
        size_of(gate_up) * 3 // 2,
    )
    table = randn(device, CODEBOOKS * CODEBOOK_SIZE, HIDDEN)
    offsets = torch.arange(CODEBOOKS, device=device) * CODEBOOK_SIZE
    codes = torch.randint(CODEBOOK_SIZE, (rows, CODEBOOKS), device=device)
    yield Case(
        f"embed codes {rows}",
        lambda: pointwise.embed_codes(codes, offsets, table),
        lambda: EAGER.embed_codes(codes, offsets, table),
        (CODEBOOKS + 1) * size_of(x),
    )
    yield _heads_case(rows, device)


def _heads_case(rows: int, device: str) -> Case:
    all_heads = HEADS + 2 * KV_HEADS
    qkv, weight = randn(device, rows, all_heads, HEAD_DIM), randn(device, HEADS + KV_HEADS, HEAD_DIM)
    cache = randn(device, rows, BLOCK, 2 * KV_HEADS, HEAD_DIM)
    positions = torch.randint(2000, (rows,), device=device)
    turn = RotaryTable(HEAD_DIM, 4096, 1e6, DTYPE, torch.device(device)).at(positions)
    place = Place(cache, torch.arange(rows, device=device) * BLOCK + 3)

    # A copy each time, because the heads are turned in place; its time is in both.
    def both(place_heads: Callable[..., Tensor]) -> Tensor:
        queries = place_heads(qkv.clone(), Norm(weight, 1e-6), turn, place)
        return torch.cat((queries, cache.flatten(0, 1)[place.slots]), dim=1)

    return Case(
        f"norm+rope+write {rows}",
        lambda: both(heads.place_heads),
        lambda: both(EAGER.place_heads),
        2 * size_of(qkv) * 3,
    )


def product_cases(rows: int, device: str) -> Iterator[Case]:
    """Our product of few rows against the library's, weights so many that no cache holds them."""
    for name, (outer, inner) in PRODUCTS.items():
        x = randn(device, rows, inner)
        copies = max(1, 200_000_000 // (outer * inner * 2)) if device != "cpu" else 1
        weights = [randn(device, outer, inner, scale=inner**-0.5) for _ in range(copies)]
        ours = [products.SkinnyProduct(weight) for weight in weights]
        yield Case(
            f"product {name} {rows}",
            in_turn([lambda product=product, x=x: product(x) for product in ours]),
            in_turn([lambda weight=weight, x=x: torch.nn.functional.linear(x, weight) for weight in weights]),
            size_of(weights[0]),
        )


def gated_case(rows: int, device: str) -> Case:
    """The product and SwiGLU in one launch, against the library's product and ours of SwiGLU behind it."""
    outer, inner = PRODUCTS["gate-up"]
    x, weight = randn(device, rows, inner), randn(device, outer, inner, scale=inner**-0.5)
    product = products.SkinnyProduct(weight, gated=True)
    return Case(
        f"product gated {rows}",
        lambda: product(x),
        lambda: silu_mul(torch.nn.functional.linear(x, weight)),
        size_of(weight),
    )


def sampler_case(rows: int, device: str) -> Case:
    """A draw with top_k and top_p and the step of the state machine, from bfloat16 scores (full of ties)."""
    shape = LMShape(CODEBOOKS, CODEBOOK_SIZE, 1024, 1025, 36, KV_HEADS, HEAD_DIM, 4096, DTYPE)
    logits = randn(device, rows, CODEBOOKS, CODEBOOK_SIZE, scale=3.0)
    ours = BatchState.allocate(rows, CODEBOOKS, 1, torch.device(device))
    for numbers, value in (
        (ours.status, 0),
        (ours.max_rows, 10**6),
        (ours.guard_rows, 10**6),
        (ours.top_k, 50),
        (ours.top_p, 0.95),
    ):
        numbers.fill_(value)
    ours.noise_key.copy_(torch.randint(2**31, (rows,), device=device))
    # Each keeps a state of its own: both move on, from call to call.
    theirs = BatchState.over(ours.packed.clone(), CODEBOOKS)
    return Case(
        f"sampler {rows}",
        lambda: sampler.fused_advance(logits, ours, shape, CODEBOOK_SIZE),
        lambda: sampler.advance(logits, theirs, shape, CODEBOOK_SIZE),
        size_of(logits),
    )


def quantised_cases(rows: int, device: str) -> Iterator[Case]:
    """The largest product with weights of fewer bits, against the library's with the restored weight."""
    outer, inner = PRODUCTS["gate-up"]
    x, weight = randn(device, rows, inner), randn(device, outer, inner, scale=inner**-0.5)
    for scheme in ("int8", "fp8", "int4"):
        kept = quantization.quantize(weight, scheme)
        product = products.SkinnyProduct(kept.values, kept.scale if scheme == "int4" else kept.scale[:, 0])
        restored = quantization.restore(kept, DTYPE)
        yield Case(
            f"gate-up {scheme} {rows}",
            lambda product=product: product(x),
            lambda restored=restored: torch.nn.functional.linear(x, restored),
            size_of(kept.values, kept.scale),
        )


def float8_case(rows: int, device: str) -> Case:
    """Both sides in float8 against bfloat16; the rounding of x is part of it."""
    outer, inner = PRODUCTS["gate-up"]
    x, weight = randn(device, rows, inner), randn(device, outer, inner, scale=inner**-0.5)
    kept = quantization.quantize(weight, "fp8")
    product, restored = (
        quantization.float8_product(kept, row_kernels.round_rows),
        quantization.restore(kept, DTYPE),
    )
    return Case(
        f"gate-up fp8 x fp8 {rows}",
        lambda: product(x),
        lambda: torch.nn.functional.linear(x, restored),
        size_of(kept.values, kept.scale, x),
        bound=5e-2,
    )


def in_turn(runs: list[Run]) -> Run:
    """One after the other, from call to call."""
    calls = iter(range(10**9))
    return lambda: runs[next(calls) % len(runs)]()


def attention_inputs(lengths: list[int], device: str) -> tuple[Tensor, DecodeBatch]:
    """A cache and a decode batch of sequences of these lengths."""
    needed = [-(-length // BLOCK) for length in lengths]
    cache = randn(device, sum(needed) + 1, BLOCK, 2 * KV_HEADS, HEAD_DIM)
    blocks = torch.randperm(sum(needed), device=device) + 1
    tables = torch.nn.utils.rnn.pad_sequence(list(blocks.split(needed)), batch_first=True)
    positions = torch.tensor(lengths, device=device) - 1
    block = tables.gather(1, (positions // BLOCK)[:, None])[:, 0]
    return cache, DecodeBatch(positions, block * BLOCK + positions % BLOCK, tables)


def prefill_batch(lengths: list[int], tables: Tensor, device: str) -> PrefillBatch:
    """All positions of each sequence, with nothing cached before them."""
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    owner = torch.repeat_interleave(
        torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)
    )
    slots = tables[owner, positions // BLOCK] * BLOCK + positions % BLOCK
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    starts = torch.tensor([0, *ends], dtype=torch.int32, device=device)
    contexts = torch.tensor(lengths, dtype=torch.int32, device=device)
    spans = tuple(PrefillSpan(end - n, end, n) for end, n in zip(ends, lengths, strict=True))
    return PrefillBatch(positions, slots, tables, starts, contexts, spans, positions)


def attention_cases(
    device: str, backend: AttentionBackend | None = None, name: str = "triton"
) -> Iterator[Case]:
    """A backend against the reference: decode of growing batches, prefill of short and long prompts."""
    backend = backend or TritonBackend()
    for size, length in ((1, 400), (1, 2000), (16, 400), (64, 800), (256, 400)):
        cache, batch = attention_inputs([length] * size, device)
        yield _attention_case(f"{name} decode {size} x {length}", backend, cache, batch, size, length)
    for size, length in ((1, 128), (8, 300), (1, 2000)):
        cache, decode = attention_inputs([length] * size, device)
        prefill = prefill_batch([length] * size, decode.block_tables, device)
        yield _attention_case(
            f"{name} prefill {size} x {length}", backend, cache, prefill, size * length, length
        )


def float8_cache_case(device: str) -> Case:
    """Decode from a cache in float8, against the same numbers in bfloat16."""
    wide, batch = attention_inputs([800] * 64, device)
    cache = wide.to(torch.float8_e4m3fn)
    q, restored = randn(device, 64, HEADS, HEAD_DIM), cache.to(DTYPE)
    return Case(
        "triton decode fp8 64 x 800",
        lambda: TritonBackend()(q, cache, batch),
        lambda: SdpaBackend()(q, restored, batch),
        2 * size_of(q) + size_of(cache),
    )


def _attention_case(
    name: str, backend: AttentionBackend, cache: Tensor, batch: Batch, tokens: int, length: int
) -> Case:
    q = randn(str(cache.device), tokens, HEADS, HEAD_DIM)
    reference = SdpaBackend()
    return Case(
        name,
        lambda: backend(q, cache, batch),
        lambda: reference(q, cache, batch),
        2 * size_of(q) + size_of(cache),
    )


def convolution_cases(device: str) -> Iterator[Case]:
    """Every layer of the vocoder, decoding four windows of 144 frames, in each arithmetic."""
    windows, frames = (1, 1) if device == "cpu" else (4, 144)
    for name, dtype, rounds, bound in (
        ("float16", torch.float16, False, 1e-2),
        ("tfloat32", torch.float32, True, 2e-3),
        ("float32", torch.float32, False, 1e-5),
    ):

        def numbers(*shape: int, scale: float = 1.0, dtype: torch.dtype = dtype) -> Tensor:
            return randn(device, *shape, scale=scale).to(dtype)

        for layer, time, filter, then in codec_filters(numbers, rounds, frames):
            x = numbers(windows, time, filter.weight.shape[1])
            plain = None if then is None else numbers(*x.shape)
            signal = Signal(plain, x, torch.full((windows,), frames, device=device), time // frames)
            ours, theirs = convolution.convolution(filter, then), EAGER.convolution(filter, then)
            read = [x, filter.weight] if then is None else [x, x, filter.weight, then.weight]
            written = x.numel() * len(filter.weight) // filter.weight.shape[1] * x.itemsize
            yield Case(
                f"{layer} {name}",
                lambda ours=ours, signal=signal: ours(signal).active,
                lambda theirs=theirs, signal=signal: theirs(signal).active,
                size_of(*read) + written * (2 if filter.keeps_plain or then is not None else 1),
                bound,
            )


def codec_filters(
    numbers: Callable[..., Tensor], rounds: bool, frames: int
) -> Iterator[tuple[str, int, Filter, Filter | None]]:
    """The layers of the real decoder, a unit of each block: name, steps, filter, and what follows in it."""

    def made(
        outputs: int, inputs: int, taps: int, *, snake: bool = True, stride: int = 1, **more: Any
    ) -> Filter:
        weight = numbers(outputs, inputs, taps, scale=(inputs * taps) ** -0.5)
        alpha = numbers(outputs // stride).float().exp() if snake else None
        bias = numbers(outputs // stride).float().repeat(stride)
        return Filter(weight, bias, alpha, stride=stride, rounds_float32=rounds, **more)

    yield "conv 256 to 1024", frames, made(1024, 256, 7), None
    channels = 1024
    for stride in (8, 5, 4, 2, 3):
        up = made(stride * channels // 2, channels, 2, stride=stride, keeps_plain=True)
        yield f"up {channels} by {stride}", frames, up, None
        channels, frames = channels // 2, frames * stride
        first, then = made(channels, channels, 7, dilation=3), made(channels, channels, 1, keeps_plain=True)
        yield f"unit {channels}", frames, first, then
    yield "conv 32 to 1", frames, made(1, 32, 7, snake=False), None


def all_cases(device: str, only_rows: int | None = None) -> Iterator[Case]:
    """Every kernel, at all numbers of rows or at one."""
    for rows in (1, 8, 64, 256):
        if only_rows in (None, rows):
            yield from small_cases(rows, device)
            yield sampler_case(rows, device)
    for rows in (1, 2, 4, 8, 16, 64):
        if only_rows in (None, rows):
            yield from product_cases(rows, device)
            yield gated_case(rows, device)
    for rows in (1, 8, 64):
        if only_rows in (None, rows):
            yield from quantised_cases(rows, device)
    for rows in (8, 64, 256, 2048):
        if only_rows in (None, rows):
            yield float8_case(rows, device)
    yield from convolution_cases(device)
    yield from attention_cases(device)
    yield float8_cache_case(device)
