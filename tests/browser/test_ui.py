"""What a user does on the page in Gradio, in a browser: speak, clone, keep a voice, err."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import running

pytest.importorskip("gradio", reason="the page is an extra: pip install 'stentor[ui]'")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ui(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ("ui", "--ui-port", str(port), "--server-url", server)
    with running(*command, data=tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture
def expect(page: Any, ui: str) -> Any:
    """The page is open, and asks nobody but its own server."""
    expect = pytest.importorskip("playwright.sync_api").expect
    foreign: list[str] = []
    page.on("request", lambda asked: foreign.append(asked.url))
    page.goto(ui)
    expect(page.get_by_text("stentor-tiny")).to_be_visible()
    assert [url for url in foreign if not url.startswith((ui, "data:", "blob:"))] == []
    return expect


def test_a_text_is_heard_seen_and_remembered(page: Any, expect: Any) -> None:
    page.get_by_role("textbox", name="Seed").fill("7")
    # By keyboard alone.
    page.get_by_role("textbox", name="Text").focus()
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#status")).to_contain_text("real-time factor (RTF)")
    expect(page.locator("#status")).to_contain_text("seed 7")
    page.wait_for_function("() => document.querySelector('#player audio').currentTime > 0.5")
    assert page.evaluate("() => document.querySelector('#player audio').error") is None
    expect(page.get_by_text("default · ")).to_be_visible()
    expect(page.get_by_label("Download").first).to_be_visible()
    assert page.problems == []


def test_a_tag_is_put_in_at_the_cursor(page: Any, expect: Any) -> None:
    text = page.get_by_role("textbox", name="Text")
    text.fill("Hello.")
    text.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Tags").click()
    page.get_by_role("button", name="whispering").click()
    expect(text).to_have_value("<|style:whispering|>Hello.")


def test_a_recording_becomes_a_voice(page: Any, expect: Any, recording: Path) -> None:
    page.get_by_role("button", name="Clone a voice").click()
    page.locator("input[type=file]").first.set_input_files(recording)
    expect(page.get_by_label("Remove").or_(page.get_by_label("Clear")).first).to_be_visible()
    page.get_by_role("textbox", name="Name, to keep it as a voice").fill("Lena")
    page.get_by_role("button", name="Keep as a voice").click()
    expect(page.locator("#status")).to_contain_text("speaker agrees")
    page.get_by_role("checkbox", name="The speaker agrees to it").check()
    page.get_by_role("button", name="Keep as a voice").click()
    expect(page.locator("#status")).to_contain_text("Lena is kept")
    page.get_by_role("button", name="The chosen voice").click()
    page.get_by_role("button", name="Listen").click()
    expect(page.locator("#status")).to_contain_text("This is Lena.")
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Removed.")


def test_errors_are_the_servers_words(page: Any, expect: Any) -> None:
    page.get_by_role("textbox", name="Text").fill("<|emotion:nonsense|> hello")
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#status")).to_contain_text("<|emotion:nonsense|> is no control tag")
