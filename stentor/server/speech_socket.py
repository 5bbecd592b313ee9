"""Knows the WebSocket `/v1/audio/speech/stream`: text as it is written, as vLLM-Omni and SGLang-Omni take it.

A client sends `session.config` (the fields of `POST /v1/audio/speech`, and `stream_audio` and
`split_granularity`), then `input.text` in portions, then `input.done`, as often as it likes. For each
sentence it gets `audio.start`, binary audio and `audio.done`, and `session.done` after each `input.done`. In
between, `input.commit` ends a sentence, and is answered by `input.committed` when all before it has been
spoken; `input.cancel` is ours, and interrupts.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.websockets import WebSocket

from stentor.errors import RequestError, StentorError, TooLargeError
from stentor.server.bodies import FIELDS, SpeechBody
from stentor.server.conversation import POLICY, Conversation, HangUpError, Limits
from stentor.server.delivery import make_form
from stentor.server.errors import error_object, validated
from stentor.server.narration import Manner, Narration, Piece
from stentor.server.utterance import Service
from stentor.text.sentences import SentenceSplitter

_CONFIG_TIMEOUT_S = 10.0
# Utterances of which the text is complete, and parts of one that are committed, but not spoken yet.
_MAX_WAITING = 32
_MAX_ID_CHARS = 256


class SessionFields(BaseModel):
    """The fields of `session.config` that are not those of a speech request."""

    model_config = ConfigDict(strict=True)

    stream_audio: bool = False
    split_granularity: Literal["sentence", "clause", "none"] = "sentence"
    # vLLM-Omni's ways to speak a text while it is written, which is always done here; two of them stream.
    streaming_mode: Literal["sentence", "sentence_commit", "token_level"] | None = None
    language: str | None = None


class SpeechSocket(Conversation):
    """One connection: utterances one after another, each in the manner of the last `session.config`."""

    def __init__(self, websocket: WebSocket, service: Service, limits: Limits) -> None:
        super().__init__(websocket, limits)
        self._service = service
        self._fields = SessionFields()
        self._manner: Manner | None = None
        self._writing: tuple[Narration, _Telling] | None = None  # Of which the text is not complete.
        self._narrations: list[Narration] = []
        self._num_narrations = 0
        self._speaking: asyncio.Task[None] | None = None

    def silence_s(self) -> float | None:
        if self._manner is None:
            return min(_CONFIG_TIMEOUT_S, self._limits.idle_timeout_s)
        busy = any(not narration.idle for narration in self._narrations)
        return None if busy else self._limits.idle_timeout_s

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        # vLLM-Omni tells the message outside, SGLang-Omni as OpenAI's object.
        await self.send({"type": "error", "message": error.message, **error_object(error)})
        if self._manner is None:
            raise HangUpError(POLICY)

    async def handle(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "session.config":
            await self._configure(event)
        elif self._manner is None:
            raise RequestError("the first message must be session.config", param="type")
        elif kind == "input.text":
            self._write(event.get("text"))
        elif kind == "input.commit":
            narration, telling = self._utterance()
            narration.flush()
            await telling.promise(narration.num_sentences, event.get("commit_id"))
        elif kind == "input.done":
            self._utterance()[0].end()
            self._writing = None
        elif kind == "input.cancel":
            for narration in self._narrations:
                narration.cancel()
            self._writing = None
        elif kind == "session.close":
            raise HangUpError
        else:
            raise RequestError(
                f"the message type {str(kind)[:100]!r} is not known: send session.config, input.text, "
                "input.commit, input.done, input.cancel or session.close",
                param="type",
            )

    async def _configure(self, event: dict[str, Any]) -> None:
        if self._writing is not None:
            raise RequestError("an utterance is still being written: send input.done before session.config")
        inner = event.get("session")
        fields = inner if isinstance(inner, dict) else {name: event[name] for name in event if name != "type"}
        own = set(SessionFields.model_fields) - {"language"}
        session = validated(SessionFields, {**fields}, tuple(SessionFields.model_fields))
        session.stream_audio |= session.streaming_mode in ("sentence_commit", "token_level")
        body = {name: value for name, value in fields.items() if name not in own}
        form = {"stream": session.stream_audio, "stream_format": "audio" if session.stream_audio else None}
        speech = validated(SpeechBody, {**body, **form, "input": "-"}, FIELDS)
        if speech.seed is None and self._manner is not None:
            speech = speech.model_copy(update={"seed": self._manner.seed})
        voice = self._manner.voice if self._manner is not None else None
        # Its sentences are counted anew, and have ids of their own all the same.
        self._manner = Manner(self._service.reader, speech, f"{self.id}-{self._num_narrations}", voice)
        self._fields = session
        await self.send(
            {
                "type": "session.configured",
                "session_id": self.id,
                "response_format": self._manner.order("-").format,
                "stream_audio": session.stream_audio,
                "split_granularity": session.split_granularity,
            }
        )

    def _write(self, text: Any) -> None:
        if not isinstance(text, str):
            raise RequestError("text must be a string", param="text")
        self._utterance()[0].write(text)

    def _utterance(self) -> "tuple[Narration, _Telling]":
        """The utterance being written, and what is told of it; a new one if there is none."""
        if self._writing is not None:
            return self._writing
        if len(self._narrations) >= _MAX_WAITING:
            raise TooLargeError(f"{_MAX_WAITING} utterances are still to be spoken: wait for a session.done")
        assert self._manner is not None, "a session begins with its configuration"
        splitter = SentenceSplitter(self._fields.split_granularity, self._fields.language or "en")
        pending = self._limits.max_pending_chars - sum(other.num_pending for other in self._narrations)
        narration = Narration(self._service, self._manner, make_form, splitter, pending)
        telling = _Telling(self, self._num_narrations)
        self._narrations.append(narration)
        self._num_narrations += 1
        self._speaking = self.beside(self._speak(narration, telling, self._speaking))
        self._writing = narration, telling
        return self._writing

    async def _speak(
        self, narration: Narration, telling: "_Telling", before: "asyncio.Task[None] | None"
    ) -> None:
        """Speak one utterance after those before it."""
        if before is not None:
            await asyncio.wait({before})
        async with narration.pieces() as pieces:
            async for piece in pieces:
                await telling.tell(piece)
        self._narrations.remove(narration)
        await telling.end(cancelled=narration.cancelled)


class _Telling:
    """The events of one utterance."""

    def __init__(self, socket: SpeechSocket, index: int) -> None:
        self._socket = socket
        self._utterance = {"utterance_index": index}
        self._num_sentences = 0  # Spoken to their end.
        self._num_bytes: int | None = None  # Of the present sentence; None before its start was told.
        self._promises: deque[tuple[int, Any]] = deque()
        self._segment = {"segment_index": -1, "segment_sentences": 0, "total_sentences": 0}

    async def promise(self, num_sentences: int, commit_id: Any) -> None:
        """Tell as soon as so many sentences have been spoken. Raises RequestError if too much is promised."""
        if not isinstance(commit_id, str | None) or len(commit_id or "") > _MAX_ID_CHARS:
            raise RequestError(f"commit_id must be a string of at most {_MAX_ID_CHARS}", param="commit_id")
        if len(self._promises) >= _MAX_WAITING:
            raise TooLargeError(f"{_MAX_WAITING} commits are still to be spoken: wait for an input.committed")
        self._promises.append((num_sentences, commit_id))
        await self._keep_promises()

    async def _keep_promises(self) -> None:
        while self._promises and self._promises[0][0] <= self._num_sentences:
            total, commit_id = self._promises.popleft()
            self._segment = {
                "segment_index": self._segment["segment_index"] + 1,
                "segment_sentences": total - self._segment["total_sentences"],
                "total_sentences": total,
            }
            told = {"type": "input.committed", "session_id": self._socket.id, "commit_id": commit_id}
            await self._socket.send({**told, **self._utterance, **self._segment})

    async def tell(self, piece: Piece) -> None:
        """Send what is to be said of a piece, and the piece."""
        await self._start(piece)
        assert self._num_bytes is not None
        if piece.data:
            self._num_bytes += len(piece.data)
            await self._socket.send(piece.data)
        if piece.error is not None:
            spoilt = {"partial_audio": True, "action": "discard"} if self._num_bytes else {}
            told = {"type": "error", "message": piece.error.message, **error_object(piece.error)}
            await self._socket.send({**told, **self._place(piece), **spoilt})
        if piece.error is not None or piece.last is not None:
            await self._socket.send(
                {
                    "type": "audio.done",
                    **self._place(piece),
                    "total_bytes": self._num_bytes,
                    "error": piece.error is not None,
                    "finish_reason": None if piece.last is None else piece.last.finish_reason,
                }
            )
            self._num_bytes = None
            self._num_sentences = piece.index + 1
            await self._keep_promises()

    async def end(self, *, cancelled: bool) -> None:
        """Tell the end of the utterance."""
        total = {"total_sentences": self._num_sentences, "cancelled": cancelled}
        await self._socket.send(
            {"type": "session.done", "session_id": self._socket.id, **self._utterance, **total}
        )

    async def _start(self, piece: Piece) -> None:
        if self._num_bytes is not None:
            return
        self._num_bytes = 0
        await self._socket.send(
            {
                "type": "audio.start",
                **self._place(piece),
                "sentence_text": piece.text,
                "format": piece.format,
                "sample_rate": piece.sample_rate_hz,
                "channels": 1,
            }
        )

    def _place(self, piece: Piece) -> dict[str, Any]:
        return {"id": piece.id, **self._utterance, "sentence_index": piece.index}
