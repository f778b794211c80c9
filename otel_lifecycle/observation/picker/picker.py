"""What is known of the decisions of one picker, from its log and its spans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from otel_lifecycle.observation.picker.log import PickerLog
from otel_lifecycle.observation.picker.spans import PickerSpans
from otel_lifecycle.observation.picker.told import Told

_SLACK_NS = 5_000_000_000  # by which the clocks of two machines may differ


class Asked(NamedTuple):
    """The request that something is asked of.

    Attributes:
        request_id: Its id, which others may have had too.
        trace_id: Its trace; empty: unknown.
        is_sampled: Whether the picker may have sent spans of it.
        begin_ns: When it arrived, Unix nanoseconds.
        end_ns: When it ended; if it has not, a time later than all.
    """

    request_id: str
    trace_id: str
    is_sampled: bool
    begin_ns: int
    end_ns: int


class Picker:
    """Finds what a picker told of a request. Not thread-safe.

    Args:
        log: Its debug log; None: it is not followed.
        spans: Its spans; None: they are not received.
        patience: Seconds to wait for what was not told when a request has ended.
    """

    def __init__(self, log: PickerLog | None, spans: PickerSpans | None, patience: float) -> None:
        self.patience = patience
        self._log = log
        self._spans = spans

    def told(self, asked: Asked) -> list[Told]:
        """Return what is known of a request, the most detailed first."""
        return [told for told in (self._logged(asked), self._traced(asked)) if told is not None]

    def is_expected(self, asked: Asked) -> bool:
        """Return whether something of a request that has ended may still be told."""
        if self._log is not None and self._log.newest_ns <= asked.end_ns:
            logged = self._logged(asked)
            if logged is None or not logged.is_complete:
                return True
        if self._spans is not None and self._spans.has_any and asked.is_sampled:
            traced = self._traced(asked)
            return traced is None or not traced.is_complete
        return False

    def completed(self) -> list[str]:
        """Return the ids of requests that the picker has finished with since the last call."""
        completed: list[str] = []
        if self._log is not None:
            completed += self._log.completed()
        if self._spans is not None:
            completed += self._spans.completed()
        return completed

    def forget(self, request_id: str, told: Iterable[Told]) -> None:
        """Forget what was told of a request of which there is a record now."""
        for each in told:
            if each.trace_id and self._spans is not None:
                self._spans.forget(request_id, each.trace_id)
            elif self._log is not None:
                self._log.forget(request_id, each)

    def _logged(self, asked: Asked) -> Told | None:
        return None if self._log is None else _nearest(self._log.told(asked.request_id), asked)

    def _traced(self, asked: Asked) -> Told | None:
        if self._spans is None:
            return None
        return _nearest(self._spans.told(asked.request_id, asked.trace_id), asked)


def _nearest(alike: list[Told], asked: Asked) -> Told | None:
    """Return what belongs to one of the requests with the same id."""
    fitting = [
        told
        for told in alike
        if not told.is_mixed
        and (
            asked.begin_ns - _SLACK_NS <= told.at_ns <= asked.end_ns + _SLACK_NS
            or (not told.at_ns and len(alike) == 1)
        )
    ]
    return min(fitting, key=lambda told: abs(told.at_ns - asked.begin_ns), default=None)
