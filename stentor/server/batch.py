"""Knows how many texts are said by one request, and how each of them is answered for itself."""

import asyncio
import base64
import json
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from stentor.errors import InternalError, OverloadedError, RequestError, StentorError
from stentor.server.answer import WatchedResponse
from stentor.server.bodies import FIELDS, SpeechBody
from stentor.server.caller import current
from stentor.server.delivery import make_form, usage
from stentor.server.errors import BROKEN, error_object, error_response, validated
from stentor.server.protocol import Delivery, Order
from stentor.server.utterance import Service, Utterance

# The places of the house that one batch takes at a time: others want to be heard meanwhile.
_AT_A_TIME = 8

# Fields that together say which voice: an item that has one of them wants none of the shared others.
_VOICE_FIELDS = frozenset(
    (
        *("voice", "speaker", "references", "ref_audio", "ref_text"),
        *("reference_codes", "reference_text"),
    )
)


class BatchBody(BaseModel):
    """Texts to say, each with fields of its own; the fields beside `items` are what they share."""

    model_config = ConfigDict(strict=True, extra="allow")

    items: Annotated[list[dict[str, Any]], Field(min_length=1, description="A body of speech each.")]


class BatchAnswer(WatchedResponse):
    """The answer to a batch, when all of it is there. Raises RequestError if the batch itself is wrong."""

    def __init__(self, service: Service, batch: BatchBody, request_id: str, most_items: int) -> None:
        super().__init__(service.write_timeout_s)
        if len(batch.items) > most_items:
            raise RequestError(
                f"the batch has {len(batch.items)} items, but at most {most_items} are allowed: send several",
                param="items",
            )
        self._service = service
        self._id = request_id
        shared = batch.model_extra or {}
        # What is wrong with the shared fields is the batch's fault and not that of each item.
        validated(SpeechBody, {**shared, "input": "x"}, FIELDS)
        self._bodies = [_merged(shared, item) for item in batch.items]
        # A batch does not use up its own key's share.
        self._places = asyncio.Semaphore(min(_AT_A_TIME, current().key.concurrent_requests or _AT_A_TIME))

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `WatchedResponse.answer`."""
        async with asyncio.TaskGroup() as group:
            saying = [group.create_task(self._say(index)) for index in range(len(self._bodies))]
        results = [task.result() for task in saying]
        refusals = [result for result in results if isinstance(result, OverloadedError)]
        if len(refusals) == len(results):
            return await error_response(refusals[0])(scope, receive, send)
        told = [
            {"index": index, "status": "error", **error_object(result)}
            if isinstance(result, StentorError)
            else {"index": index, "status": "success", **result}
            for index, result in enumerate(results)
        ]
        succeeded = sum(result["status"] == "success" for result in told)
        body = {
            "id": self._id,
            "object": "audio.speech.batch",
            "results": told,
            "total": len(told),
            "succeeded": succeeded,
            "failed": len(told) - succeeded,
        }
        return await self.send_whole(send, "application/json", json.dumps(body).encode())

    async def _say(self, index: int) -> dict[str, Any] | StentorError:
        """What an item came to."""
        try:
            body = validated(SpeechBody, self._bodies[index], FIELDS, ("items", index))
            order = self._service.reader.read(body, f"{self._id}-{index}")
            if order.delivery is not Delivery.FILE:
                raise RequestError(
                    "a batch is not streamed: leave stream and stream_format out", param="stream"
                )
            async with self._places, Utterance(self._service, order, partial(make_form, order)) as utterance:
                audio = b"".join([data async for data in utterance])
            return _success(order, utterance, audio)
        except StentorError as error:
            return error
        except Exception:  # logged by the utterance
            return InternalError(BROKEN)


def _success(order: Order, utterance: Utterance, audio: bytes) -> dict[str, Any]:
    last, form = utterance.last, utterance.form
    assert last is not None, "an utterance without a sound is an error"
    assert form is not None, "an utterance without a sound is an error"
    return {
        "id": order.id,
        "audio_data": base64.b64encode(audio).decode("ascii"),
        "media_type": form.media_type,
        "response_format": order.format,
        "sample_rate": utterance.sample_rate_hz,
        "audio_seconds": round(utterance.audio_s, 3),
        "finish_reason": last.finish_reason,
        "seed": order.seed,
        "usage": usage(last, "input_tokens", "output_tokens"),
        "warnings": list(order.warnings),
    }


def _merged(shared: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    own_voice = any(item.get(name) is not None for name in _VOICE_FIELDS)
    kept = {name: value for name, value in shared.items() if not (own_voice and name in _VOICE_FIELDS)}
    return {**kept, **{name: value for name, value in item.items() if value is not None}}
