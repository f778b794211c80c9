"""Command line: `python -m hermes_router --mode aggregated --endpoints endpoints.json`."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from math import isfinite
from pathlib import Path
from types import FrameType

import uvicorn

from hermes_router.app import create_app
from hermes_router.config import MODES, RouterConfig, load_endpoints
from hermes_router.errors import InvalidFieldError


def main() -> None:
    """Parse the options and serve until told to stop."""
    options = _parser().parse_args()
    try:
        endpoints = [] if options.endpoints is None else load_endpoints(options.endpoints)
    except (OSError, InvalidFieldError) as error:
        print(f"hermes_router: {error}", file=sys.stderr)
        sys.exit(2)
    config = RouterConfig(
        mode=options.mode,
        scrape_interval=options.scrape_interval,
        max_attempts=options.max_attempts,
        training_records=options.training_records,
    )
    # uvicorn shuts down on a signal and then raises it again: end as a program does, so that
    # exit handlers run.
    signal.signal(signal.SIGTERM, _exit)
    uvicorn.run(
        create_app(config, endpoints),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        # Longer than httpx keeps an idle connection, so that none is cut during a request.
        timeout_keep_alive=30,
    )


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    defaults = RouterConfig()
    parser = argparse.ArgumentParser(prog="hermes_router", description="A small LLM router.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--mode", choices=MODES, default=defaults.mode)
    parser.add_argument("--endpoints", type=Path, metavar="FILE", help="JSON list of endpoints")
    parser.add_argument(
        "--training-records", type=Path, metavar="PATH", help="JSON lines to predict latency from"
    )
    parser.add_argument(
        "--scrape-interval", type=_seconds, default=defaults.scrape_interval, metavar="SECONDS"
    )
    parser.add_argument("--max-attempts", type=_attempts, default=defaults.max_attempts)
    return parser


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if isfinite(seconds := float(text)) and seconds > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: more than 0 seconds")


def _attempts(text: str) -> int:
    with suppress(ValueError):
        if (attempts := int(text)) >= 1:
            return attempts
    raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: 1 or more")


if __name__ == "__main__":
    main()
