"""Knows ElevenLabs' WebSockets: one text per connection (`stream-input`), or several (`multi-stream-input`).

https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-stream-input and
https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input
"""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.websockets import WebSocket

from stentor.errors import RequestError, StentorError, TooLargeError
from stentor.request import Audio
from stentor.server.conversation import POLICY, Conversation, HangUpError, Limits
from stentor.server.delivery import RawBytes
from stentor.server.elevenlabs.bodies import NAMES, OutputFormat, SpeechFields, output_format, speech_body
from stentor.server.elevenlabs.errors import status_name
from stentor.server.errors import validated
from stentor.server.narration import Manner, Narration, Piece
from stentor.server.utterance import Service
from stentor.text.sentences import SentenceSplitter

# Contexts of one connection that are not finished; ElevenLabs allows five.
_MAX_CONTEXTS = 8
_MAX_SILENCE_S = 180.0


def _patient(websocket: WebSocket, limits: Limits) -> Limits:
    """The limits, with the silence that the client itself allows."""
    try:
        silence_s = float(websocket.query_params["inactivity_timeout"])
    except (KeyError, ValueError):
        return limits
    # In this order what is not a number is the least: no clock could wait for it.
    return replace(limits, idle_timeout_s=min(_MAX_SILENCE_S, max(1.0, silence_s)))


class _Continued(RawBytes):
    """A form that goes on from sentence to sentence, until its `end`."""

    def finish(self, last: Audio) -> bytes:
        return b""

    def end(self) -> bytes:
        """What to send after the last sentence."""
        return self._encoder.finish()


class InputSocket(Conversation):
    """`stream-input`: settings, text in portions, an empty text at the end; then the connection ends."""

    def __init__(self, websocket: WebSocket, service: Service, limits: Limits) -> None:
        super().__init__(websocket, _patient(websocket, limits))
        self._service = service
        self._voice = websocket.path_params["voice_id"]
        self._query = websocket.query_params
        self._format = OutputFormat("pcm", service.info.sample_rate_hz)
        self._seed: int | None = None  # Of every text that has none of its own.
        self._kept = service.reader.keep_voice()
        self._contexts: dict[str | None, Narration] = {}
        self._num_contexts = 0

    async def greet(self) -> None:
        """Refuse at once what no message can mend: the voice, the model or the format."""
        try:
            self._format = output_format(self._query.get("output_format"))
            self._seed = self._manner({}, "check").seed
        except StentorError as error:
            await self.refuse(error, {})
            raise HangUpError(POLICY) from None

    def silence_s(self) -> float | None:
        busy = any(not context.idle for context in self._contexts.values())
        return None if busy else self._limits.idle_timeout_s

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        await self._tell_error(error, None)
        raise HangUpError(POLICY)

    async def handle(self, event: dict[str, Any]) -> None:
        text = _text(event)
        context = self._contexts.get(None) or self._open(None, event)
        if text == "":
            context.end()
        else:
            self._write(context, text or "", event)

    def _write(self, context: Narration, text: str, event: dict[str, Any]) -> None:
        if context.ended:
            raise RequestError("the text was ended: open another connection or context", param="text")
        # What opens a context is a blank, which belongs to no sentence.
        if text.strip() or context.num_pending:
            context.write(text)
        if event.get("flush") is True or (self._query.get("auto_mode") == "true" and text.strip()):
            context.flush()

    def _open(self, name: str | None, event: dict[str, Any]) -> Narration:
        """A new context; its settings are those of its first message."""
        if len(self._contexts) >= _MAX_CONTEXTS:
            raise TooLargeError(f"{_MAX_CONTEXTS} contexts are open: close one first", code="max_contexts")
        self._num_contexts += 1
        manner = self._manner(event, str(self._num_contexts))
        form = _Continued(self._format.codec, self._format.sample_rate_hz, self._format.bit_rate)
        splitter = SentenceSplitter(language=self._query.get("language_code") or "en")
        context = Narration(self._service, manner, lambda *_: form, splitter, self._limits.max_pending_chars)
        self._contexts[name] = context
        self.beside(self._speak(name, context, form))
        return context

    def _manner(self, event: dict[str, Any], number: str) -> Manner:
        query = self._query
        fields = {
            "text": "-",
            "model_id": query.get("model_id"),
            "language_code": query.get("language_code"),
            "voice_settings": event.get("voice_settings"),
        }
        names = tuple(SpeechFields.model_fields)
        seed = event.get("seed")
        if seed is None:
            seed = query.get("seed", self._seed)
        read = validated(SpeechFields, {**fields, "seed": seed}, names)
        body = speech_body(self._voice, read, self._format, streamed=True)
        return Manner(self._service.reader, body, f"{self.id}-{number}", self._kept)

    async def _speak(self, name: str | None, context: Narration, form: _Continued) -> None:
        """Speak a context to its end."""
        try:
            async with context.pieces() as pieces:
                async for piece in pieces:
                    await self._tell(name, piece)
            if not context.cancelled:
                loop = asyncio.get_running_loop()
                rest = await loop.run_in_executor(self._service.encoders, form.end)
                await self._tell_audio(name, rest)
        finally:
            self._contexts.pop(name, None)
        await self._tell_final(name)

    async def _tell(self, name: str | None, piece: Piece) -> None:
        if piece.error is not None:
            await self._tell_error(piece.error, name)
            if name is None:
                raise HangUpError(POLICY)
        await self._tell_audio(name, piece.data)

    async def _tell_audio(self, name: str | None, data: bytes) -> None:
        if data:
            audio = base64.b64encode(data).decode("ascii")
            await self.send({"audio": audio, "isFinal": False, **_UNTIMED, **_named(name)})

    async def _tell_final(self, name: str | None) -> None:
        await self.send({"audio": None, "isFinal": True, **_UNTIMED, **_named(name)})
        if name is None:
            raise HangUpError

    async def _tell_error(self, error: StentorError, name: str | None) -> None:
        told = {"message": error.message, "error": status_name(error), "code": POLICY}
        await self.send({**told, "param": NAMES.get(error.param or "", error.param), **_named(name)})


