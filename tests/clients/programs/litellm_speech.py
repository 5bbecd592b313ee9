"""LiteLLM's library, plain and asynchronous. Arguments: URL, model, text."""

import asyncio
import sys

import litellm

url, model, text = sys.argv[1:]
call = {
    "model": f"openai/{model}",
    "voice": "alloy",
    "input": text,
    "api_base": f"{url}/v1",
    "api_key": "unused",
    "response_format": "mp3",
}
litellm.speech(**call).write_to_file("speech.mp3")
asyncio.run(litellm.aspeech(**call)).write_to_file("again.mp3")
