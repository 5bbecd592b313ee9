"""Laws of control tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.errors import RequestError
from stentor.text.tags import check_tags, kind_of, nearest, split
from tests.checkpoints import CONTROL_TAGS, SPECIAL_TOKENS

tag_like = st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "<", "|", "prosody:pause", " ", "words"])
texts = st.lists(st.one_of(tag_like, st.text(max_size=5))).map("".join)


@given(texts)
def test_pieces_joined_are_the_text(text: str) -> None:
    pieces = list(split(text, CONTROL_TAGS))
    assert "".join(piece for _, piece in pieces) == text
    assert all(piece for _, piece in pieces)


@given(texts)
def test_tags_are_exactly_the_known_ones(text: str) -> None:
    for is_tag, piece in split(text, CONTROL_TAGS):
        assert is_tag == (piece in CONTROL_TAGS)
        assert is_tag or not any(tag in piece for tag in CONTROL_TAGS)


def test_of_two_tags_at_one_place_the_longer_is_taken() -> None:
    assert list(split("<a><ab>", ["<a", "<a>", "<ab>"])) == [(True, "<a>"), (True, "<ab>")]


@pytest.mark.parametrize("tag", CONTROL_TAGS)
def test_known_tags_pass(tag: str) -> None:
    check_tags(f"Well, {tag}yes.", CONTROL_TAGS)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("<|prosody:puase|>", "<|prosody:pause|>"),
        ("<|laugh|>", "<|sfx:laughter|>"),
        ("<|whisper|>", "<|style:whispering|>"),
        ("<|Prosody:Long_Pause|>", "<|prosody:long_pause|>"),
        ("<| sfx: cough |>", "<|sfx:cough|>"),
        ("<|emotion:angry|>", "<|emotion:anger|>"),
        ("<|speed:slow|>", "<|prosody:speed_slow|>"),
        ("<prosody:pause>", "<|prosody:pause|>"),
        ("<|prosody:pause>", "<|prosody:pause|>"),
    ],
)
def test_a_misspelt_tag_is_refused_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_tags(f"Hello {wrong} there.", CONTROL_TAGS)
    assert wrong in caught.value.message
    assert right in caught.value.message
    assert (caught.value.param, caught.value.code) == ("input", "unknown_tag")
    # What helps in every dialect, also in one without `check_tags`.
    assert caught.value.message.endswith("leave out its < and >")
    check_tags(f"Hello {wrong.strip('<>')} there.", CONTROL_TAGS)


def test_a_name_that_no_tag_resembles_gets_all_of_its_family() -> None:
    with pytest.raises(RequestError, match="elation, amusement") as caught:
        check_tags("<|emotion:hapy|>", CONTROL_TAGS)
    assert "<|emotion:elation|>" in caught.value.message
    assert "cough" not in caught.value.message


@pytest.mark.parametrize("token", [t for t in SPECIAL_TOKENS if t.startswith("<|") and t not in CONTROL_TAGS])
def test_structural_tokens_are_no_control_tags(token: str) -> None:
    with pytest.raises(RequestError, match="no control tag"):
        check_tags(f"a {token} b", CONTROL_TAGS)


def test_a_model_without_tags_says_so() -> None:
    with pytest.raises(RequestError, match="this model knows none"):
        check_tags("<|prosody:pause|>", ())


@pytest.mark.parametrize(
    "text", ["a < b | c > d", "<3", "x |> y", "<|> no", "5 <| 6", "if (a<b) || (c>d)", "a:b <c>"]
)
def test_ordinary_brackets_are_not_tags(text: str) -> None:
    check_tags(text, CONTROL_TAGS)


def test_the_error_names_the_field_that_holds_the_text() -> None:
    with pytest.raises(RequestError) as caught:
        check_tags("<|nope|>", CONTROL_TAGS, param="references")
    assert caught.value.param == "references"


@pytest.mark.parametrize("tag", CONTROL_TAGS)
def test_a_slip_of_two_letters_finds_the_tag_again(tag: str) -> None:
    family, name = tag[2:-2].split(":")
    if len(name) > 5:
        swapped = name[0] + name[2] + name[1] + name[3:]
        assert nearest(f"<|{family}:{swapped}|>", CONTROL_TAGS) == tag


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("<|emotion:anger|>", "emotion"),
        ("<|style:singing|>", "style"),
        ("<|prosody:speed_slow|>", "prosody:speed"),
        ("<|prosody:speed_very_fast|>", "prosody:speed"),
        ("<|prosody:pitch_low|>", "prosody:pitch"),
        ("<|prosody:expressive_high|>", "prosody:expressive"),
        ("<|prosody:long_pause|>", None),
        ("<|sfx:laughter|>", None),
        ("[SPEAKER0]", "[speaker"),
        ("[SPEAKER12]", "[speaker"),
    ],
)
def test_what_excludes_each_other_is_of_one_kind(tag: str, kind: str | None) -> None:
    assert kind_of(tag) == kind
