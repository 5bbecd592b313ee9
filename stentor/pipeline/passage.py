"""Knows how a text of several parts is spoken as one stream: one request behind the other, two at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, Self

import numpy as np
from msgspec import structs

from stentor.errors import StentorError
from stentor.pipeline.kept_voice import KeptVoice
from stentor.pipeline.stream import AudioStream
from stentor.request import Array, Audio, FinishReason, ModelInfo, SpeechRequest, Usage
from stentor.text.parts import parts_of, usual_s
from stentor.text.tags import check_tags

# Of the time that a prompt has; some voices are slower than usual.
_MOST_OF_IT = 0.75
# Short enough to be the reference of those that follow.
_PART_S = 20.0


class Submit(Protocol):
    """`Pipeline.submit`, or what stands before it."""

    def __call__(self, request: SpeechRequest, *, continues: bool = False) -> AudioStream: ...


class Passage:
    """The audio of several requests as that of one; to be read like an `AudioStream`.

    The next request is submitted when the present one is first heard, so that it is there when that has been
    played, or at the end of one that it takes its `voice` from. The last audio sums up: all tokens, all codes
    if they were asked for, and the first reason to end that is not `stop`. `num_submitted` counts the
    requests that the pipeline has got.
    """

    def __init__(self, submit: Submit, requests: Sequence[SpeechRequest], voice: KeptVoice) -> None:
        """Raises what `Pipeline.submit` does."""
        self.num_submitted = 0
        self._submit = submit
        self._voice = voice
        self._waiting = list(requests)
        self._spoken: list[SpeechRequest] = []  # And not heard to the end.
        self._wants_codes = requests[0].return_codes
        self._present = self._begin()
        self._next: AudioStream | None = None
        self._reason = FinishReason.STOP
        self._usage = Usage(0, 0)
        self._codes: list[Array] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Audio:
        while True:
            with self._failing_as_one():
                audio = next(self._present, None)
            if audio is not None:
                return self._heard(audio)
            if not self._go_on():
                raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Audio:
        while True:
            with self._failing_as_one():
                audio = await anext(self._present, None)
            if audio is not None:
                return self._heard(audio)
            if not self._go_on():
                raise StopAsyncIteration

    def abort(self) -> None:
        """Stop all of it, and drop what was not read."""
        self._waiting.clear()
        if self._next is not None:
            self._next.abort()
            self._next = None
        self._present.abort()

    @contextmanager
    def _failing_as_one(self) -> Iterator[None]:
        """What follows a part that failed is not to be heard, and so not to be made."""
        try:
            yield
        except StentorError:
            self.abort()
            raise

    def _begin(self) -> AudioStream:
        """Submit the next request; if that is refused, it stays the next."""
        request = self._voice.dress(self._waiting[0])
        begun = self._submit(request, continues=self.num_submitted > 0)
        if not self._waiting:  # Another thread has aborted meanwhile.
            begun.abort()
        del self._waiting[:1]
        self._spoken.append(request)
        self.num_submitted += 1
        return begun

    def _go_on(self) -> bool:
        """The present request has been read: turn to the next one, if there is one."""
        if self._next is None:
            if not self._waiting:
                return False
            self._next = self._begin()
        self._present, self._next = self._next, None
        return True

    def _heard(self, audio: Audio) -> Audio:
        if audio.finish_reason is not None:
            self._voice.hear(self._spoken.pop(0), audio)
        if self._waiting and self._next is None and self._voice.settled:
            # If that fails, it is tried again when its turn has come, and told then.
            with suppress(StentorError):
                self._next = self._begin()
        return audio if audio.finish_reason is None else self._sum(audio, audio.finish_reason)

    def _sum(self, last: Audio, reason: FinishReason) -> Audio:
        if self._reason is FinishReason.STOP:
            self._reason = reason
        if last.usage is not None:
            prompt = self._usage.prompt_tokens + last.usage.prompt_tokens
            self._usage = Usage(prompt, self._usage.completion_tokens + last.usage.completion_tokens)
        if last.codes is not None and self._wants_codes:
            self._codes.append(last.codes)
        if self._waiting or self._next is not None:
            return structs.replace(last, finish_reason=None, usage=None, codes=None)
        codes = np.concatenate(self._codes) if self._codes else None
        return structs.replace(last, finish_reason=self._reason, usage=self._usage, codes=codes)


def speak(submit: Submit, request: SpeechRequest, info: ModelInfo, voice: KeptVoice) -> AudioStream | Passage:
    """Submit a request, in parts if its text is longer than the model says well, or at all, by one prompt.

    Without a voice of its own, its parts have that of the first; `voice` is a new one. A request with
    `max_new_tokens` of its own is about one generation, and is not cut. The parts of request ID are ID/1,
    ID/2 and so on.

    Raises:
        RequestError: an unknown tag, wherever in the text: nothing is said of it then; or a voice to clone,
            for a model that clones none.
        StentorError: what `Pipeline.submit` raises.
    """
    if request.reference is not None and request.reference.speaker is None:
        info.require_cloning()
    max_chars = info.max_prompt_chars or _most_chars(request.text, info)
    if max_chars is None or request.sampling.max_new_tokens is not None:
        return submit(request)
    parts = parts_of(request.text, max_chars, (*info.control_tags, *info.speaker_tags))
    if len(parts) < 2:
        return submit(request)
    if request.check_tags:
        check_tags(request.text, info.control_tags)
    numbered = enumerate(parts, 1)
    return Passage(
        submit,
        [structs.replace(request, request_id=f"{request.request_id}/{n}", text=part) for n, part in numbered],
        voice,
    )


def _most_chars(text: str, info: ModelInfo) -> int | None:
    """The characters of a part of some `_PART_S`, if all of the text is more than one prompt may say."""
    rows = info.sampling.max_new_tokens
    assert rows is not None, "a checkpoint's defaults have no None but the seed"
    seconds, row_s = usual_s(text), _MOST_OF_IT * info.samples_per_frame / info.sample_rate_hz
    # A letter takes a position at most.
    if seconds <= row_s * min(rows, info.context_limit - len(text)):
        return None
    # The other half of a small context is for the part's text, and the voice that is kept.
    return max(1, round(len(text) * min(_PART_S, row_s * info.context_limit / 2) / seconds))
