"""Laws of `docs/clients/`: what a page says to type works, and what comes out says the page's sentence."""

import re
from pathlib import Path

import pytest

from tests.clients.hearing import SENTENCE, assert_says
from tests.clients.pages import Page, Reader, pages

PAGES = list(pages("clients"))
INDEX = Path(__file__).parents[2] / "docs" / "clients" / "index.md"


def marked(page: Page) -> object:
    """The pages that need more than our own environment wait for `make test-clients`."""
    return pytest.param(page, id=page.path.stem, marks=[pytest.mark.clients] if page.needs else [])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [marked(page) for page in PAGES if page.is_run])
def test_what_a_page_says_to_type_speaks(page: Page, server: str, tmp_path: Path) -> None:
    with Reader(page, tmp_path, server) as reader:
        reader.carry_out()
        assert reader.audio(), "nothing was spoken"
        for path in reader.audio():
            raw = path.suffix == ".pcm"
            assert_says(path.read_bytes(), SENTENCE, rate_hz=24_000 if raw else None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_every_page_is_run_or_checked_by_a_recording(page: Page) -> None:
    recordings = (Path(__file__).parent / "recorded").glob("*.toml")
    recorded = any(f'page = "{page.path.name}"' in path.read_text() for path in recordings)
    assert page.is_run or recorded or page.path == INDEX


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\(([\w-]+\.md)\)", INDEX.read_text()))
    assert named == {page.path.name for page in PAGES} - {"index.md"}


def test_blocks_that_are_left_out_say_why() -> None:
    for page in PAGES:
        assert all(len(block.skipped.split()) > 2 for block in page.blocks if block.skipped)
