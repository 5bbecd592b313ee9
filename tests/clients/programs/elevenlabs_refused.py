"""ElevenLabs' library, refused. Arguments: URL, key, how often it may try again."""

import json
import sys

from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError

url, key, retries = sys.argv[1:]
client = ElevenLabs(base_url=url, api_key=key)
options = {"max_retries": int(retries)}
try:
    sound = client.text_to_speech.convert("default", text="Hello.", request_options=options)
    facts = {"bytes": sum(map(len, sound))}
except ApiError as error:
    facts = {"kind": "ApiError", "status": error.status_code, "code": error.body["detail"]["status"]}
with open("facts.json", "w") as file:
    json.dump(facts, file)
