"""Laws of the load generator, against a server whose every byte and pause is known."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from stentor.bench.client import Target, check_reachable, measure, run_level
from stentor.errors import ConfigError

Handler = Callable[[dict[str, object], asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """An HTTP/1.1 server on loopback that answers each POST by `handler`, one request per connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        await handler(json.loads(await reader.readexactly(length)), writer)
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def send(writer: asyncio.StreamWriter, status: str, pieces: list[bytes], pause_s: float = 0.0) -> None:
    writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n".encode())
    for piece in pieces:
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        await asyncio.sleep(pause_s)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def test_a_level_says_every_text_once_and_never_more_at_a_time_than_asked() -> None:
    seen: list[object] = []
    under_way = most = 0

    async def handler(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        seen.append(body["input"])
        await send(writer, "200 OK", [b"\0\0" * 2400] * 2, pause_s=0.02)
        under_way -= 1

    async def run() -> None:
        async with server(handler) as url:
            level = await run_level(Target(url, "some-model"), [f"text {i}" for i in range(6)], 3)
        assert not level.errors
        assert len(level.timings) == 6
        assert {round(timing.audio_s, 6) for timing in level.timings} == {0.2}
        assert all(timing.total_s >= timing.first_s > 0 for timing in level.timings)

    asyncio.run(run())
    assert sorted(map(str, seen)) == [f"text {i}" for i in range(6)]
    assert most == 3


def test_the_body_asks_for_streamed_pcm_and_carries_the_extras() -> None:
    body = Target("http://x", "m", "v", extra={"seed": 3}).body("Hello.")
    assert body == {
        "model": "m",
        "input": "Hello.",
        "voice": "v",
        "response_format": "pcm",
        "stream": True,
        "seed": 3,
    }
    assert "model" not in Target("http://x").body("Hello.")


def test_errors_and_silence_are_counted_not_measured() -> None:
    async def handler(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        if body["input"] == "full":
            await send(writer, "503 Service Unavailable", [b"try later"])
        else:
            await send(writer, "200 OK", [])

    async def run() -> None:
        async with server(handler) as url:
            level = await run_level(Target(url), ["full", "silent"], 1)
        assert not level.timings
        assert "503" in level.errors[0]
        assert "try later" in level.errors[0]
        assert "without audio" in level.errors[1]

    asyncio.run(run())


def test_nobody_there_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="does not speak"):
        check_reachable(Target("http://127.0.0.1:9", timeout_s=5))
    with pytest.raises(ConfigError, match="begins with http"):
        check_reachable(Target("127.0.0.1:9", timeout_s=5))


def test_a_listener_runs_dry_when_a_chunk_comes_after_its_time() -> None:
    half_second = 24_000  # bytes
    smooth = measure([(1.0, half_second), (1.4, half_second), (1.9, half_second)], 2.0, 24_000)
    assert (smooth.first_s, smooth.underruns) == (1.0, 0)
    assert smooth.audio_s == pytest.approx(1.5)
    assert smooth.gaps_s == pytest.approx((0.4, 0.5))
    late = measure([(1.0, half_second), (1.8, half_second)], 2.0, 24_000)
    assert late.underruns == 1
    assert late.starved_s == pytest.approx(0.3)
