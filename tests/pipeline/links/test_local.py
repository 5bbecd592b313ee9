import threading
import time

from stentor.pipeline.links import Doorbell
from stentor.pipeline.links.local import LocalLink
from stentor.stages.base import Abort


def link(credits: int) -> LocalLink:
    return LocalLink(credits, Doorbell(), Doorbell())


def test_messages_arrive_in_order_and_whole() -> None:
    one = link(4)
    one.send([Abort("a"), Abort("b")])
    one.send([Abort("c")])
    assert one.under_way == 2
    assert one.receive() == [Abort("a"), Abort("b")]
    assert one.receive() == [Abort("c")]
    assert one.receive() is None


def test_a_sender_without_credit_waits_until_one_comes_back() -> None:
    sender_bell = Doorbell()
    one = LocalLink(2, sender_bell, Doorbell())
    one.send([Abort("a")])
    one.send([Abort("b")])
    assert not one.has_credit()
    waited = threading.Thread(target=sender_bell.wait, args=([], 10.0))
    waited.start()
    time.sleep(0.05)
    assert waited.is_alive()
    one.receive()
    waited.join(2.0)
    assert not waited.is_alive()
    assert one.has_credit()


def test_sending_wakes_the_receiver() -> None:
    receiver_bell = Doorbell()
    one = LocalLink(2, Doorbell(), receiver_bell)
    threading.Timer(0.05, one.send, ([Abort("a")],)).start()
    began = time.monotonic()
    receiver_bell.wait([], 10.0)
    assert time.monotonic() - began < 5.0
    assert one.receive() == [Abort("a")]
