"""Knows how a new voice comes over HTTP, as a form or as JSON, and has the pipeline make it."""

import json
import secrets
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from stentor.errors import InternalError, RequestError
from stentor.request import Audio, Reference, SpeechRequest
from stentor.server.bodies import Strict
from stentor.server.errors import validated
from stentor.server.protocol import named
from stentor.server.references import read_codes
from stentor.server.utterance import Service
from stentor.voices import Voice, VoiceStore

Body = TypeVar("Body", bound=BaseModel)

# What other servers and clients call the same.
_ALSO = {
    "ref_text": "transcript",
    "reference_text": "transcript",
    "text": "transcript",
    "speaker_description": "description",
    "reference_codes": "codes",
    "ref_audio": "audio_sample",
}
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
# The pipeline's words for what came under another name.
_PARAMS = {"references": "audio_sample", "reference": "audio_sample", "reference_codes": "codes"}


class VoiceChange(Strict):
    """What may be said about a voice; null takes it away."""

    name: Annotated[str, Field(description="How requests call it: letters, digits, and - _ . between.")] = ""
    transcript: Annotated[
        str | None, Field(description="What the recording says; makes the voice clearly better.")
    ] = None
    language: Annotated[str | None, Field(description="A language tag, for example en-US.")] = None
    description: Annotated[str | None, Field(description="How it sounds, for people.")] = None
    consent: Annotated[
        str | None, Field(description="The id of a consent, which must exist, or who agreed, in your words.")
    ] = None


class VoiceBody(VoiceChange):
    """A new voice: of `audio_sample`, or of `codes`."""

    name: Annotated[str, Field(description="How requests call it: letters, digits, and - _ . between.")]
    audio_sample: Annotated[
        str | bytes | None, Field(description="An audio file; in JSON its URL, a data URI or base64.")
    ] = None
    codes: Annotated[
        list[list[int]] | None,
        Field(description="Codes instead, [num_frames, num_codebooks], without delay; as JSON in a form."),
    ] = None
    type: Annotated[
        Literal["audio_sample"], Field(description="OpenAI's; voices of a prompt are not for this model.")
    ] = "audio_sample"


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body of a request, be it a form or JSON. Raises RequestError if it is not of that kind."""
    try:
        kind_of_body = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        given = await (_read_form(request) if kind_of_body in _FORMS else _read_json(request))
    except ClientDisconnect:
        raise RequestError("the body did not come whole") from None
    fields: dict[str, Any] = {}
    for name, value in given.items():
        own = _ALSO.get(name, name) if _ALSO.get(name) in kind.model_fields else name
        if own in fields and fields[own] != value:
            raise RequestError(f"{own} is given twice, in different words: give it once", param=own)
        fields[own] = value
    return validated(kind, fields, tuple(kind.model_fields))


async def enroll(service: Service, voices: VoiceStore, body: VoiceBody, request_id: str) -> Voice:
    """Have a voice encoded, and keep it.

    Raises:
        RequestError: the name is not free, or the recording or codes cannot be a voice.
        OverloadedError: the server is full.
    """
    if (body.audio_sample is None) == (body.codes is None):
        raise RequestError("a voice is made of a recording, or codes: give one", param="audio_sample")
    about = body.model_dump(include={"transcript", "language", "description", "consent"})
    await run_in_threadpool(lambda: voices.check_new(body.name, **about))
    reference = Reference(body.audio_sample, read_codes(body.codes, "codes"), body.transcript)
    # The caller's id may come again while its request is still on its way out.
    request_id = f"{request_id}.{secrets.token_hex(4)}"
    with named(_PARAMS):
        made = await _through_pipeline(service, SpeechRequest(request_id, "a voice", reference, enroll=True))
    return await run_in_threadpool(lambda: voices.add_enrolled(body.name, made, **about))


async def _through_pipeline(service: Service, request: SpeechRequest) -> Audio:
    stream = service.pipeline.submit(request)
    try:
        async for audio in stream:
            if audio.codes is not None:
                return audio
    finally:
        stream.abort()
    raise InternalError("the pipeline made no voice of the recording")


async def _read_form(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_files=2, max_fields=20) as form:
            given = {
                name: await value.read() if isinstance(value, UploadFile) else value
                for name, value in form.multi_items()
            }
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise RequestError(f"the form cannot be read: {error.detail}") from None
    for name in ("codes", "reference_codes"):
        if name in given:
            given[name] = _parse(given[name], name)
    return given


async def _read_json(request: Request) -> dict[str, Any]:
    given = _parse(await request.body(), None)
    if not isinstance(given, dict):
        raise RequestError("the body must be a form, or a JSON object", param=None)
    return given


def _parse(data: str | bytes, param: str | None) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param or 'the body'} is not valid JSON: {error}", param=param) from None


def form_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The body in the words of OpenAPI, as a form (with a file) and as JSON."""
    plain = kind.model_json_schema()
    form = json.loads(json.dumps(plain))
    if "audio_sample" in form["properties"]:
        form["properties"]["audio_sample"] |= {"anyOf": [{"type": "string", "format": "binary"}]}
        form["properties"]["codes"] |= {"anyOf": [{"type": "string"}]}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}}
    return {"required": True, "content": content}
