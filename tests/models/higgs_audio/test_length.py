"""Laws of the longest plausible speech: above every real reading, below a runaway."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.models.higgs_audio.length import longest_plausible_s
from tests.checkpoints import CONTROL_TAGS

# Texts and how long slow but real readings of them take, in seconds.
SLOW_READINGS = [
    ("Hello", 1.2),
    ("No.", 1.0),
    ("Hello, how are you?", 3.0),
    ("We asked over twenty different people, and they all said it was his.", 7.0),
    ("The quick brown fox jumps over the lazy dog.", 4.5),
    ("Call 1-800-555-0199 now.", 8.0),
    ("It costs $1,234,567.89 in all.", 9.0),
    ("NASA, FBI, HTML.", 5.5),
    ("3.14159265358979", 9.0),
    ("今天天气很好，我们去公园散步吧。", 6.0),
    ("东京都", 2.0),
    ("こんにちは、お元気ですか。", 4.0),
    ("안녕하세요 반갑습니다", 3.5),
    ("สวัสดีครับ ยินดีที่ได้รู้จัก", 4.0),
    ("नमस्ते दुनिया", 2.0),
    ("Привет, как дела?", 2.5),
    ("<|prosody:speed_very_slow|> Yes, it is nine fifteen.", 4.5),
    ("Wait<|prosody:long_pause|> what?", 3.5),
    ("<|sfx:laughter|>Haha", 4.5),
    ("Haha [laugh]", 4.5),
    ("[music]", 10.0),
    ("[humming start] la la la [humming end] See?", 12.0),
]


@pytest.mark.parametrize(("text", "reading_s"), SLOW_READINGS)
def test_a_slow_reading_stays_well_below(text: str, reading_s: float) -> None:
    assert longest_plausible_s(text) >= 1.3 * reading_s


@pytest.mark.parametrize(("text", "reading_s"), SLOW_READINGS)
def test_a_runaway_is_caught_within_four_readings_and_a_few_seconds(text: str, reading_s: float) -> None:
    assert longest_plausible_s(text) <= 4 * reading_s + 5


def test_a_word_may_take_three_seconds() -> None:
    assert longest_plausible_s("Hello") >= 3


def test_a_page_may_be_read_at_ten_letters_a_second() -> None:
    assert longest_plausible_s("a" * 4096) > 4096 / 10


@given(st.text(max_size=200), st.text(max_size=50))
def test_more_text_never_takes_less(text: str, more: str) -> None:
    # A bracket may complete a tag, which is silent where its letters were not.
    first, second = text.replace("|", ""), more.replace("|", "")
    assert longest_plausible_s(first + second) >= longest_plausible_s(first) >= 3


@pytest.mark.parametrize("tag", CONTROL_TAGS)
def test_the_letters_of_a_tag_are_not_spoken(tag: str) -> None:
    assert longest_plausible_s(tag) <= 8


def test_a_slow_tag_stretches_all_of_the_text() -> None:
    plain = longest_plausible_s("a" * 100)
    assert longest_plausible_s("<|prosody:speed_very_slow|>" + "a" * 100) == pytest.approx(plain / 0.65)
