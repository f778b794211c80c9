"""The command line: `otel-lifecycle demo | doctor | report | ship | tail | validate`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from otel_lifecycle.cli.arguments import build_parser
from otel_lifecycle.cli.errors import CommandError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments. Default: those of the process.

    Returns:
        The exit code: 0, 1 for a finding or a failure, 2 for wrong usage and bad input.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a bar the terminal cannot show is no failure
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except CommandError as error:
        print(f"otel-lifecycle: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
