"""Starts the page on its port, and keeps it up until it is told to stop."""

import os
import threading

import gradio as gr

from stentor.config import UiConfig
from stentor.errors import ConfigError
from stentor.ui.client import Client
from stentor.ui.page import Page
from stentor.ui.relay import Relay

# What is said at once; the server has a queue of its own.
_AT_ONCE, _WAITING = 16, 64
_STYLE = """
#player audio { width: 100% }
.tag { width: auto !important; min-width: fit-content !important; flex: none !important }
footer { display: none !important }
"""


class Running:
    """The page, being served; a context manager that ends it. `url` is where.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, config: UiConfig) -> None:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        relay = Relay()
        self._page = Page(Client(config.server_url, config.api_key), relay)
        self._blocks = self._page.build()
        self._blocks.queue(default_concurrency_limit=_AT_ONCE, max_size=_WAITING)
        try:
            app, self.url, _ = self._blocks.launch(
                server_name=config.host,
                server_port=config.port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                css=_STYLE,
                # Without fonts from elsewhere.
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            self._page.close()
            raise ConfigError(
                f"the page cannot listen on {config.host} port {config.port} ({error}): "
                "choose another with --ui-port"
            ) from None
        # Before Gradio's own, which take any path.
        app.router.routes.insert(0, relay.route)

    def wait(self) -> None:
        """Until the process is interrupted."""
        threading.Event().wait()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self._blocks.close(verbose=False)
        self._page.close()
