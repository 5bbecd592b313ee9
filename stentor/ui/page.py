"""The page: what is on it, and what its controls ask of the server."""

import base64
import html
import tempfile
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from stentor.errors import RequestError, StentorError
from stentor.ui.client import Client, Speaking
from stentor.ui.picture import draw
from stentor.ui.relay import Relay

_HISTORY = 10
# A picture is drawn for so many seconds of new sound.
_REDRAW_S = 0.5
_TEXT = "The old dog saw the small boat near the river."
# Puts a tag in where the cursor was.
_INSERT = """(text) => {
  const area = document.querySelector("#text textarea");
  return text.slice(0, area.selectionStart) + %r + text.slice(area.selectionEnd);
}"""

Update = Any
Entry = tuple[str, str, str]


class Page:
    """The page for one server. Handlers answer with updates of the controls that they name."""

    def __init__(self, client: Client, relay: Relay) -> None:
        self._client = client
        self._relay = relay
        self._folder = tempfile.TemporaryDirectory(prefix="stentor-ui-")

    def close(self) -> None:
        """Throw the history's files away."""
        self._folder.cleanup()

    def build(self) -> gr.Blocks:
        """The page, ready to be launched."""
        with gr.Blocks(title="Stentor", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            model, tags, history = (
                gr.Markdown("# Stentor"),
                gr.State([]),
                gr.State([], delete_callback=_forget),
            )
            text = gr.Textbox(_TEXT, label="Text", lines=3, elem_id="text", autofocus=True)
            with gr.Accordion("Tags", open=False):
                gr.render(inputs=tags)(lambda names: _palette(names, text))
            with gr.Row():
                voice = gr.Dropdown(label="Voice", choices=["default"], value="default", elem_id="voice")
                seed = gr.Textbox(label="Seed", placeholder="a new one each time", elem_id="seed")
                temperature = gr.Textbox(label="Temperature", placeholder="the model's own")
            with gr.Accordion("Clone a voice", open=False):
                reference = gr.Audio(
                    label="Recording: three to ten seconds of one speaker, instead of the voice above",
                    sources=["upload", "microphone"],
                    type="filepath",
                )
                transcript = gr.Textbox(label="Transcript", placeholder="What the recording says")
                with gr.Row():
                    name = gr.Textbox(label="Name, to keep it as a voice", max_length=64, elem_id="name")
                    agreed = gr.Checkbox(label="The speaker agrees to it")
                    keep = gr.Button("Keep as a voice")
            with gr.Accordion("The chosen voice", open=False), gr.Row():
                other_name = gr.Textbox(label="Another name", max_length=64)
                listen, rename, remove = gr.Button("Listen"), gr.Button("Rename"), gr.Button("Remove")
            with gr.Row():
                speak, stop = gr.Button("Speak", variant="primary"), gr.Button("Stop")
            status, player = gr.Markdown("Ready.", elem_id="status"), gr.HTML(elem_id="player")
            picture = gr.Image(
                draw(b"", 24_000),
                label="Waveform and spectrogram, 0 to 8 kHz",
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            gr.Markdown("## History\nWhat was said in this tab, the latest first.")
            gr.render(inputs=history)(_show_history)

            said = gr.on(
                [speak.click, text.submit],
                self._speak,
                [text, voice, seed, temperature, reference, transcript, history],
                [status, player, picture, history],
                show_progress="hidden",
            )
            stop.click(lambda: ("Stopped.", ""), None, [status, player], cancels=[said])
            keep.click(
                self._keep,
                [name, reference, transcript, agreed],
                [status, voice, name, reference, transcript, agreed],
            )
            listen.click(self._listen, voice, [status, player])
            rename.click(self._rename, [voice, other_name], [status, voice])
            remove.click(self._remove, voice, [status, voice])
            blocks.load(self._load, None, [model, tags, voice, status])
        made: gr.Blocks = blocks
        return made

    async def _load(self) -> tuple[Update, ...]:
        try:
            model = await self._client.model()
            voices = await self._choices("default")
        except StentorError as error:
            return "# Stentor", [], gr.skip(), _wrong(error)
        return f"# Stentor\n{html.escape(model['id'])}", model["control_tags"], voices, "Ready."

    async def _speak(
        self,
        text: str,
        voice: str,
        seed: str,
        temperature: str,
        reference: str | None,
        transcript: str,
        history: list[Entry],
    ) -> AsyncIterator[tuple[Update, ...]]:
        # What was said before is in the history: neither its sound nor its picture stands beside an error.
        yield "Waiting for the first audio …", "", draw(b"", 24_000), gr.skip()
        path, sound = self._relay.open()
        drawn_s = 0.0
        try:
            order = _order(text, voice, seed, temperature, reference, transcript)
            async with self._client.say(order) as speaking:
                async for data in speaking:
                    sound.add(data)
                    if speaking.duration_s - drawn_s >= _REDRAW_S or not drawn_s:
                        player = _player(path) if not drawn_s else gr.skip()
                        drawn_s = speaking.duration_s or drawn_s
                        yield _figures(speaking), player, _picture(speaking), gr.skip()
        except StentorError as error:
            yield _wrong(error), gr.skip(), gr.skip(), gr.skip()
            return
        finally:
            sound.end()
        chosen = "cloned voice" if reference else await self._name(voice)
        entry = text, f"{chosen} · {_figures(speaking)}", self._save(speaking)
        kept = [entry, *history]
        _forget(kept[_HISTORY:])
        yield _figures(speaking), gr.skip(), _picture(speaking, whole=True), kept[:_HISTORY]

    async def _keep(
        self, name: str, reference: str | None, transcript: str, agreed: bool
    ) -> tuple[Update, ...]:
        unchanged = gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        try:
            if reference is None:
                raise RequestError("Choose or record a recording first")
            if not agreed:
                raise RequestError("Keep a voice only if its speaker agrees, and say so")
            made = await self._client.keep(name, reference, transcript)
            voices = await self._choices(made["id"])
        except StentorError as error:
            return _wrong(error), *unchanged
        told = f"{html.escape(made['name'])} is kept: {made['duration_s']:.2f} s of speech."
        return told, voices, "", None, "", False

    async def _listen(self, voice: str) -> tuple[Update, ...]:
        try:
            data = await self._client.preview(voice)
        except StentorError as error:
            return _wrong(error), gr.skip()
        path, sound = self._relay.open()
        sound.add(data)
        sound.end()
        return f"This is {html.escape(await self._name(voice))}.", _player(path)

    async def _rename(self, voice: str, name: str) -> tuple[Update, ...]:
        try:
            changed = await self._client.rename(voice, name)
            return f"It is called {html.escape(changed['name'])} now.", await self._choices(voice)
        except StentorError as error:
            return _wrong(error), gr.skip()

    async def _remove(self, voice: str) -> tuple[Update, ...]:
        try:
            await self._client.remove(voice)
            return "Removed.", await self._choices("default")
        except StentorError as error:
            return _wrong(error), gr.skip()

    async def _choices(self, chosen: str) -> Update:
        voices = await self._client.voices()
        return gr.Dropdown(choices=[(voice["name"], voice["id"]) for voice in voices], value=chosen)

    async def _name(self, voice: str) -> str:
        names = {known["id"]: str(known["name"]) for known in await self._client.voices()}
        return names.get(voice, voice)

    def _save(self, speaking: Speaking) -> str:
        with (
            tempfile.NamedTemporaryFile(
                prefix="stentor-", suffix=".wav", dir=self._folder.name, delete=False
            ) as file,
            wave.open(file, "wb") as sound,
        ):
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(speaking.sample_rate_hz)
            sound.writeframes(bytes(speaking.pcm))
        return file.name


def _order(
    text: str, voice: str, seed: str, temperature: str, reference: str | None, transcript: str
) -> dict[str, Any]:
    order: dict[str, Any] = {"input": text}
    for field, given, kind in (("seed", seed, int), ("temperature", temperature, float)):
        if given.strip():
            try:
                order[field] = kind(given)
            except ValueError:
                raise RequestError(f"The {field} {given!r} is no number") from None
    if reference is None:
        return {**order, "voice": voice}
    data = _data_uri(Path(reference).read_bytes())
    return {**order, "references": [{"audio_path": data, "text": transcript.strip() or None}]}


def _data_uri(data: bytes) -> str:
    return f"data:;base64,{base64.b64encode(data).decode()}"


def _palette(tags: list[str], text: gr.Textbox) -> None:
    """A row of buttons for each family of tags."""
    families: dict[str, list[str]] = {}
    for tag in tags:
        families.setdefault(tag.strip("<|>").partition(":")[0], []).append(tag)
    for family, members in families.items():
        gr.Markdown(family)
        with gr.Row():
            for tag in members:
                label = tag.strip("<|>").rpartition(":")[2].replace("_", " ")
                button = gr.Button(label, size="sm", min_width=0, scale=0, elem_classes="tag")
                button.click(None, text, text, js=_INSERT % tag)


def _show_history(entries: list[Entry]) -> None:
    for text, facts, path in entries:
        gr.Audio(path, label=f"{text} ({facts})", interactive=False, buttons=["download"])


def _forget(entries: list[Entry]) -> None:
    """Throw away the files of what is no longer shown, in a tab or because it was closed."""
    for _, _, path in entries:
        Path(path).unlink(missing_ok=True)


def _player(path: str) -> str:
    return f'<audio controls autoplay src="{path}" aria-label="What is said"></audio>'


def _picture(speaking: Speaking, *, whole: bool = False) -> Update:
    return draw(bytes(speaking.pcm), speaking.sample_rate_hz, whole=whole)


def _figures(speaking: Speaking) -> str:
    facts = [f"{speaking.duration_s:.2f} s"]
    facts += [f"first audio (TTFA) {speaking.ttfa_s:.2f} s"] if speaking.ttfa_s is not None else []
    facts += [f"real-time factor (RTF) {speaking.rtf:.2f}"] if speaking.rtf is not None else ["speaking …"]
    return " · ".join([*facts, f"seed {speaking.seed}"])


def _wrong(error: StentorError) -> str:
    return f"**That did not work.** {html.escape(error.message)}"
