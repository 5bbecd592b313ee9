"""Laws of the splitter: nothing lost, nothing invented, no cut where none belongs, portions do not matter."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.text.sentences import SentenceSplitter

TAG = re.compile(r"<\|[^<>|]{0,80}\|>")
FRAGMENTS = st.sampled_from(
    [
        *("Hello there", "Dr. ", "Smith", " 3.14", "1,000", "e.g. ", "https://example.com/a?b=c.d ", "U.S. "),
        *(
            ". ",
            "? ",
            "! ",
            "... ",
            "\n",
            "\n\n",
            ", ",
            "; ",
            '"',
            "(",
            ") ",
            "a",
            " ",
            "\t",
            "é",
            "🙂",
            "\u0301",
        ),
        *("。", "！", "，", "你好吗", "我是小明", "नमस्ते। "),
        *("<|prosody:pause|>", "<|emotion:joy|> ", "<|", "|>", "<"),
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=8), max_size=60).map("".join)
KINDS = st.sampled_from(["sentence", "clause", "none"])


def pieces(text: str, *, portion: int = 10**6, **options: object) -> list[str]:
    splitter = SentenceSplitter(**options)
    portions = [text[at : at + portion] for at in range(0, len(text), portion)]
    return [*(piece for part in portions for piece in splitter.feed(part)), *splitter.flush()]


@given(TEXTS, KINDS, st.integers(1, 40), st.integers(20, 200))
def test_pieces_joined_are_the_text_whatever_the_portions(
    text: str, kind: str, portion: int, max_chars: int
) -> None:
    whole = pieces(text, granularity=kind, max_chars=max_chars)
    assert "".join(whole) == text
    assert all(whole)
    assert pieces(text, portion=portion, granularity=kind, max_chars=max_chars) == whole


@given(TEXTS, KINDS, st.integers(100, 200))
def test_no_tag_is_cut_and_the_buffer_is_bounded(text: str, kind: str, max_chars: int) -> None:
    found = pieces(text, portion=1, granularity=kind, max_chars=max_chars)
    assert [tag for piece in found for tag in TAG.findall(piece)] == TAG.findall(text)
    if kind != "none":
        assert max(map(len, found), default=0) <= max_chars
    splitter = SentenceSplitter(kind, max_chars=max_chars)
    splitter.feed(text)
    assert kind == "none" or splitter.num_held <= max_chars


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello my world. This is it", ["Hello my world. ", "This is it"]),
        ("Hello my world. This", ["Hello my world. This"]),
        ("Is it really so? Yes! It is so.", ["Is it really so? ", "Yes! It is so."]),
        ("I met Dr. Smith at 3.14 p.m. We spoke.", ["I met Dr. Smith at 3.14 p.m. ", "We spoke."]),
        ("See https://Example.Com/a.B?c. It is good.", ["See https://Example.Com/a.B?c. ", "It is good."]),
        ("He said: “Come with me!” Then he went.", ["He said: “Come with me!” ", "Then he went."]),
        ("It costs $3.50. That is 1,000.5 yen.", ["It costs $3.50. ", "That is 1,000.5 yen."]),
        ("你好，我是小明。你在哪里？我在家。", ["你好，我是小明。", "你在哪里？", "我在家。"]),
        ("Wait for me... then go.", ["Wait for me... then go."]),
        ("A paragraph ends\n\nAnother begins", ["A paragraph ends\n\n", "Another begins"]),
        ("Good evening. <|emotion:joy|>We won!", ["Good evening. ", "<|emotion:joy|>We won!"]),
        ("Good evening.<|prosody:pause|> We won!", ["Good evening.", "<|prosody:pause|> We won!"]),
        ("The <|sfx:a.b! c|> tag is whole. Yes it is", ["The <|sfx:a.b! c|> tag is whole. ", "Yes it is"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_a_sentence_waits_until_its_end_is_certain() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("It costs three dollars and 3.") == []
    assert splitter.feed(" ") == []
    assert splitter.feed("Then") == []
    assert splitter.feed(" we") == ["It costs three dollars and 3. "]
    assert splitter.num_held == len("Then we")
    assert splitter.flush() == ["Then we"]
    assert splitter.flush() == []


def test_a_short_sentence_goes_with_the_next() -> None:
    assert pieces("Yes. I know that. 1. A cat.") == ["Yes. I know that. ", "1. A cat."]


def test_clauses_end_pieces_where_asked_for() -> None:
    text = "When it was dark outside, we went home; nobody saw us."
    assert pieces(text) == [text]
    expected = ["When it was dark outside, ", "we went home; ", "nobody saw us."]
    assert pieces(text, granularity="clause") == expected
    assert pieces("One thing. Another thing.", granularity="none") == ["One thing. Another thing."]


def test_an_endless_sentence_is_cut_between_words() -> None:
    text = "word " * 100 + "<|prosody:pause|>" + "x" * 300
    cut = pieces(text, max_chars=120)
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 120
    assert all(piece.endswith(" ") for piece in cut[:4])


def test_the_abbreviations_are_those_of_the_language() -> None:
    german = "Wir sehen uns am 3. Mai in der Stadt. Ja, z. B. Das passt."
    assert pieces(german, language="de")[0] == "Wir sehen uns am 3. Mai in der Stadt. "
    assert pieces(german, language="tlh")[0] != ""


def test_no_cut_lies_between_the_letters_of_several_tags() -> None:
    text = "。<|prosody:pause|><|prosody:pause|>Hello there"
    assert all(piece.count("<|") == piece.count("|>") for piece in pieces(text, portion=1))
