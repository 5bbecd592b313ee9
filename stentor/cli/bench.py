"""`stentor bench engine` and `bench serve`: a table on stderr for people, one JSON line on stdout for machines."""

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stentor.cli.options import choose_model, with_settings
from stentor.cli.progress import Progress
from stentor.config import Config, override
from stentor.errors import ConfigError

app = typer.Typer(help="Measure speed, with everything that the figures depend on.", no_args_is_help=True)
