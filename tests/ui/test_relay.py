import asyncio

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from stentor.ui.relay import Relay, Sound


def test_a_listener_hears_all_of_a_sound_that_grows() -> None:
    async def listen() -> bytes:
        sound, heard = Sound(), bytearray()

        async def hear() -> None:
            async for data in sound:
                heard.extend(data)

        listening = [asyncio.create_task(hear()) for _ in range(2)]
        for number in range(50):
            sound.add(bytes([number]))
            if number % 7 == 0:
                await asyncio.sleep(0)
        sound.end()
        await asyncio.wait_for(asyncio.gather(*listening), 30)
        return bytes(heard)

    assert sorted(asyncio.run(listen())) == sorted(bytes(range(50)) * 2)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def test_a_sound_is_heard_at_its_path_and_no_other(relay: Relay) -> None:
    path, sound = relay.open()
    sound.add(b"RIFF")
    sound.end()
    with TestClient(Starlette(routes=[relay.route])) as browser:
        answer = browser.get(f"/{path}")
        assert (answer.content, answer.headers["Content-Type"]) == (b"RIFF", "audio/wav")
        assert browser.get("/sound/another").status_code == 404


def test_old_sounds_are_let_go(relay: Relay) -> None:
    path, sound = relay.open()
    sound.end()
    for _ in range(16):
        relay.open()[1].end()
    with TestClient(Starlette(routes=[relay.route])) as browser:
        assert browser.get(f"/{path}").status_code == 404
