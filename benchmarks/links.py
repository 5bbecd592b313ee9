"""What it costs to cross a link: microseconds per message, for threads and for processes, by size and batch.

    python benchmarks/links.py [--seconds 1.0]

Each row sends messages through one echoing worker and back, so a hop is one link and half a worker loop:
`latency` with one message under way, `busy` with 24. Prints a table and, last, one JSON line.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from stentor.config import PipelineConfig
from stentor.pipeline.launch import Launch, ProcessLaunch, ThreadLaunch
from stentor.pipeline.links import Doorbell, Item
from stentor.request import Audio, Frames
from stentor.stages.base import Payload, StageSpec


class Echo:
    """A stage that hands on whatever it takes."""

    def __init__(self) -> None:
        self.held: list[Payload] = []

    def add(self, payload: Payload) -> None:
        """Keep it until the next step."""
        self.held.append(payload)

    def step(self) -> list[Payload]:
        """All that was kept."""
        held, self.held = self.held, []
        return held

    def abort(self, request_id: str) -> None:
        """Nothing outlives a step."""

    def has_work(self) -> bool:
        """Is anything kept."""
        return bool(self.held)

    def stats(self) -> dict[str, float]:
        """No gauges."""
        return {}

    def close(self) -> None:
        """Nothing to free."""


def build() -> Echo:
    """The stage, for a worker process to make."""
    return Echo()


def messages() -> dict[str, list[Item]]:
    """What crosses links in earnest, by a name for the table."""
    frame = Frames(np.zeros((1, 8), np.uint16))
    second = Audio(np.zeros(24_000, np.float32), 24_000)
    return {
        "1 frame": [Payload("r0", frame)],
        "64 requests, 1 frame each": [Payload(f"r{number}", frame) for number in range(64)],
        "1 s of audio (96 kB)": [Payload("r0", second)],
        "16 requests, 1 s of audio each": [Payload(f"r{number}", second) for number in range(16)],
    }


class Road:
    """One echoing worker between a head and a tail."""

    def __init__(self, kind: str) -> None:
        self.bell = Doorbell()
        specs, config = [StageSpec("echo", build)], PipelineConfig(link_credits=32)
        self.launch: Launch = (
            ThreadLaunch(specs, config, self.bell) if kind == "thread" else ProcessLaunch(specs, config)
        )
        self.launch.start()
        while not self.launch.ready:
            self.bell.wait(self.launch.descriptors, 0.1)
            self.launch.supervise()

    def receive(self) -> Sequence[Item]:
        """The next message to come back."""
        while (items := self.launch.tail.receive()) is None:
            self.bell.wait((*self.launch.tail.sockets, *self.launch.head.sockets), 1.0)
            self.launch.head.service()
        return items

    def latency_us(self, items: list[Item], seconds: float) -> float:
        """Median time of one hop with nothing else under way."""
        times = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            assert self.launch.head.has_credit()
            self.launch.head.send(items)
            count = 0
            while count < len(items):
                count += len(self.receive())
            times.append(time.perf_counter() - began)
        return statistics.median(times) / 2 * 1e6

    def busy_us(self, items: list[Item], seconds: float) -> float:
        """Time per message and hop when the road is full."""
        under_way: deque[int] = deque()
        crossed = received = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds or under_way:
            head = self.launch.head
            while time.perf_counter() - began < seconds and len(under_way) < 24 and head.has_credit():
                self.launch.head.send(items)
                under_way.append(len(items))
            # The worker may hand on several messages as one.
            received += len(self.receive())
            while under_way and received >= under_way[0]:
                received -= under_way.popleft()
                crossed += 1
        return (time.perf_counter() - began) / crossed / 2 * 1e6


def main() -> None:
    """Measure every kind of message on both roads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1.0, help="Time for each number.")
    seconds = parser.parse_args().seconds
    rows = []
    for kind in ("thread", "process"):
        road = Road(kind)
        for name, items in messages().items():
            row = {
                "link": kind,
                "message": name,
                "latency_us": round(road.latency_us(items, seconds), 1),
                "busy_us": round(road.busy_us(items, seconds), 1),
            }
            rows.append(row)
            print(
                f"{kind:8} {name:32} latency {row['latency_us']:8} µs  busy {row['busy_us']:8} µs", flush=True
            )
        road.launch.stop(3.0)
    load = os.getloadavg()[0]
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "load": round(load, 2)}
    print(json.dumps({"benchmark": "links", "python": platform.python_version(), **hardware, "rows": rows}))


if __name__ == "__main__":
    import links  # By its name, so that worker processes find `build` in a module they can import.

    links.main()
