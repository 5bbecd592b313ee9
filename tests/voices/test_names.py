import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.errors import RequestError
from stentor.voices.names import MAX_CHARS, check_name, is_id, new_id, skeleton


@pytest.mark.parametrize(
    "name", ["Rosa", "rosa 2", "Großmutter", "小明", "अदिति", "J.R. Smith-Jones", "a", "x" * 64]
)
def test_names_of_any_script_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            " ",
            "../rosa",
            "a/b",
            "a\\b",
            ".rosa",
            "rosa.",
            " rosa",
            "rosa ",
            "-x",
            "a\0b",
            "a\nb",
            "x" * 65,
        ],
        *["rosa\u200b", "\u202erosa", "a<b>", "rosa\ud800", "\u0301a", "😀", "voice_0123456789abcdef0123"],
    ],
)
def test_what_is_no_name_is_refused_in_words(name: str) -> None:
    with pytest.raises(RequestError, match="name") as caught:
        check_name(name)
    assert (caught.value.param, caught.value.code) == ("name", "invalid_voice_name")


@given(st.text(max_size=80))
def test_a_name_that_passes_can_do_no_harm(text: str) -> None:
    try:
        name = check_name(text)
    except RequestError:
        return
    assert name == check_name(name)
    assert 1 <= len(name) <= MAX_CHARS
    assert not {"/", "\\", "\0"} & set(name)
    assert not name.startswith(".")
    assert not any(unicodedata.category(character)[0] in "CZ" and character != " " for character in name)


def test_a_composed_and_a_decomposed_name_are_one() -> None:
    assert check_name("Jose\u0301") == "José"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Rosa", "rosa"),
        ("rosa", "rоsa"),
        ("rosa-1", "Rosa 1"),
        ("ｒｏｓａ", "rosa"),
        ("STRASSE", "straße"),
        ("AB", "АВ"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


def test_names_that_do_not_look_alike_have_two() -> None:
    names = ["rosa", "rosa1", "rosa2", "otto", "小明", "小明2"]
    assert len({skeleton(name) for name in names}) == len(names)


def test_an_id_is_known_as_one() -> None:
    assert is_id(new_id())
    assert new_id() != new_id()
    assert not is_id("rosa")
