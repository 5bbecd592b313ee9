import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.text.parts import parts_of, usual_s
from stentor.text.tags import split

TAGS = (
    *("<|emotion:anger|>", "<|emotion:awe|>", "<|style:whispering|>", "<|sfx:laughter|>"),
    *("<|prosody:speed_slow|>", "<|prosody:pitch_low|>", "<|prosody:pause|>"),
)

texts = st.lists(
    st.sampled_from(
        [*TAGS, "Good morning. ", "How are you? ", "Dr. Who lives at no. 3.", " ", "你好。", "well, "]
    )
    | st.text(max_size=6),
    max_size=12,
).map("".join)


def spoken(text: str) -> str:
    """What is said of it, without spaces and tags."""
    return "".join("".join(piece for is_tag, piece in split(text, TAGS) if not is_tag).split())


@given(text=texts, max_chars=st.integers(1, 60))
def test_what_is_said_is_all_there_once_and_in_order(text: str, max_chars: int) -> None:
    parts = parts_of(text, max_chars, TAGS)
    assert "".join(spoken(part) for part in parts) == spoken(text)


@given(text=texts, max_chars=st.integers(1, 60))
def test_every_tag_of_the_text_is_told_and_no_other(text: str, max_chars: int) -> None:
    told = [
        piece for part in parts_of(text, max_chars, TAGS) for is_tag, piece in split(part, TAGS) if is_tag
    ]
    written = [piece for is_tag, piece in split(text, TAGS) if is_tag]
    assert set(told) == set(written)
    # Effects and pauses are not repeated.
    for tag in ("<|sfx:laughter|>", "<|prosody:pause|>"):
        assert told.count(tag) == written.count(tag)


def test_one_sentence_to_a_part() -> None:
    text = "Dr. Who lives at no. 3. Good morning, sir!  How are you?"
    assert parts_of(text, 1, TAGS) == ["Dr. Who lives at no. 3.", "Good morning, sir!", "How are you?"]


def test_as_many_sentences_as_there_is_room_for() -> None:
    text = "One two three four. Two three four five. Three four five six."
    assert parts_of(text, 45, TAGS) == ["One two three four. Two three four five.", "Three four five six."]
    assert parts_of(text, 1_000, TAGS) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "<|emotion:anger|> Get out of here. Leave me alone. <|emotion:awe|> What a view that is.",
            [
                "<|emotion:anger|> Get out of here.",
                "<|emotion:anger|> Leave me alone.",
                "<|emotion:awe|> What a view that is.",
            ],
        ),
        (
            "<|prosody:speed_slow|> <|prosody:pitch_low|> It was very dark. <|sfx:laughter|> Nobody came.",
            [
                "<|prosody:speed_slow|> <|prosody:pitch_low|> It was very dark.",
                "<|prosody:speed_slow|> <|prosody:pitch_low|> <|sfx:laughter|> Nobody came.",
            ],
        ),
    ],
)
def test_a_manner_holds_on_until_another_of_its_kind(text: str, parts: list[str]) -> None:
    assert parts_of(text, 1, TAGS) == parts


def test_what_says_nothing_stays_with_what_it_follows() -> None:
    assert parts_of("Good morning to you. <|sfx:laughter|> ...", 1, TAGS) == [
        "Good morning to you. <|sfx:laughter|> ..."
    ]


def test_what_says_nothing_at_the_beginning_stays_with_what_follows() -> None:
    assert parts_of("\n" * 600 + "Good morning to you.", 1, TAGS) == ["Good morning to you."]
    line = "-" * 600 + "\n"
    assert parts_of(line + "Good morning to you. How are you?", 1, TAGS) == [
        line + "Good morning to you.",
        "How are you?",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("abcde " * 3, 1), ("今天天气好", 1), ("1,234.", 2), ("Straße", 0.4), ("привет мир", 0.6)],
)
def test_a_usual_voice_takes_its_time_for_letters_ideographs_and_signs(text: str, seconds: float) -> None:
    assert usual_s(text) == pytest.approx(seconds)
