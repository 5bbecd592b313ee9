"""Laws of `stentor serve`: it takes its port first, serves the official client, and ends cleanly."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from stentor.bench.local_server import LocalServer
from stentor.cli.main import app
from stentor.cli.serve import leave_room, take_port
from stentor.config import ServerConfig
from stentor.errors import ConfigError
from tests.checkpoints import make_checkpoint
from tests.deploy.test_deploy import expressions


def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="--port") as caught:
            take_port(ServerConfig(port=port))
    assert str(port) in caught.value.message


def test_a_port_belongs_to_one_server_also_before_that_listens() -> None:
    with take_port(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        for flag in ("--port", "--wyoming"):
            with pytest.raises(ConfigError, match=flag):
                take_port(ServerConfig(port=port, wyoming=port), flag)


def test_connections_of_a_server_that_has_ended_do_not_keep_its_port() -> None:
    for _ in range(3):
        with take_port(ServerConfig(port=0)) as listener:
            port = listener.getsockname()[1]
            leave_room(listener)
            listener.listen()
            with socket.create_connection(listener.getsockname(), timeout=5) as client:
                # Whoever closes first is the one who waits.
                listener.accept()[0].close()
                assert client.recv(1) == b""
        with take_port(ServerConfig(port=port)), pytest.raises(ConfigError):
            take_port(ServerConfig(port=port))


def test_port_0_takes_a_free_one() -> None:
    with take_port(ServerConfig(port=0)) as listener:
        assert listener.getsockname()[1] > 0


def test_clients_are_refused_until_the_server_listens() -> None:
    with take_port(ServerConfig(port=0)) as listener:
        address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        listener.listen()
        socket.create_connection(address, timeout=5).close()


def test_an_address_that_is_not_ours_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen on 203"):
        take_port(ServerConfig(host="203.0.113.7", port=0))
    with pytest.raises(ConfigError, match="--host"):
        take_port(ServerConfig(host="x" * 64, port=0))


def test_a_door_without_keys_is_not_opened_by_the_other_ones_host() -> None:
    with take_port(ServerConfig(host="0.0.0.0"), "--wyoming") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with take_port(ServerConfig(wyoming_host="127.0.0.2"), "--wyoming") as listener:
        assert listener.getsockname()[0] == "127.0.0.2"
    with pytest.raises(ConfigError, match="--wyoming-host"):
        take_port(ServerConfig(wyoming_host="x" * 64), "--wyoming")


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--api-keys-file", "nowhere.toml", "cannot read the API keys"),
        ("--allowed-folder", "nowhere", "--allowed-folder: there is no folder"),
        ("--cors-origins", "https://a.example, b.example", "'b.example' is no origin"),
        ("--cors-origins", "https://a.example/", "is no origin"),
        ("--cors-origins", "https://A.example", "is no origin"),
    ],
)
def test_what_cannot_be_meant_is_told_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, value: str, words: str
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr("stentor.pipeline.pipeline.Pipeline.start", lambda _: pytest.fail("it was loaded"))
    # It would leave this process a log that writes to the runner's stderr, which is closed afterwards.
    monkeypatch.setattr("stentor.logs.setup", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["serve", str(checkpoint), "--port", "0", flag, value])
    assert isinstance(done.exception, ConfigError)
    assert words in done.exception.message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A real server on a small random checkpoint."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("serve") / "checkpoint", eoc_gain=3.0)
    settings = ["--served-model-name", "small", "--max-context", "1024", "--workers", "thread"]
    with LocalServer([str(checkpoint), *settings]) as started:
        yield started


def test_the_official_client_streams_audio(server: LocalServer) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        assert [model.id for model in client.models.list()] == ["small"]
        with client.audio.speech.with_streaming_response.create(
            model="small",
            voice="default",
            input="Hello there.",
            response_format="pcm",
            stream_format="audio",
            extra_body={"seed": 1, "max_new_tokens": 60},
        ) as response:
            chunks = list(response.iter_bytes())
        whole = client.audio.speech.create(
            model="small",
            voice="default",
            input="Hello there.",
            response_format="pcm",
            extra_body={"seed": 1, "max_new_tokens": 60},
        )
    streamed = np.frombuffer(b"".join(chunks), "<i2").astype(int)
    offline = np.frombuffer(whole.content, "<i2").astype(int)
    assert len(streamed) == len(offline) > 0
    assert np.abs(streamed - offline).max() <= 1


def test_the_metrics_of_a_running_server_are_documented(server: LocalServer) -> None:
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"`\w+`", page))
    names = re.findall(r"^# TYPE (stentor_\w+?)(?:_created)? (?:counter|gauge|histogram)", text, re.MULTILINE)
    missing = [name for name in names if not {f"`{name}`", f"`{name.removesuffix('_total')}`"} & documented]
    assert len(names) > 10
    assert missing == []


def test_every_query_of_the_dashboard_and_rules_finds_its_series_in_a_running_server(
    server: LocalServer,
) -> None:
    spoken = {"input": "Hello.", "response_format": "pcm", "stream": True, "max_new_tokens": 60}
    assert httpx2.post(f"{server.url}/v1/audio/speech", json=spoken, timeout=60, trust_env=False).content
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    there = set(re.findall(r"^(stentor_\w+)[ {]", text, re.MULTILINE))
    asked = {name for _, expression in expressions() for name in re.findall(r"\bstentor_\w+", expression)}
    assert len(asked) > 20
    assert asked - there == set()


def test_sigterm_ends_the_server_with_status_0(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with LocalServer([str(checkpoint), "--workers", "thread", "--max-context", "512"]) as started:
        assert httpx2.get(f"{started.url}/health", trust_env=False).status_code == 200
        assert started.stop() == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{started.url}/health", trust_env=False)


def test_sigterm_lets_a_stream_of_the_real_thing_end_whole(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    body = {
        "input": "Hello there.",
        "seed": 1,
        "stream": True,
        "response_format": "pcm",
        "max_new_tokens": 300,
    }
    with (
        LocalServer([str(checkpoint), "--max-context", "1024"]) as started,
        httpx2.Client(base_url=started.url, timeout=60, trust_env=False) as client,
    ):
        whole = client.post("/v1/audio/speech", json=body).content
        with client.stream("POST", "/v1/audio/speech", json=body) as response:
            chunks = response.iter_raw()
            heard = next(chunks)
            with ThreadPoolExecutor() as pool:
                status = pool.submit(started.stop, 60)
                heard += b"".join(chunks)
                assert status.result() == 0
    assert len(heard) == len(whole) > 0
