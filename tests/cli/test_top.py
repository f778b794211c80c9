"""`otel-lifecycle top`: on real terminals of several sizes, without one, and once."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pyte
import pytest

from otel_lifecycle import LifecycleRecord
from otel_lifecycle.cli import main
from tests.cli.command import Command
from tests.cli.records import START_NS, aggregated, record, write
from tests.state.servers import Site
from tests.waiting import eventually

_COMMAND = "import sys; from otel_lifecycle.cli import main; sys.exit(main())"
_OPENED_SCREEN, _LEFT_SCREEN, _HIDDEN_CURSOR, _SHOWN_CURSOR = (
    b"\x1b[?1049h",
    b"\x1b[?1049l",
    b"\x1b[?25l",
    b"\x1b[?25h",
)


class Terminal:
    """A terminal that shows the command."""

    def __init__(self, columns: int, rows: int, *arguments: object, **environment: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.output = b""
        self._stream = pyte.ByteStream(self.screen)
        self._changing = threading.Lock()  # while the screen is drawn, resized or looked at
        self._leader, self._follower = pty.openpty()
        self._set_size(columns, rows)
        self.settings = termios.tcgetattr(self._follower)
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "top", *map(str, arguments)],
            stdin=self._follower,
            stdout=self._follower,
            stderr=self._follower,
            env={**kept, "TERM": "xterm-256color", **environment},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def press(self, keys: bytes) -> None:
        """Send what keys send."""
        os.write(self._leader, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size."""
        with self._changing:
            self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def shows(self, text: str) -> None:
        """Wait until a text is on the screen."""

        def is_shown() -> bool:
            with self._changing:
                return text in "\n".join(self.screen.display)

        eventually(is_shown, what=text)

    def now(self) -> list[object]:
        """The settings of the terminal."""
        return termios.tcgetattr(self._follower)

    def close(self) -> None:
        """End everything."""
        self.process.kill()
        self.process.wait()
        os.close(self._follower)
        self._reader.join()
        os.close(self._leader)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        with suppress(OSError):  # the end of a terminal
            while data := os.read(self._leader, 1 << 16):
                self.output += data
                with self._changing:
                    self._stream.feed(data)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts `otel-lifecycle top` on a terminal."""
    with ExitStack() as stack:

        def start(*arguments: object, **environment: str) -> Terminal:
            terminal = Terminal(*arguments, **environment)  # type: ignore[arg-type]
            stack.callback(terminal.close)
            return terminal

        yield start


def recent(*names: str) -> list[LifecycleRecord]:
    """Requests that end now."""
    at_ms = (time.time_ns() - START_NS) // 1_000_000
    return [
        record(name, aggregated("pod-0"), at_ms - 500, ttft_ms=100, e2e_ms=500, model="qwen")
        for name in names
    ]


@pytest.mark.parametrize(
    ("size", "end"),
    [
        ((80, 24), signal.SIGTERM),
        pytest.param((160, 50), signal.SIGINT, marks=pytest.mark.slow),
        ((20, 8), b"q"),
    ],
    ids=["80x24", "160x50", "20x8"],
)
def test_terminal(
    tmp_path: Path, terminal: Callable[..., Terminal], size: tuple[int, int], end: bytes | int
) -> None:
    """It shows what is written, obeys keys, follows the size, and leaves the terminal clean."""
    path = write(tmp_path / "records.jsonl", *recent("first"))
    shown = terminal(*size, tmp_path)
    shown.shows("llm/pod-0")
    if size[0] > 20:
        with path.open("ab") as file:
            file.write(write(tmp_path / "other", *recent("second")).read_bytes())
        shown.shows("second")
        shown.press(b"\t\x1b[B\r")
        shown.shows("Esc back")
        shown.press(b"\x1b")
        shown.shows("LONGEST TTFT")
        shown.press(b"/no-such-name")
        shown.shows("No endpoint or model matches 'no-such-name'.")
        shown.press(b"\x1b")
        shown.resize(40, 12)
        shown.shows(" q quit  Tab pane  ↑↓ row  Enter open")
    if isinstance(end, bytes):
        shown.press(end)
    else:
        shown.process.send_signal(end)

    assert shown.process.wait(60) == 0
    eventually(lambda: shown.output.rstrip().endswith(_SHOWN_CURSOR))
    assert shown.output.count(_OPENED_SCREEN) == shown.output.count(_LEFT_SCREEN) == 1
    assert _HIDDEN_CURSOR in shown.output
    assert shown.now() == shown.settings


def test_no_colour(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    """A terminal whose user wants no colours gets none, a dumb one plain lines."""
    write(tmp_path / "records.jsonl", *recent("first"))
    shown = terminal(80, 24, tmp_path, NO_COLOR="1")
    shown.shows("llm/pod-0")
    dumb = terminal(200, 24, "--every", "100ms", tmp_path, TERM="dumb")
    dumb.shows("endpoint=llm/pod-0")

    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", shown.output)
    assert b"\x1b" not in dumb.output


def test_vanishing_files(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    """A folder that vanishes while it is watched is told, and watched again once it is back."""
    folder = tmp_path / "records"
    folder.mkdir()
    write(folder / "records.jsonl", *recent("first"))
    shown = terminal(120, 24, "--every", "100ms", folder)
    shown.shows("llm/pod-0")
    shutil.rmtree(folder)
    shown.shows("is no longer there: waiting for it")
    folder.mkdir()
    write(folder / "records.jsonl", *recent("second"))
    shown.shows("second")
    shown.press(b"q")

    assert shown.process.wait(60) == 0


def test_plain_lines(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Without a terminal it prints lines, for all and for each endpoint, until stopped."""
    write(tmp_path / "records.jsonl", *recent("first"))
    process = start("top", "--every", "100ms", tmp_path).process
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(4)]
    process.terminate()

    assert [line[1] for line in lines] == ["all", "endpoint"] * 2
    assert {"requests=1", "completed=1", "failed=0"} < set(lines[0])
    assert {"role=leader", "endpoint=llm/pod-0", "requests=1"} < set(lines[1])
    assert process.wait(60) == 0


