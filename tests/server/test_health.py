from collections.abc import Callable

from tests.server.conftest import Running
from tests.server.fakes import voices

Serve = Callable[..., Running]


def test_health_is_the_word_ok_while_the_pipeline_is_in_order(serve: Serve) -> None:
    server = serve()
    server.pipeline.is_ready = False  # A worker is being started again: no reason to be killed.
    response = server.http.get("/health")
    assert (response.status_code, response.text) == (200, "OK")
    assert response.headers["Content-Type"].startswith("text/plain")


def test_who_asks_for_the_head_gets_that_of_the_whole(serve: Serve) -> None:
    """As `curl -I` and some load balancers do."""
    http = serve().http
    for path in ("/", "/health", "/ready", "/v1/models"):
        head, whole = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    assert http.head("/v1/audio/speech").status_code == 405


def test_health_is_503_when_only_a_new_process_helps(serve: Serve) -> None:
    server = serve()
    server.pipeline.is_alive = False
    assert server.http.get("/health").status_code == 503


def test_ready_is_200_when_a_request_would_be_served(serve: Serve) -> None:
    response = serve().http.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_ready_is_503_when_it_would_not(serve: Serve) -> None:
    server = serve()
    server.pipeline.is_ready = False
    response = server.http.get("/ready")
    assert (response.status_code, response.json()) == (503, {"status": "not ready"})
    assert response.headers["Retry-After"] == "1"


def test_models_are_listed_as_openai_lists_them(serve: Serve) -> None:
    client = serve(served_model_name="org/voice").openai()
    listed = client.models.list().data
    assert [(model.id, model.object, model.owned_by) for model in listed] == [
        ("org/voice", "model", "stentor")
    ]
    assert client.models.retrieve("org/voice").id == listed[0].id


def test_the_model_names_its_voices(serve: Serve) -> None:
    listed = serve().http.get("/v1/models/stentor-test").json()["voices"]
    assert [voice["name"] for voice in listed] == [voice.name for voice in voices().all()]


def test_an_unknown_model_is_404(serve: Serve) -> None:
    response = serve().http.get("/v1/models/org/none")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_metrics_are_prometheus_text(serve: Serve) -> None:
    server = serve()
    server.speech()
    response = server.http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE stentor_ttfa_seconds histogram" in response.text
    assert server.metric('stentor_http_responses_total{status="200"}') >= 1
