"""Pipecat's OpenAI service in a pipeline: 24 kHz PCM in blocks. Arguments: URL, model, text."""

import asyncio
import json
import sys

from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner


class Ear(FrameProcessor):
    """Keeps the audio that passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.errors: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            if not self.sizes:
                print("first audio", flush=True)
            self.sizes.append(len(frame.audio))
            with open("speech.pcm", "ab") as file:
                file.write(frame.audio)
        if isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)


async def main(url: str, model: str, text: str) -> None:
    tts = OpenAITTSService(
        base_url=f"{url}/v1",
        api_key="unused",
        settings=OpenAITTSService.Settings(model=model, voice="alloy", speed=1.0),
    )
    ear = Ear()
    worker = PipelineWorker(Pipeline([tts, ear]), params=PipelineParams(audio_out_sample_rate=24_000))
    await worker.queue_frames([TTSSpeakFrame(text), EndFrame()])
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
    with open("facts.json", "w") as file:
        json.dump({"sizes": ear.sizes, "errors": ear.errors}, file)


asyncio.run(main(*sys.argv[1:]))
