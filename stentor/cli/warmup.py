"""`stentor warmup`: compiles and captures everything once, into a folder that an image can carry."""

import time

from stentor.cli.options import ModelArgument, with_model, with_settings
from stentor.cli.progress import Progress
from stentor.config import Config
from stentor.request import SpeechRequest


@with_settings("model", "engine", "vocoder")
def warmup(config: Config, model: ModelArgument = None) -> None:
    """Compile every kernel that serving needs into --cache-folder; a server with it compiles none."""
    from stentor.engine.compilations import Compilations, keep_in

    config = with_model(config, model)
    keep_in(config.model.cache_folder)
    started_s = time.monotonic()
    with Progress() as progress, Compilations() as compilations:
        progress.show("warming up")
        _serve_once(config)
    where = config.model.cache_folder or "the libraries' own folders"
    print(f"{compilations.count} kernels compiled into {where} in {time.monotonic() - started_s:.1f} s")


def _serve_once(config: Config) -> None:
    """Load the stages that compute, and let each do a little of its work."""
    from stentor.cli.codec import inline_stages

    request = SpeechRequest("warmup", "Warm up.", runaway_guard=True)
    with inline_stages(config, "preprocess", "generate", "vocode") as stages:
        stages.run(request.request_id, request)
