"""The site, as Chromium shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # of the extra `browser`, which the default run does without
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: no link in it leads nowhere, and no page is left out."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command += [str(ROOT / "docs"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("width", [1280, 400])
def test_pages_fit_the_window(browser: Browser, site: Path, width: int) -> None:
    """Every page opens without an error or a request elsewhere, and is no wider than the window."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    requested: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    page.on("request", lambda request: requested.append(request.url))
    pages = sorted(path for path in site.glob("*.html") if path.stem != "genindex")
    too_wide: list[str] = []
    for path in pages:
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth") > width:
            too_wide.append(path.name)

    assert len(pages) > 25
    assert errors == []
    assert [url for url in requested if not url.startswith("file:")] == []
    assert too_wide == []


def test_search_finds_a_setting(browser: Browser, site: Path) -> None:
    """The search box finds a page by a word of it."""
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=otlp_encoder")

    # One result after the other is shown.
    page.wait_for_selector("#search-results li:has-text('Configuration')")
