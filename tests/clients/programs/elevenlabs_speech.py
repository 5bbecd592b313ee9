"""ElevenLabs' library: voices, a whole text, a stream, text in pieces by WebSocket. Arguments: URL, text."""

import json
import sys
from collections.abc import Iterator

from elevenlabs.client import ElevenLabs


def words(text: str) -> Iterator[str]:
    for word in text.split(" "):
        yield word + " "


def main(url: str, text: str) -> None:
    client = ElevenLabs(base_url=url, api_key="unused")
    calls = client.text_to_speech
    # The library opens its sockets with TLS only, whatever the address says.
    calls._ws_base_url = url.replace("http", "ws", 1)
    with open("speech.mp3", "wb") as file:
        file.writelines(calls.convert("default", text=text, output_format="mp3_44100_128"))
    sizes = []
    with open("stream.pcm", "wb") as file:
        for chunk in calls.stream("default", text=text, output_format="pcm_24000"):
            sizes.append(len(chunk))
            file.write(chunk)
    with open("pieces.pcm", "wb") as file:
        pieces = calls.convert_realtime(
            "default", text=words(text), model_id="eleven_flash_v2_5", output_format="pcm_24000"
        )
        file.writelines(pieces)
    voices = [voice.voice_id for voice in client.voices.get_all().voices]
    with open("facts.json", "w") as file:
        json.dump({"voices": voices, "chunks": len(sizes), "bytes": sum(sizes)}, file)


main(*sys.argv[1:])
