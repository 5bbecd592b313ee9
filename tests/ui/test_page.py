"""Laws of the page in Gradio: what its handlers tell, in front of the real HTTP layer and a fake pipeline."""

import asyncio
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page is an extra: pip install 'stentor[ui]'")

from stentor.audio.formats import encode_file, to_pcm16
from stentor.server.app import create_app
from stentor.ui.client import Client
from stentor.ui.page import Page, _order
from stentor.ui.relay import Relay
from tests.server.conftest import Front, Running, front_and_port, serve  # noqa: F401
from tests.server.fakes import INFO, RATE, config, tone, voices
from tests.server.test_voices import make_voices

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Gradio's own.


@pytest.fixture
def server(serve: Callable[..., Running], front_and_port: tuple[Front, int], tmp_path: Path) -> Running:  # noqa: F811
    running = serve(make_voices)
    store = voices(tmp_path)
    front_and_port[0].app = create_app(running.pipeline, INFO, store, config())  # type: ignore[arg-type]
    return running


@pytest.fixture
def ask(server: Running) -> Iterator[Callable[..., Any]]:
    """Run one handler of a page to its end: its answer, or all of them."""
    opened: list[Page] = []

    def run(name: str, *given: Any) -> Any:
        async def whole() -> Any:
            client = Client(server.url)
            opened.append(Page(client, Relay()))
            handler = getattr(opened[-1], name)(*given)
            try:
                return [a async for a in handler] if hasattr(handler, "__aiter__") else await handler
            finally:
                await client.close()

        return asyncio.run(whole())

    yield run
    for page in opened:
        page.close()


def test_a_text_is_heard_drawn_and_remembered(ask: Callable[..., Any], server: Running) -> None:
    updates = ask("_speak", "Hello.", "default", "7", "0.5", None, "", [])
    assert updates[0][0].startswith("Waiting")
    assert any(isinstance(update[1], str) and "<audio controls autoplay" in update[1] for update in updates)
    status, _, picture, history = updates[-1]
    assert "TTFA" in status
    assert "RTF" in status
    assert "seed 7" in status
    assert picture.std() > 0
    ((text, facts, path),) = history
    assert (text, facts.startswith("default · 1.00 s")) == ("Hello.", True)
    with wave.open(path) as file:
        assert file.readframes(RATE * 2) == to_pcm16(tone(1.0))
    assert server.pipeline.requests[-1].sampling.temperature == 0.5


def test_the_history_has_an_end(ask: Callable[..., Any], tmp_path: Path) -> None:
    old = [(f"old {number}", "", str(tmp_path / f"{number}.wav")) for number in range(10)]
    for *_, path in old:
        Path(path).touch()
    history = ask("_speak", "Hello.", "default", "", "", None, "", old)[-1][3]
    assert [text for text, *_ in history] == ["Hello.", *(f"old {number}" for number in range(9))]
    assert [Path(path).exists() for *_, path in old] == [True] * 9 + [False]


def test_a_recording_takes_the_place_of_the_voice(
    ask: Callable[..., Any], server: Running, tmp_path: Path
) -> None:
    path = tmp_path / "me.wav"
    path.write_bytes(encode_file(tone(1.0), "wav", RATE))
    history = ask("_speak", "Hello.", "default", "", "", str(path), "What I say.", [])[-1][3]
    reference = server.pipeline.requests[-1].reference
    assert reference is not None
    assert reference.text == "What I say."
    assert str(reference.audio).startswith("data:")
    assert history[0][1].startswith("cloned voice")


def test_a_voice_is_kept_only_with_a_recording_and_consent(
    ask: Callable[..., Any], server: Running, tmp_path: Path
) -> None:
    path = tmp_path / "me.wav"
    path.write_bytes(encode_file(tone(1.0), "wav", RATE))
    assert "recording first" in ask("_keep", "Rosa", None, "", True)[0]
    assert "speaker agrees" in ask("_keep", "Rosa", str(path), "", False)[0]
    told, voices, *cleared = ask("_keep", "Rosa", str(path), "", True)
    assert told == "Rosa is kept: 0.00 s of speech." or told.startswith("Rosa is kept")
    assert [name for name, _ in voices.choices] == ["default", "Rosa"]
    assert cleared == ["", None, "", False]
    assert "This is Rosa." in ask("_listen", voices.value)[0]
    assert "Otto" in ask("_rename", voices.value, "Otto")[0]
    assert ask("_remove", voices.value)[0] == "Removed."


@pytest.mark.parametrize(
    ("handler", "given"),
    [
        ("_speak", ("", "default", "", "", None, "", [])),
        ("_speak", ("Hello.", "otto", "", "", None, "", [])),
        ("_speak", ("Hello.", "default", "one", "", None, "", [])),
        ("_listen", ("otto",)),
        ("_rename", ("default", "Rosa")),
        ("_remove", ("otto",)),
    ],
)
def test_errors_are_told_in_words(ask: Callable[..., Any], handler: str, given: tuple[Any, ...]) -> None:
    answer = ask(handler, *given)
    status = (answer[-1] if isinstance(answer, list) else answer)[0]
    assert status.startswith("**That did not work.** ")
    assert len(status) > 40


def test_a_text_in_an_error_is_no_markup(ask: Callable[..., Any]) -> None:
    assert "<img" not in ask("_remove", "<img src=x>")[0]


def test_nothing_is_sent_that_was_not_given() -> None:
    assert _order("Hello.", "Rosa", " ", "", None, "ignored") == {"input": "Hello.", "voice": "Rosa"}


def test_the_page_opens_with_the_model_its_tags_and_voices(ask: Callable[..., Any]) -> None:
    title, tags, voices, status = ask("_load")
    assert INFO.name in title
    assert tags == list(INFO.control_tags)
    assert voices.choices == [("default", "default")]
    assert status == "Ready."


def test_every_control_has_a_label() -> None:
    async def built() -> Any:
        return page.build()

    page = Page(Client("http://127.0.0.1:1"), Relay())
    # In a running loop: without one Gradio opens loops of its own, and closes none.
    blocks = asyncio.run(built())
    page.close()
    controls = [
        c for c in blocks.blocks.values() if type(c).__name__ in ("Textbox", "Dropdown", "Audio", "Checkbox")
    ]
    assert len(controls) == 9
    assert all(control.label for control in controls)
