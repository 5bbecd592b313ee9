"""LiveKit's plugin as it comes: MP3 in OpenAI's events. Arguments: URL, model, text."""

import asyncio
import json
import sys
import wave

from livekit.plugins import openai


async def main(url: str, model: str, text: str) -> None:
    tts = openai.TTS(base_url=f"{url}/v1", api_key="unused", model=model)
    metrics = []
    tts.on("metrics_collected", metrics.append)
    frames = []
    async with tts.synthesize(text) as stream:
        async for event in stream:
            if not frames:
                print("first audio", flush=True)
            frames.append(event.frame)
    await tts.aclose()
    with wave.open("speech.wav", "wb") as file:
        file.setnchannels(frames[0].num_channels)
        file.setsampwidth(2)
        file.setframerate(frames[0].sample_rate)
        for frame in frames:
            file.writeframes(frame.data)
    told = [{"input": each.input_tokens, "output": each.output_tokens} for each in metrics]
    with open("facts.json", "w") as file:
        json.dump({"frames": len(frames), "usage": told}, file)


asyncio.run(main(*sys.argv[1:]))
