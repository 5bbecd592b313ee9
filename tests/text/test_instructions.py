import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from stentor.request import ModelInfo, SamplingParams
from stentor.text.instructions import directed, tags_for

EMOTIONS = ("elation", "contentment", "sadness", "anger", "enthusiasm", "affection")
KNOWN = (
    *(f"<|emotion:{name}|>" for name in EMOTIONS),
    *(f"<|style:{name}|>" for name in ("whispering", "singing", "shouting")),
    *(f"<|prosody:{name}|>" for name in ("speed_very_slow", "speed_slow", "speed_fast", "speed_very_fast")),
    *(f"<|prosody:{name}|>" for name in ("pitch_low", "pitch_high", "pause", "expressive_low")),
)


@pytest.mark.parametrize(
    ("instructions", "tags"),
    [
        ("Whisper.", ["style:whispering"]),
        ("Speak in a cheerful and positive tone.", ["emotion:elation"]),
        ("Sound sad, and speak very slowly.", ["emotion:sadness", "prosody:speed_very_slow"]),
        ("slow", ["prosody:speed_slow"]),
        ("Very quickly, in a deep voice", ["prosody:speed_very_fast", "prosody:pitch_low"]),
        ("angry, then calm", ["emotion:anger"]),
        ("A monotone, low-pitched robot", ["prosody:pitch_low", "prosody:expressive_low"]),
        ("<|emotion:anger|> but whisper, with joy", ["emotion:anger", "style:whispering"]),
        ("Don't whisper.", []),
        ("Don’t whisper", []),
        ("not too fast", []),
        ("Don't rush, speak slowly", ["prosody:speed_slow"]),
        ("never sound sad; be friendly", ["emotion:affection"]),
        ("Like a pirate from Cornwall.", []),
        ("Read the content as fascinating", []),
        ("", []),
    ],
)
def test_what_words_ask_for(instructions: str, tags: list[str]) -> None:
    assert list(tags_for(instructions, KNOWN)) == [f"<|{tag}|>" for tag in tags]


def test_a_tag_that_the_model_does_not_know_is_not_asked_for() -> None:
    assert tags_for("Whisper, slowly.", ("<|style:whispering|>",)) == ("<|style:whispering|>",)
    assert tags_for("Whisper, slowly.", ()) == ()


def test_who_reads_instructions_gets_them_beside_the_text() -> None:
    info = ModelInfo("m", "/m", 24_000, 960, 8, 1024, KNOWN, 4096, SamplingParams(), reads_instructions=True)
    assert directed("Hi.", "Whisper.", info) == ("Hi.", "Whisper.", ())
    assert directed("Hi.", " ", info) == ("Hi.", None, ())
    text, instructions, notes = directed("Hi.", "Whisper.", structs.replace(info, reads_instructions=False))
    assert (text, instructions) == ("<|style:whispering|> Hi.", None)
    assert notes == ("instructions are read as <|style:whispering|>",)


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["very", "slow", "not", "sad", "<|", "whisper", "joy"])).map(" ".join)
)
def test_only_known_tags_and_one_of_a_kind_whatever_is_said(instructions: str) -> None:
    tags = tags_for(instructions, KNOWN)
    assert set(tags) <= set(KNOWN)
    assert len(set(tags)) == len(tags)
    assert sum("speed" in tag for tag in tags) <= 1
