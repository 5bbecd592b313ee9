"""Laws of the flags: every setting is one, and flags win over variables, which win over the base."""

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from stentor.cli.options import with_model, with_settings
from stentor.config import Config, ModelConfig, PipelineConfig, settings
from stentor.errors import ConfigError

runner = CliRunner()


def run(
    arguments: list[str], *, base: Config | None = None, environment: dict[str, str] | None = None
) -> Config:
    """The config that a command with every section is handed."""
    seen: list[Config] = []

    @with_settings("model", "engine", "vocoder", "reference", "pipeline", "server", base=base)
    def command(config: Config) -> None:
        seen.append(config)

    app = typer.Typer()
    app.command()(command)
    done = runner.invoke(app, arguments, env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return seen[0]


def test_without_flags_a_command_gets_the_defaults() -> None:
    assert run([]) == Config()


def test_flags_win_over_variables_and_variables_over_the_base() -> None:
    base = Config(pipeline=PipelineConfig(workers="thread", max_requests=3, link_credits=5))
    environment = {"STENTOR_PIPELINE_MAX_REQUESTS": "7", "STENTOR_PIPELINE_LINK_CREDITS": "8"}
    found = run(["--link-credits", "9"], base=base, environment=environment).pipeline
    assert (found.workers, found.max_requests, found.link_credits) == ("thread", 7, 9)


def test_flags_come_in_their_own_types() -> None:
    found = run(["--port", "9", "--max-seconds", "2.5", "--no-prefix-caching", "--model-path", "somewhere"])
    assert found.server.port == 9
    assert found.reference.max_seconds == 2.5
    assert found.engine.prefix_caching is False
    assert found.model.model == "somewhere"


def test_a_value_out_of_bounds_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(ConfigError, match="--port"):
        run(["--port", "70000"])


def test_every_setting_of_a_section_is_a_flag_with_its_variable_in_the_help() -> None:
    @with_settings("engine", "server")
    def command(config: Config) -> None:
        """Nothing."""

    options: dict[str, Any] = {
        name: parameter.annotation.__metadata__[0]
        for name, parameter in inspect.signature(command).parameters.items()
    }
    wanted = [item for item in settings() if item.section in ("engine", "server")]
    assert len(options) == len(wanted)
    for item, option in zip(wanted, options.values(), strict=True):
        assert item.help in option.help
        assert item.environment_name in option.help


def test_two_models_are_one_too_many() -> None:
    named = Config(model=ModelConfig(model="a"))
    assert with_model(Config(), "a") == with_model(named, None) == with_model(named, "a") == named
    with pytest.raises(ConfigError, match="two models"):
        with_model(named, "b")
