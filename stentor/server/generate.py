"""Knows the body of `POST /generate`, the route of small servers that clients were written for."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from stentor.server.bodies import ReferenceBody, SpeechBody, Strict
from stentor.server.protocol import Order, Reader, named

# Our names of what came under theirs.
_PARAMS = {
    "input": "text",
    "instructions": "system_prompt",
    "max_new_tokens": "max_tokens",
    "references": "reference_audio_base64",
}


class GenerateBody(Strict):
    """What to say, in which voice and scene; null means the default."""

    text: Annotated[str, Field(description="The text; `[SPEAKER0]` lines where the model knows speakers.")]
    system_prompt: Annotated[str | None, Field(description="The same as `instructions`.")] = None
    temperature: Annotated[float | None, Field(description="0 is greedy; null is the checkpoint's.")] = None
    max_tokens: Annotated[
        int | None, Field(description="Rows of codes (40 ms each, of some models 80), at most.")
    ] = None
    reference_audio_base64: Annotated[str | None, Field(description="A recording of the voice.")] = None
    reference_text: Annotated[str | None, Field(description="What the recording says.")] = None
    seed: Annotated[int | None, Field(description="The same seed gives the same speech.")] = None

    def read(self, reader: Reader, request_id: str) -> Order:
        """The order that it stands for. Raises what `Reader.read` does, with the fields' names of here."""
        recording = self.reference_audio_base64
        body = SpeechBody(
            input=self.text,
            instructions=self.system_prompt,
            temperature=self.temperature,
            max_new_tokens=self.max_tokens,
            references=None if recording is None else [ReferenceBody(audio_path=recording)],
            reference_text=self.reference_text,
            seed=self.seed,
            response_format="wav",
        )
        with named(_PARAMS):
            return replace(reader.read(body, request_id), names=_PARAMS)
