from stentor.server.outcomes import Outcomes


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_latest_word_on_a_request_counts() -> None:
    outcomes = Outcomes(60)
    outcomes.put("me", "a", status="in_progress")
    outcomes.put("me", "a", status="done", finish_reason="stop")
    assert outcomes.get("me", "a") == {
        "id": "a",
        "object": "audio.speech.outcome",
        "status": "done",
        "finish_reason": "stop",
    }
    assert outcomes.get("me", "b") is None


def test_the_old_are_forgotten() -> None:
    clock = Clock()
    outcomes = Outcomes(60, clock)
    outcomes.put("me", "a", status="done")
    clock.now_s = 60
    outcomes.put("me", "b", status="done")
    assert outcomes.get("me", "a")
    clock.now_s = 61
    assert outcomes.get("me", "a") is None
    assert outcomes.get("me", "b")
    clock.now_s = 200
    outcomes.put("me", "c", status="done")
    assert len(outcomes._kept) == 1


def test_an_age_of_nothing_keeps_nothing() -> None:
    outcomes = Outcomes(0)
    outcomes.put("me", "a", status="done")
    outcomes.put("me", "b", status="done")
    assert outcomes.get("me", "a") is None
    assert len(outcomes._kept) <= 1


def test_no_more_than_1024_are_kept() -> None:
    outcomes = Outcomes(60)
    for number in range(3_000):
        outcomes.put("me", str(number), status="done")
    assert outcomes.get("me", "1975") is None
    assert outcomes.get("me", "1976")
    assert len(outcomes._kept) == 1_024


def test_nobody_is_told_of_anothers_requests() -> None:
    outcomes = Outcomes(60)
    outcomes.put("me", "a", status="done")
    assert outcomes.get("you", "a") is None
    outcomes.put("you", "a", status="error")
    known = outcomes.get("me", "a")
    assert known is not None
    assert known["status"] == "done"
