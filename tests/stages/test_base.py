"""What crosses between stages is immutable and survives the wire; a declared stage can be pickled."""

import pickle

import msgspec
import pytest

from stentor.stages.base import Abort, Payload, StageSpec


def build_nothing(**options: object) -> None:
    """Stands for a build function."""


def test_a_payload_cannot_be_changed() -> None:
    payload = Payload("a", last=True)
    with pytest.raises(AttributeError):
        payload.last = False  # type: ignore[misc]


def test_an_abort_is_told_from_work_on_the_wire() -> None:
    wire = msgspec.msgpack.encode(Abort("a"))
    assert msgspec.msgpack.decode(wire)["type"] == "Abort"
    assert msgspec.msgpack.decode(wire, type=Abort) == Abort("a")
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"type": "Payload", "request_id": "a"}), type=Abort)


def test_a_declared_stage_survives_the_way_to_another_process() -> None:
    spec = StageSpec("encode", build_nothing, {"size": 3}, group="frontend")
    assert pickle.loads(pickle.dumps(spec)) == spec
