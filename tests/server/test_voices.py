from collections.abc import Callable

from tests.server.conftest import Running


def test_voices_are_listed_with_id_and_name(serve: Callable[..., Running]) -> None:
    assert serve().http.get("/v1/audio/voices").json() == {"voices": [{"id": "default", "name": "default"}]}
