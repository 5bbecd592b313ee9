"""Knows OpenAI's API of consents: recordings in which speakers agree to a voice, kept beside the voices."""

import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from stentor.audio.load import decode, is_silent
from stentor.config import ReferenceConfig
from stentor.errors import InternalError, NotFoundError, RequestError, TooLargeError
from stentor.server.bodies import Strict
from stentor.server.enrolling import read_body
from stentor.voices.folder import SharedFolder

_PATH = "/v1/audio/voice_consents"
_ID = re.compile(r"cons_[0-9a-f]{20}")
# What could be meant as an id, ours or OpenAI's; other words about a consent are for people.
_LIKE_AN_ID = re.compile(r"cons_\w+")
_LANGUAGE = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"
# Enough to hear whether there is speech in a recording.
_LISTEN_S, _LISTEN_HZ = 60.0, 16_000

Id = Annotated[str, "A consent's id."]
Label = Annotated[
    str, Field(min_length=1, max_length=256, pattern=r"\S", description="A label, for example who speaks.")
]


class Consent(msgspec.Struct, frozen=True):
    """What is known of a consent; `created_at` counts seconds since 1970, `sha256` is of the recording."""

    id: str
    name: str
    language: str
    created_at: int
    sha256: str


class ConsentChange(Strict):
    """What may be changed about a consent."""

    name: Label


class ConsentBody(ConsentChange):
    """A new consent."""

    language: Annotated[
        str, Field(max_length=35, pattern=_LANGUAGE, description="A language tag, for example en-US.")
    ]
    recording: Annotated[bytes, Field(description="An audio file in which the speaker agrees.")]


class Consents:
    """The consents of a folder of voices, which other processes may change, too.

    One is two files: what is known, and the recording as it came, which is written first and removed last. So
    a consent that is seen has its recording; one that somebody who died left over goes with the next.
    """

    def __init__(self, folder: Path, config: ReferenceConfig) -> None:
        self._config = config
        self._known = SharedFolder(folder, ".consent")
        self._sound = SharedFolder(folder, ".recording")

    def all(self) -> list[Consent]:
        """All of them, the newest first."""
        known = [self._read(name) for name in self._known.scan()]
        return sorted((one for one in known if one), key=lambda one: (one.created_at, one.id), reverse=True)

    def get(self, consent_id: str, param: str | None = None) -> Consent:
        """One of them. Raises NotFoundError."""
        found = self._read(consent_id) if _ID.fullmatch(consent_id) else None
        if found is None:
            raise NotFoundError(
                f"there is no consent {consent_id[:100]!r}: make one at {_PATH}",
                param=param,
                code="consent_not_found",
            )
        return found

    def check(self, words: str | None) -> None:
        """Refuse what is said about a voice's consent, if it is the id of none. Raises NotFoundError."""
        if words is not None and _LIKE_AN_ID.fullmatch(words):
            self.get(words, param="consent")

    def add(self, name: str, language: str, recording: bytes) -> Consent:
        """Keep a new one. Raises RequestError if it is no recording of speech, or there are too many."""
        self._listen(recording)
        made = Consent(
            f"cons_{secrets.token_hex(10)}",
            name,
            language,
            int(time.time()),
            hashlib.sha256(recording).hexdigest(),
        )
        with self._known.locked():
            kept = self._known.scan()
            if len(kept) >= self._config.max_voices:
                raise RequestError(
                    f"there are {len(kept)} consents already: remove one, or raise --max-voices",
                    code="too_many_consents",
                )
            for orphan in self._sound.scan().keys() - kept.keys():
                self._sound.remove(orphan)
            self._sound.write(made.id, recording)
            self._known.write(made.id, msgspec.json.encode(made))
        return made

    def rename(self, consent_id: str, name: str) -> Consent:
        """Give it another label. Raises NotFoundError."""
        with self._known.locked():
            renamed = msgspec.structs.replace(self.get(consent_id), name=name)
            self._known.write(renamed.id, msgspec.json.encode(renamed))
        return renamed

    def remove(self, consent_id: str) -> Consent:
        """Remove it and its recording; voices that name it stay. Raises NotFoundError."""
        with self._known.locked():
            removed = self.get(consent_id)
            self._known.remove(removed.id)
            self._sound.remove(removed.id)
        return removed

    def _read(self, consent_id: str) -> Consent | None:
        data = self._known.read(consent_id)
        try:
            return None if data is None else msgspec.json.decode(data, type=Consent)
        except msgspec.MsgspecError:
            raise InternalError(f"the file of the consent {consent_id} is damaged") from None

    def _listen(self, recording: bytes) -> None:
        limit = self._config.max_bytes
        if len(recording) > limit:
            raise TooLargeError(
                f"the recording has {len(recording):,} bytes, but at most {limit:,} are kept",
                param="recording",
            )
        try:
            waveform = decode(recording, sample_rate_hz=_LISTEN_HZ, max_seconds=_LISTEN_S, cut=True)
        except RequestError as error:
            error.param = "recording"
            raise
        if is_silent(waveform):
            raise RequestError("the recording is silent: nobody agrees in it", param="recording")


def router(consents: Consents) -> APIRouter:
    """The routes of consents; whatever touches the disk runs in a thread."""
    routes = APIRouter()

    @routes.post(
        _PATH,
        summary="Keep a recording in which a speaker agrees to a voice.",
        openapi_extra={"requestBody": _body("multipart/form-data", ConsentBody)},
    )
    async def create(request: Request) -> dict[str, Any]:
        body = await read_body(request, ConsentBody)
        return told(await run_in_threadpool(consents.add, body.name, body.language, body.recording))

    @routes.get(_PATH, summary="The consents, the newest first.")
    async def listing(
        after: Annotated[str | None, Query(description="The id behind which to go on.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="How many, at most.")] = 20,
    ) -> dict[str, Any]:
        known = await run_in_threadpool(consents.all)
        ids = [one.id for one in known]
        if after is not None and after not in ids:
            raise NotFoundError(f"there is no consent {after[:100]!r} to go on behind", param="after")
        start = 0 if after is None else ids.index(after) + 1
        page = known[start : start + limit]
        ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
        more = start + limit < len(known)
        return {"object": "list", "data": [told(one) for one in page], **ends, "has_more": more}

    @routes.get(f"{_PATH}/{{consent_id}}", summary="What is known of a consent.")
    async def show(consent_id: Id) -> dict[str, Any]:
        return told(await run_in_threadpool(consents.get, consent_id))

    @routes.post(
        f"{_PATH}/{{consent_id}}",
        summary="Give a consent another label.",
        openapi_extra={"requestBody": _body("application/json", ConsentChange)},
    )
    async def change(consent_id: Id, request: Request) -> dict[str, Any]:
        body = await read_body(request, ConsentChange)
        return told(await run_in_threadpool(consents.rename, consent_id, body.name))

    @routes.delete(f"{_PATH}/{{consent_id}}", summary="Remove a consent; voices that name it stay.")
    async def remove(consent_id: Id) -> dict[str, Any]:
        removed = await run_in_threadpool(consents.remove, consent_id)
        return {"id": removed.id, "deleted": True, "object": "audio.voice_consent"}

    return routes


def told(consent: Consent) -> dict[str, Any]:
    """OpenAI's consent object."""
    about = msgspec.structs.asdict(consent)
    del about["sha256"]
    return {**about, "object": "audio.voice_consent"}


def _body(media_type: str, kind: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": kind.model_json_schema()}}}
