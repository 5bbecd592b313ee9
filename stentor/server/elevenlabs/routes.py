"""Knows ElevenLabs' HTTP routes."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from stentor.audio.formats import content_type
from stentor.errors import NotFoundError
from stentor.request import Array, Audio
from stentor.server.answer import SpeechAnswer
from stentor.server.delivery import Form
from stentor.server.document import answers
from stentor.server.elevenlabs.bodies import (
    DEFAULT_FORMAT,
    SpeechFields,
    formats,
    output_format,
    read,
    speech_body,
)
from stentor.server.utterance import Service
from stentor.voices import Voice, VoiceStore

_SOUND = answers(sorted({content_type(format.codec) for format in formats().values()}))
_TIMED = {"alignment": None, "normalized_alignment": None}

FormatName = Annotated[
    str,
    Query(
        alias="output_format",
        description="For example mp3_44100_128, pcm_24000, opus_48000_64, ulaw_8000.",
    ),
]


def router(service: Service, voices: VoiceStore) -> APIRouter:
    """The routes of text to speech and of voices."""
    routes = APIRouter()

    def add(path: str, about: str, *, streamed: bool = False, timed: bool = False) -> None:
        sound: dict[str, Any] = {} if timed else {"response_class": Response, "responses": _SOUND}

        @routes.post(f"/v1/text-to-speech/{{voice_id}}{path}", summary=f"ElevenLabs: {about}.", **sound)
        async def say(
            request: Request, voice_id: str, fields: SpeechFields, name: FormatName = DEFAULT_FORMAT
        ) -> Response:
            format = output_format(name)
            body = speech_body(voice_id, fields, format, streamed=streamed)
            with _voice_in_address():
                order = read(service.reader, body, format, fields, request.state.request_id)

            def form(_: int) -> Form:
                plain = format.form(order.delivery)
                return _Timed(plain, lines=streamed) if timed else plain

            return SpeechAnswer(service, order, form)

    add("", "say a text")
    add("/stream", "the same, sent as it is made", streamed=True)
    add("/with-timestamps", "as JSON, without an alignment", timed=True)
    add("/stream/with-timestamps", "as lines of JSON, without an alignment", timed=True, streamed=True)
    _add_lists(routes, voices)
    return routes


def _add_lists(routes: APIRouter, voices: VoiceStore) -> None:
    @routes.get("/v1/voices", summary="ElevenLabs: the voices.")
    @routes.get("/v2/voices", summary="ElevenLabs: the voices, on one page.")
    async def listing(request: Request) -> dict[str, Any]:
        known = await run_in_threadpool(voices.all)
        told = [_described(voice, request) for voice in known]
        return {"voices": told, "has_more": False, "total_count": len(told), "next_page_token": None}

    @routes.get("/v1/voices/{voice_id}", summary="ElevenLabs: a voice.")
    async def show(voice_id: str, request: Request) -> dict[str, Any]:
        with _voice_in_address():
            return _described(await run_in_threadpool(voices.about, voice_id), request)


@contextmanager
def _voice_in_address() -> Iterator[None]:
    """An unknown voice is no wrong parameter here, but a wrong address."""
    try:
        yield
    except NotFoundError as error:
        raise NotFoundError(error.message, code=error.code) from None


def models(served_name: str, languages: str, max_chars: int) -> list[dict[str, Any]]:
    """The answer to `GET /v1/models` in ElevenLabs' shape."""
    return [
        {
            "model_id": served_name,
            "name": served_name,
            "description": "Served by Stentor.",
            "can_do_text_to_speech": True,
            **dict.fromkeys(("can_be_finetuned", "can_do_voice_conversion", "can_use_style"), False),
            **dict.fromkeys(("can_use_speaker_boost", "serves_pro_voices", "requires_alpha_access"), False),
            "token_cost_factor": 1.0,
            "max_characters_request_free_user": max_chars,
            "max_characters_request_subscribed_user": max_chars,
            "maximum_text_length_per_request": max_chars,
            "languages": [{"language_id": code, "name": code} for code in languages.split(",") if code],
            "model_rates": {"character_cost_multiplier": 1.0},
            "concurrency_group": "standard",
        }
    ]


class _Timed(Form):
    """JSON around the bytes of another form: one object, or a line for each of its parts."""

    media_type = "application/json"

    def __init__(self, inner: Form, *, lines: bool) -> None:
        self._inner = inner
        self._end = b"\n" if lines else b""

    def piece(self, waveform: Array) -> bytes:
        return self._told(self._inner.piece(waveform))

    def finish(self, last: Audio) -> bytes:
        return self._told(self._inner.finish(last))

    def _told(self, data: bytes) -> bytes:
        if not data:
            return b""
        return (
            json.dumps({"audio_base64": base64.b64encode(data).decode("ascii"), **_TIMED}).encode()
            + self._end
        )


def _described(voice: Voice, request: Request) -> dict[str, Any]:
    return {
        "voice_id": voice.id,
        "name": voice.name,
        "category": "premade" if voice.preset else "cloned",
        "description": voice.description,
        "labels": {} if voice.language is None else {"language": voice.language},
        "preview_url": str(request.url_for("preview", name=voice.id)),
        "samples": None,
        "settings": None,
        "available_for_tiers": [],
        "high_quality_base_model_ids": [],
        "is_owner": not voice.preset,
    }
