"""The stage that turns prompts into frames: one engine, one frame per sequence and step."""

import hashlib
from itertools import accumulate

import numpy as np

from stentor.engine.engine import Engine
from stentor.engine.model import LMShape
from stentor.engine.sequence import Output, Sequence, delay
from stentor.errors import RequestError, to_failure
from stentor.request import BEGIN_ROW, END_ROW, VOICE_ROW, Array, Frames, Prompt
from stentor.stages.base import Payload


class GenerateStage:
    """A `Stage`: Prompt in, Frames out: the first of a request names it, the last says why it ended."""

    def __init__(self, engine: Engine, shape: LMShape) -> None:
        self._engine = engine
        self._shape = shape
        self._prompts: dict[str, Prompt] = {}  # whose request has not been handed on yet

    def add(self, payload: Payload) -> None:
        """Queue a prompt. Raises RequestError if it cannot fit the context."""
        assert isinstance(payload.data, Prompt)
        sequence = self._sequence(payload.request_id, payload.data)
        self._engine.add(sequence)
        self._prompts[payload.request_id] = payload.data

    def step(self) -> list[Payload]:
        """One step of the engine."""
        # A row that completes no frame, as the first of a request, is told to nobody.
        made = self._engine.step()
        outputs = [output for output in made if len(output.frames) or output.finish_reason or output.error]
        if not outputs:
            return []
        codes = np.concatenate([output.frames for output in outputs])
        # A special code that was drawn in the middle of the content is silenced, not clamped: clamping would
        # turn it into a loud neighbour.
        codes[codes >= self._shape.begin_code] = 0
        ends = accumulate(len(output.frames) for output in outputs)
        return [
            self._payload(output, codes[end - len(output.frames) : end])
            for output, end in zip(outputs, ends, strict=True)
        ]

    def abort(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._prompts.pop(request_id, None)

    def has_work(self) -> bool:
        return self._engine.has_work()

    def stats(self) -> dict[str, float]:
        return self._engine.stats()

    def close(self) -> None:
        self._prompts.clear()

    def _sequence(self, request_id: str, prompt: Prompt) -> Sequence:
        matrix = prompt_matrix(prompt, self._shape)
        max_rows = prompt.sampling.max_new_tokens
        assert max_rows is not None, "preprocess resolves every default"
        if len(matrix) + max_rows > self._engine.max_context:
            raise RequestError(
                f"the prompt ({len(matrix)} positions with its reference) and max_new_tokens ({max_rows}) "
                f"exceed the context of {self._engine.max_context} positions: shorten the text or the "
                "reference, or lower max_new_tokens",
                param="max_new_tokens",
            )
        return Sequence(
            request_id, matrix, prompt.sampling, max_rows, prompt.max_rows, self._shape.nested, prompt.voice
        )

    def _payload(self, output: Output, codes: Array) -> Payload:
        sequence, reason = output.sequence, output.finish_reason
        prompt = self._prompts.pop(sequence.id, None)
        if output.error is not None:
            return Payload(sequence.id, last=True, failure=to_failure(output.error))
        frames = Frames(
            codes,
            request=prompt.request if prompt else None,
            finish_reason=reason,
            usage=sequence.usage() if reason else None,
        )
        return Payload(sequence.id, frames, last=reason is not None)


def prompt_matrix(prompt: Prompt, shape: LMShape) -> Array:
    """The prompt as the engine reads it: int32 [num_tokens, 1 + num_codebooks], see `Sequence`."""
    text = np.zeros((len(prompt.token_ids), 1 + shape.num_codebooks), dtype=np.int32)
    text[:, 0] = np.maximum(prompt.token_ids, -1)
    text[prompt.token_ids == BEGIN_ROW, 1:] = shape.begin_code
    text[prompt.token_ids == END_ROW, 1:] = shape.end_code
    if prompt.voice is not None:
        # What is told apart by its prompt alone must not find another voice's keys and values.
        name = hashlib.shake_128(prompt.voice.tobytes()).digest(4 * shape.num_codebooks)
        text[prompt.token_ids == VOICE_ROW] = (VOICE_ROW, *np.frombuffer(name, np.int32))
    if prompt.reference_codes is None or prompt.reference_start < 0:
        return text
    codes = prompt.reference_codes
    rows = codes if shape.nested else delay(codes, shape.begin_code, shape.end_code)
    reference = np.concatenate((np.full((len(rows), 1), -1, dtype=np.int32), rows), axis=1)
    start = prompt.reference_start
    return np.concatenate((text[:start], reference, text[start:])).astype(np.int32)
