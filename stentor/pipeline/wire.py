"""Messages as bytes: msgpack with typed unions; arrays inline when small, in shared memory when large."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from stentor.errors import InternalError, to_failure
from stentor.pipeline.links import Item
from stentor.pipeline.links.arena import Arena
from stentor.request import Array
from stentor.stages.base import Abort, Payload

INLINE_BYTES = 16 * 1024

Place = Callable[[Array], int | None]


class Message(msgspec.Struct, frozen=True, tag=True):
    """Number `sequence` (from 1) of what this incarnation of the sender puts on the link."""

    sender: int
    sequence: int
    items: Sequence[Item]


def encode_message(
    sender: int, sequence: int, items: Sequence[Item], place: Place
) -> tuple[bytes, Sequence[Item]]:
    """The message as bytes, and its items as they will arrive.

    `place` puts a large array into shared memory, or returns None: then it goes inline. An item that cannot
    be encoded (a stage's defect) is replaced by the failure of its request.
    """

    def pack(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(f"a stage handed on a {type(value).__name__} that cannot go to another process")
        array = np.ascontiguousarray(value)
        offset = place(array) if array.nbytes > INLINE_BYTES else None
        return value.dtype.str, value.shape, array.tobytes() if offset is None else offset

    def checked(item: Item) -> Item:
        try:
            encode(item)
        except Exception as error:
            return Payload(item.request_id, last=True, failure=to_failure(InternalError(str(error))))
        return item

    encode = msgspec.msgpack.Encoder(enc_hook=pack).encode
    try:
        return encode(Message(sender, sequence, items)), items
    except Exception:
        items = [checked(item) for item in items]
        return encode(Message(sender, sequence, items)), items


class MessageDecoder:
    """Bytes as messages; every array is a fresh, writable copy. Without an arena all must be inline."""

    def __init__(self, arena: Arena | None) -> None:
        self._arena = arena
        self._decoder = msgspec.msgpack.Decoder(Message, dec_hook=self._unpack)

    def decode(self, data: bytes) -> Message:
        """The message; if it does not fit the types (a stage's defect), its payloads turn into failures."""
        try:
            return self._decoder.decode(data)
        except Exception as error:
            failure = to_failure(InternalError(f"a stage handed on a malformed payload: {error}"))
        raw = msgspec.msgpack.decode(data)
        items: list[Item] = [
            msgspec.convert(item, Abort)
            if item["type"] == Abort.__name__
            else Payload(item["request_id"], last=True, failure=failure)
            for item in raw["items"]
        ]
        return Message(raw["sender"], raw["sequence"], items)

    def _unpack(self, kind: Any, value: Any) -> Array:
        dtype, shape, content = value
        if isinstance(content, int) and self._arena is not None:
            size_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            array: Array = self._arena.read(content, size_bytes).view(dtype).reshape(shape)
            return array
        return np.frombuffer(content, dtype).reshape(shape).copy()
