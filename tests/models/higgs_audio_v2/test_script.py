"""Texts and scenes in the words of the model's training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.models.higgs_audio_v2.script import EVENT_TOKENS, cleaned, system_turn

TASK = "Generate audio following instruction."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello", "Hello."),
        ("Hello!", "Hello!"),
        ("It is 20°C (warm)", "It is 20 degrees Celsius warm."),
        ("“你好，世界。”", '"你好, 世界."'),
        (
            "[laugh] Oh, [music start] la [music end]",
            "<SE>[Laughter]</SE> Oh, <SE_s>[Music]</SE_s> la <SE_e>[Music]</SE_e>",
        ),
        ("[SPEAKER0] Hi\n\n  \n[SPEAKER1]  Ho ", "[SPEAKER0] Hi\n[SPEAKER1] Ho."),
        ("[unknown] thing", "[unknown] thing."),
    ],
)
def test_a_text_is_said_in_signs_that_the_model_knows(text: str, said: str) -> None:
    assert cleaned(text) == said


@given(st.text(min_size=1).filter(str.strip))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = cleaned(text)
    assert cleaned(once) == once
    assert once.strip()


def test_events_are_closed_by_their_own_tokens() -> None:
    said = cleaned("".join(f"[{name}]" for name in ("laugh", "humming start", "sing end", "cough")))
    assert [token for token in EVENT_TOKENS if token in said] == list(EVENT_TOKENS)


def test_a_text_alone_is_said_in_a_quiet_room() -> None:
    assert system_turn(None, "Hi.", has_reference=False) == (TASK, "Audio is recorded from a quiet room.")
    assert system_turn("  ", "Hi.", has_reference=True) == (TASK, "Audio is recorded from a quiet room.")


def test_instructions_are_the_scene() -> None:
    assert system_turn("She is happy.", "Hi.", has_reference=False) == (TASK, "She is happy.")


def test_a_whole_turn_is_taken_apart() -> None:
    whole = "Speak.\n\n<|scene_desc_start|>\nA soft whisper.\n<|scene_desc_end|>"
    assert system_turn(whole, "Hi.", has_reference=False) == ("Speak.", "A soft whisper.")
    assert system_turn("<|scene_desc_start|>A cave.", "Hi.", has_reference=False) == (TASK, "A cave.")


def test_several_speakers_get_voices_in_turn() -> None:
    text = "[SPEAKER10] Hi.\n[SPEAKER0] Ho.\n[SPEAKER2] Hm.\n[SPEAKER0] Yes."
    task, scene = system_turn("At sea.", text, has_reference=False)
    assert task.startswith("You are an AI assistant designed to convert text into speech.\nIf the user's")
    assert scene == "At sea.\n\nSPEAKER0: feminine\nSPEAKER2: masculine\nSPEAKER10: feminine"
    # Who describes a speaker is heeded, and one voice that is known says all.
    described = system_turn("SPEAKER2: a child", text, has_reference=False).scene
    assert described == "SPEAKER2: a child\n\nSPEAKER0: feminine\nSPEAKER10: feminine"
    assert system_turn(None, text, has_reference=True).task == TASK
    assert system_turn(None, "[SPEAKER0] Hi.", has_reference=False).task == TASK
