"""The command line: `otel-lifecycle demo`, `doctor`, `observe`, `report`, `ship` and others."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from otel_lifecycle.cli.arguments import build_parser
from otel_lifecycle.cli.errors import USAGE, CommandError, warn

INTERRUPTED = 130
PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell reports for any program that the signal ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments. Default: those of the process.

    Returns:
        The exit code: 0 for success; 1 for a finding or a failure; 2 for wrong usage, bad input or
        output that cannot be written; 130 after Control-C; 141 if the reader of the output has
        left.
    """
    # None if the shell has closed it (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # do not fail if the terminal cannot show a bar
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as `head` does
        _discard_output()
        return PIPE_CLOSED
    except OSError as error:
        _discard_output()
        with suppress(OSError):
            warn(f"stopped by an error: {error}")
        return USAGE


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except CommandError as error:
        warn(" ".join(str(error).split()))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _discard_output() -> None:
    """Discard the rest of the output, so that the interpreter's last flush does not fail."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