class MultiInputSocket(InputSocket):
    """`multi-stream-input`: contexts that are opened, written, flushed and closed by name.

    A context that is closed still says what it was given, as clients rely on that; closing it once more
    drops the rest at once, which is ours. An error belongs to its context and ends nothing else.
    """

    _ending = False  # The client has sent close_socket.

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        name = event.get("context_id")
        await self._tell_error(error, name if isinstance(name, str) else None)

    async def handle(self, event: dict[str, Any]) -> None:
        name = event.get("context_id")
        if name is not None and not isinstance(name, str):
            raise RequestError("context_id must be a string", param="context_id")
        if event.get("close_socket") is True:
            return self._finish_all()
        # A message without a name is for the context called "default", or only to keep the connection.
        name, text = name or "default", _text(event)
        context = self._contexts.get(name)
        if event.get("close_context") is True:
            if context is not None:
                self._finish(context)
            return None
        if context is None and not text:
            return None
        context = context or self._open(name, event)
        return self._write(context, text or "", event)

    def _finish(self, context: Narration) -> None:
        if context.ended:
            context.cancel()
        context.end()

    def _finish_all(self) -> None:
        self._ending = True
        if not self._contexts:
            raise HangUpError
        for context in self._contexts.values():
            context.end()

    async def _tell_final(self, name: str | None) -> None:
        await super()._tell_final(name)
        if self._ending and not self._contexts:
            raise HangUpError


_UNTIMED = {"alignment": None, "normalizedAlignment": None}


def _named(name: str | None) -> dict[str, str]:
    return {} if name is None else {"contextId": name}


def _text(event: dict[str, Any]) -> str | None:
    text = event.get("text")
    if text is not None and not isinstance(text, str):
        raise RequestError("text must be a string", param="text")
    return text
