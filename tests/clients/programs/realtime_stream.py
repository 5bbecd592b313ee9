"""OpenAI's Realtime client: one response. Arguments: URL, model, text."""

import sys

from openai import OpenAI

url, model, text = sys.argv[1:]
message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
with OpenAI(base_url=f"{url}/v1", api_key="unused").realtime.connect(model=model) as connection:
    connection.response.create(response={"conversation": "none", "input": [message]})
    deltas = 0
    for event in connection:
        if event.type == "response.output_audio.delta":
            deltas += 1
            if deltas == 1:
                print("first audio", flush=True)
        if event.type == "response.done":
            assert event.response.status == "completed", event
            break
