"""Turns settings into flags: each command takes the sections it needs and is handed a `Config`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from stentor.config import Config, Setting, from_environment, override, settings
from stentor.errors import ConfigError

Command = Callable[..., None]

# The checkpoint may also be named as peers' commands have it.
_ALIASES = {("model", "model"): ["--model-path"]}


def with_settings(*sections: str, base: Config | None = None) -> Callable[[Command], Command]:
    """Add the flags of these sections to a command; its `config` is `base`, the environment, the flags.

    Later ones win. The command keeps its own parameters; `config` is not one of the command line's.
    """
    chosen = [item for item in settings() if item.section in sections]

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "config"]
        parameters = [*own, *(_as_parameter(item) for item in chosen)]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given: dict[str, dict[str, Any]] = {}
            for item in chosen:
                value = values.pop(_parameter_name(item))
                if value is not None:
                    given.setdefault(item.section, {})[item.name] = value
            command(config=override(from_environment(base=base), given), **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def with_flags(flags: Mapping[str, tuple[Any, Any, str]]) -> Callable[[Command], Command]:
    """Add flags, each a type, a default and a help text, to a command that is handed all in `options`."""

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
        added = [
            _keyword(name, Annotated[kind, typer.Option(help=text)], default)
            for name, (kind, default, text) in flags.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            command(options={name: values.pop(name) for name in flags}, **values)

        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        return run

    return decorate


ModelArgument = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Folder or hub id; by default the built-in voice.")
]


def with_model(config: Config, argument: str | None) -> Config:
    """The settings with the one checkpoint meant by `--model` and by MODEL; ConfigError if they differ."""
    named = config.model.model
    if argument and named and argument != named:
        raise ConfigError(f"two models are named, {argument!r} and {named!r}: name one")
    return override(config, {"model": {"model": argument or named}})


def describe_default(value: Any) -> str:
    """A default as the help text and the reference page show it."""
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _parameter_name(item: Setting) -> str:
    return f"{item.section}__{item.name}"


def _as_parameter(item: Setting) -> inspect.Parameter:
    names = [item.flag, *_ALIASES.get((item.section, item.name), [])]
    if item.type is bool:
        names = [f"{item.flag}/--no-{item.flag.removeprefix('--')}"]
    option = typer.Option(
        *names,
        help=f"{item.help} (default {describe_default(item.default)}; {item.environment_name})",
        show_default=False,
        rich_help_panel=f"Settings: {item.section}",
    )
    return _keyword(_parameter_name(item), Annotated[item.type | None, option], None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
