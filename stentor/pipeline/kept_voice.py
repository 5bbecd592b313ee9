"""Knows how a voice that nobody named stays the same from one request to the next: by what it said first."""

import numpy as np
from msgspec import structs

from stentor.request import Array, Audio, FinishReason, ModelInfo, Reference, SpeechRequest
from stentor.text.tags import without_tags

# So much speech of a voice is enough to go on with it; what comes after it changes nothing.
_ENOUGH_S = 4.0


class KeptVoice:
    """The voice of requests that follow one another and name none.

    A model without a `steady_voice` takes another for each prompt without a reference, whatever the seed. So
    what such requests said so far is the reference of those that come after, until `_ENOUGH_S` are kept or a
    further one would be over `longest_s`, or half of the context. Where codes mean nothing elsewhere
    (`ModelInfo.codec` is empty), or the model clones no voices, none are kept.
    """

    def __init__(self, info: ModelInfo, longest_s: float) -> None:
        frames_per_s = info.sample_rate_hz / info.samples_per_frame
        # Half of a context is for what is still to be said.
        self._longest = min(longest_s * frames_per_s, info.context_limit / 2)
        self._enough = min(_ENOUGH_S * frames_per_s, self._longest)
        self._codes: list[Array] = []
        self._texts: list[str] = []
        self._done = info.steady_voice or not (info.codec and info.clones)
        # Does nothing that is still to be heard count, to the request that was dressed last?
        self.settled = self._done

    def dress(self, request: SpeechRequest) -> SpeechRequest:
        """The request with what is kept as its reference; one that has its own stays as it is."""
        self.settled = self._done or request.reference is not None
        if request.reference is not None:
            return request
        wants_codes, reference = request.return_codes or not self.settled, None
        if self._codes:
            reference = Reference(codes=np.concatenate(self._codes), text=" ".join(self._texts))
        return structs.replace(request, reference=reference, return_codes=wants_codes)

    def hear(self, said: SpeechRequest, last: Audio | None) -> None:
        """Keep what a request said that was dressed here: its text, and its last audio with its codes.

        Of several at a time it is the first to end: the others, without it, have taken other voices.
        """
        if self.settled or last is None or last.codes is None or last.finish_reason is not FinishReason.STOP:
            return
        kept, had = sum(map(len, self._codes)), 0
        if said.reference is not None and said.reference.codes is not None:
            had = len(said.reference.codes)
        if had == kept and kept + len(last.codes) <= self._longest:
            self._codes.append(last.codes)
            self._texts.append(without_tags(said.text).strip())
            kept += len(last.codes)
        self.settled = self._done = kept >= self._enough
