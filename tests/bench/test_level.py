"""Laws of one load level's figures."""

import pytest

from stentor.bench.level import Level, Timing, percentile


def test_percentiles_are_values_that_occurred() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert percentile(values, 50) == 2.0
    assert percentile(values, 95) == 4.0
    assert percentile(values, 1) == 1.0
    assert percentile([], 50) is None


def test_rates_are_over_the_wall_clock_and_rtf_over_each_request() -> None:
    timings = [Timing(0.1, 1.0, 2.0, (0.2, 0.4)), Timing(0.3, 3.0, 2.0, underruns=2, starved_s=0.5)]
    row = Level(2, wall_s=4.0, timings=timings, errors=["HTTP 500"], load=0.5).row()
    assert row["audio_s_per_s"] == pytest.approx(1.0)
    assert row["requests_per_s"] == pytest.approx(0.5)
    assert row["rtf_p50"] == pytest.approx(0.5)
    assert (row["ttfa_p50_ms"], row["ttfa_p95_ms"]) == (pytest.approx(100), pytest.approx(300))
    assert (row["itl_p50_ms"], row["itl_p95_ms"]) == (pytest.approx(200), pytest.approx(400))
    assert (row["underruns"], row["starved_s"], row["errors"], row["load"]) == (2, 0.5, 1, 0.5)


def test_a_level_where_all_failed_has_no_latencies() -> None:
    row = Level(1, wall_s=1.0, timings=[], errors=["x"]).row()
    assert row["ttfa_p50_ms"] is None
    assert row["audio_s_per_s"] == 0
