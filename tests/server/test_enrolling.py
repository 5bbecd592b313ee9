import pytest
from pydantic import TypeAdapter

from stentor.server.enrolling import VoiceBody, VoiceChange, form_schema


def test_a_change_has_no_field_that_a_new_voice_has_not() -> None:
    assert set(VoiceChange.model_fields) < set(VoiceBody.model_fields)


@pytest.mark.parametrize("kind", [VoiceBody, VoiceChange])
def test_every_field_is_explained(kind: type[VoiceChange]) -> None:
    assert all(field.description for field in kind.model_fields.values())


def test_the_schema_of_a_form_has_a_file_and_that_of_json_a_text() -> None:
    content = form_schema(VoiceBody)["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    assert form["audio_sample"]["anyOf"] == [{"type": "string", "format": "binary"}]
    assert form["codes"]["anyOf"] == [{"type": "string"}]
    plain = content["application/json"]["schema"]
    assert plain == TypeAdapter(VoiceBody).json_schema()
    assert (
        "audio_sample" not in form_schema(VoiceChange)["content"]["application/json"]["schema"]["properties"]
    )
