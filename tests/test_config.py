"""Laws of the settings: they come from data, heed the environment, and refuse what does not fit."""

import dataclasses

import pytest

from stentor import config
from stentor.config import Config, PipelineConfig, ServerConfig, from_environment, override, settings
from stentor.errors import ConfigError

ALL = list(settings())


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.environment_name)
def test_each_setting_is_a_full_sentence_with_a_default_that_fits(item: config.Setting) -> None:
    assert item.help.endswith(".")
    item.check(item.default)


def test_flags_and_variables_are_unique() -> None:
    assert len({item.flag for item in ALL}) == len(ALL)
    assert len({item.environment_name for item in ALL}) == len(ALL)


def test_a_flag_names_its_section_only_where_it_must() -> None:
    flags = {(item.section, item.name): item.flag for item in ALL}
    assert flags["server", "port"] == "--port"
    assert flags["model", "model"] == "--model"
    assert flags["model", "dtype"] != flags["vocoder", "dtype"]


def test_the_environment_overrides_defaults_by_type() -> None:
    found = from_environment(
        {
            "STENTOR_SERVER_PORT": "9000",
            "STENTOR_ENGINE_PREFIX_CACHING": "false",
            "STENTOR_REFERENCE_MAX_SECONDS": "12.5",
            "STENTOR_PIPELINE_WORKERS": "thread",
            "HOME": "/nowhere",
        }
    )
    assert found.server.port == 9000
    assert found.engine.prefix_caching is False
    assert found.reference.max_seconds == 12.5
    assert found.pipeline.workers == "thread"
    assert found.model == Config().model


def test_the_environment_wins_over_the_base() -> None:
    base = Config(pipeline=PipelineConfig(workers="thread", max_requests=3))
    found = from_environment({"STENTOR_PIPELINE_WORKERS": "process"}, base)
    assert (found.pipeline.workers, found.pipeline.max_requests) == ("process", 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("STENTOR_SERVER_PORT", "many"),
        ("STENTOR_SERVER_PORT", "65536"),
        ("STENTOR_SERVER_PORT", "-1"),
        ("STENTOR_ENGINE_BLOCK_SIZE", "0"),
        ("STENTOR_ENGINE_PREFIX_CACHING", "perhaps"),
        ("STENTOR_REFERENCE_MAX_SECONDS", "nan"),
        ("STENTOR_REFERENCE_MAX_SECONDS", "1.5"),
        ("STENTOR_PIPELINE_START_TIMEOUT_S", "inf"),
        ("STENTOR_PIPELINE_WORKERS", "fiber"),
        ("STENTOR_ENGINE_COLOUR", "red"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        from_environment({name: text})


def test_a_value_of_the_wrong_type_is_refused_from_python_too() -> None:
    with pytest.raises(ConfigError, match="--port"):
        config.check(Config(server=ServerConfig(port="8000")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--max-requests"):
        config.check(Config(pipeline=PipelineConfig(max_requests=True)))
    config.check(Config(pipeline=PipelineConfig(start_timeout_s=5)))


def test_override_leaves_the_original_alone() -> None:
    base = Config()
    changed = override(base, {"server": {"port": 1}, "engine": {"block_size": 32}})
    assert (changed.server.port, changed.engine.block_size) == (1, 32)
    assert base == Config()


def test_every_section_is_frozen() -> None:
    for section in dataclasses.fields(Config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(getattr(Config(), section.name), "anything", 1)  # noqa: B010
