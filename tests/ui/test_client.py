"""Laws of the page's client, in front of the real HTTP layer and a fake pipeline."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from stentor.audio.formats import encode_file, to_pcm16
from stentor.errors import RequestError
from stentor.server.app import create_app
from stentor.ui.client import Client, Speaking
from tests.server.conftest import Front, Running, front_and_port, serve  # noqa: F401
from tests.server.fakes import INFO, RATE, config, say, sound, tone, voices
from tests.server.test_voices import make_voices

Result = TypeVar("Result")


def run(work: Callable[[Client], Coroutine[Any, Any, Result]], url: str, key: str = "") -> Result:
    async def whole() -> Result:
        client = Client(url, key)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(whole())


@pytest.fixture
def server(serve: Callable[..., Running], front_and_port: tuple[Front, int], tmp_path: Path) -> Running:  # noqa: F811
    running = serve(make_voices)
    store = voices(tmp_path)
    front_and_port[0].app = create_app(running.pipeline, INFO, store, config())  # type: ignore[arg-type]
    return running


async def spoken(client: Client, **order: Any) -> tuple[bytes, Speaking]:
    data = b""
    async with client.say({"input": "Hello.", **order}) as speaking:
        async for piece in speaking:
            data += piece
    return data, speaking


def test_a_text_comes_as_a_wav_file_with_its_samples_and_figures(server: Running) -> None:
    data, speaking = run(lambda client: spoken(client, seed=7), server.url)
    assert data[:4] == b"RIFF"
    assert bytes(speaking.pcm) == data[44:] == to_pcm16(tone(1.0))
    assert (speaking.seed, speaking.sample_rate_hz, speaking.duration_s) == ("7", RATE, 1.0)
    assert speaking.ttfa_s is not None
    assert speaking.rtf is not None
    assert 0 < speaking.ttfa_s <= speaking.rtf


def test_the_header_is_no_sound_however_it_is_cut() -> None:
    class Response:
        headers = {}  # noqa: RUF012

        async def aiter_bytes(self) -> Any:
            file = encode_file(tone(0.1), "wav", RATE)
            for at in range(0, len(file), 7):
                yield file[at : at + 7]

    async def read() -> bytes:
        speaking = Speaking(Response(), 0.0, RATE)  # type: ignore[arg-type]
        async for _ in speaking:
            pass
        return bytes(speaking.pcm)

    assert asyncio.run(read()) == to_pcm16(tone(0.1))


def test_a_voice_is_kept_heard_renamed_and_removed(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "me.wav"
    path.write_bytes(encode_file(tone(1.0), "wav", RATE))

    async def work(client: Client) -> list[Any]:
        made = await client.keep("Rosa", str(path), "What I say.")
        before = [voice["name"] for voice in await client.voices()]
        renamed = await client.rename(made["id"], "Rosalind")
        heard = await client.preview(made["id"])
        await client.remove("Rosalind")
        return [made["transcript"], before, renamed["name"], heard[:4], len(await client.voices())]

    assert run(work, server.url) == ["What I say.", ["default", "Rosa"], "Rosalind", b"RIFF", 1]


def test_the_model_is_told(server: Running) -> None:
    model = run(lambda client: client.model(), server.url)
    assert (model["id"], model["control_tags"]) == (INFO.name, list(INFO.control_tags))


def test_errors_are_the_servers_words(server: Running) -> None:
    with pytest.raises(RequestError, match="There is no voice 'otto'"):
        run(lambda client: spoken(client, voice="otto"), server.url)
    with pytest.raises(RequestError, match="There is no voice 'otto'"):
        run(lambda client: client.remove("otto"), server.url)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for ask in (lambda client: client.model(), spoken):
        with pytest.raises(RequestError, match=f"{url} cannot be reached"):
            run(ask, url)


def test_a_broken_connection_is_told(serve: Callable[..., Running]) -> None:  # noqa: F811
    def breaks(_: object) -> Any:
        yield sound(0.2)
        yield RuntimeError("oops")

    server = serve(breaks)
    with pytest.raises(RequestError, match="broke before all was said"):
        run(spoken, server.url)


def test_leaving_stops_the_generation(serve: Callable[..., Running]) -> None:  # noqa: F811
    server = serve(say(5.0, delay_s=0.05))

    async def leave(client: Client) -> None:
        async with client.say({"input": "Hello."}) as speaking:
            async for _ in speaking:
                break

    run(leave, server.url)
    server.pipeline.wait_until(lambda: not server.pipeline.open, 30)


def test_the_key_is_sent(serve: Callable[..., Running], front_and_port: tuple[Front, int]) -> None:  # noqa: F811
    running = serve()
    locked = config({"api_keys": "a-long-secret"})
    front_and_port[0].app = create_app(running.pipeline, INFO, voices(), locked)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="API key is missing"):
        run(lambda client: client.model(), running.url)
    assert run(lambda client: client.model(), running.url, "a-long-secret")["id"] == INFO.name
    assert np.all(run(lambda client: client.voices(), running.url, "a-long-secret"))
