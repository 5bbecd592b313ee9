"""`stentor say`: one text to one audio file, without a server."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stentor.cli.codes import as_npy
from stentor.cli.options import with_flags, with_settings
from stentor.cli.output import STDOUT, check_output, write_output
from stentor.cli.progress import Progress
from stentor.config import Config, EngineConfig, PipelineConfig
from stentor.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from stentor.tts import Speech

# One utterance, in this process: nothing to spawn and memory for one sequence only.
_BASE = Config(engine=EngineConfig(max_running_requests=1), pipeline=PipelineConfig(workers="thread"))

# How it is said: those of `stentor.tts.SpeechOptions` that a command line can give.
SPEECH = {
    "voice": (str | None, None, "A named voice: see `stentor voices list`."),
    "reference": (str | None, None, "Recording of a voice to clone: a file or a URL."),
    "reference_text": (str | None, None, "What the recording says."),
    "instructions": (str | None, None, "How to say it, in words."),
    "language": (str | None, None, "The text's: a name, a code or a tag; some models hear it in the text."),
    "seed": (int | None, None, "The same seed gives the same speech."),
    "temperature": (float | None, None, "0 is greedy; by default the checkpoint's."),
    "top_p": (float | None, None, "Share of the probability drawn from."),
    "top_k": (int | None, None, "Number of candidates drawn from; 0 is all."),
    "max_new_tokens": (int | None, None, "Longest generation, in rows of 40 ms (of some models 80)."),
    "repetition_penalty": (float | None, None, "Above 1, a code of the last 0.64 s is rarer; 1 is none."),
    "runaway_guard": (bool, True, "Cut a generation far too long for its text."),
    "check_tags": (bool, True, "Refuse control tags that do not exist."),
    "speed": (float, 1.0, "0.25 to 4; the pitch stays."),
    "sample_rate": (int | None, None, "Samples per second, 8000 to 48000; by default the model's."),
    "loudness_lufs": (float | None, None, "Loudness to bring it to, -40 to -5 LUFS."),
    "trim_silence": (bool, True, "Leave out a silent end, but for 100 ms."),
}


@with_settings("model", "reference", base=_BASE)
@with_flags(SPEECH)
def say(
    config: Config,
    text: Annotated[str, typer.Argument(help="What to say; '-' reads it from stdin.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Audio file by suffix; '-' is stdout.")],
    options: dict[str, Any],
    format: Annotated[
        str | None, typer.Option(help="The format, if not the suffix's; WAV on stdout.")
    ] = None,
    save_codes: Annotated[
        Path | None, typer.Option(help="Also write the codes, an .npy array [T, codebooks].")
    ] = None,
) -> None:
    """Say a text into an audio file."""
    check_voice(options)
    format = _check_files(output, format, save_codes)
    text = read_stdin() if text == "-" else text
    from stentor.tts import TTS

    options["sample_rate_hz"] = options.pop("sample_rate")
    with Progress() as progress:
        progress.show("loading")
        with TTS(config=config) as tts:
            speech = tts.speak(
                text, progress=lambda seconds: progress.show(f"{seconds:.1f} s of speech"), **options
            )
    _write(speech, output, format, save_codes)


def check_voice(options: Mapping[str, Any]) -> None:
    """Raise RequestError if two voices are asked for."""
    if options.get("voice") is not None and options.get("reference") is not None:
        raise RequestError("--voice and --reference are two voices: give one")


def read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the text on stdin is not {error.encoding}: convert it ({error.reason})"
        ) from None


def _check_files(output: str, format: str | None, save_codes: Path | None) -> str:
    """The format that is meant. Raises RequestError, ConfigError before any work that could be in vain."""
    from stentor.audio.formats import content_type
    from stentor.tts import format_of

    if format is not None:
        content_type(format)
    for path in (output, save_codes):
        if path is not None:
            check_output(path)
    if save_codes is not None and save_codes.resolve() == Path(output).resolve():
        raise ConfigError(f"the codes would replace the audio in {output!r}: give --save-codes another name")
    return format or ("wav" if output == STDOUT else format_of(output))


def _write(speech: "Speech", output: str, format: str, save_codes: Path | None) -> None:
    write_output(output, speech.encode(format))
    if save_codes is not None:
        assert speech.codes is not None, "the facade always asks for them"
        write_output(save_codes, as_npy(speech.codes))
    for note in speech.notes:
        print(note, file=sys.stderr)
    print(f"{output}: {speech.duration_s:.2f} s, {speech.finish_reason}, seed {speech.seed}", file=sys.stderr)
