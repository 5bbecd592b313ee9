"""What a user does on the page at `/`, in a browser: speak, clone, record, keep a voice, err, download."""

from pathlib import Path
from typing import Any

import pytest

from tests.sound import read_wav

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def expect() -> Any:
    return pytest.importorskip("playwright.sync_api").expect


def opened(page: Any, expect: Any, url: str) -> Any:
    page.goto(url)
    expect(page.locator("#model")).to_have_text("stentor-tiny")
    return page


def test_a_text_is_heard_seen_and_downloaded(page: Any, expect: Any, server: str, tmp_path: Path) -> None:
    opened(page, expect, server)
    page.fill("#seed", "7")
    # By keyboard alone.
    page.focus("#text")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#status")).to_have_text("Done.")
    for figure in ("ttfa", "rtf", "length", "used"):
        assert float(page.inner_text(f"#{figure}").removesuffix(" s")) > 0
    assert page.inner_text("#used") == "7"
    painted = "document.getElementById('spectrum').getContext('2d').getImageData(0, 0, 600, 170).data"
    assert page.evaluate(f"() => new Set({painted}).size") > 50
    with page.expect_download() as download:
        page.get_by_role("link", name="Download WAV").click()
    download.value.save_as(tmp_path / "said.wav")
    waveform, rate_hz = read_wav(tmp_path / "said.wav")
    assert len(waveform) / rate_hz == pytest.approx(float(page.inner_text("#length")[:-2]), abs=0.01)
    assert page.problems == []


def test_a_tag_is_put_in_at_the_cursor_by_keyboard(page: Any, expect: Any, server: str) -> None:
    opened(page, expect, server)
    page.fill("#text", "Hello.")
    page.focus("#text")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.input_value("#text") == "<|emotion:amusement|>Hello."


def test_a_recording_becomes_a_voice_is_renamed_and_removed(
    page: Any, expect: Any, server: str, recording: Path
) -> None:
    opened(page, expect, server)
    page.on("dialog", lambda dialog: dialog.accept("Otto" if dialog.type == "prompt" else None))
    page.get_by_text("Clone a voice").click()
    page.set_input_files("#file", recording)
    page.fill("#name", "Rosa")
    page.get_by_role("button", name="Keep as a voice").click()
    expect(page.locator("#error")).to_contain_text("speaker agrees")
    page.check("#consent")
    page.get_by_role("button", name="Keep as a voice").click()
    expect(page.locator("#voice option:checked")).to_have_text("Rosa")
    page.get_by_text("Your voices").click()
    page.get_by_role("button", name="Listen Rosa").click()
    expect(page.locator("#status")).to_have_text("Done.")
    page.get_by_role("button", name="Rename Rosa").click()
    expect(page.locator("#voice option:checked")).to_have_text("Otto")
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#history li")).to_contain_text("Otto · seed")
    page.get_by_role("button", name="Remove Otto").click()
    expect(page.locator("#voice option", has_text="Otto")).to_have_count(0)
    assert page.problems == []


def test_the_microphone_is_a_reference(page: Any, expect: Any, server: str) -> None:
    opened(page, expect, server)
    page.get_by_text("Clone a voice").click()
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#record")).to_have_text("End recording")
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="End recording").click()
    expect(page.locator("#status")).to_have_text("Recorded.")
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#history li")).to_contain_text("cloned voice")


def test_errors_are_the_servers_words(page: Any, expect: Any, server: str) -> None:
    opened(page, expect, server)
    page.fill("#text", "<|emotion:nonsense|> hello")
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#error")).to_contain_text("<|emotion:nonsense|> is no control tag")
    expect(page.locator("#status")).to_have_text("That did not work.")
