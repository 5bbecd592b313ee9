"""`stentor say`: one text to one audio file, without a server."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stentor.cli.codes import as_npy
from stentor.cli.options import with_settings
from stentor.cli.output import STDOUT, check_output, write_output
from stentor.cli.progress import Progress
from stentor.config import Config, EngineConfig, PipelineConfig
from stentor.errors import RequestError

if TYPE_CHECKING:
    from stentor.tts import Speech

# One utterance, in this process: nothing to spawn and memory for one sequence only.
_BASE = Config(engine=EngineConfig(max_running_requests=1), pipeline=PipelineConfig(workers="thread"))

_Output = Annotated[str, typer.Option("--output", "-o", help="Audio file by suffix; '-' is stdout.")]
_Format = Annotated[str | None, typer.Option(help="The format, if not the suffix's; WAV on stdout.")]
_Voice = Annotated[str | None, typer.Option(help="A named voice: see `stentor voices list`.")]
_Reference = Annotated[str | None, typer.Option(help="Recording of a voice to clone: a file or a URL.")]
_ReferenceText = Annotated[str | None, typer.Option(help="What the recording says.")]
_Instructions = Annotated[str | None, typer.Option(help="How to say it, in words.")]
_Seed = Annotated[int | None, typer.Option(help="The same seed gives the same speech.")]
_Temperature = Annotated[float | None, typer.Option(help="0 is greedy; by default the checkpoint's.")]
_TopP = Annotated[float | None, typer.Option(help="Share of the probability drawn from.")]
_TopK = Annotated[int | None, typer.Option(help="Number of candidates drawn from; 0 is all.")]
_MaxNewTokens = Annotated[int | None, typer.Option(help="Longest generation, in rows of 40 ms.")]
_Penalty = Annotated[
    float | None, typer.Option(help="Above 1, a code of the last 0.64 s is less likely; 1 is none.")
]
_Guard = Annotated[bool, typer.Option(help="Cut a generation far too long for its text.")]
_CheckTags = Annotated[bool, typer.Option(help="Refuse control tags that do not exist.")]
_Speed = Annotated[float, typer.Option(help="0.25 to 4; the pitch stays.")]
_SampleRate = Annotated[
    int | None, typer.Option(help="Samples per second, 8000 to 48000; by default the model's.")
]
_Loudness = Annotated[float | None, typer.Option(help="Loudness to bring it to, -40 to -5 LUFS.")]
_Trim = Annotated[bool, typer.Option(help="Leave out a silent end, but for 100 ms.")]
_SaveCodes = Annotated[Path | None, typer.Option(help="Also write the codes, an .npy array [T, 8].")]


@with_settings("model", "reference", base=_BASE)
def say(
    config: Config,
    text: Annotated[str, typer.Argument(help="What to say; '-' reads it from stdin.")],
    output: _Output,
    format: _Format = None,
    voice: _Voice = None,
    reference: _Reference = None,
    reference_text: _ReferenceText = None,
    instructions: _Instructions = None,
    seed: _Seed = None,
    temperature: _Temperature = None,
    top_p: _TopP = None,
    top_k: _TopK = None,
    max_new_tokens: _MaxNewTokens = None,
    repetition_penalty: _Penalty = None,
    runaway_guard: _Guard = True,
    check_tags: _CheckTags = True,
    speed: _Speed = 1.0,
    sample_rate: _SampleRate = None,
    loudness_lufs: _Loudness = None,
    trim_silence: _Trim = True,
    save_codes: _SaveCodes = None,
) -> None:
    """Say a text into an audio file."""
    if voice is not None and reference is not None:
        raise RequestError("--voice and --reference are two voices: give one")
    format = _check_files(output, format, save_codes)
    from stentor.tts import TTS

    with Progress() as progress:
        progress.show("loading")
        with TTS(config=config) as tts:
            speech = tts.speak(
                sys.stdin.read() if text == "-" else text,
                progress=lambda seconds: progress.show(f"{seconds:.1f} s of speech"),
                voice=voice,
                reference=reference,
                reference_text=reference_text,
                instructions=instructions,
                seed=seed,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                runaway_guard=runaway_guard,
                check_tags=check_tags,
                speed=speed,
                sample_rate_hz=sample_rate,
                loudness_lufs=loudness_lufs,
                trim_silence=trim_silence,
            )
    _write(speech, output, format, save_codes)


def _check_files(output: str, format: str | None, save_codes: Path | None) -> str:
    """The format that is meant. Raises RequestError, ConfigError before any work that could be in vain."""
    from stentor.audio.formats import content_type
    from stentor.tts import format_of

    if format is not None:
        content_type(format)
    for path in (output, save_codes):
        if path is not None:
            check_output(path)
    return format or ("wav" if output == STDOUT else format_of(output))


def _write(speech: "Speech", output: str, format: str, save_codes: Path | None) -> None:
    write_output(output, speech.encode(format))
    if save_codes is not None:
        assert speech.codes is not None, "the facade always asks for them"
        write_output(save_codes, as_npy(speech.codes))
    for note in speech.notes:
        print(note, file=sys.stderr)
    print(f"{output}: {speech.duration_s:.2f} s, {speech.finish_reason}, seed {speech.seed}", file=sys.stderr)
