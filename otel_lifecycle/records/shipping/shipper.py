"""Follows record files and sends what is in them, each record at least once."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.records import Batch, Follower, PositionedRecord, RecordError
from otel_lifecycle.records.shipping.checkpoint import Checkpoint
from otel_lifecycle.records.shipping.notices import Notices
from otel_lifecycle.records.shipping.sender import Answer, Fate, Sender
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.spans import span_from_record

BATCH = 512  # spans a request, as the SDK's own processor has it

_IDLE_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 1.0
_PAUSE_DOUBLINGS = 5
_PLACES = 10  # lines a minute that name what is left out


@dataclass
class Counts:
    """What became of records.

    Attributes:
        sent: The collector has them.
        refused: The collector will not take them.
        unsampled: Left out, because the sampler had left them out.
        untraced: Left out, because there was no span, so no ids to send them with.
        problems: Lines that are not records, files that cannot be read, records that are gone.
    """

    sent: int = 0
    refused: int = 0
    unsampled: int = 0
    untraced: int = 0
    problems: int = 0


class _Sendable(NamedTuple):
    span: ReadableSpan
    place: str


class Shipper:
    """Sends the records of files as spans.

    The checkpoint follows what the collector has accepted, batch by batch, so a crash sends one
    batch twice at most. One batch is in memory. Not thread-safe, but for `stop`.

    Args:
        follower: What to send, from where the checkpoint is.
        checkpoint: Where to keep how far it is.
        sender: Where to send it.
        tell: Gets one line for whoever runs it.
        unsampled: Whether to send what the sampler had left out, too.
        devices: Whether to add the per-device NPU arrays.
        resource: What a record does not keep of the resource it comes from.

    Attributes:
        counts: What became of the records so far.
    """

    def __init__(
        self,
        follower: Follower,
        checkpoint: Checkpoint,
        sender: Sender,
        tell: Callable[[str], None],
        *,
        unsampled: bool = False,
        devices: bool = False,
        resource: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        self.counts = Counts()
        self._follower = follower
        self._checkpoint = checkpoint
        self._sender = sender
        self._notices = Notices(tell)
        self._unsampled = unsampled
        self._devices = devices
        self._resource = resource
        self._stopped = threading.Event()

    def run(self, *, follow: bool) -> bool:
        """Send the records of the files.

        Args:
            follow: Go on with what comes, until `stop`.

        Returns:
            Whether all was sent that is there; False when it was stopped before.
        """
        saved = self._follower.position
        while not self._stopped.is_set():
            batch = self._follower.poll(BATCH)
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

        The checkpoint is after what was accepted. `Sender.close` ends the request's retries, too.
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
                    sendable.append(_Sendable(self._span(entry), f"{entry.path}:{entry.line}"))
                except (ValueError, OverflowError) as error:
                    self._report([RecordError(entry.path, entry.line, str(error))])
        return sendable

    def _span(self, entry: PositionedRecord) -> ReadableSpan:
        span = span_from_record(entry.record, Details(self._devices), resource=self._resource)
        if span.context is None or not span.context.is_valid:
            raise ValueError("traceId or spanId is not valid")
        return span

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
                text = f"{part[0].place}: left out, the collector refuses it: {answer.reason}"
                self._notices.say("refused", text, most=_PLACES)
        return True

    def _accepted(self, spans: list[_Sendable], answer: Answer) -> None:
        rejected = min(max(answer.rejected, 0), len(spans))  # it may say anything
        self.counts.sent += len(spans) - rejected
        self.counts.refused += rejected
        if rejected:
            reason = answer.reason or "no reason given"
            self._notices.say(
                "rejected",
                f"{spans[0].place}: the collector rejected {rejected} of "
                f"{len(spans)} spans from here on: {reason}",
            )
        elif answer.reason:
            self._notices.say(
                "warning",
                f"{spans[0].place}: the collector took the {len(spans)} spans from here on "
                f"with a warning: {answer.reason}",
            )

    def _send(self, spans: list[ReadableSpan]) -> Answer | None:
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
                return f"the collector takes no spans: {answer.reason}"
            return None

        return answer if self._retry(send) else None

    def _save(self, batch: Batch) -> bool:
        def save() -> str | None:
            try:
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
