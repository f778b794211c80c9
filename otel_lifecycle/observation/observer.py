"""Follows Envoy's access log, and records the requests that it tells of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from otel_lifecycle.observation.envoy.entry import parse_entry
from otel_lifecycle.observation.envoy.join import Joiner
from otel_lifecycle.observation.log_file import LONGEST_LINE, Lines
from otel_lifecycle.observation.sinks import Sink
from otel_lifecycle.records.shipping.notices import Notices

_IDLE_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_SAVE_SECONDS = 1.0
_SAVING_SHARE = 20  # saving takes at most a part of the time, however much is in flight
_MOST_WAITING = 1_024  # requests, before the picker's log is read first
_PLACES = 10  # lines a minute that name what was left out


class Source(Protocol):
    """Where entries come from."""

    def poll(self) -> Lines:
        """Return new lines; never waits."""
        ...


class Save(Protocol):
    """Saves how far everything is."""

    def __call__(self) -> None:
        """Save.

        Raises:
            OSError: It cannot be written.
        """
        ...


class Observer:
    """Reads a log, joins its entries and writes the records. Not thread-safe, except for `stop`.

    Nothing is read while the records cannot be written: the log keeps what Envoy has said.

    Args:
        source: The log.
        picker: The log of the picker; None: there is none.
        joiner: Makes records of entries, and hands them to the sink.
        sink: Writes them.
        save: Saves the progress; None: nothing is to be saved.
        tell: Called with each line for the user.

    Attributes:
        problems: Lines that are no entries, unreadable files, and lost lines.
    """

    def __init__(
        self,
        source: Source,
        picker: Source | None,
        joiner: Joiner,
        sink: Sink,
        save: Save | None,
        tell: Callable[[str], None],
    ) -> None:
        self.problems = 0
        self._source = source
        self._picker = picker
        self._joiner = joiner
        self._sink = sink
        self._save = save
        self._notices = Notices(tell)
        self._stopped = threading.Event()
        self._save_after = 0.0

    def run(self, *, follow: bool) -> bool:
        """Read the log.

        Args:
            follow: Continue with new lines until `stop`.

        Returns:
            Whether everything there was is recorded; False if it was stopped before.
        """
        finished = False
        while not self._stopped.is_set() and not finished:
            caught_up = self._picker is None or self._read(self._picker)
            if caught_up or self._joiner.waiting < _MOST_WAITING:
                caught_up &= self._read(self._source)
            finished = caught_up and not follow
            self._joiner.expire(at_end=finished)
            if not self._retry(self._sink.flush, "the records cannot be written"):
                return False
            if caught_up:
                self._sink.caught_up()
            if not self._save_progress(now=finished):
                return False
            if caught_up and follow:
                self._stopped.wait(_IDLE_SECONDS)
        return finished or self._save_progress(now=True)

    def stop(self) -> None:
        """Let `run` return soon; callable from any thread."""
        self._stopped.set()

    def _read(self, source: Source) -> bool:
        """Take what is new; return whether that was all."""
        read = source.poll()
        for problem in read.problems:
            self._report(problem)
        take = self._joiner.take
        for number, line in enumerate(read.lines, read.first):
            try:
                if line is None:
                    raise ValueError(f"longer than {LONGEST_LINE} bytes")
                take(parse_entry(line))
            except ValueError as error:
                self._report(f"{read.path}:{number}: {error}")
        return read.caught_up

    def _report(self, problem: str) -> None:
        self.problems += 1
        self._notices.say("problems", problem, most=_PLACES)

    def _save_progress(self, *, now: bool) -> bool:
        if self._save is None:
            return True
        before = time.monotonic()
        if not now and before < self._save_after:
            return True
        saved = self._retry(self._save, "the checkpoint cannot be written")
        after = time.monotonic()
        self._save_after = after + max(_SAVE_SECONDS, _SAVING_SHARE * (after - before))
        return saved

    def _retry(self, attempt: Callable[[], None], what: str) -> bool:
        """Repeat an attempt until it succeeds; return False if stopped first."""
        told = False
        while True:
            try:
                attempt()
            except BrokenPipeError:
                raise
            except OSError as error:
                reason = error.strerror or str(error)
                told |= self._notices.say("waiting", f"{what}: {reason}; will keep retrying")
            else:
                if told:
                    self._notices.say("resumed", "observing resumed")
                return True
            if self._stopped.wait(_RETRY_SECONDS):
                return False
