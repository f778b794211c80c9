"""`otel-lifecycle top`: shows what a router does, from the records it writes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from otel_lifecycle.analysis.live import RecordSource, Screen, View, draw, plain_lines
from otel_lifecycle.cli.errors import USAGE, CommandError, warn
from otel_lifecycle.cli.terminal import open_console, open_screen
from otel_lifecycle.cli.until_signal import interrupt_once
from otel_lifecycle.records.reader import check_readable
from otel_lifecycle.runtime.garbage import collect_rarely

if TYPE_CHECKING:
    from otel_lifecycle.analysis.live.metrics import MetricsReader


@dataclass(frozen=True)
class TopOptions:
    """The options of the command; times in milliseconds."""

    paths: Sequence[Path]
    window: float
    every: float
    metrics: Sequence[str]
    once: bool


def run(options: TopOptions) -> int:
    """Show figures until stopped; return the exit code."""
    if _warn_of_unreadable(options.paths):
        return USAGE
    with contextlib.ExitStack() as stack:
        gauges = _no_gauges
        if options.metrics:
            gauges = stack.enter_context(_open_metrics(options)).gauges
        source = RecordSource(options.paths, options.window / 1e3, gauges)
        stack.enter_context(source)
        if options.once:
            _print_frame(source)
            return 0
        interrupt_once()
        collect_rarely()
        with contextlib.suppress(KeyboardInterrupt):  # the usual end
            _follow(source, options.every / 1e3)
    return 0


def _no_gauges() -> None:
    return None


def _open_metrics(options: TopOptions) -> MetricsReader:
    from otel_lifecycle.analysis.live.metrics import MetricsReader

    try:
        return MetricsReader(options.metrics, options.every / 1e3)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _print_frame(source: RecordSource) -> None:
    source.read_all()
    console = open_console()
    for line in draw(source.snapshot(), View(has_keys=False), console.width, None):
        console.print(line, no_wrap=True, crop=True)


def _follow(source: RecordSource, every: float) -> None:
    screen = open_screen()
    if sys.stdin.isatty() and _has_screen(screen):
        Screen(screen, every).run(source)
        return
    while True:
        source.read_all()
        for line in plain_lines(source.snapshot()):
            print(line)
        sys.stdout.flush()
        time.sleep(every)


def _has_screen(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _warn_of_unreadable(paths: Sequence[Path]) -> bool:
    """Warn about paths that do not exist or cannot be read; an empty folder may fill."""
    found = False
    for path in paths:
        try:
            check_readable(path)
        except OSError as error:
            warn(f"{path}: {error.strerror or error}")
            found = True
    return found
