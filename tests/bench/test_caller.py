"""Laws of the caller, against a server whose every byte is known."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from stentor.bench.caller import Answer, Caller

KEPT = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


async def _posts(answers: Sequence[bytes], *, hangs_up: bool = False) -> tuple[list[Answer], int]:
    """What a caller makes of these answers, one after another, and how many connections it took."""
    waiting = iter(answers)
    connections = 0
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        serving.append(asyncio.current_task())
        while await reader.readline():
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(next(waiting))
            await writer.drain()
            if hangs_up:
                break
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        caller = Caller(f"http://{host}:{port}/speak", timeout_s=30.0)
        try:
            return [await caller.post({"input": "x"}) for _ in answers], connections
        finally:
            caller.close()
            await asyncio.gather(*(task for task in serving if task is not None))


def test_requests_go_over_one_connection_while_the_server_keeps_it() -> None:
    answers, connections = asyncio.run(_posts([KEPT, KEPT, KEPT]))
    assert [b"".join(answer.pieces) for answer in answers] == [b"hello"] * 3
    assert connections == 1


def test_a_connection_that_was_closed_is_made_anew() -> None:
    closing = KEPT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    answers, connections = asyncio.run(_posts([closing, closing], hangs_up=True))
    assert [answer.status for answer in answers] == [200, 200]
    assert connections == 2


def test_pieces_come_in_order_and_the_last_byte_ends_the_time() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    (answer,), _ = asyncio.run(_posts([chunked]))
    assert answer.pieces == [b"he", b"llo"]
    assert 0 < answer.arrived_s[0] <= answer.arrived_s[1] <= answer.total_s


def test_without_a_length_the_connection_ends_the_answer() -> None:
    (answer,), _ = asyncio.run(_posts([b"HTTP/1.1 200 OK\r\n\r\nhello"], hangs_up=True))
    assert b"".join(answer.pieces) == b"hello"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", "hung up"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", "hung up"),
        (b"", "hung up"),
        (b"220 mail.example ESMTP\r\n", "not HTTP"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(answer: bytes, said: str) -> None:
    with pytest.raises(OSError, match=said):
        asyncio.run(_posts([answer], hangs_up=True))


def test_an_answer_that_nobody_waits_for_is_not_the_next_ones() -> None:
    async def run() -> bytes:
        asked, release = asyncio.Event(), asyncio.Event()
        answers, serving = iter((b"first", b"other")), []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.append(asyncio.current_task())
            with contextlib.suppress(ConnectionError):
                while await reader.readline():
                    head, answer = await reader.readuntil(b"\r\n\r\n"), next(answers)
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    asked.set()
                    await release.wait()
                    writer.write(KEPT.replace(b"hello", answer))
                    await writer.drain()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            caller = Caller(f"http://{host}:{port}/speak", timeout_s=30.0)
            given_up = asyncio.ensure_future(caller.post({"input": "x"}))
            await asked.wait()
            given_up.cancel()
            await asyncio.wait([given_up])
            release.set()
            try:
                return b"".join((await caller.post({"input": "y"})).pieces)
            finally:
                caller.close()
                await asyncio.gather(*serving)

    assert asyncio.run(run()) == b"other"
