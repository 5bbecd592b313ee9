"""`stentor serve`: takes the port, loads the model, answers HTTP until it is told to stop."""

import contextlib
import logging
import signal
import socket
from typing import Annotated, Any

import typer

from stentor import logs
from stentor.cli import ui as page
from stentor.cli.options import ModelArgument, with_model, with_settings
from stentor.config import Config, ServerConfig
from stentor.errors import ConfigError


@with_settings("model", "engine", "vocoder", "reference", "pipeline", "server", "access", "ui")
def serve(
    config: Config,
    model: ModelArgument = None,
    ui: Annotated[bool, typer.Option("--ui", help="Also start the page of `stentor ui`.")] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's audio API."""
    if ui:
        page.check_installed()
    config = with_model(config, model)
    logs.setup(config.server.log_level.upper(), config.server.log_format)
    listener = take_port(config.server)
    wyoming = take_port(config.server, "--wyoming") if config.server.wyoming else None
    signal.signal(signal.SIGTERM, page.interrupt)
    status = 0
    try:
        with listener, wyoming or contextlib.nullcontext():
            address = f"http://{_reachable(*listener.getsockname()[:2])}"
            with page.beside(address, config.ui) if ui else contextlib.nullcontext():
                status = _load_and_answer(config, listener, wyoming)
    except KeyboardInterrupt:
        pass  # Told to end before there was anything to finish.
    logging.getLogger(__name__).info("stopped with status %d", status)
    if status:
        raise typer.Exit(status)


def take_port(config: ServerConfig, flag: str = "--port") -> socket.socket:
    """A bound socket that does not listen yet: the port is ours, clients are refused until the model is in.

    `flag` names the setting that has the port, `--port` or `--wyoming`.

    Raises:
        ConfigError: the address is wrong or the port is in use.
    """
    wyoming = flag == "--wyoming"
    host, port = (config.wyoming_host, config.wyoming) if wyoming else (config.host, config.port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        named = "--wyoming-host" if wyoming else "--host"
        raise ConfigError(f"{named} {host!r} is no address of this machine: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Who does not read is given up by the server; this lets the system drop what it buffered for him.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout_ms = round(1000 * config.write_timeout_s)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        _bind(listener, address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; "
            f"stop what uses it, or choose another with {flag}"
        ) from None
    return listener


def _bind(listener: socket.socket, address: Any) -> None:
    """Bind for this socket alone. With SO_REUSEADDR two may have one port as long as neither listens."""
    try:
        listener.bind(address)
    except OSError:  # Perhaps for connections of a server that has ended, which are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def leave_room(listener: socket.socket) -> None:
    """Before it listens: its connections shall not keep the next server from the port."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _load_and_answer(config: Config, listener: socket.socket, wyoming: socket.socket | None) -> int:
    """Serve until told to end; the exit status."""
    from stentor.server.app import create_app, max_body_bytes
    from stentor.server.lifetime import Server, uvicorn_settings
    from stentor.tts import build_pipeline
    from stentor.voices import VoiceStore

    info, pipeline = build_pipeline(config)
    with contextlib.closing(pipeline):
        # Before the model, which may take a minute: what is wrong with the keys is told at once.
        app = create_app(pipeline, info, VoiceStore(info, config.reference), config, wyoming)
        pipeline.start()
        host, port = listener.getsockname()[:2]
        # Its start and stop are told in our own words, and each request by the server.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        hello = f"Stentor serves {info.name} on http://{_in_url(host)}:{port}"
        if wyoming is not None:
            logging.getLogger(__name__).info("Wyoming is spoken on port %d", wyoming.getsockname()[1])
        for taken in filter(None, (listener, wyoming)):
            leave_room(taken)
        settings = uvicorn_settings(app, max_body_bytes(config))
        server = Server(settings, app.state.admission, config.server, hello)
        server.run(sockets=[listener])
        return server.status


def _reachable(host: str, port: int) -> str:
    """Where this machine's own programs find it."""
    return f"{_in_url({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host))}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
