"""Laws of `docs/guides/` and `docs/clients/`: each block in them runs as it stands, or says why not."""

import itertools
from pathlib import Path

import httpx2
import numpy as np
import pytest
import yaml

from stentor.audio.formats import encode_file
from stentor.audio.load import is_silent
from tests.clients.hearing import waveform_of
from tests.clients.pages import FILES, RUN, Block, Page, Reader, check, pages, read_page

GUIDES = [page for page in pages("guides") if page.blocks]
# In every run of the tests; the commands of the others load the model each, and wait for `make test-clients`.
ALWAYS = {"sockets", "stream"}
# What it says is about a server, not about speech.
QUIET = {"deploy"}
BLOCKS = [
    (page, number)
    for folder in ("guides", "clients")
    for page in pages(folder)
    for number in range(len(page.blocks))
]


@pytest.fixture
def folder(server: str, tmp_path: Path) -> Path:
    """Where a reader types, with the recordings that the guides speak of."""
    body = {"input": "The old dog saw the small boat near the river.", "seed": 0, "response_format": "wav"}
    sound = httpx2.post(f"{server}/v1/audio/speech", json=body, timeout=100, trust_env=False).content
    for name in ("me.wav", "i-agree.wav"):
        (tmp_path / name).write_bytes(sound)
    return tmp_path


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.path.stem, marks=[] if page.path.stem in ALWAYS else [pytest.mark.clients])
        for page in GUIDES
        if page.is_run
    ],
)
def test_what_a_guide_says_to_type_works(page: Page, server: str, folder: Path) -> None:
    with Reader(page, folder, server) as reader:
        given = set(reader.audio())
        reader.carry_out()
        made = set(reader.audio()) - given
    assert bool(made) == (page.path.stem not in QUIET)
    for path in made:
        waveform = waveform_of(path.read_bytes(), rate_hz=24_000 if path.suffix == ".pcm" else None)
        assert len(waveform) > 12_000
        assert not is_silent(waveform)


@pytest.mark.parametrize(
    ("page", "number"), BLOCKS, ids=lambda it: it.path.stem if isinstance(it, Page) else str(it)
)
def test_each_block_is_run_or_says_why_not_and_is_sound(page: Page, number: int) -> None:
    block = page.blocks[number]
    check(block)
    if block.skipped:
        assert len(block.skipped.split()) > 2
    else:
        assert block.language in RUN | FILES


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.path.stem)
def test_a_file_of_a_guide_has_a_name(page: Page) -> None:
    for block in page.blocks:
        assert block.skipped or block.language not in FILES or block.file_name


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "stentor say Hello --colour red -o a.wav"),
        ("sh", "stentor sing Hello"),
        ("sh", "STENTOR_X=1 stentor serve --prot 8000"),
        ("sh", "stentor voices ad Rosa me.wav"),
        ("sh", "echo 'half"),
        ("sh", "docker build -f deploy/docker/Dockerfile.tpu ."),
        ("python", "with open(:"),
        ("toml", "[alice"),
        ("json", "{"),
        ("nginx", "location / {\n  proxy_pass x\n}"),
        ("cobol", "DISPLAY 'HELLO'."),
    ],
)
def test_what_is_wrong_is_seen_without_running_it(language: str, text: str) -> None:
    with pytest.raises((AssertionError, ValueError, SyntaxError, yaml.YAMLError)):
        check(Block(language, text + "\n", None))


def test_a_page_may_not_call_a_file_what_it_is_not(tmp_path: Path) -> None:
    reader = Reader(Page(tmp_path / "page.md", None, ()), tmp_path, "http://127.0.0.1:1")
    waveform = np.zeros(24_000, np.float32)
    kinds = ("wav", "mp3", "flac", "opus", "aac", "pcm")
    sounds = {kind: encode_file(waveform, kind, 24_000) for kind in kinds}
    for name, kind in itertools.product(kinds, kinds):
        path = tmp_path / f"hello.{name}"
        path.write_bytes(sounds[kind])
        if name == kind or (name, kind) == ("pcm", "aac"):
            assert path in reader.audio()
        else:
            with pytest.raises(AssertionError, match=f"is no .{name} file"):
                reader.audio()
        path.unlink()


def test_a_block_that_fails_fails_its_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```sh\necho hello | grep -q goodbye\n```\n")
    reader = Reader(read_page(tmp_path / "page.md"), tmp_path, "http://127.0.0.1:1")
    with pytest.raises(AssertionError, match="failed"), reader:
        reader.carry_out()
