"""Knows how a text that is still being written is spoken as one stream, sentence after sentence."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from stentor.errors import InternalError, StentorError, TooLargeError
from stentor.pipeline.kept_voice import KeptVoice
from stentor.pipeline.passage import Passage, speak
from stentor.request import Audio, SpeechRequest, check_characters
from stentor.server.bodies import SpeechBody
from stentor.server.delivery import Form
from stentor.server.errors import BROKEN
from stentor.server.protocol import Order, Reader
from stentor.server.utterance import Service, Utterance
from stentor.text.parts import Manners
from stentor.text.sentences import SentenceSplitter

if TYPE_CHECKING:
    from stentor.pipeline.stream import AudioStream


class Manner:
    """How a client is spoken to: a body whose text is yet to come; one seed and one `voice` for all of it."""

    def __init__(
        self, reader: Reader, body: SpeechBody, conversation_id: str, voice: KeptVoice | None = None
    ) -> None:
        """Raises what `Reader.read` does: what cannot be served is refused before there is a text."""
        self._reader = reader
        self._conversation_id = conversation_id
        self._num_orders = 0
        self.voice = voice or reader.keep_voice()
        self.seed = reader.read(body.model_copy(update={"input": "-"}), conversation_id).seed
        self._body = body.model_copy(update={"seed": self.seed})

    def order(self, text: str) -> Order:
        """The order to say a text in this manner. Raises what `Reader.read` does."""
        self._num_orders += 1
        body = self._body.model_copy(update={"input": text})
        order = self._reader.read(body, f"{self._conversation_id}-{self._num_orders}")
        return replace(order, request=self.voice.dress(order.request))


@dataclass(frozen=True)
class Piece:
    """What to send next, and of which sentence; `last` comes with the end of one, `error` if it failed."""

    index: int
    text: str
    id: str = ""
    data: bytes = b""
    format: str = ""
    sample_rate_hz: int = 0
    last: Audio | None = None
    error: StentorError | None = None


class Narration:
    """One reader's audio of a text that comes in portions.

    Sentences are spoken strictly in order. The next one is on its way as soon as the present one has been
    heard, so that it is there when that has been played, but waits for the end of one that it takes its voice
    from; never more than these two are in the house. All calls come from one event loop.
    """

    def __init__(
        self,
        service: Service,
        manner: Manner,
        make_form: Callable[[Order, int], Form],
        splitter: SentenceSplitter,
        max_pending_chars: int,
    ) -> None:
        self.cancelled = False
        self.ended = False  # No more text comes.
        self.num_sentences = 0  # Taken up so far.
        self._service = service
        self._manner = manner
        self._make_form = make_form
        self._splitter = splitter
        self._max_pending_chars = max_pending_chars
        self._in_force = Manners((*service.info.control_tags, *service.info.speaker_tags))
        self._half = ""  # Of a character that the last portion ended in.
        self._waiting: deque[str] = deque()
        self._present: Utterance | None = None
        self._next: tuple[Order, AudioStream | Passage] | None = None
        self._heard = False  # Has the present sentence made audio?
        self._let_in = False  # Has any sentence found a place?
        self._changed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Is nothing being spoken, and nothing ready to be."""
        return self._present is None and not self._waiting

    @property
    def num_pending(self) -> int:
        """Characters that are not spoken yet."""
        return sum(map(len, self._waiting)) + self._splitter.num_held

    def write(self, text: str) -> None:
        """Add to the text, of which a portion may end within a character: to JavaScript an emoji is two.

        Raises RequestError, and adds nothing, for half a character; TooLargeError if too much is unspoken.
        """
        if self.num_pending + len(text) > self._max_pending_chars:
            raise TooLargeError(
                f"{self.num_pending} characters are still to be spoken, and {len(text)} more would be over "
                f"{self._max_pending_chars}: send text as it is needed",
                param="text",
                code="string_above_max_length",
            )
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        pairs = text[: len(text) - len(self._half)].encode("utf-16", "surrogatepass")
        whole = pairs.decode("utf-16", "surrogatepass")
        check_characters(whole, "text")
        self._add(self._splitter.feed(whole))

    def flush(self) -> None:
        """Speak what is held back, as if its sentence had ended."""
        self._add(self._splitter.flush())

    def end(self) -> None:
        """Speak the rest, and then no more."""
        self.ended = True
        self.flush()

    def cancel(self) -> None:
        """Say no more, from now on: what is being made is aborted."""
        self.cancelled = True
        self._drop()

    @asynccontextmanager
    async def pieces(self) -> AsyncIterator[AsyncIterator[Piece]]:
        """What to send, to iterate inside `async with`; leaving it drops what is not yet said."""
        try:
            async with aclosing(self._pieces()) as pieces:
                yield pieces
        finally:
            self._drop()

    async def _pieces(self) -> AsyncGenerator[Piece]:
        index = -1
        while await self._has_more():
            index += 1
            text = self._waiting.popleft()
            piece = Piece(index, text)
            try:
                async with self._begin(text) as utterance:
                    order, rate_hz = utterance.order, utterance.sample_rate_hz
                    piece = Piece(index, text, order.id, format=order.format, sample_rate_hz=rate_hz)
                    async for data in utterance:
                        self._heard = True
                        self._look_ahead()
                        yield replace(piece, data=data)
                self._manner.voice.hear(order.request, utterance.last)
                piece = replace(piece, last=utterance.last)
            except StentorError as error:
                piece = replace(piece, error=error)
            except Exception:  # Logged by the utterance.
                piece = replace(piece, error=InternalError(BROKEN))
            finally:
                self._present = None
            if not self.cancelled:
                yield piece

    def _begin(self, text: str) -> Utterance:
        """Speak a sentence, unless that has begun already."""
        self._heard = False
        said = self._in_force.next(text)
        order, stream = self._next or (self._manner.order(said), None)
        self._next = None
        self._present = Utterance(self._service, order, partial(self._make_form, order), stream, self._submit)
        return self._present

    def _submit(self, request: SpeechRequest, *, continues: bool = False) -> "AudioStream":
        """As `Admission.submit`: once a sentence is in the house, the others follow it."""
        stream = self._service.pipeline.submit(request, continues=continues, follows=self._let_in)
        self._let_in = True
        return stream

    def _look_ahead(self) -> None:
        """Begin the next sentence, if it is time to."""
        ready = self._heard and self._waiting and self._manner.voice.settled
        if not ready or self._next is not None:
            return
        # Where that fails (the house may be full), it is tried again when its turn has come.
        with suppress(StentorError):
            text = self._waiting[0]
            order = self._manner.order(self._in_force.before(text) + text)
            voice = self._service.reader.keep_voice()
            self._next = order, speak(self._submit, order.request, self._service.info, voice)

    def _drop(self) -> None:
        self._heard = False
        self._waiting.clear()
        if self._present is not None:
            self._present.abort()
        if self._next is not None:
            self._next[1].abort()
        self._next = None
        self._changed.set()

    def _add(self, sentences: list[str]) -> None:
        if not self.cancelled:
            spoken = [sentence for sentence in sentences if sentence.strip()]
            self.num_sentences += len(spoken)
            self._waiting.extend(spoken)
            self._look_ahead()
        self._changed.set()

    async def _has_more(self) -> bool:
        """Is there another sentence; waits until that is certain."""
        while not self._waiting:
            if self.ended or self.cancelled:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True
