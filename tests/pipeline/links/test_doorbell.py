"""The doorbell."""

import threading
import time

from stentor.pipeline.links import Doorbell


def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Doorbell()
    bell.ring()
    began = time.monotonic()
    bell.wait([], 10.0)
    assert time.monotonic() - began < 1.0
    bell.wait([], 0.05)
    assert time.monotonic() - began >= 0.05


def test_waiting_costs_no_cpu() -> None:
    bell = Doorbell()
    threading.Timer(0.5, bell.ring).start()
    began = time.thread_time()
    bell.wait([])
    assert time.thread_time() - began < 0.02


def test_many_rings_from_many_threads_never_lose_the_last() -> None:
    bell = Doorbell()
    done: list[int] = []

    def ring() -> None:
        for number in range(2000):
            done.append(number)
            bell.ring()

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = 0
    while seen < 8000:
        bell.wait([], 5.0)
        assert len(done) > seen or seen == 8000 or any(thread.is_alive() for thread in threads)
        seen = len(done)
    for thread in threads:
        thread.join()
