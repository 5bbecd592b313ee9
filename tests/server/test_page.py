"""Laws of the page at `/`: it needs nothing but this server, and speaks only of what exists."""

import base64
import hashlib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from starlette.routing import Match

from stentor.server.app import create_app
from stentor.server.bodies import ReferenceBody, SpeechBody
from stentor.server.enrolling import VoiceBody
from stentor.server.page import PAGE, policy
from tests.server.conftest import Running
from tests.server.fakes import INFO, FakePipeline, config, voices

Serve = Callable[..., Running]

TEXT = PAGE.read_text(encoding="utf-8")
SCRIPT = TEXT.partition('<script type="module">')[2].partition("</script>")[0]


def directives(header: str) -> dict[str, list[str]]:
    """The directives of a Content-Security-Policy with their sources."""
    return {name: sources for name, *sources in (part.split() for part in header.split(";"))}


def test_the_page_is_served_at_the_root(serve: Serve) -> None:
    response = serve().http.get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.text == TEXT
    assert "/" not in serve().http.get("/openapi.json").json()["paths"]


def test_a_browser_is_told_to_run_and_load_nothing_else(serve: Serve) -> None:
    response = serve().http.get("/")
    told = directives(response.headers["Content-Security-Policy"])
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert told["default-src"] == ["'none'"]
    assert told["connect-src"] == ["'self'"]
    assert told["script-src"] == [f"'sha256-{digest}'"]
    assert [source.partition("-")[0] for source in told["style-src"]] == ["'sha256"]
    allowed = {source for sources in told.values() for source in sources if not source.startswith("'sha256-")}
    assert allowed == {"'none'", "'self'", "blob:", "data:"}
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_policy_forbids_a_script_that_was_changed() -> None:
    assert policy(TEXT) != policy(TEXT.replace("const $ =", "const  $ ="))


def test_the_policy_would_not_forbid_a_part_of_the_page() -> None:
    assert len(re.findall(r"<(?:script|style)\b", TEXT)) == 2
    assert re.findall(r"""<[^>]*\s(?:style|on\w+)=["']""", TEXT.replace(SCRIPT, "")) == []


def test_the_page_has_no_parts_elsewhere() -> None:
    # The icon's namespace is a name, not an address.
    text = TEXT.replace("xmlns='http://www.w3.org/2000/svg'", "")
    assert re.findall(r"https?://\S+", text) == []
    assert re.findall(r"""(?:src|href)=["'](?!data:)[^"']*|@import[^;]*|\burl\([^)]*""", text) == []
    assert re.findall(r"""\bimport\b\s*[({"'*]|\bimport\(""", SCRIPT) == []


def test_each_path_that_the_page_asks_exists() -> None:
    app = create_app(FakePipeline(), INFO, voices(), config())  # type: ignore[arg-type]
    asked = {("GET", path) for path in re.findall(r'(?:read|ask)\("([^"]+)"\)', SCRIPT)}
    asked |= {(method, path) for path, method in re.findall(r'ask\("([^"]+)", \{ method: "(\w+)"', SCRIPT)}
    assert {path for _, path in asked} == set(re.findall(r'"(v1/[^"]*)"', SCRIPT))
    assert {("POST", "v1/audio/speech"), ("POST", "v1/audio/voices")} <= asked
    assert re.findall(r"`v1/[^`]*`", SCRIPT) == ["`v1/audio/voices/${encodeURIComponent(id)}${rest}`"]
    voices_of = re.findall(r'voicePath\(id(?:, "([^"]*)")?\)(?:, \{ method: "(\w+)")?', SCRIPT)
    assert len(voices_of) == 3
    asked |= {(method or "GET", f"v1/audio/voices/a{rest}") for rest, method in voices_of}
    for method, path in asked:
        scope = {"type": "http", "method": method, "path": f"/{path}", "root_path": "", "headers": []}
        assert any(route.matches(scope)[0] is Match.FULL for route in app.routes), path


def test_each_element_that_the_script_speaks_of_exists() -> None:
    ids = re.findall(r'\bid="([^"]+)"', TEXT)
    assert len(ids) == len(set(ids))
    spoken_of = set(re.findall(r'(?:\$|number)\("([^"]+)"\)', SCRIPT))
    assert spoken_of - set(ids) == set()
    assert len(spoken_of) > 10
    referred_to = re.findall(r'\b(?:for|aria-labelledby)="([^"]+)"', TEXT)
    assert set(referred_to) - set(ids) == set()
    # What no script and no label speaks of would be a leftover.
    assert set(ids) - spoken_of - set(referred_to) == set()


def test_every_control_has_a_label() -> None:
    labelled = set(re.findall(r'<label for="([^"]+)"', TEXT))
    for label in re.findall(r"<label[^>]*>(.*?)</label>", TEXT, re.DOTALL):
        labelled |= set(re.findall(r'\bid="([^"]+)"', label))
    controls = re.findall(r'<(?:input|select|textarea) id="([^"]+)"', TEXT)
    assert set(controls) == labelled
    assert len(controls) == 9
    assert re.findall(r"<canvas (?![^>]*aria-label)", TEXT) == []


def test_the_body_that_the_page_sends_is_one_that_the_server_reads(serve: Serve) -> None:
    body = SCRIPT[SCRIPT.index("function readForm") : SCRIPT.index("function show")]
    body += re.findall(r"JSON\.stringify\(\{.*", SCRIPT)[0]
    fields = set(re.findall(r"\b(\w+): ", body))
    known = set(SpeechBody.model_fields) | set(ReferenceBody.model_fields)
    assert {"input", "voice", "references", "seed", "stream", "response_format"} <= fields
    assert fields - known == set()
    response = serve().speech(voice="default", seed=7, temperature=0.3, stream=True, response_format="pcm")
    assert response.headers["X-Seed"] == "7"


def test_the_voice_that_the_page_makes_is_one_that_the_server_keeps() -> None:
    body = SCRIPT[SCRIPT.index("async function keep") : SCRIPT.index("async function listVoices")]
    sent = re.findall(r"(?:const told =|JSON\.stringify\()\{? ?\{(.*?)\}", body)
    fields = set(re.findall(r"\b(\w+): ", " ".join(sent)))
    assert fields == {"name", "transcript", "audio_sample", "consent"}
    assert fields <= set(VoiceBody.model_fields)


def test_what_the_page_reads_of_the_model_is_there(serve: Serve) -> None:
    http = serve().http
    model = http.get("/v1/models").json()["data"][0]
    read = set(re.findall(r"models\.data\[0\]\.(\w+)", SCRIPT))
    assert read == {"id", "sample_rate", "control_tags"}
    assert read <= set(model)
    assert model["control_tags"] == list(INFO.control_tags)
    assert {"id", "name"} <= set(http.get("/v1/audio/voices").json()["voices"][0])


def test_the_page_goes_into_the_package() -> None:
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert any(PAGE in (root / "stentor").glob(pattern) for pattern in patterns["stentor"])
