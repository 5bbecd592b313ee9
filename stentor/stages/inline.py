"""Runs a few stages in the calling thread: for command-line tools and measurements that need no pipeline."""

from collections.abc import Iterable

from stentor.errors import from_failure
from stentor.request import Record
from stentor.stages.base import Payload, Stage, StageSpec


class InlineStages:
    """A chain of stages, built here and stepped here.

    A context manager: leaving it closes the stages.
    """

    def __init__(self, specs: Iterable[StageSpec]) -> None:
        self.stages: list[Stage] = [spec.build(**spec.options) for spec in specs]

    def run(self, request_id: str, record: Record) -> list[Record]:
        """All that comes out at the end for this record. Raises the StentorError that a stage reported."""
        payloads = [Payload(request_id, record, last=True)]
        for stage in self.stages:
            for payload in payloads:
                stage.add(payload)
            payloads = []
            while stage.has_work():
                payloads += stage.step()
            for payload in payloads:
                if payload.failure is not None:
                    raise from_failure(payload.failure)
        return [payload.data for payload in payloads if payload.data is not None]

    def __enter__(self) -> "InlineStages":
        return self

    def __exit__(self, *_: object) -> None:
        for stage in self.stages:
            stage.close()
