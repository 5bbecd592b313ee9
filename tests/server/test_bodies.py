from typing import Any, get_args

import pytest
from pydantic import ValidationError

from stentor.audio.formats import FORMATS
from stentor.config import ServerConfig
from stentor.server.bodies import FIELDS, FOREIGN_FIELDS, FormatName, ReferenceBody, SpeechBody


def read(**body: Any) -> SpeechBody:
    return SpeechBody.model_validate({"input": "Hello.", **body})


def test_the_schema_lists_the_formats_that_there_are() -> None:
    assert get_args(FormatName) == tuple(FORMATS)
    assert get_args(ServerConfig.__annotations__["default_format"]) == tuple(FORMATS)


def test_every_field_is_documented() -> None:
    for body in (SpeechBody, ReferenceBody):
        assert [name for name, field in body.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "inner",
    [
        {"extra_params": {"temperature": 0.5, "top_k": 7}},
        {"stage_params": {"engine": {"temperature": 0.5, "top_k": 7}}},
    ],
)
def test_inner_fields_count_as_if_they_stood_outside(inner: dict[str, Any]) -> None:
    assert (read(**inner).temperature, read(**inner).top_k) == (0.5, 7)
    assert read(**inner, temperature=None).temperature == 0.5
    assert read(**inner, temperature=0.5).temperature == 0.5
    with pytest.raises(ValidationError, match="temperature is given twice"):
        read(**inner, temperature=0.7)


@pytest.mark.parametrize(
    "inner", [{"extra_params": {"tempo": 1}}, {"stage_params": {"engine": {"tempo": 1}}}]
)
def test_an_unknown_inner_field_is_no_more_ignored_than_an_outer_one(inner: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        read(**inner)


@pytest.mark.parametrize(
    "inner", [{"extra_params": [1]}, {"stage_params": {"engine": 1}}, {"stage_params": 1}]
)
def test_inner_fields_must_be_objects(inner: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**inner)


@pytest.mark.parametrize("name", sorted(FOREIGN_FIELDS))
def test_a_field_of_other_models_may_only_ask_for_nothing(name: str) -> None:
    read(**{name: None}, extra_params={name: False})
    for body in ({name: True}, {name: 0.5}, {"extra_params": {name: "x"}}):
        with pytest.raises(ValidationError):
            read(**body)


def test_no_field_of_ours_is_called_foreign() -> None:
    assert not FOREIGN_FIELDS & set(FIELDS)


def test_a_speaker_is_a_voice() -> None:
    assert read(speaker="rosa").speaker == "rosa"
    assert read(speaker="rosa", voice="rosa").voice == "rosa"
    with pytest.raises(ValidationError, match="two names for one thing"):
        read(speaker="rosa", voice="ada")
