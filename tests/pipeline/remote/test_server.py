"""A worker serves several front doors, and forgets those that go."""

from typing import Any

import zmq

from stentor.pipeline.remote.server import _Session
from stentor.stages.base import Abort, Payload
from tests.pipeline import fakes
from tests.pipeline.remote.ends import front, serving
from tests.pipeline.test_pipeline import check_audio, check_clean, end_of, wait_until


def test_two_front_doors_share_a_worker_under_the_same_names() -> None:
    with serving(0.002) as server, front(server.address) as one, front(server.address) as two:
        streams = [each.submit(fakes.request("same", "frames=40")) for each in (one, two)]
        for stream in streams:
            check_audio("same", list(stream), 40)
        check_clean(one)
        check_clean(two)


def test_a_front_door_that_goes_leaves_nothing_behind() -> None:
    with serving(0.005) as server:
        with front(server.address) as gone:
            next(gone.submit(fakes.request("a", "frames=100000")))
        with front(server.address) as pipeline:
            wait_until(lambda: pipeline.stats()["stages"]["generate"].get("requests_known") == 0)
            assert not server._leaving
            check_clean(pipeline)


def test_a_worker_that_stops_takes_nothing_new_and_finishes_what_runs() -> None:
    with serving(0.005) as server, serving() as other, front(server.address, other.address) as pipeline:
        stream = pipeline.submit(fakes.request("a", "frames=100"))
        next(stream)
        server.stop(20.0)
        wait_until(lambda: not pipeline._chains[0].ready)
        assert end_of(pipeline.submit(fakes.request("b", "frames=3"))) is None
        assert sum(len(piece.waveform) for piece in stream) == 99 * fakes.SAMPLES_PER_FRAME


def test_what_is_no_message_ends_nobody() -> None:
    context: zmq.Context[Any] = zmq.Context()
    with serving() as server, front(server.address) as pipeline:
        socket = context.socket(zmq.DEALER)
        socket.connect(server.address)
        for parts in ([b""], [b"items", b"\xc1"], [b"a", b"b", b"c"]):
            socket.send_multipart(parts)
        socket.send_multipart([b"hello", b"token"])
        assert socket.poll(5000)
        socket.send_multipart([b"items", b"\xc1"])
        assert end_of(pipeline.submit(fakes.request("a"))) is None
        check_clean(pipeline)
    context.destroy(linger=0)


def test_an_abort_that_is_sent_twice_ends_no_later_request_of_that_id() -> None:
    session = _Session(b"route", b"token")
    first, abort = session.name(Payload("a")), session.name(Abort("a"))
    again = session.name(Abort("a", submission=1))
    assert first.request_id == abort.request_id == again.request_id
    assert [item.request_id for item in session.own([first, abort])] == ["a", "a"]
    second = session.name(Payload("a"))
    assert session.own([again]) == []
    assert session.own([second]) == [Payload("a")]
    # One that nobody knows comes back as well: its request may have died before.
    assert session.own([session.name(Abort("b"))]) == [Abort("b")]
