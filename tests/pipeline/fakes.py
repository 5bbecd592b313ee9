"""Stages without a model, for the laws of the pipeline; importable from worker processes.

What a request does stands in its text as words: `frames=N` (how much to say), `bad=STAGE` (that stage
refuses it in `add`), `burst=STAGE` (that stage raises in `step` while it holds it), `samples=N` (size of the
reference waveform). The audio of frame number i of a request is `frame_audio(request_id, i)`, so that a
reader can tell what was lost, doubled, swapped or mixed up. On another machine a name has an `@number` behind
it, which says nothing here.
"""

import os
import re
import time
import zlib
from dataclasses import dataclass

import numpy as np

from stentor.errors import RequestError
from stentor.request import (
    Array,
    Audio,
    FinishReason,
    Frames,
    Prompt,
    Reference,
    SamplingParams,
    SpeechRequest,
    Usage,
)
from stentor.stages.base import Payload, StageSpec

SAMPLES_PER_FRAME = 960
NUM_CODEBOOKS = 8


def request(request_id: str, text: str = "frames=3", samples: int = 0) -> SpeechRequest:
    reference = Reference(codes=np.arange(samples * 2, dtype=np.int32)) if samples else None
    return SpeechRequest(request_id, text, reference=reference)


def word(text: str, name: str) -> str:
    return next((word.partition("=")[2] for word in text.split() if word.startswith(name + "=")), "")


def frame_codes(request_id: str, index: int) -> Array:
    first = zlib.crc32(f"{request_id}/{index}".encode()) % 60_000
    return np.arange(first, first + NUM_CODEBOOKS, dtype=np.uint16)


def frame_audio(request_id: str, index: int) -> Array:
    return audio_of(frame_codes(request_id, index)[None])


def audio_of(codes: Array) -> Array:
    """[frames, codebooks] -> [frames * SAMPLES_PER_FRAME]"""
    first = codes[:, :1].astype(np.float32)
    return (first + np.linspace(0, 1, SAMPLES_PER_FRAME, dtype=np.float32)).reshape(-1)


@dataclass
class _Work:
    payload: Payload
    text: str


class OneToOne:
    """Preprocess and encode: takes a request, and hands on its prompt in the next step."""

    def __init__(self, name: str, step_s: float = 0.0) -> None:
        self.name = name
        self.step_s = step_s
        self.held: dict[str, _Work] = {}
        self.aborts = 0
        self.closed = False

    def add(self, payload: Payload) -> None:
        data = payload.data
        text = data.text if isinstance(data, SpeechRequest) else data.request.text
        assert payload.request_id not in self.held, "the same request came twice"
        if word(text, "bad") == self.name:
            raise RequestError(f"{self.name} refuses {payload.request_id}")
        self.held[payload.request_id] = _Work(payload, text)

    def step(self) -> list[Payload]:
        time.sleep(self.step_s)
        for work in self.held.values():
            if word(work.text, "burst") == self.name:
                raise ZeroDivisionError("step")
        done, self.held = self.held, {}
        return [Payload(name, self.result(work.payload.data), last=True) for name, work in done.items()]

    def result(self, data: object) -> object:
        if not isinstance(data, SpeechRequest):
            return data
        codes = data.reference.codes if data.reference else None
        waveform = codes.astype(np.float32) if codes is not None else None
        return Prompt(data, np.arange(7, dtype=np.int32), SamplingParams(), reference_waveform=waveform)

    def abort(self, request_id: str) -> None:
        self.aborts += self.held.pop(request_id, None) is not None

    def has_work(self) -> bool:
        return bool(self.held)

    def stats(self) -> dict[str, float]:
        return {"held": len(self.held), "pid": os.getpid(), "aborts": self.aborts}

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Generate(OneToOne):
    """One frame of every running request per step, all in one list."""

    def __init__(self, name: str, step_s: float = 0.0, max_running: int = 16) -> None:
        super().__init__(name, step_s)
        self.max_running = max_running
        self.done: dict[str, int] = {}

    def step(self) -> list[Payload]:
        time.sleep(self.step_s)
        out = []
        for request_id, work in list(self.held.items())[: self.max_running]:
            if word(work.text, "burst") == self.name:
                raise ZeroDivisionError("step")
            index = self.done.get(request_id, 0)
            self.done[request_id] = index + 1
            last = index + 1 >= int(word(work.text, "frames") or 3)
            out.append(Payload(request_id, self.frame(work.payload.data, index, last), last=last))
            if last:
                del self.held[request_id], self.done[request_id]
        return out

    def frame(self, prompt: Prompt, index: int, last: bool) -> Frames:
        return Frames(
            frame_codes(re.sub(r"@\d+$", "", prompt.request.request_id), index)[None],
            request=prompt.request if index == 0 else None,
            finish_reason=FinishReason.STOP if last else None,
            usage=Usage(7, index + 1) if last else None,
        )

    def abort(self, request_id: str) -> None:
        super().abort(request_id)
        self.done.pop(request_id, None)


