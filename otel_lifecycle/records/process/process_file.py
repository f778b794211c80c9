"""The record file as another process writes it, and this one as long as there is none."""

from __future__ import annotations

import math
import time

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.records.destination import Destination, Owner
from otel_lifecycle.records.names import absolute, live_path
from otel_lifecycle.records.process.handover import Handover
from otel_lifecycle.records.process.helper import Helper, ended_by
from otel_lifecycle.records.process.orders import Orders
from otel_lifecycle.records.record_file import RecordFile

_START_SECONDS = 60.0
_ATTENTION_SECONDS = 1.0
_SHORT_SECONDS = 60.0
_MOST_SHORT_LIVES = 20


class ProcessFile(Destination):
    """Has a process write the file; it is started with the first record.

    Until it is ready, this process writes, and for good if there can be none, which the log says. A
    process that ends, or is killed, is replaced, unless twenty in a row have lived for less than a
    minute, or it ended by itself before it was ready; what it had not confirmed counts as lost.

    Args:
        handover: Which spans the process sends.
        config: Enabled settings.
        owner: The writer.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is not valid for a file.
        RuntimeError: The path begins with `~` and there is no home folder.
    """

    def __init__(self, handover: Handover, config: PersistenceConfig, owner: Owner) -> None:
        self._handover = handover
        self._config = config
        self._owner = owner
        self._live = absolute(live_path(config.output_path))
        self._file = RecordFile(config, owner.warn, self._live)
        self._helper: Helper | None = None
        self._helper_writes = False  # the file was left to it
        self._writes_here = False
        self._short_lives = 0

    @property
    def patience(self) -> float:
        """Without end at the end: the process writes what it was sent, and the owner gives up."""
        return math.inf if self._owner.closed else self._file.patience

    @property
    def unconfirmed(self) -> int:
        """Records on their way to the process, and with it."""
        helper = self._helper
        return 0 if helper is None else helper.unconfirmed

    def prepare(self) -> None:
        """Start the process, if there is none."""
        self.attend()
        # At the end there is no time to wait for its start.
        if self._helper is None and not self._writes_here and not self._owner.closed:
            orders = Orders.of(self._config, self._live, self._handover.export)
            try:
                self._helper = Helper(orders)
            except OSError as error:
                self._write_here(error.strerror or str(error))

    def append(self, lines: bytes) -> int:
        """Send lines to the process, or append them here."""
        helper = self._helper
        if helper is None or not self._helper_writes:
            return self._file.append(lines)
        try:
            return helper.send(lines)
        except ConnectionError as error:
            message = "the process that writes records has ended"
            raise OSError(error.errno, message) from error

    def confirm(self, seconds: float) -> bool:
        """Wait until the process has written what it was sent."""
        helper = self._helper
        return helper is None or helper.confirm(seconds)

    def due_in(self) -> float | None:
        """Look after the process now and then, to notice its end."""
        return self._file.due_in() if self._helper is None else _ATTENTION_SECONDS

    def attend(self) -> None:
        """Leave the file to the process once it is ready, and notice that it has ended.

        A line that was sent in part is completed, although no other follows.
        """
        helper = self._helper
        if not self._helper_writes:
            self._file.attend()
        if helper is None:
            return
        code = helper.exit_code
        if code is not None:
            self._let_go(helper)
            is_short = time.monotonic() - helper.started_at < _SHORT_SECONDS
            self._short_lives = self._short_lives + 1 if is_short else 0
            if self._short_lives >= _MOST_SHORT_LIVES:
                reason = (
                    f"{self._short_lives} in a row ended within {_SHORT_SECONDS:g} s of their start"
                )
                self._write_here(f"{reason}, the last one {ended_by(code)}")
            elif helper.is_ready or code < 0:
                self._owner.warn(
                    f"the process that writes records {ended_by(code)}, starting another"
                )
            else:  # by itself, before it could begin: another one would end likewise
                self._write_here(f"it {ended_by(code)}")
        elif self._helper_writes:
            helper.complete()
        else:
            helper.receive()
            if helper.is_ready:
                self._file.close()
                self._helper_writes = True
                self._handover.is_open = helper.sends_spans
            elif time.monotonic() > helper.started_at + _START_SECONDS:
                helper.kill()
                self._let_go(helper)
                self._write_here(f"it is not ready after {_START_SECONDS:g} s")

    def finish(self) -> None:
        """Complete the file; if a process writes it, wait for its end.

        Raises:
            BlockingIOError: It has not ended yet, or another process has the lock.
        """
        self._handover.is_open = False
        helper = self._helper
        if helper is not None and self._helper_writes:
            helper.finish()
            self._let_go(helper)
            return
        if helper is not None:
            helper.kill()
            self._let_go(helper)
        self._file.finish()

    def close(self) -> None:
        """Leave the process alone; it ends when it has written what it was sent."""
        self._handover.is_open = False
        if self._helper is not None:
            self._helper.close()
        self._file.close()

    def _let_go(self, helper: Helper) -> None:
        """Count what was lost with a process that has ended."""
        self._handover.is_open = False
        self._helper = None
        self._helper_writes = False
        helper.close()
        lost = helper.unconfirmed + helper.lost
        if lost:
            self._owner.lose(lost, "the process that writes records has lost them")

    def _write_here(self, reason: str) -> None:
        self._writes_here = True
        message = f"no process can write records, so the router does: {reason}"
        self._owner.warn(message, kind="process")
