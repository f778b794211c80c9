"""Makes what the README shows of the demo: its output, and a picture of its report.

    make pictures

Needs Chromium, and a machine that has nothing else to do: on a busy one the latencies are those of
the machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "report.png"

_COLUMNS, _LINES = 100, 200
_WIDTH, _HEIGHT = 1160, 740  # verdicts, and the first chart
_SECTIONS = ("Predicted against actual latency", "In-flight load over time", "clients", "Jaeger")
_MARKS = re.compile(r"(<!-- make pictures: demo -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Run the demo, and write both."""
    with TemporaryDirectory() as folder:
        output = _run_demo(Path(folder))
        (page,) = Path(folder).glob("*.html")
        _draw(page)
        output = output.replace(str(page), "/tmp/otel-lifecycle-demo.html")
    block = f"```text\n$ make demo\n{shortened(output)}\n```\n"
    text = README.read_text("utf-8")
    README.write_text(_MARKS.sub(lambda found: found[1] + block + found[2], text), "utf-8")


def shortened(output: str) -> str:
    """Return outcomes, waterfalls and counts, without the tables between them."""
    lines = [line.rstrip() for line in output.splitlines()]
    predictions, _loads, counts, jaeger = (
        next(number for number, line in enumerate(lines) if line.startswith(section))
        for section in _SECTIONS
    )
    first = next(number for number, line in enumerate(lines) if line.startswith("requests "))
    return "\n".join([*lines[first:predictions], *lines[counts:jaeger]])


def _run_demo(folder: Path) -> str:
    """Return what a terminal shows at the end."""
    leader, follower = os.openpty()
    screen = pyte.Screen(_COLUMNS, _LINES)
    stream = pyte.ByteStream(screen)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    environment |= {"TMPDIR": str(folder), "COLUMNS": str(_COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        ["make", "demo"], cwd=ROOT, stdin=follower, stdout=follower, env=environment
    ) as demo:
        os.close(follower)
        try:
            while data := os.read(leader, 1 << 16):
                stream.feed(data)
        except OSError:  # the end of a terminal
            pass
        finally:
            os.close(leader)
    if demo.returncode:
        sys.exit(demo.returncode)
    return "\n".join(screen.display)


def _draw(page: Path) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        opened = browser.new_page(
            viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light"
        )
        opened.goto(page.as_uri())
        opened.wait_for_selector("body[data-ready]")
        opened.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
