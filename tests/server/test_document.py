"""Laws of `/openapi.json`: every answer to whatever is sent is one that it knows, and none is a 500.

schemathesis goes further in `make test-clients`; this much of it needs nothing but Hypothesis.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stentor.config import override
from stentor.server.app import create_app
from stentor.voices import VoiceStore
from tests.clients.fuzzed_server import speak
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, FakePipeline, config, voices

Serve = Callable[..., Running]

KEY = "a-key-of-the-operator"
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["default", "wav", "sse", "data:audio/wav;base64,AAAA", "<|prosody:pause|>", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def document_of(folder: Path) -> tuple[Any, dict[str, Any]]:
    """An app with every route, and its document."""
    keys = folder / "keys.toml"
    keys.write_text(f'[operator]\nkey = "{KEY}"\nadmin = true\n')
    settings = config({"api_keys_file": str(keys), "admin": True})
    settings = override(settings, {"reference": {"voices_folder": str(folder / "voices")}})
    pipeline: Any = FakePipeline(speak)
    app = create_app(pipeline, INFO, VoiceStore(INFO, settings.reference), settings)
    return app, app.openapi()


def operations() -> list[tuple[str, str]]:
    """Method and path of each operation; of an operator's, those that leave the server as it is."""
    pipeline: Any = FakePipeline()
    paths = create_app(pipeline, INFO, voices(), config()).openapi()["paths"]
    known = [(method, path) for path, methods in paths.items() for method in methods]
    return [*known, ("get", "/v1/admin/status"), ("put", "/v1/admin/log-level")]


@pytest.fixture(scope="module")
def server(
    front_and_port: tuple[Front, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx2.Client, dict[str, Any]]]:
    front, port = front_and_port
    app, document = document_of(tmp_path_factory.mktemp("document"))
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        front.app = app
        yield client, document


def fields_of(operation: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """The names in an operation's JSON body."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = next((kind["schema"] for name, kind in content.items() if "json" in name), {})
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return sorted(document["components"]["schemas"].get(name, schema).get("properties", {}))


def request_of(operation: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Values for what stands in the address and the query, and a body."""
    places = [place["name"] for place in operation.get("parameters", ()) if place["in"] == "path"]
    queries = [place["name"] for place in operation.get("parameters", ()) if place["in"] == "query"]
    names = fields_of(operation, document)
    body: st.SearchStrategy[Any] = st.dictionaries(st.text(max_size=8), JUNK, max_size=2) | JUNK
    if names:
        some = st.dictionaries(st.sampled_from(names), JUNK, max_size=6)
        good = some.map(lambda told: {"input": "Hello.", "text": "Hello.", "name": "a"} | told)
        body = some | good | body
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    return st.tuples(
        st.fixed_dictionaries(dict.fromkeys(places, text)),
        st.dictionaries(st.sampled_from(queries), text, max_size=2) if queries else st.just({}),
        body,
    )


@pytest.mark.parametrize(("method", "path"), operations())
def test_every_answer_is_one_that_the_document_knows_and_none_a_500(
    server: tuple[httpx2.Client, dict[str, Any]], method: str, path: str
) -> None:
    client, document = server
    operation = document["paths"][path][method]

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(request_of(operation, document))
    def ask(drawn: tuple[dict[str, str], dict[str, str], Any]) -> None:
        places, query, body = drawn
        address = path.format(**{name: quote(value, safe="") for name, value in places.items()})
        data = json.dumps(body).encode() if "requestBody" in operation else None
        headers = {"Content-Type": "application/json"}
        answer = client.request(method, address, params=query, content=data, headers=headers)
        check(answer, operation)

    ask()


def check(answer: Any, operation: dict[str, Any]) -> None:
    """It is a success or a failure as they are documented."""
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    kind = answer.headers.get("Content-Type", "").split(";")[0]
    known = operation["responses"].get(str(answer.status_code))
    if known is not None:
        assert kind in known.get("content", {}), f"{answer.status_code} is not documented as {kind}"
    else:
        assert answer.status_code >= 400
        assert kind == "application/json"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_no_route_documents_what_the_server_never_sends(server: tuple[Any, dict[str, Any]]) -> None:
    text = json.dumps(server[1])
    assert "HTTPValidationError" not in text
    for path, methods in server[1]["paths"].items():
        for method, operation in methods.items():
            assert "422" not in operation["responses"], (method, path)
            assert "default" in operation["responses"], (method, path)


def test_the_document_is_served_to_everybody(serve: Serve) -> None:
    answer = serve(access={"api_keys": "a-right-key"}).http.get("/openapi.json")
    assert answer.json()["components"]["schemas"]["Error"]["required"] == ["error"]
