"""Follows record files and sends their records, each at least once."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from opentelemetry.util.types import AttributeValue

from otel_lifecycle.records import Batch, Position, RecordError
from otel_lifecycle.records.shipping.checkpoint import Checkpoint
from otel_lifecycle.records.shipping.notices import Notices
from otel_lifecycle.records.shipping.sender import Answer, Fate, Sender
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.encoders import RecordEncoder
from otel_lifecycle.telemetry.otlp.request import EncodedSpan

BATCH = 512  # spans per request, as in the SDK's own processor

_IDLE_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 1.0
_PAUSE_DOUBLINGS = 5
_NO_DETAILS = Details()
_PLACES = 10  # lines per minute that name skipped records


@dataclass
class Counts:
    """The results of shipping, as numbers of records.

    Attributes:
        sent: Accepted by the collector.
        refused: Refused by the collector.
        unsampled: Skipped because they were not sampled.
        untraced: Skipped because they had no span, and so no ids.
        problems: Lines that are not records, unreadable files, and lost records.
    """

    sent: int = 0
    refused: int = 0
    unsampled: int = 0
    untraced: int = 0
    problems: int = 0


class Source(Protocol):
    """Where records come from; a `Follower`, for instance."""

    @property
    def position(self) -> Position:
        """The position after the records so far."""
        ...

    def poll(self, limit: int) -> Batch:
        """Return the next records."""
        ...


class _Sendable(NamedTuple):
    span: EncodedSpan
    place: str


class Shipper:
    """Sends the records of files as spans.

    The checkpoint is saved after each batch that the collector has accepted, so a crash sends at
    most one batch twice. One batch is in memory. Not thread-safe, except for `stop`.

    Args:
        source: Reads the records, starting at the checkpoint.
        checkpoint: Saves the position; None: it stays the same.
        sender: Sends the spans.
        tell: Called with each line for the user.
        unsampled: Whether to send unsampled requests too.
        details: Which optional attributes to add.
        resource: Resource attributes that a record does not keep.

    Attributes:
        counts: The results so far.
    """

    def __init__(
        self,
        source: Source,
        checkpoint: Checkpoint | None,
        sender: Sender,
        tell: Callable[[str], None],
        *,
        unsampled: bool = False,
        details: Details = _NO_DETAILS,
        resource: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        self.counts = Counts()
        self._source = source
        self._checkpoint = checkpoint
        self._sender = sender
        self._notices = Notices(tell)
        self._unsampled = unsampled
        self._encoder = RecordEncoder(details, resource)
        self._stopped = threading.Event()

    def run(self, *, follow: bool) -> bool:
        """Send the records of the files.

        Args:
            follow: Continue with new records until `stop`.

        Returns:
            Whether all records were sent; False if it was stopped before.
        """
        saved = self._source.position
        while not self._stopped.is_set():
            batch = self._source.poll(BATCH)
            self._report(batch.problems)
            if not self._deliver(self._sendable(batch)):
                return False
            if batch.position != saved:
                if not self._save(batch):
                    return False
                saved = batch.position
            if batch.caught_up:
                if not follow:
                    return True
                self._stopped.wait(_IDLE_SECONDS)
        return False

    def stop(self) -> None:
        """Let `run` return after the current request; callable from any thread.

        The checkpoint includes all accepted spans. `Sender.close` also ends the request's retries.
        """
        self._stopped.set()

    def _report(self, problems: list[RecordError]) -> None:
        self.counts.problems += len(problems)
        for problem in problems:
            self._notices.say("problems", str(problem), most=_PLACES)

    def _sendable(self, batch: Batch) -> list[_Sendable]:
        sendable: list[_Sendable] = []
        for entry in batch.records:
            if entry.record.trace_id is None or entry.record.span_id is None:
                self.counts.untraced += 1
            elif not (self._unsampled or (entry.record.trace_flags or 0) & 1):
                self.counts.unsampled += 1
            else:
                try:
                    span = self._encoder.encode(entry.record)
                except (ValueError, OverflowError) as error:
                    self._report([RecordError(entry.path, entry.line, str(error))])
                else:
                    sendable.append(_Sendable(span, entry.place))
        return sendable

    def _deliver(self, spans: list[_Sendable]) -> bool:
        """Send spans; split refused batches in halves until the refused spans are found."""
        parts = [spans] if spans else []
        while parts:
            part = parts.pop()
            answer = self._send([each.span for each in part])
            if answer is None:
                return False
            if answer.fate is Fate.ACCEPTED:
                self._accepted(part, answer)
            elif len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            else:
                self.counts.refused += 1
                text = f"{part[0].place}: skipped, the collector refuses it: {answer.reason}"
                self._notices.say("refused", text, most=_PLACES)
        return True

    def _accepted(self, spans: list[_Sendable], answer: Answer) -> None:
        rejected = min(max(answer.rejected, 0), len(spans))  # the collector may send any number
        self.counts.sent += len(spans) - rejected
        self.counts.refused += rejected
        if rejected:
            reason = answer.reason or "no reason given"
            self._notices.say(
                "rejected",
                f"{spans[0].place}: the collector rejected {rejected} of "
                f"the {len(spans)} spans that start here: {reason}",
            )
        elif answer.reason:
            self._notices.say(
                "warning",
                f"{spans[0].place}: the collector accepted the {len(spans)} spans that start here "
                f"with a warning: {answer.reason}",
            )

    def _send(self, spans: list[EncodedSpan]) -> Answer | None:
        """Return the collector's last answer; None: stopped before it accepted or refused."""
        answer = Answer(Fate.WAITING)

        def send() -> str | None:
            nonlocal answer
            answer = self._sender.send(spans)
            if answer.fate is Fate.REFUSED:
                # A collector that rejects an empty request is rejecting us, not these spans.
                nothing = self._sender.send([])
                if nothing.fate is not Fate.ACCEPTED:
                    answer = Answer(Fate.WAITING, nothing.reason)
            if answer.fate is Fate.WAITING:
                return f"the collector accepts no spans: {answer.reason}"
            return None

        return answer if self._retry(send) else None

    def _save(self, batch: Batch) -> bool:
        def save() -> str | None:
            try:
                if self._checkpoint is not None:
                    self._checkpoint.save(batch.position)
            except OSError as error:
                return f"the checkpoint cannot be written: {error}"
            return None

        return self._retry(save)

    def _retry(self, attempt: Callable[[], str | None]) -> bool:
        """Repeat an attempt until it returns no obstacle; return False if stopped first."""
        told = False
        for number in itertools.count():
            obstacle = attempt()
            if obstacle is None:
                if told:
                    self._notices.say("resumed", "shipping resumed")
                return True
            if self._stopped.is_set():
                return False
            told |= self._notices.say("waiting", f"{obstacle}; will keep retrying")
            pause = _FIRST_PAUSE_SECONDS * 2 ** min(number, _PAUSE_DOUBLINGS)
            if self._stopped.wait(pause * random.uniform(0.5, 1)):
                return False
        raise AssertionError("unreachable")
