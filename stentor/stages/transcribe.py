"""Writes down what references say that came without their words: in a thread, by batches, each once."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

from msgspec import structs

from stentor.errors import InternalError, StentorError
from stentor.request import Array, SpeechRequest
from stentor.stages.encode import content_key

# Transcripts that are kept, of a few hundred bytes each.
_MOST_KEPT = 1024

log = logging.getLogger(__name__)


class Recogniser(Protocol):
    """What a model supplies: recordings to words. What it needs is loaded when it is first asked.

    `max_seconds` is how much of one it hears, `max_batch` how many at once; that is asked in the worker.
    """

    max_seconds: float

    @property
    def max_batch(self) -> int: ...

    def transcribe(self, waveforms: Sequence[Array], sample_rate_hz: int) -> list[str]:
        """What each of at most `max_batch` recordings says, mono float32 [num_samples]; "" if nothing."""


class Transcriber:
    """Gives requests the words of their recordings, mono at `sample_rate_hz`; called by one thread only.

    Texts are kept by the recording's content. A recording in which nothing is heard stays without words, as
    all do if there is no recogniser. `under_way` can be waited for: the batch in work, if there is one.
    """

    def __init__(self, recogniser: Recogniser | None, sample_rate_hz: int) -> None:
        self.under_way: list[Future[list[str]]] = []
        self._recogniser = recogniser
        self._max_batch = 0 if recogniser is None else recogniser.max_batch
        self._sample_rate_hz = sample_rate_hz
        self._waiting: dict[str, tuple[SpeechRequest, Future[Array], bytes]] = {}
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._keys: list[bytes] = []  # of what is under way
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcript")
        self._num_heard = 0

    def wants(self, request: SpeechRequest) -> bool:
        """Are there words to be added to its reference."""
        words = request.reference and request.reference.text
        return self._recogniser is not None and not (words or "").strip()

    def add(self, request: SpeechRequest, loaded: "Future[Array]") -> None:
        """Queue a request that it `wants`, whose recording has been loaded."""
        self._waiting[request.request_id] = request, loaded, content_key(loaded.result())

    def step(self) -> list[tuple[SpeechRequest, Future[Any]]]:
        """The requests that are done, with words and recording or what raises why; begins the next batch."""
        failed = self._land()
        done: list[tuple[SpeechRequest, Future[Any]]] = []
        for request_id, (request, loaded, key) in list(self._waiting.items()):
            if key in self._texts:
                assert request.reference is not None, "there is a recording"
                self._texts.move_to_end(key)
                reference = structs.replace(request.reference, text=self._texts[key] or None)
                done.append((structs.replace(request, reference=reference), loaded))
            elif key in failed:
                done.append((request, failed[key]))
            else:
                continue
            del self._waiting[request_id]
        if self._waiting and not self.under_way:
            recordings = {key: loaded.result() for _, loaded, key in self._waiting.values()}
            self._keys = list(islice(recordings, self._max_batch))
            self._num_heard += len(self._keys)
            batch = [recordings[key] for key in self._keys]
            self.under_way = [self._thread.submit(self._recognise, batch)]
        return done

    def abort(self, request_id: str) -> None:
        """Forget the request; what is being transcribed is kept for the next with the same recording."""
        self._waiting.pop(request_id, None)

    def has_work(self) -> bool:
        """Is any request waiting for its words."""
        return bool(self._waiting)

    def stats(self) -> dict[str, float]:
        """Requests waiting for their words, and how many recordings were listened to."""
        if self._recogniser is None:
            return {}
        return {"transcripts_waiting": len(self._waiting), "recordings_heard": self._num_heard}

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _land(self) -> dict[bytes, Future[list[str]]]:
        """Keep what the batch brought, if it is done; if it failed, its recordings with what raises why."""
        if not self.under_way or not self.under_way[0].done():
            return {}
        task = self.under_way.pop()
        if task.exception() is not None:
            return dict.fromkeys(self._keys, task)
        self._texts.update(zip(self._keys, task.result(), strict=True))
        while len(self._texts) > _MOST_KEPT:
            self._texts.popitem(last=False)
        return {}

    def _recognise(self, recordings: list[Array]) -> list[str]:
        assert self._recogniser is not None, "nobody is wanted without"
        try:
            return self._recogniser.transcribe(recordings, self._sample_rate_hz)
        except StentorError:
            raise
        except Exception as error:
            log.exception("references could not be transcribed")
            told = f"the reference was not understood ({type(error).__name__}): send its words with it"
            raise InternalError(told) from error
