"""`stentor batch`: many texts to as many files, decoded together; it goes on where it was broken off."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stentor.cli.options import with_flags, with_settings
from stentor.cli.output import write_output
from stentor.cli.progress import Progress
from stentor.cli.say import SPEECH, check_voice, read_stdin
from stentor.config import Config
from stentor.errors import ConfigError, NotFoundError, RequestError, StentorError

if TYPE_CHECKING:
    from stentor.tts import TTS

RESULTS = "results.jsonl"
_VOICE = ("voice", "reference", "reference_text")
_ID = re.compile(r"\w[\w.-]{0,199}")


@dataclass(frozen=True)
class Item:
    """A text, the name of its file without the suffix, and what its line says beside it."""

    id: str
    text: str
    own: dict[str, Any]


@with_settings("model", "engine", "vocoder", "reference", "pipeline")
@with_flags(SPEECH)
def batch(
    config: Config,
    texts: Annotated[
        str, typer.Argument(help="File with a text in each line, or a JSON object (.jsonl); '-' is stdin.")
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for the audio files.")],
    options: dict[str, Any],
    format: Annotated[str, typer.Option(help="Their format, which is their suffix as well.")] = "wav",
) -> None:
    """Say many texts, each into a file; exit status 1 if one of them cannot be said."""
    from stentor.audio.formats import content_type

    content_type(format)
    check_voice(options)
    items = list(read_items(texts))
    todo = [item for item in items if not (output_dir / f"{item.id}.{format}").exists()]
    began_s = time.monotonic()
    failed, audio_s = _say_all(config, todo, options, output_dir, format) if todo else (0, 0.0)
    counts = f"texts said: {len(todo) - failed}, failed: {failed}, there already: {len(items) - len(todo)}"
    print(f"{counts}; {audio_s:.1f} s of speech in {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    if failed:
        print(f"why they failed stands in {output_dir / RESULTS}", file=sys.stderr)
        raise typer.Exit(1)


def _say_all(
    config: Config, items: list[Item], options: dict[str, Any], folder: Path, format: str
) -> tuple[int, float]:
    """Say them as they get their turn; how many failed, and the seconds of speech."""
    from stentor.tts import TTS

    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = (folder / RESULTS).open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    failed, audio_s = 0, 0.0
    # Twice as many as decode together, so that others are ready when one ends.
    at_once = min(config.pipeline.max_requests, 2 * config.engine.max_running_requests)
    with results, Progress() as progress, TTS(config=config) as tts, ThreadPoolExecutor(at_once) as pool:
        progress.show("loading")
        tts.start()
        try:
            jobs = [pool.submit(_say, tts, item, options, folder, format) for item in items]
            for count, job in enumerate(as_completed(jobs), 1):
                result = job.result()
                results.write(json.dumps(result, ensure_ascii=False) + "\n")
                results.flush()
                audio_s += result.get("duration_s", 0.0)
                failed += "error" in result
                progress.show(f"{count} of {len(items)}, {failed} failed, {audio_s:.0f} s of speech")
        finally:
            pool.shutdown(cancel_futures=True)
    return failed, audio_s


def read_items(path: str) -> Iterator[Item]:
    """The texts of a file, or of stdin ('-'), whose lines are JSON where the first one begins with a brace.

    Raises:
        NotFoundError: the file cannot be read.
        RequestError: a line is not what it should be, or an id is used twice.
    """
    try:
        lines = (read_stdin() if path == "-" else Path(path).read_text("utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"the texts {path!r} cannot be read: {error}") from None
    as_json = path.endswith(".jsonl") or (path == "-" and lines[:1] and lines[0].startswith("{"))
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = _read_object(line, number) if as_json else Item(f"{number:05}", line.strip(), {})
            if item.id in seen:
                raise ValueError(f"the id {item.id!r} is used twice")
        except (ValueError, msgspec.DecodeError, RequestError) as error:
            raise RequestError(f"line {number} of the texts: {error}") from None
        seen.add(item.id)
        yield item


def _read_object(line: str, number: int) -> Item:
    """The item of a line of JSON. Raises ValueError for what is wrong with it."""
    fields = msgspec.json.decode(line, type=dict[str, Any])
    text, name = fields.pop("text", None), fields.pop("id", f"{number:05}")
    if not isinstance(text, str):
        raise ValueError('it has no "text"')
    if not (isinstance(name, str) and _ID.fullmatch(name)):
        raise ValueError('an "id" is a file\'s name without a suffix: letters, digits, and . _ - within')
    for field, value in fields.items():
        if field not in SPEECH:
            raise ValueError(f"unknown field {field!r}: use id, text, {', '.join(SPEECH)}")
        fields[field] = msgspec.convert(value, SPEECH[field][0])
    check_voice(fields)
    return Item(name, text, fields)


def _say(tts: "TTS", item: Item, shared: Mapping[str, Any], folder: Path, format: str) -> dict[str, Any]:
    """Say one text into its file; what became of it. Raises ConfigError if no file can be written."""
    own_voice = any(item.own.get(name) is not None for name in _VOICE)
    options = {name: value for name, value in shared.items() if not (own_voice and name in _VOICE)} | item.own
    options["sample_rate_hz"] = options.pop("sample_rate")
    path = folder / f"{item.id}.{format}"
    try:
        speech = tts.speak(item.text, **options)
        write_output(path, speech.encode(format))
    except ConfigError:
        raise
    except StentorError as error:
        return {"id": item.id, "error": error.message}
    return {
        "id": item.id,
        "file": path.name,
        "duration_s": round(speech.duration_s, 3),
        "finish_reason": speech.finish_reason,
        "seed": speech.seed,
        "notes": speech.notes,
    }
