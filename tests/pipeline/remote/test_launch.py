"""The promises of a pipeline hold over TCP, whichever end dies."""

import os
import signal
from typing import Any

import msgspec
import pytest

from stentor.config import PipelineConfig
from stentor.errors import AbortedError, ConfigError, InternalError, RequestError
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.remote.messages import Remote
from stentor.pipeline.remote.server import ChainServer
from tests.pipeline import fakes
from tests.pipeline.remote.ends import INFO, front, process, serving
from tests.pipeline.stress import Load, run
from tests.pipeline.test_pipeline import check_audio, check_clean, end_of, wait_until
from tests.pipeline.test_stress import check, make_request


def test_audio_arrives_complete_in_order_and_unmixed() -> None:
    with serving() as server, front(server.address) as pipeline:
        assert pipeline.ready()
        names = {f"r{i}@x": i % 9 + 1 for i in range(40)}
        streams = {
            name: pipeline.submit(fakes.request(name, f"frames={frames}", samples=frames % 3 * 9000))
            for name, frames in names.items()
        }
        for name, stream in streams.items():
            check_audio(name, list(stream), names[name])
        check_clean(pipeline)
        assert set(pipeline.stats()["stages"]) == set(fakes.KINDS)


@pytest.mark.parametrize(("kind", "kills"), [("thread", 0), ("process", 3)])
def test_every_request_ends_once_and_nothing_leaks(kind: str, kills: int) -> None:
    with serving(0.001, workers=kind) as server:
        remote = Remote(server.address, INFO, "")
        load = Load(requests=1000, kills=kills)
        report = run(lambda: Pipeline(remote, PipelineConfig()), make_request, check, load)
    report.check()
    # Whoever is killed while he holds nothing takes nobody with him.
    assert kills or report.ends["lost"] == 0


def test_a_worker_that_dies_fails_what_it_held_and_comes_back() -> None:
    with (
        process(step_s=0.005) as (child, address),
        serving() as other,
        front(address, other.address) as pipeline,
    ):
        streams = [pipeline.submit(fakes.request(f"r{i}", "frames=300")) for i in range(4)]
        for stream in streams:
            next(stream)
        aborted = pipeline.submit(fakes.request("aborted", "frames=100000"))
        os.kill(child.pid, signal.SIGKILL)
        aborted.abort()
        assert isinstance(end_of(aborted), AbortedError)
        ends = [end_of(stream) for stream in streams]
        assert [type(end) for end in ends] == [InternalError, type(None)] * 2
        assert "send it again" in str(ends[0])
        # The other one serves meanwhile.
        assert pipeline.ready()
        assert end_of(pipeline.submit(fakes.request("r0", "frames=3"))) is None
        wait_until(lambda: pipeline.stats()["requests"] == {"open": 0, "ending": 0, "waiting": 0})
        with process(address):
            wait_until(lambda: any(name.endswith("@0") for name in pipeline.stats()["stages"]))
            check_clean(pipeline)


def test_nobody_waits_for_a_worker_that_cannot_be_reached() -> None:
    with process() as (child, address), front(address) as pipeline:
        child.kill()
        wait_until(lambda: not pipeline.ready())
        assert pipeline.alive()
        for name in ("a", "b", "a"):
            assert "out of reach" in str(end_of(pipeline.submit(fakes.request(name))))
        with process(address):
            wait_until(pipeline.ready)
            assert end_of(pipeline.submit(fakes.request("a"))) is None
            check_clean(pipeline)


def test_a_silent_network_is_noticed() -> None:
    with process() as (child, address), front(address) as pipeline:
        os.kill(child.pid, signal.SIGSTOP)
        stream = pipeline.submit(fakes.request("a"))
        assert "out of reach" in str(end_of(stream))
        os.kill(child.pid, signal.SIGCONT)
        wait_until(pipeline.ready)
        assert end_of(pipeline.submit(fakes.request("a"))) is None
        check_clean(pipeline)


@pytest.mark.parametrize("change", [{"context_limit": 99}, {"sample_rate_hz": 48_000}])
def test_another_model_is_refused_and_a_folder_of_another_name_is_not(change: dict[str, Any]) -> None:
    with serving() as server:
        refused = pytest.raises(ConfigError, match="start both ends alike")
        with refused, front(server.address, info=msgspec.structs.replace(INFO, **change)):
            pass
        with front(server.address, info=msgspec.structs.replace(INFO, name="elsewhere")) as pipeline:
            assert pipeline.ready()


@pytest.mark.parametrize("address", ["tcp://nowhere", "tcp://", "tcp://127.0.0.1:no"])
def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"), front(address):
        pass
    with pytest.raises(ConfigError, match="--listen"):
        ChainServer(fakes.chain(), PipelineConfig(), INFO, address)


def test_a_worker_elsewhere_is_restarted_there() -> None:
    refused = pytest.raises(RequestError, match="restart it there")
    with serving() as server, front(server.address) as pipeline, refused:
        pipeline.restart("generate")
