"""`stentor voices`: make, look at, remove and carry about the voices that requests name."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stentor.cli.codes import read_codes
from stentor.cli.options import with_settings
from stentor.cli.output import STDOUT, check_output, write_output
from stentor.cli.progress import Progress
from stentor.config import Config
from stentor.errors import NotFoundError, RequestError

if TYPE_CHECKING:
    from stentor.voices import VoiceStore

app = typer.Typer(help="Named voices: yours, and the checkpoint's.", no_args_is_help=True)

Command = Callable[..., None]
Named = Annotated[str, typer.Argument(help="Its name or its id.")]
_SETTINGS = with_settings("model", "reference")


@app.command("add")
@_SETTINGS
def add(
    config: Config,
    name: Annotated[str, typer.Argument(help="How requests will call it.")],
    recording: Annotated[
        str | None, typer.Argument(help="Recording of one speaker: a file or a URL; three to ten seconds.")
    ] = None,
    codes: Annotated[Path | None, typer.Option(help="Codes instead, an .npy array [T, codebooks].")] = None,
    text: Annotated[str | None, typer.Option(help="What it says; makes it clearly better.")] = None,
    language: Annotated[str | None, typer.Option(help="A language tag, for example en-US.")] = None,
    description: Annotated[str | None, typer.Option(help="How it sounds, for people.")] = None,
    consent: Annotated[str | None, typer.Option(help="Who agreed to it, in your words.")] = None,
) -> None:
    """Make a voice of a recording: it is trimmed, checked, encoded once, and kept."""
    from stentor.cli.codec import enroll_reference

    if (recording is None) == (codes is None):
        raise RequestError("a voice is made of a recording or of --codes: give one")
    voices = _open(config)
    about = {"transcript": text, "language": language, "description": description, "consent": consent}
    voices.check_new(name, **about)
    with Progress() as progress:
        progress.show("encoding")
        made = enroll_reference(recording or read_codes(codes or Path()), text, config)
    voice = voices.add_enrolled(name, made, **about)
    print(voice.id)
    heard = f", heard: {voice.transcript}" if text is None and voice.transcript else ""
    print(f"{voice.name}: {voice.duration_s:.2f} s of speech{heard}", file=sys.stderr)


@app.command("list")
@_SETTINGS
def list_voices(config: Config) -> None:
    """All voices, one a line: name, id, seconds, description."""
    for voice in _open(config).all():
        where = "checkpoint" if voice.preset else f"{voice.duration_s:.1f} s"
        print("\t".join((voice.name, voice.id, where, voice.description or "")).rstrip())


@app.command("show")
@_SETTINGS
def show(config: Config, name: Named) -> None:
    """What is known of a voice, as JSON."""
    print(json.dumps(msgspec.structs.asdict(_open(config).about(name)), indent=2, ensure_ascii=False))


@app.command("remove")
@_SETTINGS
def remove(config: Config, name: Named) -> None:
    """Remove a voice of yours."""
    removed = _open(config).remove(name)
    print(f"removed {removed.name} ({removed.id})", file=sys.stderr)


@app.command("export")
@_SETTINGS
def export(
    config: Config,
    name: Named,
    output: Annotated[str, typer.Option("--output", "-o", help="The file, NAME.voice; '-' is stdout.")],
) -> None:
    """Write a voice of yours into one file: a zip of what is known, the codes and the recording."""
    check_output(output)
    write_output(output, _open(config).read(name).pack())


@app.command("import")
@_SETTINGS
def import_voice(
    config: Config,
    file: Annotated[str, typer.Argument(help="A file that `stentor voices export` wrote; '-' is stdin.")],
    name: Annotated[str | None, typer.Option(help="Another name for it.")] = None,
) -> None:
    """Keep a voice that was exported, here or elsewhere."""
    try:
        data = sys.stdin.buffer.read() if file == STDOUT else Path(file).read_bytes()
    except OSError as error:
        raise NotFoundError(f"the voice {file!r} cannot be read: {error.strerror}") from None
    voice = _open(config).add_file(data, name)
    print(voice.id)
    print(f"{voice.name}: {voice.duration_s:.2f} s of speech", file=sys.stderr)


def _open(config: Config) -> "VoiceStore":
    """The voices of `config.model`, without loading it. Raises NotFoundError, CheckpointError."""
    from stentor.models import registry
    from stentor.voices import VoiceStore

    folder = registry.resolve(config.model.model)
    return VoiceStore(registry.model_for(folder).describe(folder), config.reference)
