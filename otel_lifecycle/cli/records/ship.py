"""`otel-lifecycle ship`: sends records as spans, in a process beside the router."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError, warn
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.cli.until_signal import WaitForEnd, run_until_signal
from otel_lifecycle.records import Follower
from otel_lifecycle.records.shipping import Checkpoint, Counts, Sender, Shipper, quiet_exporters
from otel_lifecycle.runtime.garbage import collect_rarely
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.span_reader import RESOURCE_KEYS

_ANSWER_SECONDS = 2.0  # for the collector to answer the current request
_END_SECONDS = 1.0


@dataclass(frozen=True)
class ShipOptions:
    """The options of the command."""

    paths: Sequence[Path]
    checkpoint: Path
    once: bool
    all: bool
    devices: bool


def run(options: ShipOptions) -> int:
    """Send records until stopped; return the exit code."""
    missing = warn_of_missing(options.paths) if options.once else 0
    if missing == len(options.paths):
        return USAGE
    collect_rarely()
    quiet_exporters()
    with ExitStack() as stack:
        try:
            sender = Sender()
            checkpoint = stack.enter_context(Checkpoint(options.checkpoint))
            position = checkpoint.load(options.paths)
            checkpoint.save(position)  # fail now if the checkpoint cannot be written
        except ValueError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            place = error.filename or options.checkpoint
            raise CommandError(f"{place}: {error.strerror or error}") from error
        follower = stack.enter_context(Follower(*options.paths, position=position))
        shipper = Shipper(
            follower,
            checkpoint,
            sender,
            warn,
            unsampled=options.all,
            details=Details(options.devices),
            resource=_own_resource(),
        )
        finished = _run(shipper, sender, follow=not options.once)
        if finished:
            for line in follower.unfinished:
                warn(line)
    warn(_summary(shipper.counts))
    left_out = missing + shipper.counts.refused + shipper.counts.problems
    return FAILED if options.once and (left_out or not finished) else 0


def _run(shipper: Shipper, sender: Sender, *, follow: bool) -> bool:
    """Ship; a hanging collector does not delay the end."""

    def stop(wait: WaitForEnd) -> None:
        shipper.stop()
        if not wait(_ANSWER_SECONDS):
            sender.close()
            wait(_END_SECONDS)

    return run_until_signal("ship", lambda: shipper.run(follow=follow), stop)


def _own_resource() -> dict[str, AttributeValue]:
    """Return the resource attributes of this environment that a record does not have."""
    attributes = Resource.create().attributes
    return {key: value for key, value in attributes.items() if key not in RESOURCE_KEYS}


def _summary(counts: Counts) -> str:
    return (
        f"{plural(counts.sent, 'span')} sent, {counts.refused:,} refused; skipped: "
        f"{counts.unsampled:,} not sampled, {counts.untraced:,} not traced, "
        f"{plural(counts.problems, 'problem')}"
    )
