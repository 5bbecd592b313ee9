"""`stentor bench engine` and `bench serve`: a table for people, and one JSON line, last, for machines."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from stentor.cli.options import ModelArgument, with_model, with_settings
from stentor.cli.progress import Progress
from stentor.config import Config
from stentor.errors import ConfigError

app = typer.Typer(help="Measure speed, with everything that the figures depend on.", no_args_is_help=True)

_Concurrency = Annotated[str, typer.Option(help="Callers at a time, one level each, separated by commas.")]
_Requests = Annotated[int, typer.Option(help="Requests that each caller sends, one after another.", min=1)]
_Save = Annotated[
    Path | None,
    typer.Option(help="File for the JSON, or a folder, in which it is named by date and machine."),
]


@app.command("engine")
@with_settings("model", "engine", "pipeline")
def engine(
    config: Config,
    model: ModelArgument = None,
    concurrency: _Concurrency = "1,2,4,8,16",
    requests: _Requests = 4,
    save: _Save = None,
) -> None:
    """Measure the engine alone, in this process, against the plain way to run the same model."""
    from stentor.bench import engine, report

    config = with_model(config, model)
    with Progress() as progress:
        result = engine.measure(config, parse_concurrency(concurrency), requests, progress.show)
    settings = {
        "requests_per_caller": requests,
        "threads": config.pipeline.threads_per_worker,
        "quantization": config.engine.quantization,
    }
    document = report.document("engine", result.info.name, result.levels, settings)
    if result.plain is not None:
        report.add_comparison(document, result.plain)
    report.publish(document, save)


@app.command("serve")
@with_settings("model")
def serve(
    config: Config,
    model: ModelArgument = None,
    url: Annotated[
        str | None,
        typer.Option(help="Address of a running server, ours or a peer's; by default one is started here."),
    ] = None,
    voice: Annotated[str, typer.Option(help="The voice that is asked for.")] = "default",
    sample_rate_hz: Annotated[int, typer.Option(help="Rate of the server's PCM.", min=1)] = 24_000,
    concurrency: _Concurrency = "1,2,4,8,16",
    requests: _Requests = 4,
    save: _Save = None,
) -> None:
    """Measure a server over HTTP with streamed PCM."""
    from stentor.bench import report
    from stentor.bench.client import Target, first_model, measure_levels
    from stentor.bench.local_server import LocalServer

    levels = parse_concurrency(concurrency)
    name = with_model(config, model).model.model
    with Progress() as progress, contextlib.ExitStack() as stack:
        if url is None:
            progress.show("starting a server")
            url = stack.enter_context(LocalServer([name] if name else [])).url
        served = first_model(url)
        target = Target(url, served, voice, sample_rate_hz)
        measured = measure_levels(target, levels, requests, progress.show)
    settings = {"requests_per_caller": requests, "voice": voice}
    report.publish(report.document("serve", served or name or url, measured, settings), save)


def parse_concurrency(text: str) -> list[int]:
    """`1,2,4` as numbers. Raises ConfigError."""
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise ConfigError(f"--concurrency is {text!r}, but must be whole numbers from 1, such as 1,2,4")
    return levels
