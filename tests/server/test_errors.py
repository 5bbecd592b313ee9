import json
from typing import Any

import pytest
from pydantic import ValidationError

from stentor.errors import (
    AbortedError,
    CheckpointError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    OverloadedError,
    RequestError,
    StentorError,
    TooLargeError,
)
from stentor.server.bodies import FIELDS, SpeechBody
from stentor.server.errors import MODEL_NOT_FOUND, error_object, error_response, explain, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestError("x"), 400),
        (NotFoundError("x", param="voice", code="voice_not_found"), 400),
        (NotFoundError("x", code="voice_not_found"), 404),
        (NotFoundError("x", code=MODEL_NOT_FOUND), 404),
        (ForbiddenError("x"), 403),
        (TooLargeError("x"), 413),
        (OverloadedError("x"), 503),
        (AbortedError("x"), 503),
        (InternalError("x"), 500),
        (CheckpointError("x"), 500),
    ],
)
def test_every_error_has_its_status(error: StentorError, status: int) -> None:
    assert status_of(error) == status
    assert error_response(error).status_code == status


def test_an_error_is_told_as_openai_tells_it() -> None:
    assert error_object(RequestError("no", param="input", code="c")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "input", "code": "c"}
    }
    assert error_object(InternalError("our fault"))["error"]["type"] == "server_error"


def test_overload_says_when_to_come_back_in_whole_seconds() -> None:
    assert error_response(OverloadedError("full", retry_after_s=0.2)).headers["Retry-After"] == "1"
    assert error_response(OverloadedError("full", retry_after_s=2.1)).headers["Retry-After"] == "3"
    assert "Retry-After" not in error_response(InternalError("x")).headers


def test_a_message_that_quotes_half_a_character_still_goes_out() -> None:
    body = bytes(error_response(RequestError("unknown field '\ud800'")).body)
    assert json.loads(body)["error"]["message"] == "unknown field '\ud800'"


def explained(body: Any) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        SpeechBody.model_validate(body)
    return explain(caught.value.errors(), FIELDS)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "input", "input is missing"),
        ({"input": 5}, "input", "input: input should be a valid string"),
        ({"input": "x", "temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"input": "x", "max_tokens": 1}, "max_tokens", "did you mean 'max_new_tokens'?"),
        ({"input": "x", "zzz": 1}, "zzz", "the known ones are input, model"),
        ({"text": "x"}, "text", "did you mean 'input'?"),
        ({"input": "x", "system_prompt": "sad"}, "system_prompt", "did you mean 'instructions'?"),
        ({"input": "x", "format": "mp3"}, "format", "did you mean 'response_format'?"),
        ({"input": "x", "audio": "a.wav"}, "audio", "did you mean 'ref_audio'?"),
        ({"input": "x", "reference_audio_base64": "a"}, "reference_audio_base64", "'ref_audio'?"),
        ({"input": "x", "references": [{"txt": "a"}]}, "references[0].txt", "did you mean 'text'?"),
        ({"input": "x", "references": [{"zzz": 1}]}, "references[0].zzz", "ones are audio_path, audio"),
        ({"input": "x", "references": [{"audio_pth": "a"}]}, "references[0].audio_pth", "'audio_path'"),
        ({"input": "x", "references": "a.wav"}, "references", "valid list"),
        ({"input": "x", "references": [{"text": 3}]}, "references[0].text", "valid string"),
        ({"input": "x", "reference_codes": [[1, "2"]]}, "reference_codes[0][1]", "valid integer"),
        ({"input": "x", "voice": 3}, "voice", "valid string"),
        ({"input": "x", "voice": {"name": "x"}}, "voice", "voice"),
        ({"input": "x", "temperature": "0.5"}, "temperature", "valid number"),
        ({"input": "x", "temperature": True}, "temperature", "valid number"),
        ({"input": "x", "top_k": 1.5}, "top_k", "valid integer"),
        ({"input": "x", "seed": "1"}, "seed", "valid integer"),
        ({"input": "x", "stream": "yes"}, "stream", "valid boolean"),
        ({"input": "x", "stream_format": "raw"}, "stream_format", "'audio' or 'sse'"),
        ({"input": "x", "response_format": "ogg"}, "response_format", "'wav', 'pcm'"),
        ({"input": "x", "initial_codec_chunk_frames": -1}, "initial_codec_chunk_frames", "greater than"),
        ([], None, "must be a JSON object"),
        ("x", None, "must be a JSON object"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_with_its_place(body: Any, param: str | None, said: str) -> None:
    error = explained(body)
    assert said in error.message
    assert error.param == param
