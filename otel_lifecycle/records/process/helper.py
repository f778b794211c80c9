"""The router's end of a process that writes its records."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_TRACES_PROTOCOL

from otel_lifecycle.config.tracker import ENVIRONMENT_PREFIX
from otel_lifecycle.records.process.orders import Orders, last_answer

# As in a process that `multiprocessing` spawns, modules are found where the router finds them. Its
# variables for Python are ignored: they may have the process instrumented.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from otel_lifecycle.records.process.main import main; main()"
)
_BUFFER_BYTES = 1 << 20
_ANSWER_BYTES = 1 << 12
_PAUSE_SECONDS = 0.02
# Another thread, which asks how many are written, may be reading it. What it has read and not noted
# by then counts as lost.
_LAST_ANSWER_SECONDS = 1.0


class Helper:
    """A process that writes records, from its start to its end.

    Signals to the router's process group, such as Control-C, do not reach it: it ends when it has
    written what it was sent and the router has closed the connection, or died. Not thread-safe,
    except for `unconfirmed` and `confirm`.

    Args:
        orders: What it is to do.

    Attributes:
        is_ready: Whether it has taken the orders.
        sends_spans: Whether it sends spans, too.
        written: Records that it has written.
        lost: Records that it could not write.
        started_at: Monotonic seconds.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, orders: Orders) -> None:
        self.is_ready = False
        self.sends_spans = orders.export is not None
        self.written = self.lost = 0
        self.started_at = time.monotonic()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._sent = 0
        self._rest = b""  # of a line that is sent in part
        self._answers = b""
        # Not a pipe: a write to one without a reader kills a process that does not ignore SIGPIPE.
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                self._socket.sendall(orders.to_line())
                self._socket.setblocking(False)
                self._process = subprocess.Popen(
                    [_python(), "-I", "-c", _PROGRAM, *filter(_is_text, sys.path)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(orders),
                    start_new_session=True,
                )
            except BaseException:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def unconfirmed(self) -> int:
        """How many records it was sent and has not said to be written or lost."""
        self.receive()
        return self._sent - self.written - self.lost

    @property
    def exit_code(self) -> int | None:
        """The code it has ended with, negative for a signal; None: it runs."""
        return self._process.poll()

    def send(self, lines: bytes) -> int:
        """Send whole lines, as many as there is room for; return the number of bytes.

        Raises:
            BlockingIOError: There is no room.
            OSError: It has ended.
        """
        self._send_rest()
        sent = self._send(lines)
        if not sent:
            raise BlockingIOError(errno.EAGAIN, "the process that writes records does not keep up")
        end = lines.index(b"\n", sent - 1) + 1
        self._rest = lines[sent:end]
        self._sent += lines.count(b"\n", 0, end)
        return end

    def complete(self) -> None:
        """Send the end of a line that was sent in part, if there is room."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._send_rest()

    def receive(self, seconds: float = 0.0) -> None:
        """Read its answers; if another thread does, wait for that at most so many seconds."""
        # Not for ever: a signal handler may have interrupted this thread while it holds the lock.
        if not self._lock.acquire(timeout=seconds):
            return
        try:
            while data := self._socket.recv(_ANSWER_BYTES):
                whole, newline, self._answers = (self._answers + data).rpartition(b"\n")
                if newline:
                    self.written, self.lost = last_answer(whole)
                    self.is_ready = True
        except OSError:  # nothing to read, or it has ended
            pass
        finally:
            self._lock.release()

    def confirm(self, seconds: float) -> bool:
        """Wait until what it was sent so far is written; return whether it is."""
        deadline = time.monotonic() + seconds
        lost, due = self.lost, self._sent
        while self._owes(due) and self.exit_code is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):  # closed in the meantime
                select.select([self._socket], [], [], _PAUSE_SECONDS)
        return not self._owes(due) and self.lost == lost

    def finish(self) -> None:
        """Let it end, and wait for its end.

        Raises:
            BlockingIOError: It has not ended yet.
        """
        if self.exit_code is not None:
            return
        with contextlib.suppress(ConnectionError):
            self._send_rest()
            self._socket.shutdown(socket.SHUT_WR)
        raise BlockingIOError(errno.EAGAIN, "the process that writes records is still at work")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave it alone: it ends when it has written what it was sent."""
        is_ours = self._owner == os.getpid()
        if is_ours:
            self.receive(_LAST_ANSWER_SECONDS)
        self._socket.close()
        if not is_ours:
            self._process.returncode = 0  # a child of the parent's: it cannot be waited for
        elif self.exit_code is None:
            # So that it does not stay behind as a zombie.
            with contextlib.suppress(RuntimeError):  # the interpreter is exiting
                threading.Thread(
                    target=self._process.wait, name="otel-lifecycle-reaper", daemon=True
                ).start()

    def _owes(self, records: int) -> bool:
        """Return whether it has not yet said what became of so many of the first records."""
        self.receive()
        return self.written + self.lost < records

    def _send_rest(self) -> None:
        while self._rest:
            sent = self._send(self._rest)
            if not sent:
                raise BlockingIOError(
                    errno.EAGAIN, "the process that writes records does not keep up"
                )
            self._rest = self._rest[sent:]

    def _send(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0


def _python() -> str:
    """Return the interpreter's path.

    Raises:
        OSError: It is not an interpreter, but a program with one inside.
    """
    path = sys.executable or ""
    if getattr(sys, "frozen", False) or not os.path.basename(path).lower().startswith(
        ("python", "pypy")
    ):
        raise OSError(errno.ENOEXEC, f"{path or 'this program'} is not a Python interpreter")
    return path


def _environment(orders: Orders) -> dict[str, str]:
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)
    }
    if orders.export is not None:
        variables[OTEL_EXPORTER_OTLP_TRACES_PROTOCOL] = orders.export.protocol
    return variables


def _is_text(entry: object) -> bool:
    return isinstance(entry, str)


def ended_by(code: int) -> str:
    """Describe an exit code."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
