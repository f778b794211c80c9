"""Numbers among the arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite

from otel_lifecycle.config.durations import parse_go_duration


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not below a minimum."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {minimum}, got {text!r}")
        return int(text)

    return parse


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text!r}")
    return value


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def milliseconds(text: str) -> float:
    """Read a duration such as `500ms`, longer than 0."""
    try:
        nanoseconds = parse_go_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if nanoseconds <= 0:
        raise argparse.ArgumentTypeError(f"must be longer than 0, got {text!r}")
    return nanoseconds / 1e6


def between(lowest: str, highest: str) -> Callable[[str], float]:
    """Return what reads a duration that is not outside some limits, in milliseconds."""

    def parse(text: str) -> float:
        value = milliseconds(text)
        if not milliseconds(lowest) <= value <= milliseconds(highest):
            raise argparse.ArgumentTypeError(f"must be {lowest} to {highest}, got {text!r}")
        return value

    return parse
