"""`stentor warmup`: compiles and captures everything once, into a folder that an image can carry."""

import time
from typing import Annotated

import typer

from stentor.cli.options import choose_model, with_settings
from stentor.cli.progress import Progress
from stentor.config import Config, override
from stentor.models import registry
from stentor.request import SpeechRequest
from stentor.stages.inline import InlineStages


@with_settings("model", "engine", "vocoder")
def warmup(
    config: Config,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Folder or hub id; by default the built-in voice.")
    ] = None,
) -> None:
    """Compile every kernel that serving needs into --cache-folder; a server with it compiles none."""
    from stentor.engine.compilations import Compilations, keep_in

    config = override(config, {"model": {"model": choose_model(config.model.model, model)}})
    keep_in(config.model.cache_folder)
    started_s = time.monotonic()
    with Progress() as progress, Compilations() as compilations:
        progress.show("warming up")
        _serve_once(config)
    where = config.model.cache_folder or "the libraries' own folders"
    print(f"{compilations.count} kernels compiled into {where} in {time.monotonic() - started_s:.1f} s")


def _serve_once(config: Config) -> None:
    """Load the stages that compute, and let each do a little of its work."""
    folder = registry.resolve(config.model.model)
    specs = {spec.name: spec for spec in registry.model_for(folder).stages(folder, config)}
    request = SpeechRequest("warmup", "Warm up.", runaway_guard=True)
    with InlineStages([specs["preprocess"], specs["generate"], specs["vocode"]]) as stages:
        stages.run(request.request_id, request)
