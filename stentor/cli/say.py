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
    from stentor.tts import Speech, SpeechStream

# One utterance, in this process: nothing to spawn and memory for one sequence only.
_BASE = Config(engine=EngineConfig(max_running_requests=1), pipeline=PipelineConfig(workers="thread"))


@with_settings("model", base=_BASE)
def say(
    config: Config,
    text: Annotated[str, typer.Argument(help="What to say; '-' reads it from stdin.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Audio file by suffix; '-' writes WAV to stdout.")
    ],
    voice: Annotated[str | None, typer.Option(help="A named voice of the checkpoint.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Recording of a voice to clone: a file or a URL.")
    ] = None,
    reference_text: Annotated[str | None, typer.Option(help="What the recording says.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same speech.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; by default the checkpoint's.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of the probability drawn from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of candidates drawn from; 0 is all.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest generation, in rows of 40 ms.")] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1, a code of the last 0.64 s is less likely; 1 is none.")
    ] = None,
    runaway_guard: Annotated[bool, typer.Option(help="Cut a generation far too long for its text.")] = True,
    save_codes: Annotated[
        Path | None, typer.Option(help="Also write the codes, an .npy array [T, 8].")
    ] = None,
) -> None:
    """Say a text into an audio file."""
    from stentor.tts import TTS, format_of

    if voice is not None and reference is not None:
        raise RequestError("--voice and --reference are two voices: give one")
    format = "wav" if output == STDOUT else format_of(output)
    check_output(output)
    if save_codes is not None:
        check_output(save_codes)
    with Progress() as progress:
        progress.show("loading")
        with TTS(config=config) as tts:
            stream = tts.stream(
                sys.stdin.read() if text == "-" else text,
                voice=voice,
                reference=reference,
                reference_text=reference_text,
                seed=seed,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                repetition_penalty=repetition_penalty,
                runaway_guard=runaway_guard,
            )
            speech = _collect(stream, progress)
    write_output(output, speech.encode(format))
    if save_codes is not None:
        assert speech.codes is not None, "the facade always asks for them"
        write_output(save_codes, as_npy(speech.codes))
    print(f"{output}: {speech.duration_s:.2f} s, {speech.finish_reason}, seed {speech.seed}", file=sys.stderr)


def _collect(stream: "SpeechStream", progress: Progress) -> "Speech":
    chunks, seconds = [], 0.0
    for chunk in stream:
        chunks.append(chunk)
        seconds += len(chunk) / stream.sample_rate_hz
        progress.show(f"{seconds:.1f} s of speech")
    return stream.finished(chunks)
