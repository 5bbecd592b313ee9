"""`stentor worker`: runs a model for the servers on other machines that name it as a `--device`."""

import logging
import signal
from typing import Annotated, Any

import typer

from stentor import logs
from stentor.cli.options import ModelArgument, with_model, with_settings
from stentor.config import Config
from stentor.errors import ConfigError

_DRAIN_S = 10.0


@with_settings("model", "engine", "vocoder", "reference", "pipeline")
def worker(
    config: Config,
    model: ModelArgument = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT to listen on; beyond the loopback both ends need a secret.")
    ] = "127.0.0.1:9000",
) -> None:
    """Run a model for servers elsewhere: `stentor serve --device tcp://HOST:PORT`."""
    from stentor.tts import build_chain_server

    logs.setup("INFO", "text")
    check_listen(listen, config.pipeline.worker_secret)
    server = build_chain_server(with_model(config, model), f"tcp://{listen}")

    def stop(*_: Any) -> None:
        server.stop(_DRAIN_S)

    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, stop)
    logging.getLogger(__name__).info("a worker for `--device %s`", server.address)
    server.run()


def check_listen(listen: str, secret: str) -> None:
    """Raise ConfigError for what is no HOST:PORT, and for one that strangers reach if there is no secret."""
    host, separator, port = listen.rpartition(":")
    if not (separator and host and port.isdecimal()):
        raise ConfigError(f"--listen is {listen!r}, but must be HOST:PORT, for example 127.0.0.1:9000")
    if not secret and host not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigError(
            f"--listen {listen} lets other machines in, so a secret is needed: give this end and the servers "
            "the same STENTOR_PIPELINE_WORKER_SECRET"
        )
