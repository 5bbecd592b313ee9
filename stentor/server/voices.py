"""Knows the HTTP API of voices: OpenAI's, with the fields and lists of other servers beside it."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from stentor.server.answer import SpeechAnswer
from stentor.server.bodies import SpeechBody
from stentor.server.consents import Consents
from stentor.server.document import answers
from stentor.server.enrolling import VoiceBody, VoiceChange, enroll, form_schema, read_body
from stentor.server.utterance import Service
from stentor.voices import Voice, VoiceStore

# A voice made in another language is heard in that one: its own words are said, if they are not too many.
_PREVIEW_TEXT = "The old dog saw the small boat near the river."
_PREVIEW_CHARS = 160

Name = Annotated[str, "A voice's id or name."]


def router(service: Service, voices: VoiceStore, consents: Consents) -> APIRouter:
    """The routes of voices; whatever touches the disk runs in a thread."""
    routes = APIRouter()

    @routes.get("/v1/audio/voices", summary="The voices that a request may name.")
    async def listing(
        legacy: Annotated[str | None, Query(description="Only names, as older clients read them.")] = None,
    ) -> dict[str, Any]:
        known = await run_in_threadpool(voices.all)
        if legacy is None or legacy.lower() in ("0", "false"):
            return {"voices": [summary(voice) for voice in known]}
        own = [summary(voice) for voice in known if not voice.preset]
        return {"voices": [voice.name for voice in known], "uploaded_voices": own}

    @routes.post(
        "/v1/audio/voices",
        summary="Make a voice of a recording, or of codes.",
        openapi_extra={"requestBody": form_schema(VoiceBody)},
    )
    async def create(request: Request) -> dict[str, Any]:
        body = await read_body(request, VoiceBody)
        await run_in_threadpool(consents.check, body.consent)
        made = details(await enroll(service, voices, body, request.state.request_id))
        # OpenAI's voice, and beside it the answer of vLLM-Omni.
        return {**made, "success": True, "voice": made}

    @routes.get("/v1/audio/voices/{name}", summary="What is known of a voice.")
    async def show(name: Name) -> dict[str, Any]:
        return details(await run_in_threadpool(voices.about, name))

    @routes.patch(
        "/v1/audio/voices/{name}",
        summary="Rename a voice, or change what is said about it.",
        openapi_extra={"requestBody": form_schema(VoiceChange)},
    )
    async def change(name: Name, request: Request) -> dict[str, Any]:
        body = await read_body(request, VoiceChange)
        await run_in_threadpool(consents.check, body.consent)
        told = body.model_dump(exclude_unset=True)
        return details(await run_in_threadpool(lambda: voices.change(name, **told)))

    @routes.delete("/v1/audio/voices/{name}", summary="Remove a voice.")
    async def remove(name: Name) -> dict[str, Any]:
        removed = await run_in_threadpool(voices.remove, name)
        return {"id": removed.id, "deleted": True, "object": "audio.voice.deleted", "success": True}

    @routes.get(
        "/v1/audio/voices/{name}/preview",
        response_class=Response,
        responses=answers(["audio/wav"]),
        summary="A sentence in a voice, as WAV; the same each time.",
    )
    async def preview(name: Name, request: Request) -> Response:
        voice = voices.about(name)
        words = (voice.transcript or "").strip()
        text = words if 0 < len(words) <= _PREVIEW_CHARS else _PREVIEW_TEXT
        body = SpeechBody(input=text, voice=voice.id, response_format="wav", seed=0)
        return SpeechAnswer(service, service.reader.read(body, request.state.request_id))

    return routes


def summary(voice: Voice) -> dict[str, Any]:
    """A voice in the list, which may be open to everybody: not what was said or who agreed."""
    told = details(voice)
    return {name: value for name, value in told.items() if name not in ("transcript", "consent", "sha256")}


def details(voice: Voice) -> dict[str, Any]:
    """OpenAI's voice object, with all that we know."""
    return {**msgspec.structs.asdict(voice), "object": "audio.voice", "type": "audio_sample"}
