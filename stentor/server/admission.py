"""Knows whether a request may go to the pipeline: while the server takes any, within its key's share."""

from typing import TYPE_CHECKING

from stentor.errors import OverloadedError
from stentor.request import SpeechRequest
from stentor.server.caller import current
from stentor.server.keys import Key
from stentor.server.quota import Quota

if TYPE_CHECKING:
    from stentor.pipeline.pipeline import Pipeline
    from stentor.pipeline.stream import AudioStream

_DRAINING_RETRY_S = 5.0


class Admission:
    """The one door to the pipeline for every dialect; used on the event loop only."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self.draining = False
        self.ending = False  # The process is about to end: this drain is not taken back.
        self._pipeline = pipeline
        # As the pipeline's.
        self.alive, self.restart, self.stats = pipeline.alive, pipeline.restart, pipeline.stats
        self._quotas: dict[str, Quota] = {}

    def submit(
        self, request: SpeechRequest, *, continues: bool = False, follows: bool = False
    ) -> "AudioStream":
        """As `Pipeline.submit`, on behalf of the present caller; what goes on is part of an accepted request.

        What `follows` is the next sentence of an utterance that is being heard: its key is asked as for any
        other request, but neither a full house nor the end of the server breaks off in the middle.

        Raises:
            OverloadedError: the server is full, or about to end.
            RateLimitedError: the caller's key has had its share.
        """
        if self.draining and not (continues or follows):
            raise OverloadedError(
                "the server takes no more requests because it is about to stop: try again later",
                retry_after_s=_DRAINING_RETRY_S,
            )
        quota = self._quota(current().key)
        if not continues:
            quota.check()
        stream = self._pipeline.submit(request, continues=continues or follows)
        quota.take(len(request.text), stream, requests=0 if continues else 1)
        return stream

    def ready(self) -> bool:
        """Would a request be served now."""
        return not self.draining and self._pipeline.ready()

    def num_open(self) -> int:
        """Requests that hold a place."""
        return int(self.stats()["requests"]["open"])

    def _quota(self, key: Key) -> Quota:
        quota = self._quotas.get(key.name)
        # A key whose limits were changed begins anew.
        if quota is None or quota.key != key:
            quota = self._quotas[key.name] = Quota(key)
        return quota