class Vocode:
    """Many to many: keeps a state per stream, and sounds whatever frames have come."""

    def __init__(self, name: str, step_s: float = 0.0) -> None:
        self.name = name
        self.step_s = step_s
        self.streams: dict[str, SpeechRequest] = {}
        self.pieces: dict[str, list[Payload]] = {}
        self.aborts = 0

    def add(self, payload: Payload) -> None:
        frames = payload.data
        if frames.request is not None:
            assert payload.request_id not in self.streams, "the same stream came twice"
            self.streams[payload.request_id] = frames.request
        assert payload.request_id in self.streams, "a late piece of a stream that is gone"
        if word(self.streams[payload.request_id].text, "bad") == self.name:
            raise RequestError(f"{self.name} refuses {payload.request_id}")
        self.pieces.setdefault(payload.request_id, []).append(payload)

    def step(self) -> list[Payload]:
        time.sleep(self.step_s)
        for request_id in self.pieces:
            if word(self.streams[request_id].text, "burst") == self.name:
                raise ZeroDivisionError("step")
        pieces, self.pieces = self.pieces, {}
        out = []
        for request_id, payloads in pieces.items():
            codes = np.concatenate([payload.data.codes for payload in payloads])
            last = payloads[-1]
            audio = Audio(audio_of(codes), 24_000, last.data.finish_reason, last.data.usage)
            out.append(Payload(request_id, audio, last=last.last))
            if last.last:
                del self.streams[request_id]
        return out

    def abort(self, request_id: str) -> None:
        self.aborts += self.streams.pop(request_id, None) is not None
        self.pieces.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self.pieces)

    def stats(self) -> dict[str, float]:
        return {"held": len(self.streams) + len(self.pieces), "pid": os.getpid(), "aborts": self.aborts}

    def close(self) -> None:
        pass


KINDS = {"preprocess": OneToOne, "encode": OneToOne, "generate": Generate, "vocode": Vocode}


def build(name: str, step_s: float = 0.0) -> OneToOne | Vocode:
    return KINDS[name](name, step_s)


def build_slowly(name: str, seconds: float) -> OneToOne | Vocode:
    time.sleep(seconds)
    return build(name)


def build_with_the_others(name: str, folder: str) -> OneToOne | Vocode:
    """Comes up only if every stage of the chain is being built at the same time."""
    open(os.path.join(folder, name), "w").close()
    deadline = time.monotonic() + 30.0
    while len(os.listdir(folder)) < len(KINDS):
        if time.monotonic() > deadline:
            raise TimeoutError("the other stages are not being built")
        time.sleep(0.01)
    return build(name)


def refuse_to_build(name: str) -> OneToOne:
    raise RequestError(f"{name} cannot be built", param="model")


def die_at_build(name: str) -> OneToOne:
    os._exit(9)


def die_after_first_life(name: str, marker: str) -> OneToOne | Vocode:
    """Comes up once; every later life ends in an error."""
    if os.path.exists(marker):
        raise RuntimeError("the second life fails")
    with open(marker, "w"):
        return build(name)


def chain(
    step_s: float = 0.0, groups: tuple[str, ...] = ("front", "front", "main", "sound")
) -> list[StageSpec]:
    names = ("preprocess", "encode", "generate", "vocode")
    return [
        StageSpec(name, build, {"name": name, "step_s": step_s}, group=group)
        for name, group in zip(names, groups, strict=True)
    ]
