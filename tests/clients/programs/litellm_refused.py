"""LiteLLM's library, refused. Arguments: URL, key, how often it may try again."""

import json
import sys

import litellm

url, key, retries = sys.argv[1:]
call = {"model": "openai/tts-1", "voice": "alloy", "input": "Hello.", "max_retries": int(retries)}
try:
    answer = litellm.speech(**call, api_base=f"{url}/v1", api_key=key)
    facts = {"bytes": len(answer.content)}
except Exception as error:
    facts = {"kind": type(error).__name__, "status": getattr(error, "status_code", None)}
with open("facts.json", "w") as file:
    json.dump(facts, file)
