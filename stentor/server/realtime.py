"""Knows how `/v1/realtime` is spoken: a session whose messages are read aloud, event by event."""

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.websockets import WebSocket

from stentor.errors import InternalError, OverloadedError, RequestError, StentorError, TooLargeError
from stentor.request import Audio, FinishReason
from stentor.server.bodies import SpeechBody, VoiceName
from stentor.server.conversation import POLICY, Conversation, HangUpError, Limits
from stentor.server.delivery import RawBytes
from stentor.server.errors import BROKEN, error_object
from stentor.server.protocol import Order
from stentor.server.realtime_protocol import (
    FORMATS,
    AudioConfig,
    AudioOutput,
    MessageItem,
    ResponseCreate,
    SessionUpdate,
    merged,
    no_text,
    read,
)
from stentor.server.utterance import ReaderGoneError, Service, Utterance
from stentor.text.tags import without_tags
from stentor.voices import DEFAULT

# A conversation is no memory of ours: items beyond these are forgotten, the oldest first.
_MAX_ITEMS = 256
_MAX_RESPONSES = 4
_PLACE = {"output_index": 0, "content_index": 0}


class Session(Conversation):
    """One realtime session: what is to be said, how, and the responses that say it."""

    def __init__(self, websocket: WebSocket, service: Service, limits: Limits) -> None:
        super().__init__(websocket, limits)
        self._service = service
        self._model = websocket.query_params.get("model")
        self._items: dict[str, dict[str, Any]] = {}
        self._unspoken: list[str] = []
        self._responses: dict[str, Response] = {}
        self._frozen_voice: str | None = None
        self._seed: int | None = None
        self.voice = service.reader.keep_voice()
        self._num_orders = 0
        self._settings: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": _new_id("sess"),
            "model": service.reader.served_name,
            "output_modalities": ["audio"],
            "instructions": "",
            "audio": {
                "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": DEFAULT, "speed": 1.0}
            },
            "max_output_tokens": "inf",
            "seed": None,
        }

    async def greet(self) -> None:
        try:
            self._service.reader.check_model(self._model)
        except StentorError as error:
            await self.refuse(error, {})
            raise HangUpError(POLICY) from None
        await self.tell("session.created", session=self._settings)

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        told = {**error_object(error)["error"], "event_id": event.get("event_id")}
        await self.tell("error", error=told)

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send an event of the server."""
        await self.send({"type": kind, "event_id": _new_id("event"), **fields})

    async def handle(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "session.update":
            await self._update(event.get("session"))
        elif kind == "conversation.item.create":
            await self._add_item(event.get("item"))
        elif kind == "response.create":
            await self._respond(event.get("response") or {})
        elif kind == "response.cancel":
            self._cancel(event.get("response_id"))
        elif kind in ("conversation.item.retrieve", "conversation.item.delete", "conversation.item.truncate"):
            await self._look_up(str(kind), event)
        else:
            raise RequestError(
                f"the event {str(kind)[:100]!r} is not known: this server speaks, and takes session.update, "
                "conversation.item.create, response.create and response.cancel",
                param="type",
                code="unknown_event",
            )

    async def _update(self, fields: Any) -> None:
        update = read(SessionUpdate, fields, "session")
        settings = merged(self._settings, update)
        # Whether there is such a voice is told now and not at the first response.
        self._order("-", settings, ResponseCreate())
        self._settings = settings
        await self.tell("session.updated", session=settings)

    async def _add_item(self, fields: Any) -> None:
        item = read(MessageItem, fields, "item")
        # All of it is kept, whatever of it means something here.
        num_chars = len(json.dumps(fields, ensure_ascii=False))
        if num_chars > self._limits.max_pending_chars:
            limit = f"at most {self._limits.max_pending_chars} are allowed"
            raise TooLargeError(f"the item has {num_chars} characters, but {limit}", param="item.content")
        item_id = item.id or _new_id("item")
        if item_id in self._items:
            raise RequestError(f"there is already an item {item_id[:100]!r}", param="item.id")
        previous = next(reversed(self._items), None)
        # As a client may have sent more about it, its own words are kept.
        told = {**fields, "id": item_id, "object": "realtime.item", "status": "completed"}
        self.keep(told)
        if item.role == "user" and item.text.strip():
            self._unspoken.append(item_id)
        await self.tell("conversation.item.added", item=told, previous_item_id=previous)
        await self.tell("conversation.item.done", item=told, previous_item_id=previous)

    def keep(self, item: dict[str, Any]) -> None:
        """Remember an item, for as long as there is room."""
        self._items[item["id"]] = item
        while len(self._items) > _MAX_ITEMS:
            forgotten = next(iter(self._items))
            del self._items[forgotten]
            self._unspoken = [item_id for item_id in self._unspoken if item_id != forgotten]

    async def _look_up(self, kind: str, event: dict[str, Any]) -> None:
        item_id = event.get("item_id")
        if not isinstance(item_id, str) or item_id not in self._items:
            raise RequestError(
                f"there is no item {str(item_id)[:100]!r}", param="item_id", code="item_not_found"
            )
        if kind == "conversation.item.retrieve":
            await self.tell("conversation.item.retrieved", item=self._items[item_id])
        elif kind == "conversation.item.delete":
            del self._items[item_id]
            self._unspoken = [other for other in self._unspoken if other != item_id]
            await self.tell("conversation.item.deleted", item_id=item_id)
        else:
            # How much of it was heard: nothing is made of that here, but a client waits for the answer.
            told = {name: event.get(name, 0) for name in ("content_index", "audio_end_ms")}
            await self.tell("conversation.item.truncated", item_id=item_id, **told)

    async def _respond(self, fields: Any) -> None:
        wanted = read(ResponseCreate, fields, "response")
        in_conversation = wanted.conversation != "none"
        if len(self._responses) >= _MAX_RESPONSES or (
            in_conversation and any(response.in_conversation for response in self._responses.values())
        ):
            raise RequestError(
                "a response is still being spoken: wait for its response.done, or send response.cancel",
                code="conversation_already_has_active_response",
            )
        text = self._text(wanted)
        settings = merged(
            self._settings, SessionUpdate(audio=wanted.audio) if wanted.audio else SessionUpdate()
        )
        try:
            order = self._order(text, settings, wanted)
        except TooLargeError:
            self._unspoken.clear()  # Otherwise whatever is sent next would be said with it, and be too long.
            raise
        # One seed for the whole session: a voice without a reference is the same voice again.
        self._seed = order.seed
        order = replace(order, request=self.voice.dress(order.request))
        response = Response(self, self._service, order, settings["audio"]["output"], wanted)
        if wanted.input is None:
            response.taken, self._unspoken = self._unspoken, []
        self._responses[response.id] = response
        task = self.beside(response.speak())
        task.add_done_callback(lambda _: self._responses.pop(response.id, None))

    def _text(self, wanted: ResponseCreate) -> str:
        """What a response says: its input, or what users have said since the last one."""
        if wanted.input is not None:
            texts = [item.text for item in wanted.input if item.role == "user"]
        else:
            items = [MessageItem.model_validate(self._items[item_id]) for item_id in self._unspoken]
            texts = [item.text for item in items]
        text = " ".join(filter(str.strip, texts))
        if not text:
            raise no_text()
        return text

    def _order(self, text: str, settings: dict[str, Any], wanted: ResponseCreate) -> Order:
        output = AudioOutput.model_validate(settings["audio"]["output"])
        if self._frozen_voice not in (None, _name(output.voice)):
            raise RequestError(
                f"the voice is {self._frozen_voice!r} since the first audio: for another, open a session",
                param="audio.output.voice",
                code="cannot_update_voice",
            )
        format = output.format.type if output.format else "audio/pcm"
        limit = wanted.max_output_tokens
        if limit is None:
            limit = settings["max_output_tokens"]
        body = SpeechBody(
            input=text,
            model=self._model,
            voice=output.voice,
            instructions=wanted.instructions or settings["instructions"] or None,
            speed=output.speed,
            response_format="pcm",
            sample_rate=24_000 if format == "audio/pcm" else 8_000,
            stream=True,
            seed=self._seed if settings["seed"] is None else settings["seed"],
            max_new_tokens=None if limit == "inf" else limit,
        )
        self._num_orders += 1
        return self._service.reader.read(body, f"{self.id}-{self._num_orders}")

    def _cancel(self, response_id: Any) -> None:
        for response in list(self._responses.values()):
            if response.id == response_id or (response_id is None and response.in_conversation):
                return response.cancel()
        raise RequestError(
            "there is no such response being spoken", param="response_id", code="response_cancel_not_active"
        )

    def put_back(self, item_ids: list[str]) -> None:
        """Items for which there was no place are said by the next response, unless they are gone."""
        self._unspoken[:0] = [item_id for item_id in item_ids if item_id in self._items]

    def first_audio(self, voice: str) -> None:
        """The session has been heard: its voice stays, even if one response only had asked for it."""
        if self._frozen_voice is None:
            self._frozen_voice = voice
            output = AudioOutput(voice=voice)
            self._settings = merged(self._settings, SessionUpdate(audio=AudioConfig(output=output)))


class Response:
    """One response: the text said once, as one item with one part."""

    def __init__(
        self, session: Session, service: Service, order: Order, output: dict[str, Any], wanted: ResponseCreate
    ) -> None:
        self.id = _new_id("resp")
        self.in_conversation = wanted.conversation != "none"
        self.taken: list[str] = []  # The items that it says.
        self._session = session
        self._service = service
        self._order = order
        self._output = output
        self._metadata = wanted.metadata
        self._transcript = without_tags(order.request.text).strip()
        self._item_id = _new_id("item")
        self._utterance: Utterance | None = None
        self._cancelled = False
        self._begun = False
        self._last: Audio | None = None

    def cancel(self) -> None:
        """Say no more; `response.done` follows."""
        self._cancelled = True
        if self._utterance is not None:
            self._utterance.abort()

    async def speak(self) -> None:
        """Say it, from `response.created` to `response.done`."""
        await self._session.tell("response.created", response=self._described("in_progress", []))
        try:
            if not self._cancelled:
                await self._say()
            ending = self._ending()
        except ReaderGoneError:
            raise
        except StentorError as error:
            if isinstance(error, OverloadedError) and not self._begun:
                self._session.put_back(self.taken)
            ending = _failed(error)
        except Exception:  # Logged by the utterance.
            ending = _failed(InternalError(BROKEN))
        await self._end(*ending)

    async def _say(self) -> None:
        format = FORMATS[self._output["format"]["type"]]
        utterance = Utterance(self._service, self._order, lambda rate_hz: RawBytes(format, rate_hz))
        self._utterance = utterance
        async with utterance:
            async for data in utterance:
                await self._send(data)
            self._last = utterance.last
        self._session.voice.hear(self._order.request, self._last)

    def _ending(self) -> tuple[str, dict[str, Any] | None]:
        """How the response ended, and why."""
        if self._cancelled:
            return "cancelled", {"type": "cancelled", "reason": "client_cancelled"}
        if self._last is not None and self._last.finish_reason == FinishReason.STOP:
            return "completed", None
        return "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}

    async def _send(self, data: bytes) -> None:
        if not self._begun:
            await self._begin()
        await self._tell(
            "response.output_audio.delta", **_PLACE, delta=base64.b64encode(data).decode("ascii")
        )

    async def _begin(self) -> None:
        self._begun = True
        self._session.first_audio(_name(self._output["voice"]))
        item = self._item("in_progress", [])
        tell = self._session.tell
        await tell("response.output_item.added", response_id=self.id, output_index=0, item=item)
        if self.in_conversation:
            await tell("conversation.item.added", item=item)
        part = {"type": "audio", "transcript": ""}
        await self._tell("response.content_part.added", **_PLACE, part=part)
        await self._tell("response.output_audio_transcript.delta", **_PLACE, delta=self._transcript)

    async def _end(self, status: str, details: dict[str, Any] | None) -> None:
        output = []
        tell = self._session.tell
        if self._begun:
            part = {"type": "audio", "transcript": self._transcript}
            content = [{"type": "output_audio", "transcript": self._transcript}]
            item = self._item("completed" if status == "completed" else "incomplete", content)
            await self._tell("response.output_audio.done", **_PLACE)
            await self._tell("response.output_audio_transcript.done", **_PLACE, transcript=self._transcript)
            await self._tell("response.content_part.done", **_PLACE, part=part)
            await tell("response.output_item.done", response_id=self.id, output_index=0, item=item)
            if self.in_conversation:
                self._session.keep(item)
                await tell("conversation.item.done", item=item)
            output = [item]
        await tell("response.done", response=self._described(status, output, details))

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._session.tell(kind, response_id=self.id, item_id=self._item_id, **fields)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _described(
        self, status: str, output: list[dict[str, Any]], details: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        described = {name: self._output[name] for name in ("format", "voice")}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": output,
            "output_modalities": ["audio"],
            "audio": {"output": described},
            "metadata": self._metadata,
            "usage": None if status == "in_progress" else _usage(self._last),
        }


def _failed(error: StentorError) -> tuple[str, dict[str, Any]]:
    told = error_object(error)["error"]
    return "failed", {"type": "failed", "error": {name: told[name] for name in ("type", "code", "message")}}


def _usage(last: Audio | None) -> dict[str, Any] | None:
    if last is None or last.usage is None:
        return None
    usage = last.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {"text_tokens": usage.prompt_tokens},
        "output_token_details": {"audio_tokens": usage.completion_tokens},
    }


def _name(voice: str | VoiceName | dict[str, str] | None) -> str:
    if isinstance(voice, VoiceName):
        return voice.id
    return voice["id"] if isinstance(voice, dict) else voice or DEFAULT


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"
