"""Home Assistant's side of Wyoming: what is there, a text, and one in pieces. Arguments: host, port, text."""

import asyncio
import json
import sys
import wave

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped


async def main(host: str, port: str, text: str) -> None:
    async with AsyncTcpClient(host, int(port)) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await client.read_event())
    async with AsyncTcpClient(host, int(port)) as client:
        await client.write_event(Synthesize(text=text).event())
        await keep(client, "speech.wav", AudioStop)
    streams = any(program.supports_synthesize_streaming for program in info.tts)
    if streams:
        async with AsyncTcpClient(host, int(port)) as client:
            await client.write_event(SynthesizeStart().event())
            for word in text.split(" "):
                await client.write_event(SynthesizeChunk(text=word + " ").event())
            # Home Assistant also sends the whole, for servers that know no pieces.
            await client.write_event(Synthesize(text=text).event())
            await client.write_event(SynthesizeStop().event())
            await keep(client, "pieces.wav", SynthesizeStopped)
    voices = [voice.name for program in info.tts for voice in program.voices]
    with open("facts.json", "w") as file:
        json.dump({"voices": voices, "streams": streams}, file)


async def keep(client: AsyncTcpClient, name: str, ending: type) -> None:
    with wave.open(name, "wb") as file:
        while event := await client.read_event():
            if AudioStart.is_type(event.type):
                start = AudioStart.from_event(event)
                if file.getnframes() == 0:
                    file.setnchannels(start.channels)
                    file.setsampwidth(start.width)
                    file.setframerate(start.rate)
            elif AudioChunk.is_type(event.type):
                file.writeframes(AudioChunk.from_event(event).audio)
            elif ending.is_type(event.type):
                return
    raise SystemExit("the server hung up")


asyncio.run(main(*sys.argv[1:]))
