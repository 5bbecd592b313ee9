"""OpenAI's Realtime client: a whole response, and one that is cancelled. Arguments: URL, model, text."""

import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI


async def main(url: str, model: str, text: str) -> None:
    spoken, whole, cancelled = b"", [], []
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client,
        client.realtime.connect(model=model) as connection,
    ):
        first = await connection.recv()
        assert first.type == "session.created", first
        await connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": ["audio"],
                "audio": {"output": {"voice": "nova", "format": {"type": "audio/pcm", "rate": 24000}}},
            }
        )
        await say(connection, text)
        async for event in connection:
            whole.append(event.type)
            if event.type == "response.output_audio.delta":
                if not spoken:
                    print("first audio", flush=True)
                spoken += base64.b64decode(event.delta)
            if event.type == "response.done":
                whole.append(event.response.status)
                break
        await say(connection, f"{text} {text} {text}")
        async for event in connection:
            cancelled.append(event.type)
            if event.type == "response.output_audio.delta" and cancelled.count(event.type) == 1:
                await connection.response.cancel()
            if event.type == "response.done":
                cancelled.append(event.response.status)
                break
    with open("speech.pcm", "wb") as file:
        file.write(spoken)
    with open("facts.json", "w") as file:
        json.dump({"whole": whole, "cancelled": cancelled}, file)


async def say(connection, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()


asyncio.run(main(*sys.argv[1:]))
