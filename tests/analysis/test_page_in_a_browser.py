"""The page as Chromium shows it: no error, no request, no violation of accessibility."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from otel_lifecycle.cli import main
from tests.analysis.test_page import RECORDS
from tests.cli.records import record, write

if TYPE_CHECKING:  # of the extra `browser`, which the default run does without
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    folder = tmp_path_factory.mktemp("report")
    path = write(folder / "records.jsonl", *RECORDS)
    output = folder / "report.html"
    assert main(["report", str(path), "-o", str(output), "--ttft", "150ms", "--tpot", "3ms"]) == 0
    return output


class Opened:
    """An open page, and what it did."""

    def __init__(
        self, browser: Browser, path: Path, width: int, scheme: Literal["light", "dark"]
    ) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_opens(
    browser: Browser, report: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    """It opens without an error or a request, fits the window, and can be read by everybody."""
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, report, width, scheme)

    assert opened.errors == []
    assert opened.requests == [report.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert Axe().run(opened.page).response["violations"] == []


def test_every_chart_is_drawn(browser: Browser, report: Path) -> None:
    """Each place of a chart has a canvas with something on it."""
    page = Opened(browser, report, 1280, "light").page

    blank = page.evaluate(
        """() => [...document.querySelectorAll(".chart")].filter((host) => {
            const canvas = host.querySelector("canvas");
            const pixels = canvas && canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height).data;
            return !pixels || pixels.every((value) => value === 0);
        }).map((host) => host.id)"""
    )
    assert blank == []
    assert page.locator(".chart").count() >= 10


def test_one_request(browser: Browser, tmp_path: Path) -> None:
    """A point without neighbours, which has no line, is drawn as a dot."""
    path = write(tmp_path / "records.jsonl", record("one", None, 0, ttft_ms=300, e2e_ms=900))
    assert main(["report", str(path), "-o", str(tmp_path / "one.html")]) == 0
    page = Opened(browser, tmp_path / "one.html", 1280, "light").page

    coloured = page.evaluate(
        """() => {
            const canvas = document.querySelector("#time-ttft canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, 200, canvas.height);
            let count = 0;
            for (let at = 0; at < data.length; at += 4)
                if (data[at] - data[at + 2] > 100) count += 1;
            return count;
        }"""
    )
    assert coloured > 5  # of p95, in orange; the legend is on the right


def test_keyboard(browser: Browser, report: Path) -> None:
    """The arrow keys move a cursor over all charts over time, and what is there is told."""
    page = Opened(browser, report, 1280, "light").page
    readout = page.locator(".linked .readout")
    before = readout.text_content()

    page.locator(".linked").focus()
    page.keyboard.press("ArrowRight")
    first = readout.text_content()
    page.keyboard.press("ArrowRight")
    second = readout.text_content()
    page.keyboard.press("ArrowLeft")

    assert len({before, first, second}) == 3
    assert readout.text_content() == first
    assert "Time to first token p95" in (first or "")


def test_details_and_theme(browser: Browser, report: Path) -> None:
    """A request opens to what the router knew, and the colours can be switched."""
    page = Opened(browser, report, 1280, "light").page
    shown = page.locator(".details:visible")
    assert shown.count() == 1

    page.locator(".open button").nth(1).click()
    assert shown.count() == 2
    assert "The router expected" in (shown.nth(1).text_content() or "")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before
