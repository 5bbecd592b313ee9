import re
import time
from typing import Any, NamedTuple

import pytest

from stentor.server.metrics import Metrics, RequestMeter

RATE = 24_000
STATS: dict[str, Any] = {
    "requests": {"open": 3, "ending": 1, "waiting": 2},
    "stages": {
        "generate": {"kv_blocks_used": 7, "kv_blocks_total": 100, "requests_known": 2.0},
        "vocode": {"requests_known": 1.0},
    },
    "links": {"generate": 4},
    "workers": {"main": {"pid": 77, "restarts": 2, "ready": True}},
}


def series(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as a scraper reads it."""
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: STATS)


def test_the_pipeline_is_asked_at_each_scrape(metrics: Metrics) -> None:
    found = series(metrics)
    assert found['stentor_requests{state="open"}'] == 3
    assert found['stentor_requests{state="waiting"}'] == 2
    assert found['stentor_stage_kv_blocks_used{stage="generate"}'] == 7
    assert found['stentor_stage_kv_blocks_total{stage="generate"}'] == 100
    assert found['stentor_stage_requests_known{stage="vocode"}'] == 1
    assert found['stentor_link_messages{stage="generate"}'] == 4
    assert found['stentor_worker_ready{worker="main"}'] == 1
    assert found['stentor_worker_restarts_total{worker="main"}'] == 2


def test_a_done_request_counts_once_with_all_its_figures(metrics: Metrics) -> None:
    meter = metrics.measure(RATE, streamed=True)
    assert series(metrics)["stentor_speech_in_flight"] == 1
    meter.heard(RATE)
    meter.heard(RATE)
    for _ in range(2):
        meter.end("done", finish_reason="stop", prompt_tokens=5, completion_tokens=50)
    found = series(metrics)
    assert found["stentor_speech_in_flight"] == 0
    assert found['stentor_speech_requests_total{finish_reason="stop",outcome="done"}'] == 1
    assert found["stentor_audio_seconds_total"] == 2
    assert found['stentor_tokens_total{kind="prompt"}'] == 5
    assert found['stentor_tokens_total{kind="completion"}'] == 50
    assert found['stentor_ttfa_seconds_count{streamed="true"}'] == 1
    assert found["stentor_rtf_count"] == found["stentor_speech_request_seconds_count"] == 1
    assert 0 < found["stentor_rtf_sum"] < 0.1
    assert found['stentor_streams_total{continuity="kept"}'] == 1
    assert found['stentor_longest_underrun_seconds_bucket{le="0.0"}'] == 1
    assert found["stentor_audio_length_seconds_sum"] == 2
    assert found["stentor_underruns_total"] == 0


def test_a_starved_stream_is_counted_as_broken(metrics: Metrics) -> None:
    meter = metrics.measure(RATE, streamed=True)
    meter.heard(24)
    time.sleep(0.05)
    meter.heard(24)
    meter.end("aborted")
    found = series(metrics)
    assert found['stentor_streams_total{continuity="broken"}'] == found["stentor_underruns_total"] == 1
    assert found['stentor_longest_underrun_seconds_bucket{le="0.02"}'] == 0
    assert found["stentor_longest_underrun_seconds_count"] == 1
    assert found["stentor_underrun_seconds_total"] > 0.03
    assert found['stentor_speech_requests_total{finish_reason="",outcome="aborted"}'] == 1


@pytest.mark.parametrize("outcome", ["error", "refused", "aborted", "overloaded"])
def test_what_is_not_done_does_not_flatter_the_averages(metrics: Metrics, outcome: str) -> None:
    metrics.measure(RATE, streamed=True).end(outcome)
    found = series(metrics)
    assert found["stentor_rtf_count"] == found["stentor_speech_request_seconds_count"] == 0
    assert "stentor_streams_total" not in found
    assert found["stentor_speech_in_flight"] == 0


class Times(NamedTuple):
    stage: str
    came_s: float
    first_s: float | None
    last_s: float | None


def test_a_stages_time_is_that_until_its_first_result(metrics: Metrics) -> None:
    metrics.passed("a", [Times("generate", 1.0, 1.5, 2.0), Times("vocode", 1.5, None, None)])
    found = series(metrics)
    assert found['stentor_stage_first_result_seconds_sum{stage="generate"}'] == 0.5
    assert 'stentor_stage_first_result_seconds_count{stage="vocode"}' not in found


def test_two_servers_in_one_process_do_not_share_their_figures(metrics: Metrics) -> None:
    other = Metrics(lambda: STATS)
    meter: RequestMeter = metrics.measure(RATE, streamed=False)
    meter.end("error")
    assert not [name for name in series(other) if name.startswith("stentor_speech_requests_total")]


def test_all_names_are_ours_and_have_units(metrics: Metrics) -> None:
    metrics.measure(RATE, streamed=True).heard(1)
    for name in series(metrics):
        assert re.match(r"stentor_[a-z_]+(\{|$)", name), name
