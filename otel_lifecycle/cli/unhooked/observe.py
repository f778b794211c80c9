"""`otel-lifecycle observe`: records the requests of a router that cannot be hooked."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.cli.errors import FAILED, CommandError, warn
from otel_lifecycle.cli.until_signal import WaitForEnd, run_until_signal
from otel_lifecycle.config import ConfigError
from otel_lifecycle.observation.observatory import Observatory, Options
from otel_lifecycle.runtime.garbage import collect_rarely

_END_SECONDS = 10.0


@dataclass(frozen=True)
class ObserveOptions:
    """The options of the command."""

    envoy_log: Path | None
    otlp: str | None
    output: Path | None
    checkpoint: Path | None
    endpoints: Path | None
    picker_log: Path | None
    picker_wait: float
    abandon_after: float
    once: bool


def run(options: ObserveOptions) -> int:
    """Observe until stopped; return the exit code."""
    if not (options.envoy_log or options.otlp):
        raise CommandError("where is the access log: --envoy-log, or --otlp?")
    if options.once and options.otlp:
        raise CommandError("--once reads files, and --otlp has no end")
    if options.once:
        for log in filter(None, (options.envoy_log, options.picker_log)):
            if not log.exists():  # without --once it is waited for
                raise CommandError(f"{log}: {os.strerror(errno.ENOENT)}")
    collect_rarely()
    # The shipper reports what they would log at each attempt.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        try:
            observatory = Observatory(
                Options(
                    log=options.envoy_log,
                    otlp=options.otlp or "",
                    output=options.output,
                    checkpoint=options.checkpoint,
                    endpoints=options.endpoints,
                    abandon_after=options.abandon_after,
                    picker_log=options.picker_log,
                    picker_wait=options.picker_wait,
                ),
                sys.stdout,
                warn,
            )
        except (ConfigError, ValueError, RuntimeError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            place = error.filename or options.output or options.envoy_log or options.otlp
            raise CommandError(f"{place}: {error.strerror or error}") from error
        stack.callback(observatory.close)
        finished = _run(observatory, follow=not options.once)
        if observatory.unfinished:
            warn(f"{observatory.unfinished}: skipped, the line has no end yet")
    warn(_summary(observatory))
    return FAILED if options.once and (observatory.problems or not finished) else 0


def _run(observatory: Observatory, *, follow: bool) -> bool:
    def stop(wait: WaitForEnd) -> None:
        observatory.stop()
        wait(_END_SECONDS)

    return run_until_signal("observe", lambda: observatory.run(follow=follow), stop)


def _summary(observatory: Observatory) -> str:
    counts = observatory.counts
    line = (
        f"{plural(counts.records, 'record')} of {counts.entries:,} entries, "
        f"{counts.abandoned:,} of them abandoned; still in flight: {observatory.open_requests:,}; "
        f"left out: {counts.not_inference:,} not inference, {counts.without_id:,} without an id, "
        f"{counts.late:,} late entries, {plural(observatory.problems, 'problem')}"
    )
    if observatory.repeated:
        line += f"; {observatory.repeated:,} were recorded before"
    spans = observatory.spans
    if spans is not None:
        line += f"; {plural(spans.sent, 'span')} sent, {spans.refused:,} refused"
    return line
