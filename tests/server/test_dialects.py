"""Requests as other servers document them, sent as they stand: each is served, or refused in words."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.conftest import Running
from tests.server.fakes import say

Serve = Callable[..., Running]

CODES = [[1, 2, 3, 4, 5, 6, 7, 8]] * 25
URL = "https://example.org/en/prompt.wav"
CLONE = {"references": [{"audio_path": URL, "text": "We asked over twenty different people."}]}

# From the model's cookbook.
COOKBOOK: list[dict[str, Any]] = [
    {"input": "Hello, how are you?"},
    {"input": "Have a nice day.", **CLONE, "temperature": 0.8, "top_k": 50, "max_new_tokens": 1024},
    {"input": "Get the trust fund to the bank early.", **CLONE, "stream": True},
    {"input": "Excuse me.", **CLONE, "temperature": 0.5, "top_k": 30, "seed": 404},
    {"input": "Hello.", "reference_codes": CODES, "reference_text": "We asked over twenty."},
    {"input": "Hello.", "voice": "default", "response_format": "wav", "stream": False, "top_p": None},
]

# From the documentation of servers for many models.
OTHERS: list[dict[str, Any]] = [
    {"model": "tts-1", "input": "Hi.", "voice": "alloy", "response_format": "mp3", "speed": 1.0},
    {"input": "Hi.", "voice": "default", "task_type": "Base", "language": "English", "instructions": ""},
    {
        "input": "Hi.",
        "speaker": "default",
        "stream": True,
        "response_format": "pcm",
        "stream_format": "audio",
    },
    {
        "input": "Hi.",
        "task_type": "Base",
        "ref_audio": URL,
        "ref_text": "We asked.",
        "x_vector_only_mode": False,
    },
    {"input": "Hi.", "ref_audio": [URL], "ref_text": ["We asked."], "max_new_tokens": 2048, "seed": 42},
    {"input": "Hi.", "extra_params": {"temperature": 0.8, "top_p": 0.95, "top_k": 50}},
    {"input": "Hi.", "stage_params": {"tts_engine": {"temperature": 0.8}}, "repetition_penalty": 1.1},
    {"input": "Hi.", "initial_codec_chunk_frames": 1, "non_streaming_mode": False, "stream": True},
    {"input": "Hi.", "references": [{"ref_audio": URL, "media_type": "audio/wav", "text": "We asked."}]},
    {"input": "Hi.", "references": [{"data": "UklGRg==", "media_type": "audio/wav", "text": "We asked."}]},
    {"input": "Hi.", "references": [{"vq_codes": CODES, "text": "We asked."}]},
    {"input": "Hi.", "speaker_embedding": None, "word_timestamps": False, "stream_format": "sse"},
]

FOREIGN: list[dict[str, Any]] = [
    {"speaker_embedding": [0.1, 0.2]},
    {"x_vector_only_mode": True},
    {"ref_audio_2": URL},
    {"word_timestamps": True},
    {"extra_params": {"cfg_scale": 2.0}},
]


@pytest.mark.parametrize("body", [*COOKBOOK, *OTHERS], ids=lambda body: ",".join(body))
def test_requests_as_they_are_documented_are_served(serve: Serve, body: dict[str, Any]) -> None:
    server = serve(say(0.2))
    response = server.http.post("/v1/audio/speech", json=body)
    assert response.status_code == 200, response.text
    (request,) = server.pipeline.requests
    assert request.text == body["input"]
    cloned = any(name in body for name in ("references", "reference_codes", "ref_audio"))
    assert (request.reference is not None) is cloned
    if request.reference is not None:
        assert request.reference.text is not None
        assert request.reference.text.startswith("We asked")
    for name in ("temperature", "top_k", "top_p", "seed", "max_new_tokens", "repetition_penalty"):
        inner = body.get("extra_params", {}) | body.get("stage_params", {}).get("tts_engine", {})
        wanted = body.get(name, inner.get(name))
        assert wanted is None or getattr(request.sampling, name) == wanted


@pytest.mark.parametrize("wish", FOREIGN, ids=lambda body: ",".join(body))
def test_what_only_other_models_can_do_is_refused_as_that(serve: Serve, wish: dict[str, Any]) -> None:
    response = serve().speech(**wish)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "not_for_this_model"
    assert "not for this model" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "wish",
    [
        {"repetition_penalty": 2.1},
        {"extra_params": {"repetition_penalty": 0.4}},
        {"task_type": "VoiceDesign"},
    ],
    ids=str,
)
def test_what_would_change_the_sound_is_never_ignored_in_silence(serve: Serve, wish: dict[str, Any]) -> None:
    response = serve().speech(**wish)
    assert response.status_code == 400
    assert response.json()["error"]["param"] in ("repetition_penalty", "task_type")