def test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One frame, without keys and escape sequences; what could not be read is counted."""
    path = write(tmp_path / "records.jsonl", *recent("first"))
    path.write_bytes(path.read_bytes() + b"[]\n")

    code = main(["top", "--once", str(path)])

    output = capsys.readouterr()
    assert (code, output.err) == (0, "")
    assert "llm/pod-0" in output.out
    assert " ! 1 invalid line left out\n" in output.out
    assert "quit" not in output.out
    assert all(map(str.isprintable, output.out.split("\n")))


def test_metrics_need_no_extra(tmp_path: Path) -> None:
    """A metrics page is read without the client library that collection needs."""
    write(tmp_path / "records.jsonl", *recent("first"))
    page = 'llm_router_inflight_requests{llm_router_endpoint_id="pod://llm/pod-0"} 731\n'
    site = Site()
    site.answers["/metrics"] = page.encode()
    code = f"import sys; sys.modules['aiohttp'] = None; {_COMMAND}"
    arguments = ["top", "--once", "--metrics", f"{site.url}/metrics", str(tmp_path)]
    try:
        shown = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
    finally:
        site.stop()

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "731" in shown.stdout


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without records is no error: records may come."""
    assert main(["top", "--once", str(tmp_path)]) == 0
    assert " Waiting for the first finished request.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/missing", "/absent"], "/missing: No such file or directory"),
        (["--metrics", "ftp://u:pw@h/", "."], "--metrics ftp://***@h/: not a URL such as http://"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    """A missing path and a wrong URL end with one line each, and the exit code 2."""
    assert main(["top", "--once", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"otel-lifecycle: {line}")
    assert error.count("\n") == len([one for one in arguments if one.startswith("/")] or [1])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--window", "5"], "argument --window: '5' is not a Go duration"),
        (["--window", "25h"], "argument --window: must be 1s to 24h, got '25h'"),
        (["--every", "1ms"], "argument --every: must be 100ms to 1h, got '1ms'"),
    ],
)
def test_wrong_durations(
    capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    """A duration outside its limits is refused in one line that has them."""
    with pytest.raises(SystemExit, match="2"):
        main(["top", *option, "."])
    assert message in capsys.readouterr().err
